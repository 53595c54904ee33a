"""Short-time spectra on Apple GPUs: small Metal kernels around two matrix products, with exact gradients.

Conventions are those of `audio.spectral.plain`; `audio.spectral.choice` decides when this module is used. No Fourier
transform is written in Metal: the codec's window sizes have large prime factors, which fast transforms are slow
at. A real frame v of N samples is folded into its even part e[n] = v[n] + v[N - n] and its odd part
o[n] = v[n] - v[N - n], n = 0..N // 2 (v[0], and v[N / 2] of an even N, have no partner and are even), so that

    Re X[k] = sum_n e[n] cos(2 pi k n / N),    Im X[k] = -sum_n o[n] sin(2 pi k n / N)

are two products with square matrices of N // 2 + 1 rows. Both matrices are symmetric: the gradient uses them again.

Kernels are one thread per element. They use no threadgroup memory, no barrier and no atomic, and no thread reads what
another one wrote: results do not depend on the order of threads. Sizes are runtime parameters, so that a kernel is
compiled once and not once per size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.spectral.plain import TINY_MAGNITUDE

MAX_ELEMENTS = 2**31 - 1  # kernels count in int32
_THREADGROUP = 256
_SMALL = 8


@dataclass(frozen=True)
class Kernel:
    """A Metal kernel: names of its inputs (the last one: int32 parameters) and float32 outputs, and its body."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str
    header: str = ""


@lru_cache(maxsize=64)
def build(kernel: Kernel):
    """The callable MLX makes of a kernel. Nothing is compiled before it runs on a Metal device."""
    return mx.fast.metal_kernel(
        name=f"voxclone_{kernel.name}",
        input_names=list(kernel.inputs),
        output_names=list(kernel.outputs),
        source=kernel.source,
        header=kernel.header,
    )


