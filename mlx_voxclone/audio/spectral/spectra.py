"""The spectra of one batch of signals, each computed once and shared by all that look at it.

A step of the encoder's training looks at the decoded sound and at the recording through the STFT loss, the mel loss and
the discriminators. Where they look with the same window, they share the transform, and one backward transform serves
the sum of their gradients.
"""

from collections.abc import Collection

import mlx.core as mx

from mlx_voxclone.audio.spectral import metal, plain
from mlx_voxclone.audio.spectral.choice import signal_for_metal
from mlx_voxclone.audio.spectral.plain import Lengths, centre_pad, check_lengths, same_lengths, unit_window


class Spectra:
    """Centred spectra of signals by window size: unit-energy periodic Hann window, hop n_fft // 4, reflected ends.

    Everything is float32, and made when it is asked for the first time; so an object belongs into one evaluation of a
    function that is differentiated.

    Args:
        signals: `[B, T]`.
        lengths: valid samples per item, see `audio.spectral.plain`. None: all.
        paired: window sizes whose `pairs` are read too. Their magnitudes are made from these; the others take a
            shorter way of their own.

    Raises:
        ValueError: signals that are not `[B, T >= 1]`, or lengths that do not fit.
    """

    def __init__(self, signals: mx.array, lengths: Lengths | None = None, paired: Collection[int] = ()):
        if signals.ndim != 2 or 0 in signals.shape:
            raise ValueError(f"expected signals of shape [batch, samples >= 1], got {list(signals.shape)}")
        self.signals, self.lengths = signals, check_lengths(lengths, signals)
        self._paired = frozenset(paired)
        self._found: dict[tuple[str, int], mx.array] = {}

    @classmethod
    def of(cls, signals: "mx.array | Spectra", lengths: Lengths | None = None) -> "Spectra":
        """What is given, or the spectra of the signals that are; ValueError for spectra of other `lengths`."""
        if not isinstance(signals, cls):
            return cls(signals, lengths)
        asked = signals.lengths if lengths is None else check_lengths(lengths, signals.signals)
        if not same_lengths(asked, signals.lengths):
            raise ValueError(f"spectra of lengths {signals.lengths} cannot be read with lengths {asked}")
        return signals

    def pairs(self, n_fft: int) -> mx.array:
        """Real and imaginary parts, `[B, F, n_fft // 2 + 1, 2]`. The gradient is exact."""
        if self._on_metal(n_fft):
            return mx.moveaxis(self._planes(n_fft), 0, -1)
        return self._once(
            "pairs", n_fft, lambda: plain.pairs(n_fft, n_fft // 4)(centre_pad(self.signals, n_fft, self.lengths))
        )

    def magnitude(self, n_fft: int) -> mx.array:
        """Magnitudes `[B, F, n_fft // 2 + 1]`; the gradient is exact, and zero where the magnitude is."""
        return self._once("magnitude", n_fft, lambda: self._magnitude(n_fft))

    def difference(self, target: "Spectra", n_fft: int) -> mx.array:
        """Absolute difference of the magnitudes from those of `target`: `[B, F, n_fft // 2 + 1]`.

        The gradient goes to these signals alone. Raises ValueError for signals of unlike shapes.
        """
        if self.signals.shape != target.signals.shape or not same_lengths(self.lengths, target.lengths):
            raise ValueError(
                f"signals must have the same shape and lengths, got {list(self.signals.shape)} and "
                f"{list(target.signals.shape)}"
            )
        if self._on_metal(n_fft) and target._on_metal(n_fft):
            return metal.difference_of(self._planes(n_fft), target._planes(n_fft))
        return mx.abs(self.magnitude(n_fft) - mx.stop_gradient(target.magnitude(n_fft)))

    def _magnitude(self, n_fft: int) -> mx.array:
        if self._on_metal(n_fft):
            return metal.magnitude_of(self._planes(n_fft))
        if n_fft in self._paired:
            return plain.magnitude_of_pairs(self.pairs(n_fft))
        return plain.magnitude(self.signals, n_fft, n_fft // 4, unit_window(n_fft), self.lengths)

    def _on_metal(self, n_fft: int) -> bool:
        return self._for_metal(n_fft) is not None

    def _for_metal(self, n_fft: int) -> tuple[mx.array, mx.array | None] | None:
        return signal_for_metal(self.signals, n_fft, n_fft // 4, self.lengths)

    def _planes(self, n_fft: int) -> mx.array:
        """As the Metal kernels make it: `[2, B, F, n_fft // 2 + 1]`."""

        def transform() -> mx.array:
            signal, ends = self._for_metal(n_fft)
            return metal.spectrum(signal, n_fft, n_fft // 4, unit_window(n_fft), ends)

        return self._once("planes", n_fft, transform)

    def _once(self, what: str, n_fft: int, make) -> mx.array:
        if (what, n_fft) not in self._found:
            self._found[what, n_fft] = make()
        return self._found[what, n_fft]
