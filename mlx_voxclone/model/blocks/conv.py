"""Causal convolutions of the codec as single matrix products, weight-normed under the checkpoint's names.

Layout is channels-last `[B, T, C]`. A kernel of `m * stride` taps is `m` shifted blocks of `stride` frames, so neither
direction needs a strided slice, input dilation or a library convolution. What multiplies them is made of `original0`
and `original1` in each call, that is once per step of a training; for weights that stay as they are, `fold` makes it
once and for all.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.model.blocks.products import linear, transposed


def row_lengths(v: mx.array) -> mx.array:
    """Euclidean length of each row of `[rows, ...]`, as `[rows, 1, 1]`: what `original0` is to direction `v` alone."""
    return mx.linalg.norm(v.reshape(v.shape[0], -1), axis=1)[:, None, None]


class WeightNorm(nn.Module):
    """`original0` = g, `original1` = v; the weight is `g * v / ||v||`, norm over dims 1 and 2 (torch's dim=0)."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        bound = (shape[1] * shape[2]) ** -0.5
        self.original1 = mx.random.uniform(-bound, bound, shape)
        self.original0 = row_lengths(self.original1)

    def __call__(self) -> mx.array:
        v = self.original1
        norm = mx.sqrt(mx.sum(mx.square(v.astype(mx.float32)), axis=(1, 2), keepdims=True))
        return (v * (self.original0 / norm)).astype(v.dtype)


class _Folded:
    """A matrix and the arrays that it was made of. Not an array itself: it would be a parameter."""

    def __init__(self) -> None:
        self.sources: tuple[mx.array, ...] = ()
        self.matrix: mx.array | None = None

    def of(self, *sources: mx.array) -> mx.array | None:
        """The matrix if it was made of these very arrays; else it is given up."""
        if len(sources) != len(self.sources) or any(a is not b for a, b in zip(sources, self.sources)):
            self.sources, self.matrix = (), None
        return self.matrix


class _NormedConv(nn.Module):
    """Holds one weight as `conv.parametrizations.weight.original0/1`, the only names the server loads."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.conv = nn.Module()
        self.conv.parametrizations = nn.Module()
        self.conv.parametrizations.weight = WeightNorm(shape)
        self._folded = _Folded()

    @property
    def weight(self) -> mx.array:
        return self.conv.parametrizations.weight()

    def fold(self) -> None:
        """Make the product's matrix now and keep it, in the weight's dtype, until a parameter is replaced."""
        norm = self.conv.parametrizations.weight
        if self._folded.of(norm.original0, norm.original1) is None:
            matrix = mx.contiguous(self._arranged(self.weight))
            mx.eval(matrix)
            self._folded.sources, self._folded.matrix = (norm.original0, norm.original1), matrix

    def matrix(self, dtype: mx.Dtype) -> mx.array:
        """What the columns are multiplied with, `[outputs, inputs]`."""
        norm = self.conv.parametrizations.weight
        matrix = self._folded.of(norm.original0, norm.original1)
        return (self._arranged(self.weight) if matrix is None else matrix).astype(dtype)

    def _arranged(self, weight: mx.array) -> mx.array:
        """The checkpoint's weight as `[outputs, inputs]` of the product."""
        raise NotImplementedError


def valid_mask(lengths: mx.array, total: int) -> mx.array:
    """`[B, total, 1]`, True before each item's own length `[B]`."""
    return (mx.arange(total)[None, :] < lengths[:, None])[..., None]


class CausalConv1d(_NormedConv):
    """Causal convolution `[B, T, in] -> [B, ceil(T / stride), out]`; v is `[out, in, kernel]`.

    Left padding is `kernel - stride`; the right side is padded up to a whole number of strides. `pad_mode` is
    "replicate" (edge frame) or "reflect" (edge excluded; an input no longer than the pad continues with zeros).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, pad_mode: str):
        super().__init__((outputs, inputs, kernel))
        self.kernel, self.stride, self.pad_mode = kernel, stride, pad_mode

    def output_lengths(self, lengths: mx.array) -> mx.array:
        """Frames `[B]` that are made of so many."""
        return (lengths + self.stride - 1) // self.stride

    def _left(self, x: mx.array, pad: int) -> mx.array:
        if self.pad_mode == "replicate":
            return mx.repeat(x[:, :1], pad, axis=1)
        missing = pad + 1 - x.shape[1]
        x = mx.pad(x, [(0, 0), (0, missing), (0, 0)]) if missing > 0 else x
        return x[:, pad:0:-1]

    def __call__(self, x: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Convolve.

        Args:
            x: `[B, T, in]`.
            lengths: each item's own number of frames, int32 `[B]`; what stands after it is replaced by the padding the
                item would have had alone. None: every item is T long.
        """
        batch, total, channels = x.shape
        if lengths is not None:
            if self.pad_mode == "replicate":
                last = x[mx.arange(batch), lengths - 1][:, None]
            else:
                last = mx.zeros((), dtype=x.dtype)
            x = mx.where(valid_mask(lengths, total), x, last)
        pad, stride = self.kernel - self.stride, self.stride
        parts = [self._left(x, pad), x] if pad else [x]
        right = -total % stride
        if right:
            parts.append(mx.repeat(x[:, -1:], right, axis=1))
        x = mx.concatenate(parts, axis=1) if len(parts) > 1 else x
        taps, frames = self.kernel // stride, (total + right) // stride
        x = x.reshape(batch, frames + taps - 1, stride * channels)
        columns = mx.concatenate([x[:, i : i + frames] for i in range(taps)], axis=-1) if taps > 1 else x
        return linear(columns, self.matrix(x.dtype))

    def _arranged(self, weight: mx.array) -> mx.array:
        """`[out, in, kernel]` -> `[out, kernel * in]`."""
        return transposed(weight, 0, 2, 1).reshape(weight.shape[0], -1)


class CausalConvTranspose1d(_NormedConv):
    """Transposed convolution `[B, T, in] -> [B, T * stride, out]`; v is `[in, out, kernel]` (norm per input channel).

    The full output is `T * stride + (kernel - stride)` long; all of the excess is cut off the right.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        super().__init__((inputs, outputs, kernel))
        self.kernel, self.stride = kernel, stride

    def __call__(self, x: mx.array) -> mx.array:
        batch, total, _ = x.shape
        taps = self.kernel // self.stride
        # out[stride * t + p] = sum_m x[t - m] @ weight[:, :, p + m * stride]
        padded = mx.pad(x, [(0, 0), (taps - 1, 0), (0, 0)])
        columns = mx.concatenate([padded[:, taps - 1 - m : taps - 1 - m + total] for m in range(taps)], axis=-1)
        out = linear(columns, self.matrix(x.dtype))
        return out.reshape(batch, total * self.stride, -1)

    def _arranged(self, weight: mx.array) -> mx.array:
        """`[in, out, taps * stride]` -> `[stride * out, taps * in]`."""
        channels, outputs, kernel = weight.shape
        weight = weight.reshape(channels, outputs, kernel // self.stride, self.stride)
        return transposed(weight, 3, 1, 2, 0).reshape(self.stride * outputs, -1)
