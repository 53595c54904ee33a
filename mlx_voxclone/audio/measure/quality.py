"""How good a recording is, by plain measures: noise, bandwidth, reverberation, clipping.

Noise is what is heard between words against the words. Bandwidth is up to where words rise above that. Reverberation is
told by decays: after a sound has ended, the level cannot fall faster than the room's does, and dry speech falls fast.
The figures were checked against recordings with known noise, band limits and rooms added (`benchmarks/quality.py`).
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage

from mlx_voxclone.audio.segment import speech_level

_HOP_SECONDS, _WINDOW_SECONDS = 0.01, 0.02
_CLASS_DB, _LOWEST_DB, _CLASSES = 3.0, -120.0, 48  # of frames by level: their spectra are summed apart
_STEP_DB = 0.01  # in which levels are kept
_BAND_HZ = 250.0  # width that the bandwidth is told by
_AUDIBLE_DB = 80.0  # under the strongest band; below is dither
_ABOVE_NOISE = 2.0  # power of words over pauses where there still is a voice
_LOUD_DB, _QUIET_SHARE = 20.0, 0.1
_OCTAVES = ((350, 700), (700, 1400), (1400, 2800), (2800, 5600))  # Hz, in which decays are looked for
_DECAY_FRAMES, _FALL_FROM, _FALL_TO, _STRAIGHT = 8, 25.0, 8.0, 2.5  # frames; dB over the floor; dB off a line
_FEWEST_DECAYS, _STEEPEST = 20, 10  # per cent of the decays are as fast as the room lets them
# What the steepest decays say in rooms of known reverberation times (both in seconds per 60 dB), on LJ Speech.
_SEEN, _ROOM = (0.195, 0.27, 0.37, 0.445, 0.51, 0.60), (0.2, 0.3, 0.5, 0.7, 1.0, 1.6)
_BEST_SNR, _WORST_SNR = 80.0, -20.0  # dB; more is digital silence between the words, less is no figure
_PAUSE_MARGIN, _FEWEST_PAUSES = 10, 10  # frames
DRY, ROOMY = 0.3, 0.6  # seconds; up to the first a recording is dry, beyond the second it is an echo
NOISY = 20.0  # dB; below, noise is learnt with the voice
NARROW = 7000.0  # Hz; below, a telephone's sound is


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of a recording, or of several together.

    Attributes:
        snr: speech over noise, dB.
        bandwidth: up to where there is a voice, Hz.
        reverberation: time in which the room's sound falls by 60 dB, seconds, 0.2 for any below; None: too few decays.
        clipped: share of the samples.
        sample_rate: Hz.
    """

    snr: float
    bandwidth: float
    reverberation: float | None
    clipped: float
    sample_rate: int

    def line(self) -> str:
        """In words, such as `31 dB over noise, voice up to 16 kHz (sampled at 48 kHz), dry`."""
        rate = f"voice up to {_khz(self.bandwidth)} (sampled at {_khz(self.sample_rate)})"
        parts = [f"{self.snr:.0f} dB over noise", rate]
        if self.reverberation is not None:
            told = "dry" if self.reverberation <= DRY else "some room" if self.reverberation <= ROOMY else "echo"
            parts.append(told if told == "dry" else f"{told} ({self.reverberation:.1f} s)")
        if self.clipped >= 0.0005:
            parts.append(f"{100 * self.clipped:.1f} % clipped")
        return ", ".join(parts)

    @property
    def faults(self) -> float:
        """How far it is from a good recording: 0 for one without a fault, 1 for each limit that is just reached."""
        room = self.reverberation or DRY
        return (
            max(0.0, NOISY + 10 - self.snr) / 10
            + max(0.0, NARROW + 1000 - self.bandwidth) / 1000
            + max(0.0, room - DRY) / (ROOMY - DRY)
            + self.clipped / 0.01
        )


def _khz(hertz: float) -> str:
    return f"{hertz / 1000:.3g} kHz"


