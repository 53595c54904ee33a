"""The figures of a recording follow what is added to it: synthetic speech; `benchmarks/quality.py` has real speech."""

import numpy as np
import pytest
import scipy.signal

from mlx_voxclone.audio.measure.quality import Quality, QualityMeter, signal_to_noise
from mlx_voxclone.audio.segment import frame_levels, speech_level, speech_mask

RATE = 24_000
TELEPHONE = "12 dB over noise, voice up to 7 kHz (sampled at 16 kHz)"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Twelve seconds of bursts of noise, shaped like syllables that die away in 0.2 s, with pauses between words."""
    rng = np.random.default_rng(1)
    out = np.zeros(12 * RATE)
    at = RATE // 2
    while at < len(out) - RATE:
        for _ in range(rng.integers(2, 5)):
            length = int(RATE * rng.uniform(0.08, 0.2))
            shape = np.concatenate([np.ones(length), 10 ** (-15 * np.arange(RATE // 4) / RATE)])  # 300 dB per second
            out[at : at + len(shape)] += rng.standard_normal(len(shape)) * shape * 0.1 * rng.uniform(0.5, 1)
            at += length + int(RATE * rng.uniform(0.02, 0.08))
        at += int(RATE * rng.uniform(0.5, 0.8))
    return out + 1e-5 * rng.standard_normal(len(out))


def measured(samples: np.ndarray, rate: int = RATE, blocks: int = 1) -> Quality:
    meter, levels = QualityMeter(rate), frame_levels([samples], rate)
    for block in np.array_split(samples, blocks):
        meter.add(block)
    return meter.quality(levels, speech_mask(levels), 0.0)


@pytest.mark.parametrize("snr", [40, 30, 20, 10])
def test_noise_is_told_within_three_decibels(speech, snr):
    levels = frame_levels([speech], RATE)
    noise = np.random.default_rng(2).standard_normal(len(speech))
    noise *= 10 ** ((speech_level(levels, speech_mask(levels)) - snr) / 20)
    assert abs(measured(speech + noise).snr - snr) < 3


@pytest.mark.parametrize("limit", [3400, 5500, 8000, 12000])
def test_a_band_limit_is_told_within_a_kilohertz(speech, limit):
    if limit < RATE / 2:
        taps = scipy.signal.firwin(801, limit, fs=RATE, window=("kaiser", 10.0))
        speech = scipy.signal.fftconvolve(speech, taps, "same")
    assert abs(measured(speech).bandwidth - limit) <= 1000


def test_bandwidth_is_that_of_the_voice_not_of_the_noise(speech):
    taps = scipy.signal.firwin(801, 5000, fs=RATE)
    hiss = 1e-3 * np.random.default_rng(3).standard_normal(len(speech))
    assert abs(measured(scipy.signal.fftconvolve(speech, taps, "same") + hiss).bandwidth - 5000) <= 500


def test_reverberation_grows_with_the_room(speech):
    rng, found = np.random.default_rng(4), [measured(speech).reverberation]
    for seconds in (0.3, 0.5, 0.8, 1.2):
        times = np.arange(int(1.3 * seconds * RATE)) / RATE
        room = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
        room /= np.sqrt(np.square(room).sum())
        room[0] += 1
        found.append(measured(scipy.signal.fftconvolve(speech, room)[: len(speech)]).reverberation)
    dry, small, room, large, hall = found
    assert dry < 0.25 < small < 0.4 < room < 0.7 < large < hall


def test_blocks_and_gain_change_nothing(speech):
    whole = measured(speech)
    assert measured(speech, blocks=7) == whole
    louder = measured(0.125 * speech)
    assert abs(louder.snr - whole.snr) < 0.5
    assert abs(louder.bandwidth - whole.bandwidth) <= 250


@pytest.mark.parametrize(
    "samples", [np.zeros(0), np.zeros(100), np.zeros(RATE), np.ones(RATE) * 0.5, np.sin(np.arange(RATE // 7))]
)
def test_what_is_no_speech_has_figures_too(samples):
    found = measured(samples)
    assert np.isfinite([found.snr, found.bandwidth]).all()
    assert found.reverberation is None


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100, 96_000])
def test_any_rate(rate):
    samples = np.random.default_rng(0).standard_normal(2 * rate) * np.repeat([0.1, 0.001] * 5, rate // 5)[: 2 * rate]
    found = measured(samples, rate)
    assert abs(found.snr - 40) < 3
    assert found.bandwidth > 0.45 * rate


def test_speech_is_needed_for_a_ratio():
    assert signal_to_noise(np.full(10, -90.0), np.zeros(10, bool)) == 0


@pytest.mark.parametrize(
    ("quality", "line"),
    [
        (Quality(31.2, 21_750, 0.2, 0.0, 44_100), "31 dB over noise, voice up to 21.8 kHz (sampled at 44.1 kHz), dry"),
        (Quality(12, 7000, 0.5, 0.004, 16_000), f"{TELEPHONE}, some room (0.5 s), 0.4 % clipped"),
        (Quality(12, 7000, 0.9, 0, 16_000), f"{TELEPHONE}, echo (0.9 s)"),
        (Quality(12, 7000, None, 0, 16_000), TELEPHONE),
    ],
)
def test_a_line_in_words(quality, line):
    assert quality.line() == line


def test_faults_order_recordings():
    good, noisy, narrow, room = (
        Quality(45, 16_000, 0.2, 0, 48_000),
        Quality(12, 16_000, 0.2, 0, 48_000),
        Quality(45, 4_000, 0.2, 0, 48_000),
        Quality(45, 16_000, 0.9, 0, 48_000),
    )
    assert good.faults == 0
    assert min(noisy.faults, narrow.faults, room.faults) >= 1


def test_pauses_that_are_louder_than_the_words_are_none():
    """As where a network has taken some words for music: the noise is what is softest then."""
    levels = np.concatenate([np.full(300, -20.0), np.full(40, -45.0), np.full(60, -12.0)]).astype(np.float32)
    mask = np.ones(400, bool)
    mask[370:] = False
    assert signal_to_noise(levels, mask) == pytest.approx(26, abs=2)
    assert signal_to_noise(np.full(400, -20, np.float32), np.ones(400, bool)) == -20  # as loud from end to end
