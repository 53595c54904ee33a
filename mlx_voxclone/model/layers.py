"""Blocks of the language model and the flow-matching head, and the key/value cache."""

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.config import TransformerConfig


class KVCache:
    """Keys and values of one layer, grown in steps so that a frame costs no copy of the past."""

    step = 256

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0

    @property
    def positions(self) -> int | mx.array:
        """Position of the next token: one for the batch, or `[B]`."""
        return self.offset

    def mask(self, length: int) -> str | mx.array | None:
        """What `length` new tokens must not see, for `scaled_dot_product_attention`."""
        return causal_mask(length)

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append `[B, kv_heads, L, D]` and return all keys and values so far."""
        end = self.offset + keys.shape[2]
        if self.keys is None or end > self.keys.shape[2]:
            self.keys, self.values = self._grown(self.keys, keys), self._grown(self.values, values)
        self.keys[:, :, self.offset : end] = keys
        self.values[:, :, self.offset : end] = values
        self.offset = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, store: mx.array | None, new: mx.array) -> mx.array:
        batch, heads, length, dim = new.shape
        room = mx.zeros((batch, heads, -(-length // self.step) * self.step, dim), dtype=new.dtype)
        return room if store is None else mx.concatenate([store[:, :, : self.offset], room], axis=2)


def causal_mask(length: int) -> str | None:
    """Mask for `length` new tokens at the end of a sequence; a single one sees all there is."""
    return "causal" if length > 1 else None


class FeedForward(nn.Module):
    """SwiGLU: `w2(silu(w1(x)) * w3(x))`."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.w2(nn.silu(self.w1(x)) * self.w3(x))


class Attention(nn.Module):
    """Grouped-query attention; causal with RoPE on interleaved pairs, or (`rope_theta=None`) bidirectional without."""

    def __init__(self, config: TransformerConfig, rope_theta: float | None):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self._rope_theta = rope_theta
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def __call__(self, x: mx.array, cache: KVCache | None = None, asked: slice | None = None) -> mx.array:
        batch, length, _ = x.shape
        asking = x if asked is None else x[:, asked]
        count = asking.shape[1]
        q = self.wq(asking).reshape(batch, count, self.n_heads, -1).swapaxes(1, 2)  # (B, H, T, D)
        k = self.wk(x).reshape(batch, length, self.n_kv_heads, -1).swapaxes(1, 2)
        v = self.wv(x).reshape(batch, length, self.n_kv_heads, -1).swapaxes(1, 2)
        mask = None
        if self._rope_theta is not None:
            positions = cache.positions if cache is not None else 0
            q, k = self._rope(q, positions + length - count), self._rope(k, positions)
            mask = cache.mask(count) if cache is not None else causal_mask(count)
        if cache is not None:
            k, v = cache.update(k, v)
        out = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.head_dim**-0.5, mask=mask)
        return self.wo(out.swapaxes(1, 2).reshape(batch, count, -1))

    def _rope(self, x: mx.array, offset: int | mx.array) -> mx.array:
        # traditional=True rotates (x0, x1), (x2, x3), ...: the checkpoint's layout. Half-split is silently wrong.
        return mx.fast.rope(x, self.head_dim, traditional=True, base=self._rope_theta, scale=1.0, offset=offset)


class TransformerBlock(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: TransformerConfig, rope_theta: float | None):
        super().__init__()
        self.attention = Attention(config, rope_theta)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    def __call__(self, x: mx.array, cache: KVCache | None = None, asked: slice | None = None) -> mx.array:
        """`[B, T, dim]` -> `[B, T, dim]`, or the places `asked` of it alone: in a causal block those to its end."""
        attended = self.attention(self.attention_norm(x), cache, asked)
        x = (x if asked is None else x[:, asked]) + attended
        return x + self.feed_forward(self.ffn_norm(x))
