"""Windowed ALiBi attention of the codec, in blocks: memory is O(T * window), never T x T.

Key j is visible from query i iff `i - window <= j <= i`, with the bias `slope_h * (j - i)`; slopes start at 1.0.
(Source: vLLM-Omni 0.30, `voxtral_tts_audio_tokenizer.py`, class Attention.)
"""

from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.model.blocks.products import linear
from mlx_voxclone.model.config import CodecConfig

MIN_BLOCK = 16  # queries per block: small windows waste less in a few larger products than in many tiny ones


def alibi_slopes(n_heads: int) -> list[float]:
    """ALiBi slopes `r^h` with `r = 2^(-8/n_heads)`, the first one 1.0 (the serving code's, not the paper's 2^-1)."""
    ratio = 2.0 ** (-8.0 / n_heads)
    return [ratio**h for h in range(n_heads)]


@lru_cache(maxsize=64)
def window_bias(slopes: tuple[float, ...], window: int, block: int) -> mx.array:
    """Additive bias `[heads, block, window + block]` of one block of queries over the window before it and itself.

    Entry `[h, q, k]` belongs to the distance `q + window - k`: `-slopes[h] * distance` where visible, -inf elsewhere.
    """
    distance = np.arange(block)[:, None] + window - np.arange(window + block)[None, :]
    visible = (distance >= 0) & (distance <= window)
    bias = np.where(visible, -np.array(slopes)[:, None, None] * distance, -np.inf)
    return mx.array(bias.astype(np.float32))


@lru_cache(maxsize=64)
def start_bias(n_blocks: int, window: int, block: int) -> mx.array:
    """Additive bias `[blocks, 1, 1, window + block]`: -inf for what would stand before the first block, 0 elsewhere."""
    bias = np.zeros((n_blocks, 1, 1, window + block), np.float32)
    bias[0, ..., :window] = -np.inf
    return mx.array(bias)


def windowed_attention(q: mx.array, k: mx.array, v: mx.array, window: int, scale: float) -> mx.array:
    """Causal sliding-window attention with ALiBi.

    Args:
        q, k, v: `[B, T, heads, head_dim]`.
        window: how many keys before its own position a query sees.
        scale: factor on the scores, `head_dim ** -0.5`.

    Returns:
        `[B, T, heads, head_dim]`, in q's dtype; scores and softmax in float32.
    """
    batch, length, heads, dim = q.shape
    block = min(max(window, MIN_BLOCK), max(length, window))
    n_blocks = -(-length // block)
    pad = n_blocks * block - length

    def blocks(x: mx.array) -> mx.array:  # (B, T, H, D) -> (B, N, H, block, D)
        x = mx.pad(x, [(0, 0), (0, pad), (0, 0), (0, 0)]) if pad else x
        return x.reshape(batch, n_blocks, block, heads, dim).transpose(0, 1, 3, 2, 4)

    def with_previous(x: mx.array) -> mx.array:  # each block preceded by the last `window` rows of the one before
        tail = x[:, :-1, :, block - window :, :]
        first = mx.zeros((batch, 1, heads, window, dim), dtype=x.dtype)
        return mx.concatenate([mx.concatenate([first, tail], axis=1), x], axis=3)

    q, k, v = blocks(q), with_previous(blocks(k)), with_previous(blocks(v))
    scores = ((q * scale) @ k.swapaxes(-1, -2)).astype(mx.float32)
    scores = scores + window_bias(tuple(alibi_slopes(heads)), window, block) + start_bias(n_blocks, window, block)
    out = mx.softmax(scores, axis=-1).astype(v.dtype) @ v  # (B, N, H, block, D)
    return out.transpose(0, 1, 3, 2, 4).reshape(batch, n_blocks * block, heads, dim)[:, :length]


class CodecAttention(nn.Module):
    """Self-attention of the codec: q and k normalised over the whole width before the split into heads, no RoPE."""

    def __init__(self, config: CodecConfig, window: int):
        super().__init__()
        width = config.n_heads * config.head_dim
        self.n_heads, self.head_dim, self.window = config.n_heads, config.head_dim, window
        self.wq = nn.Linear(config.dim, width, bias=False)
        self.wk = nn.Linear(config.dim, width, bias=False)
        self.wv = nn.Linear(config.dim, width, bias=False)
        self.wo = nn.Linear(width, config.dim, bias=False)
        self.q_norm = nn.RMSNorm(width, eps=config.qk_norm_eps)
        self.k_norm = nn.RMSNorm(width, eps=config.qk_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        """`[B, T, dim]` -> `[B, T, dim]`."""
        batch, length, _ = x.shape
        split = (batch, length, self.n_heads, self.head_dim)
        q = self.q_norm(linear(x, self.wq.weight)).reshape(split)
        k = self.k_norm(linear(x, self.wk.weight)).reshape(split)
        v = linear(x, self.wv.weight).reshape(split)
        out = windowed_attention(q, k, v, self.window, self.head_dim**-0.5)
        return linear(out.reshape(batch, length, -1), self.wo.weight)
