"""Pairs of the miniature's codec on the disk: random codes and what the decoder makes of them."""

from pathlib import Path

import numpy as np

from mlx_voxclone.checkpoint.digests import decoder_digest
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import SpokenPair, write_pairs


def random_codes(config, frames: int, seed: int) -> np.ndarray:
    """int32 `[37, T]`; levels drift, as those of speech do."""
    rng = np.random.default_rng(seed)
    semantic = rng.integers(0, config.semantic_codebook_size, (1, frames))
    levels = np.clip(10 + np.cumsum(rng.integers(-2, 3, (config.acoustic_dim, frames)), axis=1), 0, 20)
    return np.concatenate([semantic, levels]).astype(np.int32)


def write_some(
    miniature: Path, directory: Path, frames=(9, 14, 6, 20, 8, 12), augmented: bool = False, voice: str = "ann"
) -> Path:
    """One pair per entry of `frames`; the augmented audio is the clean one at half its level."""
    release = Release(miniature)
    codec = load_model(release, parts=["codec"]).audio_tokenizer

    def spoken(k: int, n: int) -> SpokenPair:
        codes = random_codes(release.config.codec, n, k)
        samples = 0.3 * codec.decode_audio(codes)
        quieter = 0.5 * samples if augmented else None
        return SpokenPair(f"{k:03d}", codes, samples, f"text {k}", voice, augmented=quieter)

    pairs = [spoken(k, n) for k, n in enumerate(frames)]
    write_pairs(directory, pairs, {"codec": decoder_digest(release.tensors)})
    return directory


def load_some(miniature: Path, directory: Path, **options) -> PairData:
    """`write_some`, loaded; a fifth held out."""
    config = Release(miniature).config.codec
    return PairData.load(write_some(miniature, directory, **options), config, heldout=0.2)
