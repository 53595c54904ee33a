"""Silero VAD: probabilities to frames, and in `prepare` for noisy recordings alone."""

import importlib.util

import numpy as np
import pytest

from mlx_voxclone.audio.activity import silero
from mlx_voxclone.audio.activity.silero import SileroMeter, mask_of
from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.data import ingest
from mlx_voxclone.data.ingest import examine
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError

needs_silero = pytest.mark.skipif(importlib.util.find_spec(silero.PACKAGE) is None, reason="no extra `vad`")


def test_hysteresis_pauses_and_blips():
    quiet, loud = [0.1] * 20, [0.9] * 20
    probabilities = [*quiet, *loud, 0.4, 0.4, *loud, 0.1, 0.1, 0.1, *loud, *quiet, 0.9, 0.9, *quiet]
    mask = mask_of(np.array(probabilities), 600)
    edges = np.flatnonzero(np.diff(mask.astype(int))) + 1
    assert edges.tolist() == [64, round(85 * 3.2)]  # a blip of 64 ms is none, a pause of 96 ms is part of the speech
    assert not mask_of(np.array(quiet), 64).any()
    assert mask_of(np.array(loud), 10).all()


@pytest.mark.slow
@needs_silero
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_blocks_change_nothing_and_noise_is_no_speech(rate):
    samples = (0.05 * np.random.default_rng(0).standard_normal(3 * rate)).astype(np.float32)
    masks = []
    for blocks in (1, 7):
        meter = SileroMeter(rate)
        for block in np.array_split(samples, blocks):
            meter.add(block)
        masks.append(meter.mask(300))
    assert np.array_equal(*masks)
    assert not masks[0].any()


class _Ears:
    """In the network's place: hears speech from 2 to 5 s."""

    made = 0

    def __init__(self, rate):
        self.rate, self.seen = rate, 0
        _Ears.made += 1

    def add(self, samples):
        self.seen += len(samples)

    def mask(self, frames):
        mask = np.zeros(frames, bool)
        mask[200:500] = True
        assert abs(self.seen / self.rate - frames / 100) < 0.02
        return mask


def recording(place, noise: float):
    samples = noise * np.random.default_rng(0).standard_normal(8 * SAMPLE_RATE)
    samples[2 * SAMPLE_RATE : 5 * SAMPLE_RATE] += 0.2 * np.random.default_rng(1).standard_normal(3 * SAMPLE_RATE)
    write_wav(place, samples)
    return place


@pytest.fixture
def ears(monkeypatch):
    _Ears.made = 0
    monkeypatch.setattr(silero, "SileroMeter", _Ears)
    monkeypatch.setattr(silero, "installed", lambda: True)


@pytest.mark.parametrize(
    ("noise", "detector", "asked"),
    [(1e-4, "auto", 0), (0.1, "auto", 1), (0.1, "levels", 0), (1e-4, "silero", 1), (1e-4, "levels", 0)],
)
def test_auto_asks_the_network_about_noise_alone(ears, tmp_path, noise, detector, asked):
    plan = examine(recording(tmp_path / "a.wav", noise), False, PrepareOptions(speech_detector=detector))
    assert _Ears.made == asked
    assert ("silero" in plan.notes) == bool(asked)
    if asked:
        ((start, end),) = plan.pieces
        assert (start, end) == pytest.approx((1.9, 5.1))
    assert "silero" in ingest.NOTES


def test_where_the_network_hears_nobody_levels_decide(ears, tmp_path, monkeypatch):
    monkeypatch.setattr(_Ears, "mask", lambda self, frames: np.zeros(frames, bool))
    plan = examine(recording(tmp_path / "a.wav", 0.05), False, PrepareOptions())
    assert plan.notes == ()


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(silero, "installed", lambda: False)
    path = recording(tmp_path / "a.wav", 0.1)
    assert examine(path, False, PrepareOptions()).notes == ()
    with pytest.raises(DataError, match=r"pip install 'mlx-voxclone\[vad\]'"):
        prepare(path, tmp_path / "out", PrepareOptions(speech_detector="silero"))
