"""Blocks of the language model and the flow-matching head, and the key/value cache."""

import functools
import math
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.model.blocks.products import sigmoid
from mlx_voxclone.model.config import TransformerConfig

ROTATIONS = 256  # positions by which the table of rotations grows
MAX_SCORES = 1 << 26  # of attention that are in memory at once: 256 MB in float32


class KVCache:
    """Keys and values of one layer, grown in steps so that a frame costs no copy of the past."""

    step = 256

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0
        self.expected = 0  # positions that will come, if that is known: room is made for them at once

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
        length = max(length, self.expected - self.offset)
        room = mx.zeros((batch, heads, -(-length // self.step) * self.step, dim), dtype=new.dtype)
        return room if store is None else mx.concatenate([store[:, :, : self.offset], room], axis=2)


def causal_mask(length: int) -> str | None:
    """Mask for `length` new tokens at the end of a sequence; a single one sees all there is."""
    return "causal" if length > 1 else None


def attended(q: mx.array, k: mx.array, v: mx.array, mask: str | mx.array | None, *, in_pieces: bool) -> mx.array:
    """Scaled dot-product attention, whose scores take at most `MAX_SCORES` numbers at a time.

    Args:
        q: queries `[B, heads, L, D]`; in a causal block those of the last L positions.
        k, v: keys and values `[B, kv_heads, T, D]`.
        mask: None, `causal`, or what may be seen.
        in_pieces: a causal block with more scores is computed query by query. Backward all of them are kept anyway.

    Returns:
        `[B, heads, L, D]`.
    """
    batch, heads, length, dim = q.shape
    rows = max(1, MAX_SCORES // (batch * heads * k.shape[2]))
    if not in_pieces or length <= rows or not isinstance(mask, str):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=dim**-0.5, mask=mask)
    pieces: list[mx.array] = []
    for start in range(0, length, rows):
        part = q[:, :, start : start + rows]
        if pieces:  # one after the other, or the scores of all would be there at once
            part = mx.depends(part, pieces[-1])
        seen = k.shape[2] - length + start + part.shape[2]
        piece = mx.fast.scaled_dot_product_attention(
            part, k[:, :, :seen], v[:, :, :seen], scale=dim**-0.5, mask=causal_mask(part.shape[2])
        )
        pieces.append(piece)
    return mx.concatenate(pieces, axis=2)


class OneProduct:
    """Linear layers of the same input whose weights lie in one array, so that one product does the work of all.

    The layers keep their names and shapes: their weights become views of that array, and no memory is used twice.
    Whoever gives a layer another weight or wraps it (a gradient's tracer, LoRA, quantisation) parts it from the others
    again; `of` then gives nothing, and every layer is to be called by itself.

    Args:
        layers: plain linears without bias, of one input width and one type.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        whole = mx.concatenate([layer.weight for layer in layers])
        ends = [sum(layer.weight.shape[0] for layer in layers[: i + 1]) for i in range(len(layers))]
        self._views = mx.split(whole, ends[:-1])
        self._transposed = whole.T
        mx.eval(self._views, self._transposed)
        for layer, view in zip(layers, self._views):
            layer.weight = view

    @staticmethod
    def possible(layers: Sequence[nn.Module]) -> bool:
        return all(type(layer) is nn.Linear and "bias" not in layer for layer in layers) and (
            len({layer.weight.dtype for layer in layers}) == 1
        )

    def of(self, layers: Sequence[nn.Module]) -> mx.array | None:
        """The weights `[in, sum of outs]` of the layers given to the constructor; None if one has changed since."""
        same = all(layer.get("weight") is view for layer, view in zip(layers, self._views))
        return self._transposed if same else None


class _OneProductModule(nn.Module):
    """A module some of whose linears have the same input."""

    def __init__(self) -> None:
        super().__init__()
        self._one_product: OneProduct | None = None

    def _same_input(self) -> tuple[nn.Module, ...]:
        raise NotImplementedError

    def _whole_weight(self) -> mx.array | None:
        return None if self._one_product is None else self._one_product.of(self._same_input())

    def merge(self) -> None:
        """Make one product of the linears that have the same input, where they are plain ones; else let them be."""
        layers = self._same_input()
        if self._one_product is not None and self._one_product.of(layers) is not None:
            return
        self._one_product = None  # what it held is free before the new one is made
        if OneProduct.possible(layers):
            self._one_product = OneProduct(layers)


class FeedForward(_OneProductModule):
    """SwiGLU: `w2(silu(w1(x)) * w3(x))`."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def _same_input(self) -> tuple[nn.Module, ...]:
        return self.w1, self.w3

    def __call__(self, x: mx.array) -> mx.array:
        weight = self._whole_weight()
        if weight is None:
            return self.w2(nn.silu(self.w1(x)) * self.w3(x))
        gate, up = mx.split(x @ weight, 2, axis=-1)
        return self.w2(gate * sigmoid(gate) * up)


class Attention(_OneProductModule):
    """Grouped-query attention; causal with RoPE on interleaved pairs, or (`rope_theta=None`) bidirectional without."""

    def __init__(self, config: TransformerConfig, rope_theta: float | None):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        self._rope_theta = rope_theta
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def _same_input(self) -> tuple[nn.Module, ...]:
        return self.wq, self.wk, self.wv

    def __call__(self, x: mx.array, cache: KVCache | None = None, queries: slice | None = None) -> mx.array:
        """Attend.

        Args:
            x: `[B, T, dim]`.
            cache: keys and values of what came before, extended in place.
            queries: compute outputs for these positions only, in a causal block the last ones; None: for all.

        Returns:
            `[B, T, dim]`, T the number of queries.
        """
        q, k, v = self._heads(x, None if cache is None else cache.positions, queries)
        mask = None
        if self._rope_theta is not None:
            mask = causal_mask(q.shape[2]) if cache is None else cache.mask(q.shape[2])
        if cache is not None:
            k, v = cache.update(k, v)
        out = attended(q, k, v, mask, in_pieces=not self.training)
        return self.wo(out.swapaxes(1, 2).reshape(x.shape[0], -1, self.n_heads * self.head_dim))

    def _heads(
        self, x: mx.array, positions: int | mx.array | None, queries: slice | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values `[B, heads, T, head_dim]`, the first two turned to their positions."""

        def by_head(y: mx.array) -> mx.array:
            return y.reshape(*y.shape[:2], -1, self.head_dim).swapaxes(1, 2)

        weight = self._whole_weight()
        if weight is None:
            q, k, v = (
                by_head(self.wq(x if queries is None else x[:, queries])),
                by_head(self.wk(x)),
                by_head(self.wv(x)),
            )
            if self._rope_theta is not None:
                q, k = self._turned(q, positions, k.shape[2] - q.shape[2]), self._turned(k, positions)
            return q, k, v
        turned = self.n_heads + self.n_kv_heads
        heads = by_head(x @ weight)
        if self._rope_theta is not None:
            both = self._turned(heads[:, :turned], positions)
            q, k, v = both[:, : self.n_heads], both[:, self.n_heads :], heads[:, turned:]
        else:
            q, k, v = mx.split(heads, [self.n_heads, turned], axis=1)
        return (q if queries is None else q[:, :, queries]), k, v

    def _turned(self, x: mx.array, positions: int | mx.array | None, skipped: int = 0) -> mx.array:
        """Turn `[B, heads, T, head_dim]` by its positions: those given (None: 0, of a whole sequence) and `skipped`."""
        if not isinstance(positions, int) or x.dtype != mx.float32:
            return self._rope(x, skipped if positions is None else positions + skipped)
        # With a cache, in float32: what is some thirty operations where `rope` has no kernel is one product here.
        start = positions + skipped
        end = start + x.shape[2]
        turns = rotations(-(-end // ROTATIONS), self.head_dim, self._rope_theta)
        return (x.view(mx.complex64) * turns[start:end]).view(mx.float32)

    def _rope(self, x: mx.array, offset: int | mx.array) -> mx.array:
        # traditional=True rotates (x0, x1), (x2, x3), ...: the checkpoint's layout. Half-split is silently wrong.
        return mx.fast.rope(x, self.head_dim, traditional=True, base=self._rope_theta, scale=1.0, offset=offset)


@functools.lru_cache(maxsize=2)
def rotations(blocks: int, dim: int, theta: float) -> mx.array:
    """`exp(i * t * theta^(-2 j / dim))` of the positions t: `[256 * blocks, dim / 2]`, complex64."""
    frequencies = mx.exp(mx.arange(dim // 2, dtype=mx.float32) * (-2.0 * math.log(theta) / dim))
    angles = mx.arange(ROTATIONS * blocks, dtype=mx.float32)[:, None] * frequencies
    table = mx.cos(angles) + 1j * mx.sin(angles)
    mx.eval(table)  # it outlives the graph that first needs it
    return table


class TransformerBlock(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: TransformerConfig, rope_theta: float | None):
        super().__init__()
        self.attention = Attention(config, rope_theta)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)

    def __call__(self, x: mx.array, cache: KVCache | None = None, queries: slice | None = None) -> mx.array:
        """`[B, T, dim]` -> `[B, T, dim]`, or of the positions `queries` only: in a causal block the last ones."""
        attended = self.attention(self.attention_norm(x), cache, queries)
        x = (x if queries is None else x[:, queries]) + attended
        return x + self.feed_forward(self.ffn_norm(x))

    def merge(self) -> None:
        """One product for queries, keys and values, and one for both halves of SwiGLU; see `OneProduct`."""
        self.attention.merge()
        self.feed_forward.merge()
