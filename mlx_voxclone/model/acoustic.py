"""The flow-matching head: from one hidden state of the LM to one frame of codes.

Semantic code by argmax, acoustic values by Euler integration of a velocity field from noise at t=0 to data at t=1 with
classifier-free guidance. (Source: vLLM-Omni 0.30, `voxtral_tts_audio_generation.py`; paper section on the head.)
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.config import CFG_ALPHA, EMPTY_CODE, END_CODE, N_SPECIAL_CODES, AcousticConfig, CodecConfig
from mlx_voxclone.model.layers import TransformerBlock

TIME_THETA = 1e4
INVALID_CODE = -1  # stands for a code that came out of numbers that are not finite


def time_embedding(t: mx.array, dim: int) -> mx.array:
    """`[N] -> [N, dim]` float32: `cat(cos, sin)(t * f)` with `f = exp(-ln(1e4) * arange(dim/2) / (dim/2))`."""
    half = dim // 2
    inv_freq = mx.exp(-math.log(TIME_THETA) * mx.arange(half, dtype=mx.float32) / half)
    angles = t.astype(mx.float32)[:, None] * inv_freq
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


def checked_frames(codes: np.ndarray) -> np.ndarray:
    """The codes `[N, 37]` of `decode_frame`, before they index anything: an index out of range is no error in MLX.

    Raises:
        FloatingPointError: the head's numbers were not finite.
    """
    if (codes < 0).any():
        raise FloatingPointError("the model's numbers are not finite")
    return codes


class FlowMatchingHead(nn.Module):
    """`acoustic_transformer`: bidirectional over the three tokens (x_t, t, h), no positions."""

    def __init__(self, config: AcousticConfig, codec: CodecConfig):
        super().__init__()
        self._config, self._codec = config, codec
        self.input_projection = nn.Linear(codec.acoustic_dim, config.dim, bias=False)
        self.time_projection = nn.Linear(config.dim, config.dim, bias=False)
        self.llm_projection = nn.Linear(config.input_dim, config.dim, bias=False)
        self.layers = [TransformerBlock(config, rope_theta=None) for _ in range(config.n_layers)]
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.semantic_codebook_output = nn.Linear(config.dim, codec.semantic_logits, bias=False)
        self.acoustic_codebook_output = nn.Linear(config.dim, codec.acoustic_dim, bias=False)

    def velocity(self, x_t: mx.array, t: mx.array, hidden: mx.array) -> mx.array:
        """Velocity of the flow.

        Args:
            x_t: points on the path `[N, 36]`.
            t: times in [0, 1], `[N]`.
            hidden: normed hidden states of the LM `[N, dim]`; zeros for the unconditional field.

        Returns:
            `[N, 36]`, in hidden's dtype.
        """
        dtype = hidden.dtype
        tokens = [
            self.input_projection(x_t.astype(dtype)),
            self.time_projection(time_embedding(t, self._config.dim).astype(dtype)),
            self.llm_projection(hidden),
        ]
        x = mx.stack(tokens, axis=1)  # (N, 3, dim)
        for layer in self.layers[:-1]:
            x = layer(x)
        if self.layers:
            x = self.layers[-1](x, asked=slice(0, 1))  # nobody looks at the other two
        return self.acoustic_codebook_output(self.norm(x)[:, 0])

    def semantic_logits(self, hidden: mx.array) -> mx.array:
        """Unmasked logits `[..., rows]` straight from the LM's normed hidden state."""
        return self.semantic_codebook_output(hidden)

    def masked_semantic_logits(self, hidden: mx.array) -> mx.array:
        """Float32 logits with EMPTY and the padding rows at -inf (0 would beat every negative logit)."""
        logits = self.semantic_logits(hidden).astype(mx.float32)
        rows = mx.arange(logits.shape[-1])
        allowed = (rows != EMPTY_CODE) & (rows < self._codec.semantic_codebook_size + N_SPECIAL_CODES)
        return mx.where(allowed, logits, -mx.inf)

    def acoustic_values(
        self, hidden: mx.array, noise: mx.array, n_steps: int | None = None, cfg_alpha: float = CFG_ALPHA
    ) -> mx.array:
        """Integrate the flow: `noise [N, 36]` to values in [-1, 1] `[N, 36]`, float32.

        `v = cfg_alpha * v(h) + (1 - cfg_alpha) * v(0)`; both fields run as one batch.
        """
        n_steps = n_steps or self._config.n_decoding_steps
        n = hidden.shape[0]
        both = mx.concatenate([hidden, mx.zeros_like(hidden)], axis=0)
        x = noise.astype(mx.float32)
        for i in range(n_steps):
            t = mx.full((2 * n,), i / n_steps)
            v = self.velocity(mx.concatenate([x, x], axis=0), t, both).astype(mx.float32)
            x = x + (cfg_alpha * v[:n] + (1.0 - cfg_alpha) * v[n:]) / n_steps
        return mx.clip(x, -1.0, 1.0)

    def decode_frame(
        self, hidden: mx.array, noise: mx.array, n_steps: int | None = None, cfg_alpha: float = CFG_ALPHA
    ) -> mx.array:
        """One frame of the LM's codes (with +2) per hidden state.

        Args:
            hidden: `[N, dim]`.
            noise: `[N, 36]`, standard normal.
            n_steps: Euler steps; None: the configuration's (7).
            cfg_alpha: guidance strength; 1.0 is no guidance.

        Returns:
            `[N, 37]` int32. At END (semantic code 1) every acoustic code is level 0 (2), as in the serving code.
            Where the numbers are not finite, -1: what `checked_frames` refuses.
        """
        logits = self.masked_semantic_logits(hidden)
        semantic = mx.argmax(logits, axis=-1).astype(mx.int32)
        semantic = mx.where(mx.any(mx.isnan(logits), axis=-1), INVALID_CODE, semantic)[:, None]
        values = self.acoustic_values(hidden, noise, n_steps, cfg_alpha)
        levels = mx.round((values + 1.0) * 0.5 * (self._codec.acoustic_codebook_size - 1))
        levels = mx.where(mx.isnan(values), INVALID_CODE - N_SPECIAL_CODES, levels).astype(mx.int32)
        levels = mx.where(semantic == END_CODE, 0, levels)
        return mx.concatenate([semantic, levels + N_SPECIAL_CODES], axis=-1)
