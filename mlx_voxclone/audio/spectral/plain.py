"""Short-time Fourier analysis with gradients that are fast and exact on every backend.

Conventions, those of `torch.stft(center=True, pad_mode="reflect")`: the signal is extended by `n_fft // 2` samples on
both sides by reflection (the edge sample itself is not repeated), frame f starts at sample `f * hop` of the extended
signal, the transform is one-sided and unnormalised. A signal no longer than `n_fft // 2` cannot be reflected: zeros are
appended first, up to `n_fft // 2 + 1` samples.

`lengths` (valid samples per item) makes each item's frames those of the item analysed alone: it is reflected at its
own end, and nothing behind that end, NaN included, reaches a value or a gradient. Frames behind an item's own
`frame_count` are not meaningful and must be left out by the caller. As an int32 array `[B]` their values are not looked
at: a compiled function so serves batches of any lengths, at the width of the longest possible item.

The gradient of `mx.as_strided` is a scatter-add, many times slower than the transform itself; `frame` therefore carries
its own, an overlap-add made of padded sums. Everything is computed in float32, whatever the input's type.

These are operations of MLX, for any device. Callers take `audio.spectral.stft` or `audio.spectral.spectra`, which on an
Apple GPU run on the kernels of `audio.spectral.metal` instead where `audio.spectral.choice` finds them better.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_voxclone.errors import ConfigError

Lengths = Sequence[int] | mx.array
"""Valid samples or frames of the items of a batch: integers, or an int32 array [B] whose values are not looked at."""

LOG_FLOOR = 1e-5
# Below this magnitude the gradient of |X| fades to zero, in every implementation; its square is a normal float32
# number, and squares that underflow only make the magnitude zero.
TINY_MAGNITUDE = 1e-18


@lru_cache(maxsize=64)
def _hann(n_fft: int) -> np.ndarray:
    if n_fft == 1:
        return np.ones(1, np.float32)
    return (0.5 - 0.5 * np.cos(2 * math.pi * np.arange(n_fft) / n_fft)).astype(np.float32)


def hann_window(n_fft: int) -> mx.array:
    """Periodic Hann window [n_fft], float32: 0.5 - 0.5 cos(2 pi n / n_fft), as `torch.hann_window`."""
    return mx.array(_hann(n_fft))


def window_energy(n_fft: int) -> float:
    """L2 norm of the periodic Hann window, sqrt(3 n_fft / 8) (exact from 3 samples on)."""
    return math.sqrt(3 * n_fft / 8)


def unit_window(n_fft: int) -> mx.array:
    """Periodic Hann window [n_fft] of unit energy: white noise has the same level at every size."""
    return hann_window(n_fft) / window_energy(n_fft)


# ---- framing ---------------------------------------------------------------------------------------------------------


def overlap_add(frames: mx.array, hop: int, length: int) -> mx.array:
    """Adjoint of `frame`: frames [B, F, n_fft] -> [B, length], frame f added at sample `f * hop`.

    Each frame is cut into ceil(n_fft / hop) pieces of one hop; pieces of the same rank line up without overlap, so the
    sum takes that many shifted additions and no scatter.
    """
    batch, count, n_fft = frames.shape
    shifts = -(-n_fft // hop)
    if n_fft != shifts * hop:
        frames = mx.pad(frames, [(0, 0), (0, 0), (0, shifts * hop - n_fft)])
    pieces = frames.reshape(batch, count, shifts, hop)
    total = None
    for shift in range(shifts):
        piece = mx.pad(pieces[:, :, shift], [(0, 0), (shift, shifts - 1 - shift), (0, 0)])
        total = piece if total is None else total + piece
    flat = total.reshape(batch, -1)
    if flat.shape[1] < length:
        return mx.pad(flat, [(0, 0), (0, length - flat.shape[1])])
    return flat[:, :length]


@lru_cache(maxsize=256)
def _framer(n_fft: int, hop: int):
    @mx.custom_function
    def framer(x: mx.array) -> mx.array:
        batch, length = x.shape
        return mx.as_strided(x, (batch, 1 + (length - n_fft) // hop, n_fft), (length, hop, 1))

    @framer.vjp
    def framer_vjp(x: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        return overlap_add(cotangent, hop, x.shape[1])

    return framer


def frame(x: mx.array, n_fft: int, hop: int) -> mx.array:
    """Overlapping frames of a batch: x [B, T] -> float32 [B, F, n_fft], F = 1 + (T - n_fft) // hop.

    No centring; samples behind the last whole frame are dropped, and a signal shorter than one frame is extended by
    zeros to one. Raises ValueError for a shape that is not [B, T] with T >= 1, or sizes below 1.
    """
    check_sizes(x, n_fft, hop)
    x = x.astype(mx.float32)
    if x.shape[1] < n_fft:
        x = mx.pad(x, [(0, 0), (0, n_fft - x.shape[1])])
    return _framer(n_fft, hop)(x)


def check_sizes(x: mx.array, n_fft: int, hop: int) -> None:
    """Raises ValueError for a shape that is not [B, T] with T >= 1, or sizes below 1."""
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(f"expected a signal of shape [batch, samples >= 1], got {list(x.shape)}")
    if n_fft < 1 or hop < 1:
        raise ValueError(f"n_fft and hop must be at least 1, got n_fft={n_fft}, hop={hop}")


def frame_count(length: int, n_fft: int, hop: int) -> int:
    """Number of centred frames that `stft` makes of `length` samples."""
    half = n_fft // 2
    return 1 + (max(length, half + 1) + 2 * half - n_fft) // hop


def frame_counts(lengths: list[int] | mx.array, n_fft: int, hop: int) -> list[int] | mx.array:
    """`frame_count` of each of some lengths."""
    if not isinstance(lengths, mx.array):
        return [frame_count(length, n_fft, hop) for length in lengths]
    half = n_fft // 2
    return 1 + (mx.maximum(lengths, half + 1) + 2 * half - n_fft) // hop


def _reflect(x: mx.array, half: int) -> mx.array:
    """Extends [B, T] by `half` reflected samples on both sides, after zeros where T is too short to be reflected."""
    if half == 0:
        return x
    if x.shape[1] <= half:
        x = mx.pad(x, [(0, 0), (0, half + 1 - x.shape[1])])
    last = x.shape[1] - 1
    stop = last - half - 1
    return mx.concatenate([x[:, half:0:-1], x, x[:, last - 1 : stop if stop >= 0 else None : -1]], axis=1)


@lru_cache(maxsize=256)
def _reflector(half: int):
    """`_reflect` of each item at its own end: (x [B, T], lengths int32 [B]) -> [B, max(T, half + 1) + 2 * half].

    Zeros follow a shorter item. Its backward gathers too: what a sample, its mirror image before the start and the one
    behind the end were given.
    """

    @mx.custom_function
    def reflected(x: mx.array, lengths: mx.array) -> mx.array:
        own = lengths[:, None]
        last = mx.maximum(own, half + 1) - 1  # with the zeros of an item that is too short to be reflected
        place = mx.abs(mx.arange(-half, max(x.shape[1], half + 1) + half, dtype=mx.int32))[None]
        source = mx.where(place <= last, place, 2 * last - place)
        there = (place <= last + half) & (source < own)
        taken = mx.take_along_axis(x, mx.clip(source, 0, x.shape[1] - 1), axis=1)
        return mx.where(there, taken, 0.0)

    @reflected.vjp
    def reflected_vjp(primals, cotangent: mx.array, _output: mx.array):
        x, lengths = primals
        own, size = lengths[:, None], x.shape[1]
        last = mx.maximum(own, half + 1) - 1
        place = mx.arange(size, dtype=mx.int32)[None]
        slope = cotangent[:, half : half + size]
        if count := min(half, size - 1):
            slope = slope + mx.pad(cotangent[:, half - count : half][:, ::-1], [(0, 0), (1, size - 1 - count)])
        image = half + 2 * last - place
        behind = mx.take_along_axis(cotangent, mx.clip(image, 0, cotangent.shape[1] - 1), axis=1)
        slope = slope + mx.where((place < last) & (image <= last + 2 * half), behind, 0.0)
        return mx.where(place < own, slope, 0.0), mx.zeros_like(lengths)

    return reflected


def centre_pad(x: mx.array, n_fft: int, lengths: Lengths | None = None) -> mx.array:
    """Reflects each item at its own ends: x [B, T] -> float32 [B, longest item + 2 * (n_fft // 2)].

    Shorter items are followed by zeros. Raises ValueError if `lengths` are not B integers in 1..T.
    """
    check_sizes(x, n_fft, 1)
    half = n_fft // 2
    lengths = check_lengths(lengths, x)
    x = x[:, : longest(lengths, x)].astype(mx.float32)
    if alike(lengths):  # the usual case in training: one slice for the whole batch
        return _reflect(x, half)
    return _reflector(half)(x, mx.array(lengths))


def check_lengths(lengths: Lengths | None, x: mx.array) -> list[int] | mx.array:
    """Valid lengths of the items of x [B, T, ...]; None means all of T. Raises ValueError unless B integers in 1..T; of
    an array, only its shape and type can be checked."""
    batch, size = x.shape[:2]
    if lengths is None:
        return [size] * batch
    if isinstance(lengths, mx.array):
        if lengths.shape != (batch,) or not mx.issubdtype(lengths.dtype, mx.integer):
            raise ValueError(f"lengths must be {batch} integers, got {lengths.dtype} of shape {list(lengths.shape)}")
        return lengths if lengths.dtype == mx.int32 else lengths.astype(mx.int32)
    lengths = [int(length) for length in lengths]
    if len(lengths) != batch or any(not 1 <= length <= size for length in lengths):
        raise ValueError(f"lengths must be {batch} integers in 1..{size}, got {lengths}")
    return lengths


def longest(lengths: list[int] | mx.array, x: mx.array) -> int:
    """The most samples (or frames) that an item of x [B, T, ...] may have."""
    return x.shape[1] if isinstance(lengths, mx.array) else max(lengths)


def alike(lengths: list[int] | mx.array) -> bool:
    """Whether all items are known to have one length."""
    return not isinstance(lengths, mx.array) and len(set(lengths)) == 1


def as_floats(lengths: Lengths) -> mx.array:
    """Lengths or counts as float32 [B]."""
    return mx.array(lengths).astype(mx.float32)


def same_lengths(lengths: list[int] | mx.array, others: list[int] | mx.array) -> bool:
    """Whether two checked lengths are known to be the same: arrays only if one was made of the other."""
    if isinstance(lengths, mx.array) or isinstance(others, mx.array):
        return lengths is others
    return lengths == others


# ---- transforms ------------------------------------------------------------------------------------------------------


def stft(x: mx.array, n_fft: int, hop: int, window: mx.array, lengths: Lengths | None = None) -> mx.array:
    """Centred transform of x [B, T] with a window [n_fft]: complex64 [B, F, n_fft // 2 + 1]."""
    return mx.fft.rfft(frame(centre_pad(x, n_fft, lengths), n_fft, hop) * window)


def adjoint_scale(n_fft: int) -> np.ndarray:
    """What makes irfft the adjoint of rfft, per bin: float32 [n_fft // 2 + 1].

    irfft counts every bin but DC and Nyquist twice (once conjugated) and divides by n_fft; the adjoint does neither.
    """
    scale = np.full(n_fft // 2 + 1, 0.5 * n_fft, np.float32)
    scale[0] = n_fft
    if n_fft % 2 == 0:
        scale[-1] = n_fft
    return scale


@lru_cache(maxsize=256)
def _magnitude(n_fft: int, hop: int):
    """|rfft(frames * window)| with one hand-written backward; the spectrum is a second output, its residual."""
    scale = adjoint_scale(n_fft)

    @mx.custom_function
    def magnitude(padded: mx.array, window: mx.array) -> tuple[mx.array, mx.array]:
        spectrum = mx.fft.rfft(frame(padded, n_fft, hop) * window)
        return mx.abs(spectrum), spectrum

    @magnitude.vjp
    def magnitude_vjp(primals, cotangents, outputs):
        (padded, window), (absolute, spectrum) = primals, outputs
        slope = cotangents[0] * mx.array(scale) / mx.maximum(absolute, TINY_MAGNITUDE)
        frames = mx.fft.irfft(slope * spectrum, n=n_fft) * window
        return overlap_add(frames, hop, padded.shape[1]), mx.zeros_like(window)

    return magnitude


def magnitude(x: mx.array, n_fft: int, hop: int, window: mx.array, lengths: Lengths | None = None) -> mx.array:
    """|stft(...)|, [B, F, n_fft // 2 + 1]; the gradient is zero where the magnitude is, and none goes to the window."""
    padded = centre_pad(x, n_fft, lengths)
    return _magnitude(n_fft, hop)(padded, window)[0]


@lru_cache(maxsize=64)
def pairs(n_fft: int, hop: int):
    """The transform of padded signals [B, T] with the `unit_window`, real and imaginary parts: [B, F, bins, 2].

    Its backward is one inverse transform and one overlap-add.
    """
    bins, scale = n_fft // 2 + 1, adjoint_scale(n_fft)[:, None]

    @mx.custom_function
    def transform(padded: mx.array) -> mx.array:
        spectrum = mx.fft.rfft(frame(padded, n_fft, hop) * unit_window(n_fft))
        return mx.view(spectrum, mx.float32).reshape(*spectrum.shape, 2)

    @transform.vjp
    def transform_vjp(padded: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        parts = (cotangent * mx.array(scale)).reshape(*cotangent.shape[:2], 2 * bins)
        frames = mx.fft.irfft(mx.view(parts, mx.complex64), n=n_fft) * unit_window(n_fft)
        return overlap_add(frames, hop, padded.shape[1])

    return transform


@mx.custom_function
def magnitude_of_pairs(pairs: mx.array) -> mx.array:
    """Magnitudes [...] of real and imaginary parts [..., 2]; the gradient is zero where the magnitude is."""
    return mx.abs(mx.view(pairs.reshape(*pairs.shape[:-2], -1), mx.complex64))


@magnitude_of_pairs.vjp
def magnitude_of_pairs_vjp(pairs: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return (cotangent / mx.maximum(output, TINY_MAGNITUDE))[..., None] * pairs


# ---- mel -------------------------------------------------------------------------------------------------------------


def _hz_to_mel(hz):
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / math.log(6.4))


def _mel_to_hz(mel):
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))


@lru_cache(maxsize=64)
def _mel_numpy(sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> np.ndarray:
    fmax = sample_rate / 2 if fmax is None else fmax
    if n_mels < 1 or not 0 <= fmin < fmax <= sample_rate / 2:
        raise ConfigError(
            f"mel filterbank: needs n_mels >= 1 and 0 <= fmin < fmax <= {sample_rate / 2:g} Hz, "
            f"got n_mels={n_mels}, fmin={fmin:g}, fmax={fmax:g}"
        )
    edges = _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n_mels + 2))  # [n_mels + 2], Hz
    bins = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rows = np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))
    empty = np.flatnonzero(rows.max(axis=1) < 1e-6)  # not == 0: a bin on an edge is off it by rounding
    if empty.size:
        raise ConfigError(
            f"mel filterbank: {empty.size} of {n_mels} bands hold no bin of a {n_fft}-point transform at "
            f"{sample_rate} Hz; use fewer bands or a larger n_fft"
        )
    return (rows * 2 / (high - low)).astype(np.float32)


def mel_band_of(hz: float, sample_rate: int, n_mels: int) -> float:
    """Where a frequency lies among the bands of `mel_filterbank` from 0 Hz to half the sample rate: the middle of the
    first band is 0.0, that of the last one `n_mels - 1`."""
    return float(_hz_to_mel(hz) / _hz_to_mel(sample_rate / 2)) * (n_mels + 1) - 1


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None) -> mx.array:
    """Triangular mel filters [n_mels, n_fft // 2 + 1], float32.

    Slaney's scale (linear below 1 kHz, logarithmic above) and Slaney's area normalisation (each triangle scaled by
    2 / its width in Hz), the defaults of `librosa.filters.mel`. Frequencies in Hz; fmax None is half the sample rate.
    Raises ConfigError for impossible limits or when a band is too narrow to hold any bin.
    """
    return mx.array(_mel_numpy(sample_rate, n_fft, n_mels, fmin, fmax))


def log_of_bands(magnitude: mx.array, filters: mx.array, floor: float = LOG_FLOOR) -> mx.array:
    """log(max(bands, floor)) of magnitudes [B, F, K] through filters [n, K]: [B, F, n]."""
    return mx.log(mx.maximum(magnitude @ filters.T, floor))
