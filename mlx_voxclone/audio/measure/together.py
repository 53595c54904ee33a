"""Several pitches at once: music under a voice, or two people who talk at the same time.

A voice has one pitch: subtracting it from itself one period later leaves little. A sound of two pitches vanishes when
this is done with one period and then with the other (de Cheveigne 1993); the autocorrelation is enough to compute what
is left. Frames that two periods explain and one does not are counted; breath and hiss need more than two. Thresholds
were set on real speech with music and other speakers added (`benchmarks/together.py`, docs/LOG.md).
"""

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.signal
import soxr

_RATE, _BAND = 8000, (80.0, 1200.0)  # Hz
_SIZE, _HOP, _TRANSFORM = 512, 320, 1024  # samples
_SHORTEST, _LONGEST = 20, 133  # samples of a period: 60 to 400 Hz
_SINGLE, _DOUBLE = 0.25, 0.1  # share of the power that is left: more than the first after one period, less after two
_RATIOS = ((1.0, 0.12), (1.5, 0.08), (2.0, 0.24), (2.5, 0.08), (3.0, 0.36), (4.0, 0.48), (5.0, 0.6), (6.0, 0.72))
_FLOOR = 25.0  # dB under the loud frames; below is no voice
_FEWEST = 40  # loud frames (1.6 s), below which nothing can be said
_AT_ONCE = 16  # frames of which all pairs of periods are looked at together
_SHARE = 0.06  # of the loud frames, from which on something else sounds with the voice


class TogetherMeter:
    """Counts frames with two pitches in a recording that arrives in blocks; 125 bytes a second stay in memory.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._resampler = None if sample_rate == _RATE else soxr.ResampleStream(sample_rate, _RATE, 1, quality="LQ")
        self._filter = scipy.signal.butter(4, _BAND, "bandpass", fs=_RATE, output="sos")
        self._state = np.zeros((len(self._filter), 2))
        self._rest = np.zeros(0, np.float32)
        self._levels: list[np.ndarray] = []
        self._doubled: list[np.ndarray] = []
        window = np.hanning(_SIZE)
        own = np.correlate(window, window, "full")[_SIZE - 1 : _SIZE + 2 * _LONGEST]
        self._window, self._bias = window.astype(np.float32), (own / own[0]).astype(np.float32)
        self._pairs = _pairs()

    def add(self, samples: np.ndarray) -> None:
        """Append samples [S], mono, full scale 1."""
        samples = np.ascontiguousarray(samples, np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples)
        if not len(samples):
            return
        heard, self._state = scipy.signal.sosfilt(self._filter, samples, zi=self._state)
        heard = np.concatenate([self._rest, heard.astype(np.float32)])
        count = max(0, (len(heard) - _SIZE) // _HOP + 1)
        for first in range(0, count, 1024):
            part = heard[first * _HOP :]
            self._take(np.lib.stride_tricks.sliding_window_view(part, _SIZE)[::_HOP][: min(1024, count - first)])
        self._rest = heard[count * _HOP :].copy()

    def _take(self, frames: np.ndarray) -> None:
        """Level of each frame [N, samples], and whether it has two pitches."""
        spectra = scipy.fft.rfft(frames * self._window, _TRANSFORM, axis=1)
        power = np.square(spectra.real) + np.square(spectra.imag)
        alike = scipy.fft.irfft(power, axis=1)[:, : 2 * _LONGEST + 1].astype(np.float32)
        energy = np.maximum(alike[:, 0], np.float32(1e-9))
        alike /= energy[:, None] * self._bias
        voiced = alike[:, _SHORTEST : _LONGEST + 1].max(axis=1) >= 1 - _SINGLE
        doubled = np.zeros(len(frames), bool)
        unexplained = np.flatnonzero(~voiced & (alike[:, 0] > 0.5))  # which is 1, but 0 in digital silence
        one, other = self._pairs
        for first in range(0, len(unexplained), _AT_ONCE):
            some = unexplained[first : first + _AT_ONCE]
            r = alike[some]
            left = 1 - r[:, one] - r[:, other] + (r[:, one + other] + r[:, other - one]) / 2
            doubled[some] = left.min(axis=1) < _DOUBLE
        self._levels.append(10 * np.log10(energy))
        self._doubled.append(doubled)

    def shares(self, parts: Sequence[tuple[float, float]]) -> list[float]:
        """Share of the loud frames of each part that have two pitches.

        Args:
            parts: (start, end) in seconds.

        Returns:
            One share for each part, 0 to 1; 0 for a part with less than 1.6 s of loud frames.
        """
        if not self._levels:
            return [0.0] * len(parts)
        levels, doubled = np.concatenate(self._levels), np.concatenate(self._doubled)
        found = []
        for start, end in parts:
            part = slice(round(start * _RATE / _HOP), max(0, round((end * _RATE - _SIZE) / _HOP) + 1))
            level = levels[part]
            loud = level > (np.percentile(level, 95) - _FLOOR if len(level) else 0)
            found.append(float(doubled[part][loud].mean()) if np.count_nonzero(loud) >= _FEWEST else 0.0)
        return found


def together(share: float) -> bool:
    """Whether this share of frames with two pitches is more than a single voice has."""
    return share >= _SHARE


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    """Periods, the shorter and the longer one, of which neither is a multiple of the other, or of half of it."""
    one, other = np.triu_indices(_LONGEST + 1, 1)
    one, other = one[one >= _SHORTEST], other[one >= _SHORTEST]
    ratio = other / one
    apart = np.all([np.abs(ratio - near) >= width for near, width in _RATIOS], axis=0)
    return one[apart], other[apart]
