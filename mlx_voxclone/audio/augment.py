"""Clean speech made to sound recorded: room, microphone, limited band, noise, level; nothing moves in time.

For training an encoder that gives a recording the codes of the clean speech. Filters have no phase, and the room's
direct sound comes at once, so that sample n of the result still belongs to the frame of sample n. (The settings are
choices: mild enough that the words and the voice stay the same to a listener.)
"""

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE

GAIN_DB = 6.0  # largest change of level either way
EQ_DB = 4.0  # largest rise or dip of a band
NOISE_DB = (20.0, 45.0)  # speech over noise
ROOM_SECONDS = (0.1, 0.5)  # time in which the tail falls by 60 dB
DIRECT_DB = (6.0, 20.0)  # direct sound over the tail, energies
LOW_CUT_HZ, HIGH_CUT_HZ = (50.0, 300.0), (3400.0, 10_000.0)
PROBABILITY = {"room": 0.4, "eq": 0.7, "band": 0.3, "noise": 0.6}
DELAY_MS = 4.0  # largest delay of a band against another, and of all of them: a twentieth of a frame
_EQ_POINTS = np.geomspace(60.0, 11_000.0, 6)
_SLOPE = 24.0  # dB per octave outside the band
_MARGIN = SAMPLE_RATE // 4  # zeros at both ends of a filtered signal, where its ringing may go
_PEAK = 0.99


def augment(samples: np.ndarray, seed: int | list[int]) -> np.ndarray:
    """One of the ways in which the speech may have been recorded.

    Args:
        samples: float32 [samples], 24 kHz.
        seed: decides all of it; the same seed and samples give the same result.

    Returns:
        float32, of the same length. Its level differs by `GAIN_DB` at most (noise adds less than 0.05 dB); lower where
        the peak would exceed 0.99.
    """
    rng = np.random.default_rng(seed)
    chosen = {name: rng.random() < p for name, p in PROBABILITY.items()}  # drawn first: each stands for itself
    x = np.asarray(samples, dtype=np.float64)
    level = _rms(x)
    if level == 0:
        return np.zeros(len(x), dtype=np.float32)
    if chosen["room"]:
        x = _in_a_room(x, rng)
    if chosen["eq"] or chosen["band"]:
        x = _filtered(x, rng, eq=chosen["eq"], band=chosen["band"])
    x = x * (level / max(_rms(x), 1e-3 * level))
    if chosen["noise"]:
        x = x + level * 10 ** (-rng.uniform(*NOISE_DB) / 20) * _noise(len(x), rng)
    x = x * 10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20)
    return (x * min(1.0, _PEAK / np.abs(x).max())).astype(np.float32)


def disperse(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What sounds the same at other phases: bands delayed against each other by a few milliseconds, the phase turned.

    A codec of few bits keeps how much there is of each frequency, not its phase: decoded audio has phases of its own.
    An encoder that learns from decoded audio alone may read these, which recordings do not have.

    Args:
        samples: float32 [samples], 24 kHz.
        rng: decides all of it.

    Returns:
        float32, of the same length; the spectrum's magnitudes are the same but for what crosses an end. Nothing moves
        by more than `DELAY_MS`.
    """
    x = np.asarray(samples, dtype=np.float64)
    size = len(x) + 2 * _MARGIN
    spectrum = np.fft.rfft(np.pad(x, _MARGIN)) * np.exp(1j * dispersion(rng, size))
    return np.fft.irfft(spectrum, size)[_MARGIN : _MARGIN + len(x)].astype(np.float32)


def dispersion(rng: np.random.Generator, size: int) -> np.ndarray:
    """Phases `[size // 2 + 1]` (radians) for the spectrum of `size` samples: what `disperse` adds to a sound's own.

    Delays that change smoothly over log frequency, within `DELAY_MS` of either sign, and a turn of all phases.
    """
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    points = np.geomspace(_EQ_POINTS[0], _EQ_POINTS[-1], int(rng.integers(4, 16)))
    delays = 0.5 * (rng.uniform(-1, 1) + rng.uniform(-1, 1, len(points))) * rng.uniform(0, DELAY_MS / 1000)
    delay = np.interp(np.log(np.maximum(frequency, 1.0)), np.log(points), delays)
    return rng.uniform(0, 2 * np.pi) - 2 * np.pi * np.cumsum(delay) * (frequency[1] - frequency[0])


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if len(x) else 0.0


def _in_a_room(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound and a tail of decaying noise, which begins 2 to 8 ms later."""
    from scipy.signal import oaconvolve

    seconds, gap = rng.uniform(*ROOM_SECONDS), int(rng.uniform(0.002, 0.008) * SAMPLE_RATE)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail *= 10 ** (-rng.uniform(*DIRECT_DB) / 20) / np.sqrt(np.square(tail).sum())
    impulse = np.concatenate([[1.0], np.zeros(gap), tail])
    return oaconvolve(x, impulse)[: len(x)]


def _filtered(x: np.ndarray, rng: np.random.Generator, *, eq: bool, band: bool) -> np.ndarray:
    """A smooth gain over log frequency and, outside a band, a slope."""
    size = len(x) + 2 * _MARGIN
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    gain_db = np.zeros(len(frequency))
    if eq:
        gain_db += np.interp(np.log(frequency), np.log(_EQ_POINTS), rng.uniform(-EQ_DB, EQ_DB, len(_EQ_POINTS)))
    if band:
        low, high = rng.uniform(*LOW_CUT_HZ), np.exp(rng.uniform(*np.log(HIGH_CUT_HZ)))
        octaves = np.maximum(0, np.log2(low / frequency)) + np.maximum(0, np.log2(frequency / high))
        gain_db -= np.minimum(_SLOPE * octaves, 80.0)
    spectrum = np.fft.rfft(np.pad(x, _MARGIN)) * 10 ** (gain_db / 20)
    return np.fft.irfft(spectrum, size)[_MARGIN : _MARGIN + len(x)]


def _noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of RMS 1 whose spectrum falls by 0 to 6 dB per octave above 100 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 100.0)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.0, 1.0), length)
    return noise / max(_rms(noise), 1e-12)
