"""Latent <-> codes: one semantic vector quantiser and one scalar quantiser per acoustic dimension.

(Source: vLLM-Omni 0.30, `voxtral_tts_audio_tokenizer.py`, classes SemanticCodebook and AcousticCodebook.)
Codes are 0-based here; the LM's codes are these plus 2 (EMPTY, END).
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.model.config import CodecConfig

MIN_USAGE = 1e-5  # unused entries have usage 0


class SemanticCodebook(nn.Module):
    """Rows are `embedding_sum / max(cluster_usage, 1e-5)`: running sums and counts, as the release stores them."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.embedding_sum = mx.random.normal((size, dim))
        self.cluster_usage = mx.ones((size,))

    @property
    def embedding(self) -> mx.array:
        """The codebook `[size, dim]`, float32."""
        usage = mx.maximum(self.cluster_usage.astype(mx.float32), MIN_USAGE)
        return self.embedding_sum.astype(mx.float32) / usage[:, None]

    def distances(self, z: mx.array) -> mx.array:
        """Squared L2 distances `[..., size]` of `z [..., dim]` to every row, less the constant `||z||^2`."""
        rows = self.embedding
        return mx.sum(mx.square(rows), axis=-1) - 2.0 * (z.astype(mx.float32) @ rows.T)

    def encode(self, z: mx.array) -> mx.array:
        """Index of the nearest row: `[..., dim] -> [...]` int32."""
        return mx.argmin(self.distances(z), axis=-1).astype(mx.int32)

    def decode(self, codes: mx.array) -> mx.array:
        """Rows of `embedding`, `[...] -> [..., dim]` float32, without making the others."""
        usage = mx.maximum(self.cluster_usage[codes].astype(mx.float32), MIN_USAGE)
        return self.embedding_sum[codes].astype(mx.float32) / usage[..., None]


def levels_to_values(levels: "mx.array | np.ndarray", count: int) -> "mx.array | np.ndarray":
    """Levels 0..count-1 to their values, evenly spaced in [-1, 1]: `2 * level / (count - 1) - 1`, elementwise.

    Integers give float32 in MLX and float64 in NumPy.
    """
    return levels * (2.0 / (count - 1)) - 1.0


def values_to_levels(values: "mx.array | np.ndarray", count: int) -> "mx.array | np.ndarray":
    """The inverse: where values of [-1, 1] lie on the scale 0..count-1, not rounded; the nearest level is the code."""
    return (values + 1.0) * (0.5 * (count - 1))


class AcousticCodebook:
    """Finite scalar quantiser: tanh once, then `levels` evenly spaced values in [-1, 1]."""

    def __init__(self, levels: int):
        self.levels = levels

    def encode(self, z: mx.array) -> mx.array:
        """Raw latent (before tanh) to level: the nearest to tanh(z), int32."""
        return mx.round(values_to_levels(mx.tanh(z.astype(mx.float32)), self.levels)).astype(mx.int32)

    def decode(self, codes: mx.array) -> mx.array:
        """Level to value, float32."""
        return levels_to_values(codes, self.levels)


@dataclass(frozen=True)
class QuantisationNoise:
    """What of each item of a batch is quantised in training, and what is added to the rest (SPEC section 4)."""

    semantic: mx.array
    """`[B]`, true: the semantic latents are replaced by their code's row; false: they pass as they are."""

    acoustic: mx.array
    """`[B]`, true: tanh of the acoustic latents is replaced by its level; false: it passes with `offset` added."""

    offset: mx.array
    """`[B, T, A]` in units of tanh(z), zero where nothing is to be added; ignored for items with `acoustic` true."""


class Quantizer(nn.Module):
    """`[B, T, semantic_dim + acoustic_dim]` latents <-> `[B, 1 + acoustic_dim, T]` codes."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.semantic_dim = config.semantic_dim
        self.semantic_codebook = SemanticCodebook(config.semantic_codebook_size, config.semantic_dim)
        self._acoustic = AcousticCodebook(config.acoustic_codebook_size)

    def encode(self, latents: mx.array) -> mx.array:
        """Latents `[B, T, D]` to codes `[B, codebooks, T]`, int32."""
        semantic = self.semantic_codebook.encode(latents[..., : self.semantic_dim])
        acoustic = self._acoustic.encode(latents[..., self.semantic_dim :])
        return mx.concatenate([semantic[..., None], acoustic], axis=-1).swapaxes(1, 2)

    def decode(self, codes: mx.array) -> mx.array:
        """Codes `[B, codebooks, T]` to quantised latents `[B, T, D]`, float32."""
        codes = codes.swapaxes(1, 2)
        semantic = self.semantic_codebook.decode(codes[..., 0])
        return mx.concatenate([semantic, self._acoustic.decode(codes[..., 1:])], axis=-1)

    def straight_through(
        self, latents: mx.array, noise: QuantisationNoise | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Quantise with gradients: forward the quantised values, backward as if they were the continuous ones.

        Args:
            latents: raw encoder output `[B, T, D]`.
            noise: which items are quantised and what is added to the others; None: everything is quantised. The
                gradient is that of the continuous values in every case.

        Returns:
            `(quantised [B, T, D], semantic_z [B, T, S], semantic_q [B, T, S])`: the decoder's input (gradient through
            the identity for the semantic part, through tanh for the acoustic part), and the pair for the commitment
            loss (`semantic_q`, the nearest rows whatever `noise` says, carries no gradient).
        """
        z = latents[..., : self.semantic_dim].astype(mx.float32)
        bounded = mx.tanh(latents[..., self.semantic_dim :].astype(mx.float32))
        rows = mx.stop_gradient(self.semantic_codebook.decode(self.semantic_codebook.encode(mx.stop_gradient(z))))
        levels = self._acoustic.decode(self._acoustic.encode(mx.stop_gradient(latents[..., self.semantic_dim :])))
        to_rows, to_levels = rows - z, levels - bounded
        if noise is not None:
            to_rows = mx.where(noise.semantic[:, None, None], to_rows, 0.0)
            to_levels = mx.where(noise.acoustic[:, None, None], to_levels, noise.offset)
        semantic = z + mx.stop_gradient(to_rows)
        acoustic = bounded + mx.stop_gradient(to_levels)
        return mx.concatenate([semantic, acoustic], axis=-1), z, rows


def nearest_distance(rows: mx.array, chunk: int = 1024) -> float:
    """Median over the rows `[K, D]` of the squared distance to the nearest other one: the codebook's own scale.

    1.0 where that is 0 (more than half of the rows are copies of others).
    """
    squares, nearest = mx.sum(mx.square(rows), axis=-1), []
    for first in range(0, rows.shape[0], chunk):
        part = rows[first : first + chunk]
        distances = squares[first : first + chunk, None] + squares - 2.0 * part @ rows.T
        own = mx.arange(first, first + part.shape[0])[:, None] == mx.arange(rows.shape[0])
        nearest.append(np.array(mx.min(mx.where(own, mx.inf, distances), axis=1)))
    median = float(np.median(np.concatenate(nearest)))
    return median if median > 0 else 1.0
