"""Which codec something was made with, as SHA-256: of its decoder alone, or of all that encodes and decodes.

Pairs hold the first (`codec` in their `settings.json`): they stay what they are when a checkpoint gets an encoder.
Codes of clips, judged codes and trainings of an encoder hold the second: another encoder gives other codes.
"""

import hashlib
from pathlib import Path

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, Release, file_sha256, part_of


def decoder_digest(tensors: TensorFile) -> str:
    """SHA-256 (hex) of a checkpoint's decoder and quantiser: the bytes of their tensors, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors.names()):
        if part_of(name) == "decoder":
            digest.update(tensors.raw(name))
    return digest.hexdigest()


def codec_digest(release: Release, encoder: Path | None = None) -> str:
    """SHA-256 (hex) of a checkpoint's whole codec, names too, and of the encoder file that is used with it."""
    digest = hashlib.sha256()
    for name in sorted(n for n in release.tensors.names() if n.startswith(CODEC_PREFIX)):
        digest.update(name.encode())
        digest.update(release.tensors.raw(name))
    if encoder is not None:
        digest.update(bytes.fromhex(file_sha256(encoder)))
    return digest.hexdigest()
