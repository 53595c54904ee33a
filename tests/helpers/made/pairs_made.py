"""What the tests of pairs share: a random pair, and how a refusal looks."""

import numpy as np
import refusals

from mlx_voxclone.pairs.files import SpokenPair

SETTINGS = {"codec": "0123", "seed": 0}
SHARD = "pairs-00000.safetensors"


def spoken(config, name: str, text: str = "Hello.", voice: str = "ann", seed: int = 0, **more) -> SpokenPair:
    """One random pair of one to three frames, drawn by its name."""
    rng = np.random.default_rng([seed, *name.encode()])
    frames = int(rng.integers(1, 4))
    codes = np.stack([rng.integers(0, size - 2, frames) for size in config.code_sizes])
    samples = rng.uniform(-0.5, 0.5, frames * config.frame_size).astype(np.float32)
    return SpokenPair(name, codes, samples, text, voice, **more)


def refused(error, *texts_and_call):
    *texts, call = texts_and_call
    refusals.refused(call, error, *texts)
