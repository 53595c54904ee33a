"""Weight-normed 2-D convolutions over `[B, frames, bins, C]`, strided in frequency and dilated in time.

`matmul_conv2d` gathers the taps in frequency, lets one product serve all taps in time, and adds up the shifted
results; its backward is written out, from the same two steps, so that it keeps nothing but its arguments. On a CPU it
is all there is (measured with 32 channels, kernel 3 x 9, stride 2, dilation 2: `mx.conv2d`'s gradients take 30 times as
long). On a GPU `mx.conv2d` goes forward, which unfolds nothing there at these widths, and the same backward follows:
MLX's own weight gradient unfolds the input for every tap of the kernel (27 of them: 5 GB for 8 x 4 s at the largest
window), its input gradient a cotangent that is filled up with zeros.
"""

from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn


def _gather(x: mx.array, taps: int, count: int) -> mx.array:
    """Windows of `taps` neighbours along axis 2: [B, F, count + taps - 1, D] -> [B, F, count, taps * D]."""
    batch, frames, size, width = x.shape
    strides = (frames * size * width, size * width, width, 1)
    return mx.as_strided(x, (batch, frames, count, taps * width), strides)


def _pad_bins(x: mx.array, before: int, after: int) -> mx.array:
    return mx.pad(x, [(0, 0), (0, 0), (before, after), (0, 0)]) if before or after else x


def _delay(x: mx.array, frames: int) -> mx.array:
    """x `frames` later (earlier if negative), zeros in the gap."""
    if frames == 0:
        return x
    count = x.shape[1]
    size = min(abs(frames), count)
    if frames > 0:
        return mx.pad(x[:, : count - size], [(0, 0), (size, 0), (0, 0), (0, 0)])
    return mx.pad(x[:, size:], [(0, 0), (0, size), (0, 0), (0, 0)])


def _sum_delayed(x: mx.array, delays: list[int]) -> mx.array:
    """Cuts the last axis into as many parts as there are delays and adds the delayed parts."""
    width = x.shape[3] // len(delays)
    total = None
    for index, delay in enumerate(delays):
        if abs(delay) < x.shape[1]:
            part = _delay(x[..., index * width : (index + 1) * width], delay)
            total = part if total is None else total + part
    return total


