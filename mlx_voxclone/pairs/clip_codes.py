"""Codes of prepared clips, kept in a file."""

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


def clip_codes(
    release: Release,
    encoder: Path | None,
    data: PreparedData,
    path: Path,
    progress: Progress = lambda clips, total, what: clips,
) -> dict[str, np.ndarray]:
    """Codes of every clip, `{id: 0-based int32 [37, T]}`; kept in `path` and read from there next time.

    The file remembers the encoder and the clips it was made from; made from others, it is made again.
    """
    made_from = {"codec": codec_digest(release, encoder), "data": data.fingerprint()}
    if path.is_file():
        file = TensorFile(path)
        if all(file.metadata.get(k) == v for k, v in made_from.items()):
            sizes = release.config.codec.codebook_sizes
            kept = {name: file.codes(name, sizes) for name in file.names()}
            if kept.keys() != {clip.id for clip in data.clips}:
                raise CheckpointError(f"{path}: holds codes of other clips than the data has; delete it, run again")
            return kept
    codec = load_model(release, parts=["codec"], encoder_file=encoder).audio_tokenizer
    codes = {}
    for clip in progress(data.clips, len(data.clips), "encoding"):
        codes[clip.id] = codec.audio_codes(clip.read())
    save_tensors(path, codes, made_from, overwrite=True)
    return codes
