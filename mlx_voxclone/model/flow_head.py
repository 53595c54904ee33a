"""The flow-matching head: from one hidden state of the LM to one frame of codes.

Semantic code by argmax, acoustic values by Euler integration of a velocity field from noise at t=0 to data at t=1 with
classifier-free guidance. (Source: vLLM-Omni 0.30, `voxtral_tts_audio_generation.py`; paper section on the head.)
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.model.blocks.layers import TransformerBlock
from mlx_voxclone.model.config import CFG_ALPHA, EMPTY_CODE, END_CODE, N_SPECIAL_CODES, AcousticConfig, CodecConfig
from mlx_voxclone.model.quantizer import values_to_levels

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

    def merge(self) -> None:
        """Join products of the same input; see `layers.OneProduct`."""
        for layer in self.layers:
            layer.merge()

    def time_tokens(self, t: mx.array, dtype: mx.Dtype) -> mx.array:
        """The head's tokens of times `[N]` in [0, 1]: `[N, dim]`."""
        return self.time_projection(time_embedding(t, self._config.dim).astype(dtype))

    def euler_times(self, n_steps: int | None, dtype: mx.Dtype) -> mx.array:
        """Tokens `[n_steps, dim]` of the times `i / n_steps` at which Euler's method asks for the velocity."""
        n_steps = n_steps or self._config.n_decoding_steps
        return self.time_tokens(mx.array([i / n_steps for i in range(n_steps)]), dtype)

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
        tokens = [self.input_projection(x_t.astype(dtype)), self.time_tokens(t, dtype), self.llm_projection(hidden)]
        return self._velocity(mx.stack(tokens, axis=1))

    def _velocity(self, tokens: mx.array) -> mx.array:
        """`[N, 3, dim]` -> `[N, 36]`: read off the first token, so the last layer computes no other."""
        *inner, last = self.layers
        for layer in inner:
            tokens = layer(tokens)
        velocity_token = self.norm(last(tokens, queries=slice(0, 1)))[:, 0]  # [N, 1, dim] -> [N, dim]
        return self.acoustic_codebook_output(velocity_token)  # [N, 36]

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
        self,
        hidden: mx.array,
        noise: mx.array,
        n_steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        times: mx.array | None = None,
    ) -> mx.array:
        """Integrate the flow: `noise [N, 36]` to values in [-1, 1] `[N, 36]`, float32.

        `v = cfg_alpha * v(h) + (1 - cfg_alpha) * v(0)`; both fields run as one batch. Without guidance there is but
        one. `times`: see `decode_frame`.
        """
        if times is None:
            times = self.euler_times(n_steps, hidden.dtype)
        n_steps, dim = times.shape
        shares = [cfg_alpha, 1.0 - cfg_alpha] if cfg_alpha != 1.0 else [1.0]  # of the conditional field and the other
        fields = mx.concatenate([hidden, mx.zeros_like(hidden)], axis=0) if len(shares) == 2 else hidden
        states = self.llm_projection(fields)  # [fields * N, dim]
        # The tokens that stand beside x_t, for all steps: [n_steps, fields * N, 2, dim].
        shape = (n_steps, states.shape[0], 1, dim)
        given = mx.concatenate(
            [mx.broadcast_to(times[:, None, None], shape), mx.broadcast_to(states[:, None], shape)], axis=2
        )
        step = mx.array([share / n_steps for share in shares])[:, None, None]  # [fields, 1, 1]
        x = noise.astype(mx.float32)
        for beside in given:
            point = self.input_projection(x.astype(hidden.dtype))[:, None]  # the same in both fields
            tokens = mx.concatenate([mx.concatenate([point] * len(shares), axis=0), beside], axis=1)  # [.., 3, dim]
            v = self._velocity(tokens).astype(mx.float32)  # [fields * N, 36]
            x = x + mx.sum(v.reshape(len(shares), *x.shape) * step, axis=0)  # [N, 36]
        return mx.clip(x, -1.0, 1.0)

    def decode_frame(
        self,
        hidden: mx.array,
        noise: mx.array,
        n_steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        times: mx.array | None = None,
        may_end: bool = True,
    ) -> mx.array:
        """One frame of the LM's codes (with +2) per hidden state.

        Args:
            hidden: `[N, dim]`.
            noise: `[N, 36]`, standard normal.
            n_steps: Euler steps; None: the configuration's (7).
            cfg_alpha: guidance strength; 1.0 is no guidance.
            times: `euler_times(n_steps, hidden.dtype)`, for those who decode many frames; they decide, not `n_steps`.
            may_end: False: the likeliest code but END.

        Returns:
            `[N, 37]` int32. At END (semantic code 1) every acoustic code is level 0 (2), as in the serving code.
            Where the numbers are not finite, -1: what `checked_frames` refuses.
        """
        semantic = self._semantic_codes(hidden, may_end)  # [N, 1]
        values = self.acoustic_values(hidden, noise, n_steps, cfg_alpha, times)  # [N, 36]
        levels = mx.round(values_to_levels(values, self._codec.acoustic_codebook_size))
        levels = mx.where(mx.isnan(values), INVALID_CODE - N_SPECIAL_CODES, levels).astype(mx.int32)
        levels = mx.where(semantic == END_CODE, 0, levels)
        return mx.concatenate([semantic, levels + N_SPECIAL_CODES], axis=-1)

    def _semantic_codes(self, hidden: mx.array, may_end: bool) -> mx.array:
        """The likeliest allowed code `[N, 1]`; the allowed ones stand side by side, from END to the last real code."""
        first, last = END_CODE + (not may_end), self._codec.semantic_codebook_size + N_SPECIAL_CODES
        logits = self.semantic_logits(hidden)[..., first:last].astype(mx.float32)
        codes = mx.argmax(logits, axis=-1, keepdims=True).astype(mx.int32) + first
        return mx.where(mx.any(mx.isnan(logits), axis=-1, keepdims=True), INVALID_CODE, codes)
