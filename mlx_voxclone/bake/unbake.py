"""Back from a baked checkpoint to what it was baked from: encoder and voices out, folded weights from the base.

The bakes' own record (`voxclone.json`) says what was done. Folding cannot be undone from the result (it was rounded),
so those weights are taken from the base. What is taken out can be kept, in the form that `bake` takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.bake.record import (
    HISTORY,
    NOTICE,
    check_places,
    copy_files,
    files_to_copy,
    notice_of_base,
    read_object,
)
from mlx_voxclone.bake.voice_removal import voice_files, without_voices
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CONFIG, PARAMS, TEKKEN, WEIGHTS, Release, part_of
from mlx_voxclone.checkpoint.voices import EMBEDDING
from mlx_voxclone.checkpoint.writer import Entry, save_tensors, write_safetensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory, free_space_check, refuse_existing_directory
from mlx_voxclone.files.hub import ENCODER_FILE


@dataclass
class UnbakeReport:
    """What was taken back, or would be (`dry_run`).

    Args:
        output: the new directory.
        dry_run: nothing was written.
        encoder: `removed`, `restored` (the base's own), `kept` (never touched) or `none`.
        voices: names taken out.
        restored: weights taken from the base, which adapters had been folded into.
        fingerprint: of LM and head, that of the base.
        parts: directory in which what was taken out is kept, if any.
    """

    output: Path
    dry_run: bool
    encoder: str
    voices: list[str]
    restored: list[str]
    fingerprint: str
    parts: Path | None


@dataclass(frozen=True)
class _Past:
    """What all bakes together did, by their records."""

    fingerprint: str
    folded: frozenset[str]
    voices: frozenset[str]
    base_had_encoder: bool
    encoder_touched: bool

    @classmethod
    def of(cls, release: Release) -> "_Past":
        path = release.path / HISTORY
        if not path.is_file():
            raise CheckpointError(
                f"{release.path}: was not baked by voxclone, it has no {HISTORY}; `voxclone diff` compares it"
            )
        bakes = read_object(path).get("bakes")
        try:
            first, encoders = bakes[0], [bake["encoder"] for bake in bakes]
            return cls(
                _text(first["base_fingerprint"]),
                frozenset(_text(name) for bake in bakes for name in bake["folded"]),
                frozenset(_text(name) for bake in bakes for name in bake["voices"]),
                bool(encoders[0]["base_had_one"]),
                any(encoder["state"] in ("injected", "replaced", "left out") for encoder in encoders),
            )
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise CheckpointError(f"{path}: not a bake record, or one of an older version; bake again") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def unbake(
    release: Release | str | Path,
    output: str | Path,
    *,
    base: Release | str | Path | None = None,
    parts: str | Path | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> UnbakeReport:
    """Write the checkpoint that a baked one was baked from.

    Args:
        release: the baked one: opened, a directory or a hub id. Only read.
        output: directory to make; must not exist or be empty, and must not lie inside the baked one.
        base: what it was baked from; needed where adapters were folded or the base's own encoder was taken out.
        parts: directory to make for what is taken out: `encoder.safetensors` and `NAME.safetensors` of each voice.
        dry_run: check everything, write nothing.
        progress: called with the bytes written since the last call, and those in all.

    Raises:
        CheckpointError: no record of a bake, a base that is missing or another one, an output that exists, no space,
            or a result that is not the base.
    """
    release = release if isinstance(release, Release) else Release(release)
    base = base if isinstance(base, Release) or base is None else Release(base)
    output, parts = Path(output), None if parts is None else Path(parts)
    check_places(release.path, output)
    release.check_full("undoing a bake")
    if parts is not None:
        refuse_existing_directory(parts)
    release.check()
    past = _Past.of(release)
    sources, encoder = _sources(release, base, past)
    gone = sorted(past.voices & set(release.config.voices))
    entries = [
        Entry(name, file.info(name).dtype, file.info(name).shape, lambda name=name, file=file: file.pieces(name))
        for name, file in sources.items()
    ]
    total = sum(entry.nbytes for entry in entries)
    taken = [n for n in release.tensors.names() if part_of(n) == "encoder"] if past.encoder_touched else []
    kept = parts if gone or taken else None
    report = UnbakeReport(output, dry_run, encoder, gone, sorted(past.folded), past.fingerprint, kept)
    dropped = {path for name in gone for path in voice_files(release.path).get(name, [])}
    copied = [path for path in files_to_copy(release.path, top_level_tensors=True) if path not in dropped]
    free_space_check(output.parent, total + sum(path.stat().st_size for path in copied))
    if dry_run:
        return report
    with atomic_directory(output) as directory:
        metadata = release.tensors.metadata or None
        tell = None if progress is None else lambda count: progress(count, total)
        write_safetensors(directory / WEIGHTS, entries, metadata, progress=tell)
        copy_files(release.path, directory, copied)
        for name in (PARAMS, TEKKEN, CONFIG):
            if (release.path / name).is_file():
                content = read_object(release.path / name)
                (directory / name).write_bytes(without_voices(release.path / name, content, gone))
        if (notice := notice_of_base(release.path)) is not None:
            (directory / NOTICE).write_bytes(notice)
        new = Release(directory)
        new.check()
        for file in {id(file): file for file in sources.values()}.values():
            file.check_unchanged()
        if new.fingerprint() != past.fingerprint:
            raise CheckpointError(
                f"{release.path}: its language model is not the one recorded in its {HISTORY}, so the bake cannot be"
                " undone; nothing was written"
            )
        if kept is not None:
            _keep(release, taken, gone, kept)
    return report


def _sources(release: Release, base: Release | None, past: _Past) -> tuple[dict[str, TensorFile], str]:
    """Where each tensor of the result comes from, and what becomes of the encoder."""
    own = {name: part_of(name) for name in release.tensors.names()}
    from_base = past.base_had_encoder and past.encoder_touched
    if (past.folded or from_base) and base is None:
        what = "adapters were folded into it" if past.folded else "its own encoder was taken out"
        raise CheckpointError(f"{release.path}: {what}; give the model that it was baked from (--base)")
    if base is not None and base.fingerprint() != past.fingerprint:
        raise CheckpointError(
            f"{base.path}: is not what {release.path} was baked from (fingerprint {base.fingerprint()[:12]}, not"
            f" {past.fingerprint[:12]})"
        )
    if lost := sorted(name for name in past.folded if base is None or name not in base.tensors or name not in own):
        raise CheckpointError(f"{release.path}: {HISTORY} names weights that are not there: {', '.join(lost[:3])}")
    sources = {
        name: base.tensors if name in past.folded else release.tensors
        for name, part in own.items()
        if part != "encoder" or not past.encoder_touched
    }
    if from_base:
        encoder = [name for name in base.tensors.names() if part_of(name) == "encoder"]
        if not encoder:
            raise CheckpointError(f"{base.path}: has no encoder, but what {release.path} was baked from had one")
        return sources | dict.fromkeys(encoder, base.tensors), "restored"
    if "encoder" not in own.values():
        return sources, "none"
    return sources, "removed" if past.encoder_touched else "kept"


def _keep(release: Release, encoder: list[str], voices: list[str], parts: Path) -> None:
    with atomic_directory(parts) as directory:
        if encoder:
            save_tensors(directory / ENCODER_FILE, {name: release.tensors.array(name) for name in encoder})
        for name in voices:
            save_tensors(directory / f"{name}.safetensors", {EMBEDDING: release.voice(name)})
