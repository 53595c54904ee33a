"""The files of a baked directory beside its weights: what is copied, completed, rewritten and added."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.checkpoint.release import CONFIG, PARAMS, TEKKEN, WEIGHTS, Release
from mlx_voxclone.checkpoint.torch_file import write_pt
from mlx_voxclone.checkpoint.voices import (
    EMBEDDING,
    VOICE_DIRECTORY,
    is_voice_name,
    read_voice,
    register_voice,
    write_voice,
)
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import refuse_existing_directory
from mlx_voxclone.files.plain import read_json, reason_of
from mlx_voxclone.model.widths import KEY, Quantisation
from mlx_voxclone.version import __version__

HISTORY, NOTICE = "voxclone.json", "NOTICE"
WRITTEN_ANEW = {WEIGHTS, PARAMS, TEKKEN, CONFIG, HISTORY, NOTICE}
_LICENCE = f"""Made with voxclone {__version__}.

Voxtral-4B-TTS-2603 and its preset voices are published by Mistral AI under Creative Commons
Attribution-NonCommercial 4.0 (CC BY-NC 4.0, https://creativecommons.org/licenses/by-nc/4.0/).
Weights and voices in this directory that derive from them have been changed ({HISTORY} says how) and inherit that
licence: name the source, and do not use them commercially.

Use a cloned voice only as the person whose voice it is has agreed to.
"""


def _any_version(text: str) -> re.Pattern[bytes]:
    """Finds this notice, whichever version wrote it and whichever ends of lines it has been given since."""
    version = re.escape(__version__).encode()
    lines = [re.escape(line).encode().replace(version, rb"[^\r\n]*", 1) for line in text.splitlines()]
    return re.compile(rb"^" + rb"\r?\n".join(lines) + rb"(?:\r?\n|\Z)", re.MULTILINE)


_OURS_THERE = _any_version(_LICENCE)


def check_places(base: Path, output: Path) -> None:
    """Raise CheckpointError unless `output` is free and outside the base (whose files are copied into it)."""
    refuse_existing_directory(output)
    if output.resolve().is_relative_to(base.resolve()):
        raise CheckpointError(f"{output}: lies inside the model directory {base}; choose a place outside it")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint directory, or CheckpointError."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; the model directory is incomplete") from None
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: not readable as JSON ({reason_of(e)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def files_to_copy(base: Path, *, top_level_tensors: bool) -> list[Path]:
    """Files that go over as they are: all but hidden ones (left-over temporaries too) and those written anew.

    Args:
        base: the model directory.
        top_level_tensors: also `.safetensors` files beside the weights (mlx-audio would read them as weights).
    """
    found = []
    for root, directories, names in os.walk(base):
        directories[:] = sorted(d for d in directories if not d.startswith("."))
        for name in sorted(names):
            top = Path(root) == base
            skipped = name.startswith(".") or (top and name in WRITTEN_ANEW)
            if skipped or (top and name.endswith(".safetensors") and not top_level_tensors):
                continue
            path = Path(root, name)
            if not path.is_file():  # follows links: a hub snapshot is made of them
                raise CheckpointError(f"{path}: not a readable file; remove it or complete the model directory")
            found.append(path)
    return found


def copy_files(base: Path, directory: Path, files: Iterable[Path]) -> None:
    """Copy contents (not links) to the same places under `directory`."""
    for path in files:
        target = directory / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def complete_voices(directory: Path, names: Iterable[str]) -> None:
    """Write the missing one of `NAME.pt` and `NAME.safetensors`: vLLM-Omni reads the first, mlx-audio the second."""
    place = directory / VOICE_DIRECTORY
    for name in filter(is_voice_name, names):
        torch_file, tensor_file = place / f"{name}.pt", place / f"{name}.safetensors"
        if torch_file.is_file() and not tensor_file.is_file():
            save_tensors(tensor_file, {EMBEDDING: read_voice(torch_file)})
        elif tensor_file.is_file() and not torch_file.is_file():
            write_pt(torch_file, read_voice(tensor_file))


def add_voices(
    base: Path, directory: Path, voices: Mapping[str, mx.array], quantisation: Quantisation | None = None
) -> None:
    """Write the voices and the three JSON files that know them, and how the weights are quantised.

    Without new voices those files are the base's own bytes.
    """
    for name in (PARAMS, TEKKEN):
        shutil.copyfile(base / name, directory / name)
    if voices or quantisation is not None:
        params, tekken = read_object(base / PARAMS), read_object(base / TEKKEN)
        for name, rows in voices.items():
            write_voice(directory, name, rows)
            register_voice(params, tekken, name, rows.shape[0])
        if quantisation is not None:
            params[KEY] = quantisation.params()
        for name, content in ((PARAMS, params), (TEKKEN, tekken)):
            _write_json(directory / name, content)
    shutil.copyfile(directory / PARAMS, directory / CONFIG)  # mlx-audio opens no directory without it


def add_history(base: Path, directory: Path, record: dict[str, Any]) -> None:
    """Write `voxclone.json`: a list of all bakes that led here, the newest last."""
    history = read_object(base / HISTORY) if (base / HISTORY).exists() else {}
    earlier = history.get("bakes", [])
    if not isinstance(earlier, list):
        raise CheckpointError(f"{base / HISTORY}: 'bakes' is not a list")
    _write_json(directory / HISTORY, {"bakes": [*earlier, record]})


def added_voices(directory: Path) -> set[str]:
    """Names of the voices that bakes have put into a directory, by its record: none of them is the model's own."""
    if not (directory / HISTORY).is_file():
        return set()
    bakes = read_object(directory / HISTORY).get("bakes")
    records = [bake for bake in bakes if isinstance(bake, dict)] if isinstance(bakes, list) else []
    return {name for bake in records for name in (bake.get("voices") or ())}


def own_voices(release: Release) -> list[str]:
    """Names of the voices that a model came with, in order: those it has but for `added_voices`."""
    added = added_voices(release.path)
    return [name for name in release.voices() if name not in added]


def add_notice(base: Path, directory: Path) -> None:
    """Write `NOTICE`: the base's own, byte for byte, and behind it the licence that derived weights inherit.

    That stands there once, however often a checkpoint is baked again.
    """
    theirs = _bytes_of(base / NOTICE)
    if theirs is None:
        content = _LICENCE.encode()
    elif _OURS_THERE.search(theirs):
        content = theirs
    else:
        content = theirs + b"\n" + _LICENCE.encode()
    (directory / NOTICE).write_bytes(content)


def notice_of_base(directory: Path) -> bytes | None:
    """The base's own notice, byte for byte, of a baked directory: what stands around ours; None: there was none."""
    content = _bytes_of(directory / NOTICE)
    if content is None or (ours := _OURS_THERE.search(content)) is None:
        return content
    before, after = content[: ours.start()], content[ours.end() :]
    if ours.start():
        return before.removesuffix(b"\n") + after
    return re.sub(rb"\A\r?\n", b"", after) or None  # earlier versions put theirs behind ours


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