class QualityMeter:
    """The figures of a recording that arrives in blocks; 800 bytes per second stay in memory.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._hop, self._size = round(sample_rate * _HOP_SECONDS), round(sample_rate * _WINDOW_SECONDS)
        self._window = np.hanning(self._size).astype(np.float32)
        frequencies = np.arange(self._size // 2 + 1) * sample_rate / self._size
        edges = np.arange(0, sample_rate / 2 + _BAND_HZ / 2, _BAND_HZ)
        self._starts = np.minimum(np.searchsorted(frequencies, edges[:-1]), len(frequencies) - 1)
        self._octaves = [np.searchsorted(frequencies, pair) for pair in _OCTAVES if pair[1] <= sample_rate / 2]
        self._spectra = np.zeros((_CLASSES, len(self._starts)))
        self._counts = np.zeros(_CLASSES, np.int64)
        self._decays: list[np.ndarray] = []
        self._rest = np.zeros(0, np.float32)

    def add(self, samples: np.ndarray) -> None:
        """Append samples [S], mono, full scale 1."""
        samples = np.concatenate([self._rest, np.asarray(samples, np.float32)])
        count = max(0, (len(samples) - self._size) // self._hop + 1)
        for first in range(0, count, 4096):  # 41 s of frames at a time
            self._take(samples[first * self._hop :], min(4096, count - first))
        self._rest = samples[count * self._hop :].copy()

    def _take(self, samples: np.ndarray, count: int) -> None:
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._size)[:: self._hop][:count] * self._window
        spectrum = scipy.fft.rfft(frames, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        power *= 2 / (self._size * float(np.square(self._window).sum()))
        bands = np.add.reduceat(power, self._starts, axis=1)
        level = 10 * np.log10(np.maximum(bands.sum(axis=1), 1e-12))
        classes = np.clip(((level - _LOWEST_DB) / _CLASS_DB).astype(int), 0, _CLASSES - 1)
        np.add.at(self._spectra, classes, bands)
        self._counts += np.bincount(classes, minlength=_CLASSES)
        octaves = [power[:, low:high].sum(axis=1) for low, high in self._octaves]
        if octaves:
            decibels = 10 * np.log10(np.maximum(np.stack(octaves), 1e-12))
            self._decays.append(np.rint(decibels / _STEP_DB).astype(np.int16))

    def quality(self, levels: np.ndarray, mask: np.ndarray, clipped: float) -> Quality:
        """The figures of all that came.

        Args:
            levels, mask: [frames], see `segment.frame_levels` and `segment.speech_mask`.
            clipped: share of the samples.
        """
        return Quality(
            round(signal_to_noise(levels, mask), 1),
            self._bandwidth(),
            self._reverberation(),
            round(clipped, 5),
            self._rate,
        )

    def _bandwidth(self) -> float:
        """Up to where the frames of words are louder than those of pauses, and audible."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        upward = np.cumsum(self._counts)
        loudest = int(np.searchsorted(upward, 0.95 * total))
        quiet = slice(0, int(np.searchsorted(upward, _QUIET_SHARE * total)) + 1)
        loud = slice(max(quiet.stop, loudest - round(_LOUD_DB / _CLASS_DB)), _CLASSES)
        words, pauses = (self._spectra[part].sum(axis=0) / max(1, self._counts[part].sum()) for part in (loud, quiet))
        voice = (words > _ABOVE_NOISE * pauses) & (words > words.max() * 10 ** (-_AUDIBLE_DB / 10))
        steady = voice[:-1] & voice[1:]  # a lone band is a whistle
        found = np.flatnonzero(steady)
        return float(min(self._rate / 2, (found[-1] + 2) * _BAND_HZ)) if len(found) else 0.0

    def _reverberation(self) -> float | None:
        if not self._decays:
            return None
        bands = (np.concatenate([part[band] for part in self._decays]) for band in range(len(self._octaves)))
        slopes = np.concatenate([_decays(band * np.float32(_STEP_DB)) for band in bands])
        if len(slopes) < _FEWEST_DECAYS:
            return None
        seen = -60 / float(np.percentile(slopes, _STEEPEST))
        return round(float(np.interp(seen, _SEEN, _ROOM)), 2)


def signal_to_noise(levels: np.ndarray, mask: np.ndarray) -> float:
    """Speech over noise in dB: the mean power of words, less the noise, over what is heard between them.

    Args:
        levels, mask: [frames], see `segment.frame_levels` and `segment.speech_mask`.
    """
    if not mask.any():
        return 0.0
    near = scipy.ndimage.binary_dilation(mask, iterations=_PAUSE_MARGIN)
    pauses = levels[~near]
    noise = float(np.percentile(pauses, 25) if len(pauses) >= _FEWEST_PAUSES else np.percentile(levels, 3))
    speech = speech_level(levels, mask)
    if noise >= speech:  # a few frames that are no pauses: over music, a network takes some words for none
        noise = float(np.percentile(levels, 3))
    words = 10 ** (speech / 10) - 10 ** (noise / 10)
    return max(_WORST_SNR, min(_BEST_SNR, 10 * math.log10(max(words, 1e-12)) - noise))


def _decays(levels: np.ndarray) -> np.ndarray:
    """Slopes (dB per second) of straight decays of 80 ms in a band's levels [frames]."""
    if len(levels) < _DECAY_FRAMES:
        return np.zeros(0)
    steps = (np.arange(_DECAY_FRAMES) - (_DECAY_FRAMES - 1) / 2) * _HOP_SECONDS
    floor = float(np.percentile(levels, 10))
    found = []
    for first in range(0, len(levels) - _DECAY_FRAMES + 1, 1 << 16):
        part = levels[first : first + (1 << 16) + _DECAY_FRAMES - 1]
        views = np.lib.stride_tricks.sliding_window_view(part, _DECAY_FRAMES)
        views = views[(views[:, 0] > floor + _FALL_FROM) & (views[:, -1] > floor + _FALL_TO)]
        slopes = views @ (steps / np.square(steps).sum())
        off = views - views.mean(axis=1, keepdims=True) - slopes[:, None] * steps
        found.append(slopes[(slopes < -20) & (off.std(axis=1) < _STRAIGHT)])
    return np.concatenate(found)