@lru_cache(maxsize=64)
def _conv2d(stride: int, dilation: int, forward_by_library: bool):
    """The convolution as a function of (x, weight) with its own backward.

    Bins are taken in groups of `stride`, a tap of `stride` bins at a time (`width` = stride * inputs values), the
    kernel being filled up with zeros to a whole number of taps.
    """

    def arrange(x: mx.array, weight: mx.array):
        """(x padded and grouped [B, F, out + taps - 1, width], weight [O, times, taps, width], out, delays)."""
        batch, frames, bins, inputs = x.shape
        outputs, times, span, _ = weight.shape
        taps, out, before = -(-span // stride), -(-bins // stride), span // 2
        groups = out + taps - 1
        x = _pad_bins(x, before, groups * stride - bins - before).reshape(batch, frames, groups, stride * inputs)
        weight = mx.pad(weight, [(0, 0), (0, 0), (0, taps * stride - span), (0, 0)])
        delays = [(times // 2 - time) * dilation for time in range(times)]
        return x, weight.reshape(outputs, times, taps, stride * inputs), out, delays

    @mx.custom_function
    def conv(x: mx.array, weight: mx.array) -> mx.array:
        if forward_by_library:
            return library_conv2d(x, weight, stride, dilation)
        grouped, weight, out, delays = arrange(x, weight)
        outputs, times, taps, width = weight.shape
        matrix = weight.transpose(2, 3, 1, 0).reshape(taps * width, times * outputs)
        return _sum_delayed(_gather(grouped, taps, out) @ matrix, delays)

    @conv.vjp
    def conv_vjp(primals, cotangent, _output):
        x, kernel = primals
        grouped, weight, out, delays = arrange(x, kernel)
        outputs, times, taps, width = weight.shape
        batch, frames, groups, _ = grouped.shape
        if x.shape[3] < outputs:  # few inputs: gather those, as forward, and spread the gradient of what was gathered
            columns = _gather(grouped, taps, out).reshape(-1, taps * width)
            delayed = mx.concatenate([_delay(cotangent, -delay) for delay in delays], axis=-1)
            slope = columns.T @ delayed.reshape(-1, times * outputs)  # (taps, width) x (times, O)
            slope = slope.reshape(taps, width, times, outputs).transpose(3, 2, 0, 1)
            spread = delayed @ weight.transpose(1, 0, 2, 3).reshape(times * outputs, taps * width)
            spread = spread.reshape(batch, frames, out, taps, width)
            grouped_slope = sum(_pad_bins(spread[:, :, :, tap], tap, taps - 1 - tap) for tap in range(taps))
        else:  # gather the outputs' gradients, taps in reverse order
            columns = _gather(_pad_bins(cotangent, taps - 1, taps - 1), taps, groups)
            columns = columns.reshape(batch, frames, groups, taps * outputs)
            reverse = weight[:, :, ::-1]
            matrix = reverse.transpose(2, 0, 1, 3).reshape(taps * outputs, times * width)
            grouped_slope = _sum_delayed(columns @ matrix, [-delay for delay in delays])
            delayed = mx.concatenate([_delay(grouped, delay) for delay in delays], axis=-1)
            slope = delayed.reshape(-1, times * width).T @ columns.reshape(-1, taps * outputs)
            slope = slope.reshape(times, width, taps, outputs)[:, :, ::-1].transpose(3, 0, 2, 1)
        before, bins = kernel.shape[2] // 2, x.shape[2]
        x_slope = grouped_slope.reshape(batch, frames, -1, x.shape[3])[:, :, before : before + bins]
        weight_slope = slope.reshape(outputs, times, taps * stride, -1)[:, :, : kernel.shape[2]]
        return x_slope, weight_slope

    return conv


def matmul_conv2d(x: mx.array, weight: mx.array, stride: int = 1, dilation: int = 1) -> mx.array:
    """2-D cross-correlation by matrix products: x [B, F, K, C] -> [B, F, ceil(K / stride), O].

    weight [O, times, span, C], both sides odd; zeros all around (`dilation * (times // 2)` frames, `span // 2` bins);
    `stride` in bins, `dilation` in frames.
    """
    return _conv2d(stride, dilation, False)(x, weight)


def mixed_conv2d(x: mx.array, weight: mx.array, stride: int = 1, dilation: int = 1) -> mx.array:
    """`matmul_conv2d` with `mx.conv2d` forward."""
    return _conv2d(stride, dilation, True)(x, weight)


def library_conv2d(x: mx.array, weight: mx.array, stride: int = 1, dilation: int = 1) -> mx.array:
    """`matmul_conv2d` by `mx.conv2d`."""
    times, span = weight.shape[1:3]
    return mx.conv2d(
        x, weight, stride=(1, stride), padding=(dilation * (times // 2), span // 2), dilation=(dilation, 1)
    )


class NormedConv2d(nn.Module):
    """Convolution with bias and weight norm: the weight is `g * v / ||v||`, norm over all but the output channel.

    `v` is [outputs, frames, bins, inputs] (`kernel`: odd numbers of frames and bins), `g` and `bias` are [outputs].
    Starts with Gaussian v of deviation gain / sqrt(fan in), g the norm of v, no bias: with the gain of the activation
    that follows, a signal keeps its level through the layers.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int],
        stride: int = 1,
        dilation: int = 1,
        gain: float = 1.0,
    ):
        super().__init__()
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f"a centred kernel has odd sides, got {kernel}")
        self.v = mx.random.normal((outputs, *kernel, inputs), scale=gain * (kernel[0] * kernel[1] * inputs) ** -0.5)
        self.g = mx.linalg.norm(self.v.reshape(outputs, -1), axis=1)
        self.bias = mx.zeros((outputs,))
        self.stride, self.dilation = stride, dilation

    @property
    def weight(self) -> mx.array:
        norm = mx.sqrt(mx.square(self.v).sum(axis=(1, 2, 3)))
        return self.v * (self.g / norm)[:, None, None, None]

    def __call__(self, x: mx.array) -> mx.array:
        """x [B, F, K, inputs] -> [B, F, ceil(K / stride), outputs]."""
        conv = mixed_conv2d if mx.default_device() == mx.gpu else matmul_conv2d
        return conv(x, self.weight, self.stride, self.dilation) + self.bias
