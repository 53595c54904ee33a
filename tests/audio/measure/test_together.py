"""Two pitches at once are told, one is not; real speech is in `benchmarks/together.py`."""

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE, resample
from mlx_voxclone.audio.measure.together import TogetherMeter, together

SECONDS = 6


def voice(pitch: float, seed: int, seconds: float = SECONDS, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Syllables with overtones, a melody of two semitones around `pitch` Hz, and breath: float32 [samples]."""
    rng, times = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    melody = pitch * 2 ** (np.sin(2 * np.pi * rng.uniform(0.3, 0.6) * times + rng.uniform(0, 6)) / 12)
    phase = 2 * np.pi * np.cumsum(melody) / rate
    sound = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 12))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * times + rng.uniform(0, 6))
    return (0.1 * syllables * sound + 0.003 * rng.standard_normal(len(times))).astype(np.float32)


def share(samples: np.ndarray, rate: int = SAMPLE_RATE, block: int = 1 << 18) -> float:
    meter = TogetherMeter(rate)
    for first in range(0, len(samples), block):
        meter.add(samples[first : first + block])
    return meter.shares([(0.0, len(samples) / rate)])[0]


@pytest.mark.parametrize("pitch", [85, 120, 170, 240, 330])
def test_one_voice_is_alone(pitch):
    assert not together(share(voice(pitch, 0)))
    assert not together(share(resample(voice(pitch, 0), SAMPLE_RATE, 16_000), 16_000))


@pytest.mark.parametrize(("low", "high"), [(100, 140), (110, 185), (120, 260), (210, 290)])
@pytest.mark.parametrize("softer", [0, 6])
def test_two_voices_are_told(low, high, softer):
    both = voice(low, 1) + voice(high, 2) * np.float32(10 ** (-softer / 20))
    assert together(share(both))
    assert share(both) > 5 * share(voice(low, 1))


def test_a_chord_under_a_voice_is_told():
    times = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    pitches = (220.0, 277.2, 329.6)
    chord = sum(np.sin(2 * np.pi * pitch * k * times) / k for pitch in pitches for k in range(1, 6))
    assert together(share(voice(120, 3) + (0.03 * chord).astype(np.float32)))


@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.2])
def test_noise_is_no_pitch(scale):
    noise = np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE).astype(np.float32)
    assert not together(share(noise * np.float32(scale)))
    assert not together(share(voice(130, 4) + noise * np.float32(0.02)))


def test_silence_and_too_little_say_nothing():
    assert share(np.zeros(SECONDS * SAMPLE_RATE, np.float32)) == 0
    assert share(np.zeros(0, np.float32)) == 0
    assert share(voice(100, 1, 1.0) + voice(140, 2, 1.0)) == 0


@pytest.mark.parametrize("block", [997, 24_000])
def test_blocks_change_nothing(block):
    samples = voice(100, 1) + voice(140, 2)
    assert share(samples, block=block) == pytest.approx(share(samples), abs=0.01)


def test_parts_are_told_apart():
    """The second of three parts has two voices."""
    parts = [voice(110, 1), voice(110, 2) + voice(150, 3), voice(110, 4)]
    meter = TogetherMeter(SAMPLE_RATE)
    meter.add(np.concatenate(parts))
    bounds = [(k * SECONDS, (k + 1) * SECONDS) for k in range(3)]
    assert [together(one) for one in meter.shares(bounds)] == [False, True, False]
