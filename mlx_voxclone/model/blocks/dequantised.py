"""Quantised linears for MLX's CPU backend, where the fused product is many times slower than two steps."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

FUSED_ROWS = 2  # up to so many rows the fused product is the faster one: 26 ms against 90 for one row of 9216 x 3072
AT_ONCE = 1 << 20  # numbers that are dequantised at a time going forward: 4 MB, which a cache holds


class DequantisedLinear(nn.QuantizedLinear):
    """A quantised linear that dequantises before it multiplies.

    The dequantised weight, going forward a part of it at a time, lives for one product: going back, it is made again.
    Only the input has a gradient.
    """

    def __call__(self, x: mx.array) -> mx.array:
        if x.size <= FUSED_ROWS * x.shape[-1]:
            return super().__call__(x)
        outputs, groups = self.scales.shape
        rows = max(1, AT_ONCE // (groups * self.group_size))

        # What a custom function captures has no gradient; its vjp is told only what it was called with.
        @mx.custom_function
        def product(x: mx.array) -> mx.array:
            found: list[mx.array] = []
            for start in range(0, outputs, rows):
                weight = self.dequantised(x.dtype, slice(start, start + rows), found[-1] if found else None)
                found.append(x @ weight.T)
            return found[0] if len(found) == 1 else mx.concatenate(found, axis=-1)

        @product.vjp
        def backward(x: mx.array, gradient: mx.array, _: mx.array) -> mx.array:
            return gradient @ self.dequantised(gradient.dtype)

        return product(x)

    def dequantised(
        self, dtype: mx.Dtype | None = None, rows: slice = slice(None), after: mx.array | None = None
    ) -> mx.array:
        """The weight `[out, in]` in `dtype`, computed in the wider one of it and the scales'.

        To the bit what `mx.dequantize` gives, in a third of its time on a CPU.

        Args:
            dtype: None: the scales'.
            rows: those that are wanted.
            after: what is computed before: one part after the other, or all of them would be there at once.
        """
        weight, scales, biases = self.weight[rows], self.scales[rows], self.get("biases")
        biases = None if biases is None else biases[rows]
        if after is not None:
            weight = mx.depends(weight, after)
        dtype = dtype or scales.dtype
        if self.mode != "affine":
            return mx.dequantize(weight, scales, biases, self.group_size, self.bits, self.mode).astype(dtype)
        wide = mx.result_type(dtype, scales)
        scales, biases = scales.astype(wide), biases.astype(wide)
        if self.bits not in _LEVELS:
            return mx.dequantize(weight, scales, biases, self.group_size, self.bits).astype(dtype)
        levels = _LEVELS[self.bits](weight.view(mx.uint8)).reshape(*scales.shape, self.group_size).astype(wide)
        return (levels * scales[..., None] + biases[..., None]).reshape(len(levels), -1).astype(dtype)


def _levels_of_4(packed: mx.array) -> mx.array:
    """Two levels of 4 bits in each byte, the lower bits first."""
    return mx.stack([packed & 15, packed >> 4], axis=-1)


def _levels_of_6(packed: mx.array) -> mx.array:
    """Four levels of 6 bits in each three bytes, the lower bits first."""
    a, b, c = mx.split(packed.reshape(packed.shape[0], -1, 3), 3, axis=-1)  # [out, in / 4, 1] each
    return mx.concatenate([a & 63, (a >> 6) | ((b & 15) << 2), (b >> 4) | ((c & 3) << 4), c >> 2], axis=-1)


# What gives the levels of a weight `[out, bytes]`; of other widths MLX makes them itself.
_LEVELS: dict[int, Callable[[mx.array], mx.array]] = {8: lambda packed: packed, 6: _levels_of_6, 4: _levels_of_4}


def dequantising(module: nn.Module) -> None:
    """Every quantised linear in `module` becomes a `DequantisedLinear`, in place."""
    for part in module.modules():
        if type(part) is nn.QuantizedLinear:
            part.__class__ = DequantisedLinear
