"""Gradient checkpointing: keep a block's input alone, and compute the block again when its gradient is wanted."""

from collections import deque
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class KeyedDropout(nn.Dropout):
    """`nn.Dropout` that draws from a key where it is given one, so that a second pass can draw the same."""

    def __init__(self, p: float):
        super().__init__(p)
        self._keys: deque[mx.array] = deque(maxlen=1)  # not an attribute of its own: it would be a parameter

    @property
    def active(self) -> bool:
        return self.training and self._p_1 < 1

    def __call__(self, x: mx.array) -> mx.array:
        if not self._keys or not self.active:
            return super().__call__(x)
        return mx.random.bernoulli(self._p_1, x.shape, key=self._keys[0]) * x / self._p_1


def recomputed(block: nn.Module, x: mx.array, **options: Any) -> mx.array:
    """`block(x, **options)` with the memory of `x` and of one block's backward pass at a time, and the same gradient.

    What trains in the block is handed over as arguments: `mx.checkpoint` gives captured arrays a gradient of zero. Its
    dropouts are `KeyedDropout`s: any other would draw other numbers when it is computed again.

    Args:
        block: called with one array; after a gradient its trainable parameters are traced arrays, as after any.
        x: its input.
        options: no arrays.
    """
    dropouts = [m for m in block.modules() if isinstance(m, KeyedDropout) and m.active]
    keys: list[mx.array] = []
    if dropouts:
        key = mx.random.randint(0, 1 << 30, (2,)).astype(mx.uint32)
        keys = list(mx.random.split(key, len(dropouts)))

    def forward(parameters: dict, x: mx.array) -> mx.array:
        block.update(parameters)
        for dropout, key in zip(dropouts, keys):  # captured: nothing can be differentiated by a key
            dropout._keys.append(key)
        try:
            return block(x, **options)
        finally:
            for dropout in dropouts:
                dropout._keys.clear()

    return mx.checkpoint(forward)(block.trainable_parameters(), x)
