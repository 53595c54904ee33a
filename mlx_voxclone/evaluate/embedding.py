"""What speaker models share: how much sound they need, and unit vectors."""

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.errors import DataError

RATE = 16_000  # Hz: what the models hear
SHORTEST = 0.5  # seconds of audio that say anything about a voice


def enough(samples: np.ndarray) -> np.ndarray:
    """The samples at 24 kHz as float32. Raises DataError for silence and for less than `SHORTEST` seconds."""
    if len(samples) < SHORTEST * SAMPLE_RATE or np.abs(samples).max() < 1e-4:
        raise DataError(f"silent, or shorter than {SHORTEST} s: nothing can be said about the voice")
    return samples.astype(np.float32)


def unit_vector(embedding: np.ndarray, name: str) -> np.ndarray:
    """The embedding `[D]` at length 1, float64. Raises DataError where it has none; `name` is the model's."""
    embedding = np.asarray(embedding, np.float64).reshape(-1)
    length = np.linalg.norm(embedding)
    if not np.isfinite(length) or not length:
        raise DataError(f"{name}: gave no usable embedding")
    return embedding / length