def arguments(
    inputs: Sequence[mx.array], shapes: Sequence[tuple[int, ...]], grid: tuple[int, int, int]
) -> dict[str, object]:
    """Keyword arguments of a built kernel: `grid` counts threads, outputs are float32 of `shapes`."""
    width = min(grid[0], _THREADGROUP)
    return {
        "inputs": list(inputs),
        "output_shapes": list(shapes),
        "output_dtypes": [mx.float32] * len(shapes),
        "grid": grid,
        "threadgroup": (width, min(grid[1], max(1, _THREADGROUP // width)), 1),
    }


def launch(
    kernel: Kernel, inputs: Sequence[mx.array], shapes: Sequence[tuple[int, ...]], grid: tuple[int, int, int]
) -> list[mx.array]:
    """Runs a kernel on the Metal device, one thread per point of `grid`; outputs are float32 of the given shapes."""
    return build(kernel)(**arguments(inputs, shapes, grid))


# ---- kernels ---------------------------------------------------------------------------------------------------------

_SIZES = """
    int batch = params[0];
    int samples = params[1];  // of an item as it is stored
    int n_fft = params[2];
    int hop = params[3];
    int frames = params[4];
    int reach = n_fft / 2;    // samples of reflection on each side
    int bins = reach + 1;
    int plane = batch * frames * bins;
"""

_ITEM = """
    int own = lengths[b];               // samples of this item
    int length = max(own, reach + 1);   // with the zeros that make it long enough to be reflected
"""

# x [batch, samples], lengths [batch or more], window [n_fft] -> even and odd parts of the windowed frames,
# [2, batch, frames, bins]; zeros behind the mirror image of an item's end.
# Grid: bins, frames, batch.
FOLD = Kernel(
    "fold",
    ("x", "lengths", "window", "params"),
    ("folded",),
    _SIZES
    + """
    int n = int(thread_position_in_grid.x);
    int f = int(thread_position_in_grid.y);
    int b = int(thread_position_in_grid.z);
"""
    + _ITEM
    + """
    int twin = n_fft - n;
    int t = voxclone_reflect(f * hop + n - reach, length, reach, own);
    float left = t < own ? window[n] * x[b * samples + t] : 0.0f;
    float right = 0.0f;
    bool paired = n > 0 && n < twin;
    if (paired) {
        int u = voxclone_reflect(f * hop + twin - reach, length, reach, own);
        right = u < own ? window[twin] * x[b * samples + u] : 0.0f;
    }
    int place = (b * frames + f) * bins + n;
    folded[place] = left + right;
    folded[plane + place] = paired ? left - right : 0.0f;
""",
    """
inline int voxclone_reflect(int t, int length, int reach, int nowhere) {
    t = t < 0 ? -t : t;
    int image = t < length ? t : 2 * (length - 1) - t;
    return t < length + reach ? image : nowhere;
}
""",
)

# Adjoint of FOLD: folded [2, batch, frames, bins], lengths and window -> gradient [batch, samples].
# Grid: samples, batch, 1. A thread gathers what every copy of its sample gave: the sample in its own place, its mirror
# image before the start and the one behind the end.
OVERLAP_ADD = Kernel(
    "overlap_add",
    ("folded", "lengths", "window", "params"),
    ("gradient",),
    _SIZES
    + """
    int t = int(thread_position_in_grid.x);
    int b = int(thread_position_in_grid.y);
"""
    + _ITEM
    + """
    float sum = 0.0f;
    for (int copy = 0; copy < 3; ++copy) {
        int place = reach + t;
        bool there = true;
        if (copy == 1) {
            place = reach - t;
            there = t > 0 && place >= 0;
        }
        if (copy == 2) {
            place = reach + 2 * (length - 1) - t;
            there = t < length - 1 && place < length + 2 * reach;
        }
        if (!there) {
            continue;
        }
        int first = place < n_fft ? 0 : (place - n_fft) / hop + 1;
        int last = min(place / hop, frames - 1);
        for (int f = first; f <= last; ++f) {
            int n = place - f * hop;
            int twin = n_fft - n;
            int from = (b * frames + f) * bins + min(n, twin);
            float value = folded[from];
            if (n > 0 && n != twin) {
                float odd = folded[plane + from];
                value += n < twin ? odd : -odd;
            }
            sum += window[n] * value;
        }
    }
    gradient[b * samples + t] = t < own ? sum : 0.0f;
""",
)

_PLANE = """
    int plane = params[0];
    int i = int(thread_position_in_grid.x);
    float re = spectrum[i];
    float im = spectrum[plane + i];
    float size = sqrt(re * re + im * im);
"""

# spectrum [2, plane] -> magnitude [plane]. Grid: plane, 1, 1.
MAGNITUDE = Kernel("magnitude", ("spectrum", "params"), ("magnitude",), _PLANE + "    magnitude[i] = size;\n")

# Adjoint of MAGNITUDE at `spectrum`: cotangent [plane] -> [2, plane]. Grid: plane, 1, 1.
MAGNITUDE_SLOPE = Kernel(
    "magnitude_slope",
    ("spectrum", "cotangent", "params"),
    ("slope",),
    _PLANE
    + f"""
    float scale = cotangent[i] / max(size, {TINY_MAGNITUDE}f);
    slope[i] = scale * re;
    slope[plane + i] = scale * im;
""",
)

_PAIR = """
    int plane = params[0];
    int i = int(thread_position_in_grid.x);
    float re = ours[i];
    float im = ours[plane + i];
    float size = sqrt(re * re + im * im);
    float re_target = theirs[i];
    float im_target = theirs[plane + i];
    float size_target = sqrt(re_target * re_target + im_target * im_target);
"""

# Spectra ours and theirs [2, plane] -> absolute difference of their magnitudes [plane]. Grid: plane, 1, 1.
DIFFERENCE = Kernel(
    "difference",
    ("ours", "theirs", "params"),
    ("difference",),
    _PAIR + "    difference[i] = abs(size - size_target);\n",
)

# Adjoint of DIFFERENCE with respect to `ours`: cotangent [plane] -> [2, plane]. Grid: plane, 1, 1.
DIFFERENCE_SLOPE = Kernel(
    "difference_slope",
    ("ours", "theirs", "cotangent", "params"),
    ("slope",),
    _PAIR
    + f"""
    float scale = cotangent[i] * sign(size - size_target) / max(size, {TINY_MAGNITUDE}f);
    slope[i] = scale * re;
    slope[plane + i] = scale * im;
""",
)


# ---- transforms ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _bases(n_fft: int) -> mx.array:
    """Cosines and negated sines, [2, n_fft // 2 + 1, n_fft // 2 + 1]. Angles are reduced in whole numbers first."""
    n = np.arange(n_fft // 2 + 1)
    angle = 2 * np.pi * (np.outer(n, n) % n_fft) / n_fft
    return mx.array(np.stack([np.cos(angle), -np.sin(angle)]).astype(np.float32))


def _extent(samples: int, n_fft: int, hop: int) -> tuple[int, int]:
    """Samples with the zeros that make a signal long enough to be reflected, and its frames."""
    length = max(samples, n_fft // 2 + 1)
    return length, 1 + (length + 2 * (n_fft // 2) - n_fft) // hop


@lru_cache(maxsize=256)
def _spectrum(n_fft: int, hop: int):
    bins = n_fft // 2 + 1

    def sizes(x: mx.array) -> tuple[int, int, mx.array]:
        batch, samples = x.shape
        _, frames = _extent(samples, n_fft, hop)
        return batch, frames, mx.array([batch, samples, n_fft, hop, frames], mx.int32)

    def transform(folded: mx.array) -> mx.array:
        rows = folded.reshape(2, -1, bins)
        return mx.matmul(rows, _bases(n_fft)).reshape(folded.shape)

    @mx.custom_function
    def spectrum(x: mx.array, lengths: mx.array, window: mx.array) -> mx.array:
        batch, frames, params = sizes(x)
        inputs = [x, lengths, window, params]
        (folded,) = launch(FOLD, inputs, [(2, batch, frames, bins)], (bins, frames, batch))
        return transform(folded)

    @spectrum.vjp
    def spectrum_vjp(primals, cotangent: mx.array, _output):
        x, lengths, window = primals
        batch, _, params = sizes(x)
        inputs = [transform(cotangent), lengths, window, params]
        (gradient,) = launch(OVERLAP_ADD, inputs, [x.shape], (x.shape[1], batch, 1))
        return gradient, mx.zeros_like(lengths), mx.zeros_like(window)

    return spectrum


def fits(batch: int, samples: int, n_fft: int, hop: int) -> bool:
    """Whether a transform of these sizes can be counted in the kernels' int32."""
    _, frames = _extent(samples, n_fft, hop)
    return max(2 * batch * frames * (n_fft // 2 + 1), batch * samples) <= MAX_ELEMENTS


def spectrum(x: mx.array, n_fft: int, hop: int, window: mx.array, lengths: mx.array | None = None) -> mx.array:
    """Real and imaginary part of the centred transform: x [B, T] -> float32 [2, B, F, n_fft // 2 + 1].

    `window` [n_fft], float32, gets no gradient. `lengths` int32 [B]: samples of each item, None for all T. Shapes are
    the caller's to check, `fits` included.
    """
    if lengths is None:
        lengths = mx.full((x.shape[0],), x.shape[1], mx.int32)
    # MLX puts inputs of less than 8 elements into another address space, and would build the kernel anew.
    lengths = mx.pad(lengths, [(0, _SMALL)])
    return _spectrum(n_fft, hop)(x.astype(mx.float32), lengths, window)


@mx.custom_function
def _magnitude(spectrum: mx.array) -> mx.array:
    plane = spectrum.size // 2
    (size,) = launch(MAGNITUDE, [spectrum, mx.array([plane], mx.int32)], [spectrum.shape[1:]], (plane, 1, 1))
    return size


@_magnitude.vjp
def _magnitude_vjp(spectrum: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
    plane = spectrum.size // 2
    params = mx.array([plane], mx.int32)
    (slope,) = launch(MAGNITUDE_SLOPE, [spectrum, cotangent, params], [spectrum.shape], (plane, 1, 1))
    return slope


def magnitude_of(spectrum: mx.array) -> mx.array:
    """Magnitude of what `spectrum` gives, [2, ...] -> [...]; the gradient is zero where the magnitude is."""
    return _magnitude(spectrum)


def magnitude(x: mx.array, n_fft: int, hop: int, window: mx.array, lengths: mx.array | None = None) -> mx.array:
    """|X|: x [B, T] -> float32 [B, F, n_fft // 2 + 1]; the gradient is zero where the magnitude is. As `spectrum`."""
    return magnitude_of(spectrum(x, n_fft, hop, window, lengths))


@mx.custom_function
def _difference(ours: mx.array, theirs: mx.array) -> mx.array:
    plane = ours.size // 2
    (errors,) = launch(DIFFERENCE, [ours, theirs, mx.array([plane], mx.int32)], [ours.shape[1:]], (plane, 1, 1))
    return errors


@_difference.vjp
def _difference_vjp(primals, cotangent: mx.array, _output):
    ours, theirs = primals
    plane = ours.size // 2
    inputs = [ours, theirs, cotangent, mx.array([plane], mx.int32)]
    (slope,) = launch(DIFFERENCE_SLOPE, inputs, [ours.shape], (plane, 1, 1))
    return slope, mx.zeros_like(theirs)


def difference_of(ours: mx.array, theirs: mx.array) -> mx.array:
    """| |P| - |T| | of two of what `spectrum` gives, [2, ...] -> [...], in one kernel; the gradient goes to `ours`."""
    return _difference(ours, mx.stop_gradient(theirs))
