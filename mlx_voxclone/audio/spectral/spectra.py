"""The spectra of one batch of signals, each computed once and shared by all that look at it.

A step of the encoder's training looks at the decoded sound and at the recording through the STFT loss, the mel loss and
the discriminators. Where they look with the same window, they share the transform, and one backward transform serves
the sum of their gradients.
"""

import math
from collections.abc import Collection, Sequence
from functools import lru_cache

import mlx.core as mx

from mlx_voxclone.audio.spectral import metal as metal_spectral
from mlx_voxclone.audio.spectral.metal import TINY_MAGNITUDE
from mlx_voxclone.audio.spectral.plain import (
    LOG_FLOOR,
    adjoint_scale,
    centre_pad,
    check_lengths,
    frame,
    hann_window,
    overlap_add,
    plain_magnitude,
    signal_for_metal,
)


def window_energy(n_fft: int) -> float:
    """L2 norm of the periodic Hann window, sqrt(3 n_fft / 8) (exact from 3 samples on)."""
    return math.sqrt(3 * n_fft / 8)


def unit_window(n_fft: int) -> mx.array:
    """Periodic Hann window [n_fft] of unit energy: white noise has the same level at every size."""
    return hann_window(n_fft) / window_energy(n_fft)


class Spectra:
    """Centred spectra of signals by window size: unit-energy periodic Hann window, hop n_fft // 4, reflected ends.

    Everything is float32, and made when it is asked for the first time; so an object belongs into one evaluation of a
    function that is differentiated.

    Args:
        signals: `[B, T]`.
        lengths: valid samples per item, see `audio.spectral`. None: all.
        paired: window sizes whose `pairs` are read too. Their magnitudes are made from these; the others take a
            shorter way of their own.

    Raises:
        ValueError: signals that are not `[B, T >= 1]`, or lengths that do not fit.
    """

    def __init__(self, signals: mx.array, lengths: Sequence[int] | None = None, paired: Collection[int] = ()):
        if signals.ndim != 2 or 0 in signals.shape:
            raise ValueError(f"expected signals of shape [batch, samples >= 1], got {list(signals.shape)}")
        self.signals, self.lengths = signals, check_lengths(lengths, signals)
        self._paired = frozenset(paired)
        self._found: dict[tuple[str, int], mx.array] = {}

    @classmethod
    def of(cls, signals: "mx.array | Spectra", lengths: Sequence[int] | None = None) -> "Spectra":
        """What is given, or the spectra of the signals that are; ValueError for spectra of other `lengths`."""
        if not isinstance(signals, cls):
            return cls(signals, lengths)
        if lengths is not None and check_lengths(lengths, signals.signals) != signals.lengths:
            raise ValueError(f"spectra of lengths {signals.lengths} cannot be read with lengths {list(lengths)}")
        return signals

    def pairs(self, n_fft: int) -> mx.array:
        """Real and imaginary parts, `[B, F, n_fft // 2 + 1, 2]`. The gradient is exact."""
        if self._on_metal(n_fft):
            return mx.moveaxis(self._planes(n_fft), 0, -1)
        return self._once(
            "pairs", n_fft, lambda: _pairs(n_fft, n_fft // 4)(centre_pad(self.signals, n_fft, self.lengths))
        )

    def magnitude(self, n_fft: int) -> mx.array:
        """Magnitudes `[B, F, n_fft // 2 + 1]`; the gradient is exact, and zero where the magnitude is."""
        return self._once("magnitude", n_fft, lambda: self._magnitude(n_fft))

    def difference(self, target: "Spectra", n_fft: int, log_weight: float = 0.0, floor: float = LOG_FLOOR) -> mx.array:
        """Absolute difference of the magnitudes from those of `target`: `[B, F, n_fft // 2 + 1]`.

        With `log_weight` w, w times the absolute difference of log(max(magnitude, floor)) is added. The gradient goes
        to these signals alone. Raises ValueError for signals of unlike shapes.
        """
        if self.signals.shape != target.signals.shape or self.lengths != target.lengths:
            raise ValueError(
                f"signals must have the same shape and lengths, got {list(self.signals.shape)} and "
                f"{list(target.signals.shape)}"
            )
        if self._on_metal(n_fft) and target._on_metal(n_fft):
            return metal_spectral.difference_of(self._planes(n_fft), target._planes(n_fft), log_weight, floor)
        return difference_of(self.magnitude(n_fft), mx.stop_gradient(target.magnitude(n_fft)), log_weight, floor)

    def _magnitude(self, n_fft: int) -> mx.array:
        if self._on_metal(n_fft):
            return metal_spectral.magnitude_of(self._planes(n_fft))
        if n_fft in self._paired:
            return _magnitude_of_pairs(self.pairs(n_fft))
        return plain_magnitude(self.signals, n_fft, n_fft // 4, unit_window(n_fft), self.lengths)

    def _on_metal(self, n_fft: int) -> bool:
        return self._for_metal(n_fft) is not None

    def _for_metal(self, n_fft: int) -> mx.array | None:
        return signal_for_metal(self.signals, n_fft, n_fft // 4, self.lengths)

    def _planes(self, n_fft: int) -> mx.array:
        """As the Metal kernels make it: `[2, B, F, n_fft // 2 + 1]`."""

        def transform() -> mx.array:
            return metal_spectral.spectrum(self._for_metal(n_fft), n_fft, n_fft // 4, unit_window(n_fft))

        return self._once("planes", n_fft, transform)

    def _once(self, what: str, n_fft: int, make) -> mx.array:
        if (what, n_fft) not in self._found:
            self._found[what, n_fft] = make()
        return self._found[what, n_fft]


def difference_of(ours: mx.array, theirs: mx.array, log_weight: float, floor: float) -> mx.array:
    """|a - b| + log_weight |log max(a, floor) - log max(b, floor)| of magnitudes a and b, on any device."""
    errors = mx.abs(ours - theirs)
    if log_weight:
        logs = mx.log(mx.maximum(ours, floor)) - mx.log(mx.maximum(theirs, floor))
        errors = errors + log_weight * mx.abs(logs)
    return errors


# ---- plain operations ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _pairs(n_fft: int, hop: int):
    """Padded signal [B, T] -> [B, F, bins, 2] with a backward of one inverse transform and one overlap-add."""
    bins, scale = n_fft // 2 + 1, adjoint_scale(n_fft)[:, None]

    @mx.custom_function
    def transform(padded: mx.array) -> mx.array:
        spectrum = mx.fft.rfft(frame(padded, n_fft, hop) * unit_window(n_fft))
        return mx.view(spectrum, mx.float32).reshape(*spectrum.shape, 2)

    @transform.vjp
    def transform_vjp(padded: mx.array, cotangent: mx.array, _output: mx.array) -> mx.array:
        pairs = (cotangent * mx.array(scale)).reshape(*cotangent.shape[:2], 2 * bins)
        frames = mx.fft.irfft(mx.view(pairs, mx.complex64), n=n_fft) * unit_window(n_fft)
        return overlap_add(frames, hop, padded.shape[1])

    return transform


@mx.custom_function
def _magnitude_of_pairs(pairs: mx.array) -> mx.array:
    return mx.abs(mx.view(pairs.reshape(*pairs.shape[:-2], -1), mx.complex64))


@_magnitude_of_pairs.vjp
def _magnitude_of_pairs_vjp(pairs: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return (cotangent / mx.maximum(output, TINY_MAGNITUDE))[..., None] * pairs
