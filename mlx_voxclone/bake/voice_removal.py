"""Taking voices out: a new checkpoint directory without them, every other byte as it was."""

import filecmp
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_voxclone.bake.record import HISTORY, NOTICE, check_places, copy_files, files_to_copy, read_object
from mlx_voxclone.checkpoint.release import CONFIG, PARAMS, TEKKEN, WEIGHTS, Release
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory, free_space_check
from mlx_voxclone.files.plain import parse_json

VOICE_SUFFIXES = (".pt", ".safetensors")
# Where each file of a checkpoint keeps its voices, by name. config.json is a copy of params.json for mlx-audio.
REGISTERS = {
    PARAMS: ("multimodal", "audio_tokenizer_args", "voice"),
    CONFIG: ("multimodal", "audio_tokenizer_args", "voice"),
    TEKKEN: ("audio", "voice_num_audio_tokens"),
}


def registered(content: dict[str, Any], keys: Sequence[str]) -> dict[str, int]:
    """The voices in the parsed content of a file (see `REGISTERS`): name -> number or rows; empty where it has none."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def voice_files(directory: Path) -> dict[str, list[Path]]:
    """Name -> the voice's files (`.pt` first) in a checkpoint directory."""
    found: dict[str, list[Path]] = {}
    for suffix in VOICE_SUFFIXES:
        for path in sorted((directory / VOICE_DIRECTORY).glob(f"[!.]*{suffix}")):
            found.setdefault(path.stem, []).append(path)
    return found


def remove_voices(release: Release, output: str | Path, names: Sequence[str]) -> Path:
    """Write a new checkpoint directory without some voices.

    All other files are the base's, byte for byte (hidden ones, such as left-over temporaries, are not copied); from
    `params.json`, `config.json` and `tekken.json` the voices' entries alone are cut out.

    Args:
        release: the base; only read.
        output: directory to make; must not exist or be empty, and must not lie inside the base.
        names: voices that are registered or have a file.

    Returns:
        The directory.

    Raises:
        CheckpointError: a name that is not there, an output that exists, no space, or a copy that does not verify.
    """
    output, base = Path(output), release.path
    check_places(base, output)
    files = voice_files(base)
    registers = {name: read_object(base / name) for name in REGISTERS if name != CONFIG or (base / CONFIG).is_file()}
    known = set(files).union(*(registered(content, REGISTERS[name]) for name, content in registers.items()))
    for name in names:
        if name not in known:
            raise CheckpointError(f"{base}: no voice called {name!r}; there are: {', '.join(sorted(known)) or 'none'}")
    release.check()
    gone = {path for name in names for path in files.get(name, [])}
    written_anew = [base / name for name in (WEIGHTS, HISTORY, NOTICE) if (base / name).exists()]
    copied = [p for p in [*files_to_copy(base, top_level_tensors=True), *written_anew] if p not in gone]
    texts = {name: without_voices(base / name, content, names) for name, content in registers.items()}
    free_space_check(output.parent, sum(p.stat().st_size for p in copied) + sum(map(len, texts.values())))
    with atomic_directory(output) as directory:
        copy_files(base, directory, copied)
        for name, text in texts.items():
            (directory / name).write_bytes(text)
        for path in copied:
            if not filecmp.cmp(path, directory / path.relative_to(base), shallow=False):
                raise CheckpointError(f"{path}: does not read back as written; nothing was written, run again")
        Release(directory).check()
    return output


def without_voices(path: Path, content: dict[str, Any], names: Sequence[str]) -> bytes:
    """The bytes of a JSON file with the voices' entries cut out of its text, everything else as it was."""
    keys, text = REGISTERS[path.name], path.read_bytes().decode("utf-8")
    for name in names:
        voices = registered(content, keys)
        if name not in voices:
            continue
        del voices[name]  # `content` is now what the shortened text must say
        text = _cut(text, name, content)
    return text.encode("utf-8")


def _cut(text: str, name: str, wanted: dict[str, Any]) -> str:
    """Cut the entry `"name": number` whose absence makes the text say `wanted`; written anew where none does."""
    entry = rf"{re.escape(json.dumps(name))}\s*:\s*-?\d+"
    for pattern in (rf",\s*{entry}(?=\s*[,}}])", rf"{entry}\s*,\s*", rf"\s*{entry}\s*(?=}})"):
        for match in re.finditer(pattern, text):
            candidate = text[: match.start()] + text[match.end() :]
            if parse_json(candidate) == wanted:
                return candidate
    return json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
