"""Codes of prepared clips, kept in a file, and while they are made in parts beside it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlx_voxclone.checkpoint.digests import codec_digest
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.collect import Progress
from mlx_voxclone.errors import CheckpointError

CODES_FILE = "codes.safetensors"
PART_CLIPS = 64  # clips of a part: so many are encoded again at most when a run is killed


def clip_codes(
    release: Release,
    encoder: Path | None,
    data: PreparedData,
    path: Path,
    progress: Progress = lambda clips, total, what: clips,
) -> dict[str, np.ndarray]:
    """Codes of every clip, `{id: 0-based int32 [37, T]}`; kept in `path` and read from there next time.

    The file remembers the encoder and the clips it was made from; made from others, it is made again. Until all clips
    are encoded the codes lie in parts beside it (`codes-parts/00000.safetensors`, of 64 clips each), and an interrupted
    call goes on after the last whole part.

    Raises:
        CheckpointError: the file is damaged, holds codes of other clips, or cannot be written.
    """
    made_from = {"codec": codec_digest(release, encoder), "data": data.fingerprint()}
    sizes = release.config.codec.codebook_sizes
    parts = path.with_name(f"{path.stem}-parts")
    if path.is_file():
        file = TensorFile(path)
        if file.says(made_from):
            kept = {name: file.codes(name, sizes) for name in file.names()}
            if kept.keys() != {clip.id for clip in data.clips}:
                raise CheckpointError(f"{path}: holds codes of other clips than the data has; delete it, run again")
            shutil.rmtree(parts, ignore_errors=True)
            return kept
    codes = _encoded(release, encoder, data, parts, made_from, sizes, progress)
    save_tensors(path, codes, made_from, overwrite=True)
    shutil.rmtree(parts, ignore_errors=True)
    return codes


def _encoded(
    release: Release,
    encoder: Path | None,
    data: PreparedData,
    parts: Path,
    made_from: Mapping[str, str],
    sizes: Sequence[int],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Codes of all clips in order: those of whole parts are read, the others made and written part by part."""
    clips, codec = data.clips, None
    codes: dict[str, np.ndarray] = {}
    part: dict[str, np.ndarray] = {}
    for number, clip in enumerate(progress(clips, len(clips), "encoding")):
        place = parts / f"{number // PART_CLIPS:05d}.safetensors"
        if number % PART_CLIPS == 0:
            ids = [one.id for one in clips[number : number + PART_CLIPS]]
            codes |= (part := _part(place, ids, made_from, sizes))
        if clip.id in codes:
            continue
        if codec is None:
            codec = load_model(release, parts=["codec"], encoder_file=encoder).audio_tokenizer
        part[clip.id] = codec.audio_codes(clip.read())
        if (number + 1) % PART_CLIPS == 0 or number + 1 == len(clips):
            save_tensors(place, part, made_from, overwrite=True)
            codes |= part
    return codes


def _part(path: Path, ids: Sequence[str], made_from: Mapping[str, str], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """What a part holds of just these clips; {} where it is not there, damaged or made from something else."""
    try:
        file = TensorFile(path)
        if not file.says(made_from) or set(file.names()) != set(ids):
            return {}
        return {name: file.codes(name, sizes) for name in ids}
    except CheckpointError:
        return {}
