"""Audio fingerprints: what two copies of a recording have in common, whatever their codec, level, rate and start.

After Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): every 16 ms a word of 32 bits,
each the sign of a difference, across neighbouring bands and time, of energies smoothed over 0.3 s. Words of copies
differ in a tenth of their bits, those of other speech in half of them; some words are equal, by which copies are found.
"""

import functools

import numpy as np
import scipy.fft
import scipy.ndimage
import soxr

RATE = 8000  # Hz; the band that every copy has
HOP, _WINDOW = 128, 512  # samples
WORDS_PER_SECOND = RATE / HOP
_LOWEST, _HIGHEST, _BANDS = 250.0, 3600.0, 33  # Hz
_SMOOTHED, _APART = 19, 9  # hops
_BEHIND = _SMOOTHED - 1 + _APART  # hops that a word reaches over, besides the first
_EDGE = _WINDOW // 2 + _BEHIND // 2 * HOP  # samples of silence before and after
_AUDIBLE = 30.0  # dB under the loud frames; below, a copy's noise decides the bits
SILENT = np.uint32(0)  # the word where nothing is heard


class FingerprintMeter:
    """The fingerprint of a recording that arrives in blocks; memory grows by 5 bytes per word."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = None if sample_rate == RATE else soxr.ResampleStream(sample_rate, RATE, 1, quality="LQ")
        self._rest = np.zeros(_EDGE, np.float32)  # the first word's centre is the recording's start
        self._energies = np.zeros((0, _BANDS), np.float32)
        self._words: list[np.ndarray] = []
        self._levels: list[np.ndarray] = []

    def add(self, samples: np.ndarray, last: bool = False) -> None:
        """Append samples [S], mono."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples, np.float32), last=last)
        samples = np.concatenate([self._rest, samples, np.zeros(_EDGE if last else 0, np.float32)])
        count = max(0, (len(samples) - _WINDOW) // HOP + 1)
        self._rest = samples[count * HOP :]
        if count:
            frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::HOP][:count] * _window()
            spectrum = scipy.fft.rfft(frames, axis=1)
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            self._energies = np.concatenate([self._energies, power @ _bands()])
        if len(self._energies) > _BEHIND:
            self._take()

    def _take(self) -> None:
        half = _SMOOTHED // 2
        smooth = scipy.ndimage.convolve1d(self._energies, _smoothing(), axis=0)[half:-half]  # [T, bands]
        across = smooth[:, :-1] - smooth[:, 1:]
        bits = across[_APART:] > across[:-_APART]  # [words, 32]
        self._words.append(np.packbits(bits, axis=1).reshape(-1).view(">u4").astype(np.uint32))
        level = 10 * np.log10(np.maximum(smooth[_APART // 2 : len(smooth) - _APART + _APART // 2].sum(axis=1), 1e-9))
        self._levels.append(np.clip(level + 100, 0, 255).astype(np.uint8))
        self._energies = self._energies[-_BEHIND:]

    def words(self) -> np.ndarray:
        """uint32 [words], `WORDS_PER_SECOND`; `SILENT` where nothing is heard. Nothing can be added afterwards."""
        self.add(np.zeros(0, np.float32), last=True)
        if not self._words:
            return np.zeros(0, np.uint32)
        words, levels = np.concatenate(self._words), np.concatenate(self._levels)
        words[words == SILENT] = 1
        words[levels < max(1.0, float(np.percentile(levels, 95)) - _AUDIBLE)] = SILENT
        return words


def part(words: np.ndarray, start: float, end: float) -> np.ndarray:
    """The words of a part of a recording, given in seconds."""
    return words[round(start * WORDS_PER_SECOND) : round(end * WORDS_PER_SECOND)]


@functools.cache
def _window() -> np.ndarray:
    return np.hanning(_WINDOW).astype(np.float32)


@functools.cache
def _smoothing() -> np.ndarray:
    weights = np.hanning(_SMOOTHED + 2)[1:-1]
    return (weights / weights.sum()).astype(np.float32)


@functools.cache
def _bands() -> np.ndarray:
    """Triangles over logarithmically spaced bands: [frequencies, bands]."""
    edges = np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1)
    centres, widths = np.sqrt(edges[:-1] * edges[1:]), np.maximum(np.diff(edges), 2 * RATE / _WINDOW / 2)
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / RATE)[:, None]
    weights = np.maximum(0, 1 - np.abs(frequencies - centres) / widths)
    return (weights / weights.sum(axis=0)).astype(np.float32)
