"""A run of task `clone`: what its bake has delivered, as small parts, and the baked checkpoint itself if wanted.

The bake's record says which encoder and which adapters went into it, by SHA-256; these very files are published. The
voice is the one that was baked.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.bake.record import HISTORY
from mlx_voxclone.checkpoint.release import Release, file_sha256, part_of
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY
from mlx_voxclone.checkpoint.writer import Entry, write_safetensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.publish.parts import add_adapters, add_baked, add_encoder, add_voice, first_bake, last_bake
from mlx_voxclone.publish.publication import Publication
from mlx_voxclone.publish.run_directory import Run


def add_clone(publication: Publication, run: Run, staging: Path, with_baked: bool) -> None:
    """Add encoder, adapters and voice as they were baked, and the checkpoint `with_baked`.

    Raises:
        CheckpointError: the baked checkpoint is not where the run put it, or was made of files that have changed.
    """
    baked = run.config.bake.output or run.directory / "baked"
    if not (baked / HISTORY).is_file():
        raise CheckpointError(
            f"{run.directory}: its baked checkpoint is not at {baked}, and with it the record of what was delivered;"
            f" publish the parts one by one, such as {run.directory / 'encoder' / 'best'}"
        )
    record = last_bake(baked)
    publication.base_fingerprint = first_bake(baked).get("base_fingerprint")
    if digest := (record.get("encoder") or {}).get("sha256"):
        add_encoder(publication, _encoder(run, baked, digest, staging))
    adapters: list[dict[str, Any]] = record.get("adapters") or []
    for k, entry in enumerate(adapters):
        path = _with_digest(run.directory.rglob(TENSORS), entry.get("sha256"))
        if path is None:
            raise CheckpointError(
                f"{run.directory}: the adapters that {baked} was baked from are not in it any more; publish that"
                " directory by itself"
            )
        folder = "adapters" if len(adapters) == 1 else f"adapters/{k + 1}"
        add_adapters(publication, path.parent, staging, folder, float(entry.get("weight", 1.0)))
    voice = run.config.voice
    add_voice(publication, baked / VOICE_DIRECTORY / f"{voice}.safetensors", voice)
    if with_baked:
        add_baked(publication, baked)


def _encoder(run: Run, baked: Path, digest: str, staging: Path) -> Path:
    """The file that the encoder was baked from, with all of its digits; else what was baked, in BF16."""
    given = run.config.speaker.encoder
    candidates = [given] if isinstance(given, Path) and given.is_file() else []
    path = _with_digest([*candidates, *run.directory.rglob(ENCODER_FILE)], digest)
    if path is not None:
        return path
    release = Release(baked)
    names = [name for name in release.tensors.names() if part_of(name) == "encoder"]
    if not names:
        raise CheckpointError(f"{run.directory}: the encoder that it was trained with is neither in it nor in {baked}")
    file = release.tensors
    entries = [
        Entry(name, file.info(name).dtype, file.info(name).shape, lambda name=name: file.pieces(name)) for name in names
    ]
    write_safetensors(staging / ENCODER_FILE, entries)
    return staging / ENCODER_FILE


def _with_digest(paths: Iterable[Path], digest: str | None) -> Path | None:
    """The first of some files with a SHA-256; those called `best` first, as they are mostly it."""
    ordered = sorted(paths, key=lambda path: (path.parent.name != "best", str(path)))
    return next((path for path in ordered if path.is_file() and file_sha256(path) == digest), None)
