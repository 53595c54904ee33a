"""Quantisation noise, which the paper trained its codec with (arXiv 2603.25551): not every item is quantised."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.model.quantizer import Quantizer


@dataclass(frozen=True)
class QuantisationNoise:
    """What of each item of a batch is quantised in training, and what is added to the rest."""

    semantic: mx.array
    """`[B]`, true: the semantic latents are replaced by their code's row; false: they pass as they are."""

    acoustic: mx.array
    """`[B]`, true: tanh of the acoustic latents is replaced by its level; false: it passes with `offset` added."""

    offset: mx.array
    """`[B, T, A]` in units of tanh(z), zero where nothing is to be added; ignored for items with `acoustic` true."""


def partly_quantised(
    quantizer: Quantizer, latents: mx.array, noise: QuantisationNoise
) -> tuple[mx.array, mx.array, mx.array]:
    """`Quantizer.straight_through` in which not every item is quantised; the gradient is that of the continuous values
    in every case."""
    quantised, z, rows = quantizer.straight_through(latents)
    split = quantizer.semantic_dim
    bounded = mx.tanh(latents[..., split:].astype(mx.float32))
    semantic = mx.where(noise.semantic[:, None, None], quantised[..., :split], z)
    acoustic = mx.where(noise.acoustic[:, None, None], quantised[..., split:], bounded + noise.offset)
    return mx.concatenate([semantic, acoustic], axis=-1), z, rows


def draw_quantisation(rng: np.random.Generator, frames: int, acoustic_dim: int, levels: int) -> dict[str, Any]:
    """What of one training item is quantised, by the codec's own recipe (arXiv 2603.25551).

    Semantic: quantised for half of the items. Acoustic, drawn independently: quantised for half of them, uniform noise
    in [-1/levels, 1/levels] on tanh(z) for a quarter, untouched for the rest. One choice holds for the whole item. The
    paper states a magnitude of 1/21 and no more; taken as the largest absolute value, the noise nearly fills a level's
    cell, which reaches 1/20 to either side, as the error of rounding does. The sum is not clipped to [-1, 1].

    Returns:
        `semantic`, `acoustic` (true: quantised) and `offset [frames, acoustic_dim]` float32: the fields of
        `QuantisationNoise`, for one item.
    """
    semantic, kind = rng.random() < 0.5, rng.random()
    offset = np.zeros((frames, acoustic_dim), dtype=np.float32)
    if 0.5 <= kind < 0.75:
        offset = rng.uniform(-1.0 / levels, 1.0 / levels, offset.shape).astype(np.float32)
    return {"semantic": semantic, "acoustic": kind < 0.5, "offset": offset}
