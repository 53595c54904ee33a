"""Augmentation: same length, no shift, level within its range, the same for the same seed, different for others."""

import numpy as np
import pytest

from mlx_voxclone.audio import augment as module
from mlx_voxclone.audio.augment import DELAY_MS, GAIN_DB, PROBABILITY, augment, disperse, dispersion
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

SEEDS = range(30)


@pytest.fixture(scope="module")
def speech():
    return 0.3 * synthesise("papa mino lesu, tara koni.", SyntheticSpeaker.sample(0), 0)


def only(monkeypatch, *names):
    monkeypatch.setattr(module, "PROBABILITY", {name: float(name in names) for name in PROBABILITY})


def db(ratio):
    return 20 * np.log10(ratio)


def rms(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


def test_length_level_and_finiteness(speech):
    before, changes = speech.copy(), []
    for seed in SEEDS:
        out = augment(speech, seed)
        assert out.shape == speech.shape
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 0.99
        changes.append(db(rms(out) / rms(speech)))
    assert max(np.abs(changes)) <= GAIN_DB + 0.1
    assert min(changes) < -3
    assert max(changes) > 3
    np.testing.assert_array_equal(speech, before)


def test_the_seed_decides(speech):
    outs = [augment(speech, seed) for seed in SEEDS]
    np.testing.assert_array_equal(augment(speech, 3), outs[3])
    np.testing.assert_array_equal(augment(speech, [5, 1]), augment(speech, [5, 1]))
    assert len({out.tobytes() for out in outs}) == len(outs)


@pytest.mark.parametrize("names", [["room"], ["eq"], ["band"], ["noise"], list(PROBABILITY)])
def test_nothing_moves_in_time(speech, monkeypatch, names):
    only(monkeypatch, *names)
    for seed in range(8):
        out = augment(speech, seed)
        cross = np.fft.irfft(np.fft.rfft(out, 2**18) * np.conj(np.fft.rfft(speech, 2**18)))
        assert cross.argmax() == 0


def test_gain_alone_keeps_the_waveform(speech, monkeypatch):
    only(monkeypatch)
    out = augment(speech, 0)
    np.testing.assert_allclose(out / rms(out), speech / rms(speech), atol=1e-5)


def test_noise_lies_within_its_range(speech, monkeypatch):
    only(monkeypatch, "noise")
    for seed in range(8):
        out = augment(speech, seed).astype(np.float64)
        gain = out @ speech / (speech.astype(np.float64) @ speech)
        assert 19.5 < db(rms(gain * speech) / rms(out - gain * speech)) < 45.5


def test_the_band_is_limited_and_the_eq_is_small(speech, monkeypatch):
    white = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * 0.05
    frequency = np.fft.rfftfreq(len(white), 1 / 24_000)

    def level(x, low, high):
        return rms(np.abs(np.fft.rfft(x))[(frequency >= low) & (frequency < high)])

    only(monkeypatch, "band")
    out = augment(white, 1)
    assert db(level(out, 10, 20) / level(out, 1000, 2000)) < -20
    only(monkeypatch, "eq")
    for seed in range(5):
        out = augment(white, seed)
        changes = [db(level(out, f, 1.2 * f) / level(white, f, 1.2 * f)) for f in np.geomspace(100, 9000, 12)]
        assert 0.5 < max(changes) - min(changes) <= 8.1


def test_a_room_rings_after_the_sound_only(monkeypatch):
    only(monkeypatch, "room")
    click = np.zeros(24_000, dtype=np.float32)
    click[8000] = 0.1
    out = augment(click, 0)
    assert np.abs(out[:8000]).max() < 1e-6
    tail, direct = np.square(out[8001:]).sum(), out[8000] ** 2
    assert -20.1 < 10 * np.log10(tail / direct) < -5.9


def test_silence_and_single_samples():
    assert not augment(np.zeros(1000, dtype=np.float32), 0).any()
    assert augment(np.zeros(0, dtype=np.float32), 0).shape == (0,)
    for seed in SEEDS:
        assert np.isfinite(augment(np.full(1, 0.5, dtype=np.float32), seed)).all()


# ---- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dispersion_keeps_what_is_heard(speech):
    """Spectra of 20 ms pieces keep their magnitudes, but for what moves across their ends; the waveform does not."""
    from scipy.signal import stft

    before = np.abs(stft(speech, nperseg=480)[2])
    for seed in SEEDS:
        out = disperse(speech, np.random.default_rng(seed))
        assert out.shape == speech.shape
        assert out.dtype == np.float32
        assert rms(out) == pytest.approx(rms(speech), rel=0.01)
        after = np.abs(stft(out, nperseg=480)[2])
        loud = before > 0.05 * before.max()
        assert np.median(np.abs(db(after[loud] / before[loud]))) < 2
        assert (out == disperse(speech, np.random.default_rng(seed))).all()
    correlations = [np.corrcoef(disperse(speech, np.random.default_rng(s)), speech)[0, 1] for s in SEEDS]
    assert min(correlations) < -0.5  # as good as upside down
    assert np.median(np.abs(correlations)) < 0.8


def test_dispersion_moves_no_band_by_more_than_it_says():
    """A click at 0.5 s: what becomes of it lies within the largest delay around it."""
    click = np.zeros(24000, np.float32)
    click[12000] = 1
    for seed in SEEDS:
        energy = np.square(disperse(click, np.random.default_rng(seed)))
        reach = round(1.5 * DELAY_MS * 24)  # samples; the band edges ring a little
        assert energy[12000 - reach : 12001 + reach].sum() > 0.97 * energy.sum()


def test_dispersion_delays_by_up_to_4_ms_and_not_more():
    """The delay of a frequency is the slope of its phase."""
    size, largest = 24000, []
    for seed in range(60):
        phase = dispersion(np.random.default_rng(seed), size)  # a bin is 1 Hz
        assert len(phase) == size // 2 + 1
        delays = -np.diff(phase) / (2 * np.pi)  # s
        largest.append(np.abs(delays).max())
    assert max(largest) <= 0.004 + 1e-9
    assert max(largest) > 0.003
    assert np.mean([x > 0.001 for x in largest]) > 0.3
