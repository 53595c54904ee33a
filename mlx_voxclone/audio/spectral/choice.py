"""Which implementation of the short-time spectra runs: Metal kernels on an Apple GPU, plain MLX operations elsewhere.

`VOXCLONE_SPECTRAL` in the environment decides: `auto` (default) takes the Metal kernels where MLX computes on an Apple
GPU and a self-test at first use finds them equal, value and gradient, to the plain operations, for each window size
that they are faster at, which is timed once on the machine; `mlx` never takes them; `metal` insists on them, tests and
times nothing.
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.spectral import metal, plain
from mlx_voxclone.errors import ConfigError

VARIABLE = "VOXCLONE_SPECTRAL"
CHOICES = ("auto", "mlx", "metal")
# Of the RMS; float32 sums in another order differ by 1e-6, products in reduced precision by 5e-4.
TOLERANCE = 1e-4
# (batch, samples, n_fft, hop): even and odd windows, several tiles of a matrix product, shorter than half a window
SELF_TEST_SIZES = ((2, 700, 76, 19), (2, 301, 15, 4), (1, 1500, 334, 83), (3, 20, 50, 7))
TIMED_SHAPE, TIMED_RUNS = (4, 24000), 3
_decided: dict[int, bool] = {}


def metal_available() -> bool:
    """Whether MLX computes on an Apple GPU, as the default device stands now."""
    return mx.metal.is_available() and mx.default_device() == mx.gpu


def use_metal() -> bool:
    """Whether the Metal kernels are to be used now; the first call on an Apple GPU runs the self-test.

    Raises ConfigError for a value of VOXCLONE_SPECTRAL that means nothing, or `metal` without an Apple GPU.
    """
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in CHOICES:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, got {wanted!r}")
    if wanted == "mlx":
        return False
    available = metal_available()
    if wanted == "metal":
        if not available:
            raise ConfigError(f"{VARIABLE}=metal needs MLX on an Apple GPU, which is not in use here; unset it")
        return True
    return available and _trusted()


def signal_for_metal(
    x: mx.array, n_fft: int, hop: int, lengths: plain.Lengths | None
) -> tuple[mx.array, mx.array | None] | None:
    """What of x [B, T] the Metal kernels are to analyse, or None where plain operations must: the part up to the end of
    the longest item, and the items' lengths, int32 [B], None if all are as long as that.

    Raises ValueError for impossible shapes, sizes or lengths, ConfigError as `use_metal`.
    """
    plain.check_sizes(x, n_fft, hop)
    lengths = plain.check_lengths(lengths, x)
    size = plain.longest(lengths, x)
    if not use_metal() or not kernels_win(n_fft) or not metal.fits(x.shape[0], size, n_fft, hop):
        return None
    return x[:, :size], None if plain.alike(lengths) else mx.array(lengths)


def kernels_win(n_fft: int) -> bool:
    """Whether the kernels' matrix products are the faster way for a window size: powers of two are made for `rfft`."""
    if os.environ.get(VARIABLE) == "metal":
        return True
    if n_fft not in _decided:
        _decided[n_fft] = _faster(n_fft)
    return _decided[n_fft]


def decisions() -> dict[str, bool]:
    """By window size whether the kernels won, of what has been timed or taken over: to be kept with a run."""
    return {str(n_fft): won for n_fft, won in sorted(_decided.items())}


def take_decisions(found: Mapping[str, bool]) -> None:
    """Decides as another process did, so that a resumed run computes what it would have computed."""
    _decided.update({int(n_fft): won for n_fft, won in found.items()})


def _faster(n_fft: int) -> bool:
    """Times both ways, value and gradient, on a second of noise per item; the clock is looked at once."""
    x, hop = mx.array(np.random.default_rng(0).standard_normal(TIMED_SHAPE).astype(np.float32)), max(1, n_fft // 4)
    sizes = (n_fft, hop, plain.hann_window(n_fft))

    def seconds(magnitude) -> float:
        way = mx.value_and_grad(lambda x: magnitude(x, *sizes).sum())
        mx.eval(way(x))  # compiled, and constants made
        return min(_clocked(lambda: mx.eval(way(x))) for _ in range(TIMED_RUNS))

    return seconds(metal.magnitude) <= seconds(plain.magnitude)


def _clocked(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@lru_cache(maxsize=1)
def _trusted() -> bool:
    problem = self_test()
    if problem is not None:
        warnings.warn(
            f"the Metal kernels for spectra are not used: {problem}. Slower operations of MLX replace them. Where "
            "matrix products run in reduced precision, MLX_ENABLE_TF32=0 in the environment brings the kernels back.",
            RuntimeWarning,
            stacklevel=2,
        )
    return problem is None


def self_test(sizes: Sequence[tuple[int, int, int, int]] | None = None) -> str | None:
    """Compares the Metal kernels with the plain operations on noise; what is wrong in a few words, None if nothing.

    A kernel that cannot be compiled or run counts as wrong. `sizes`: (batch, samples, n_fft, hop) to try; None: a few
    small ones.
    """
    problems = (_problem(*case) for case in (SELF_TEST_SIZES if sizes is None else sizes))
    return next((problem for problem in problems if problem is not None), None)


def _problem(batch: int, samples: int, n_fft: int, hop: int) -> str | None:
    rng = np.random.default_rng(n_fft)
    x = mx.array(rng.standard_normal((batch, samples)).astype(np.float32))
    lengths = mx.array(samples - np.arange(batch) * (samples - 1) // batch, mx.int32)  # each item ends elsewhere
    # Three times the signal has three times its magnitude everywhere: no near tie has a gradient of either sign.
    target, sizes = 3 * x, (n_fft, hop, plain.hann_window(n_fft), lengths)
    size = plain.magnitude(x, *sizes)
    # The phase of a small bin is inexact; a weight that is smaller still keeps it from deciding the comparison.
    weights = mx.square(size) * mx.array(rng.standard_normal(size.shape).astype(np.float32))

    def pulled(function, *arguments):
        return mx.vjp(lambda x: function(x, *arguments), [x], [weights])

    def plain_difference(x):
        return mx.abs(plain.magnitude(x, *sizes) - plain.magnitude(target, *sizes))

    def difference(x):
        return metal.difference_of(*(metal.spectrum(y, *sizes) for y in (x, target)))

    try:
        compared = {
            "magnitude": (pulled(plain.magnitude, *sizes), pulled(metal.magnitude, *sizes)),
            "difference": (pulled(plain_difference), pulled(difference)),
        }
        mx.eval(compared)
    except RuntimeError as error:
        return f"running them failed ({str(error).strip().partition(chr(10))[0]})"
    for name, ways in compared.items():
        for part, (expected,), (got,) in zip(("value", "gradient"), *ways):
            error = _error(np.array(got), np.array(expected))
            if not error <= TOLERANCE:  # NaN included
                return f"their {part} ({name}, n_fft={n_fft}) is off by {error:.1e} of its RMS"
    return None


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the RMS of what was expected; infinite for another shape."""
    if got.shape != expected.shape:
        return float("inf")
    return float(np.abs(got - expected).max() / np.sqrt(np.square(expected, dtype=np.float64).mean()))
