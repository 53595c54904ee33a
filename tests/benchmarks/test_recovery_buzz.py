"""The target that a small decoder can hit: the recording's bands on impulses, and their principal components."""

import mlx.core as mx
import numpy as np
import pytest
from recovery_corpus import smallest_corpus

from benchmarks.recovery import buzz
from benchmarks.recovery import student as students
from benchmarks.recovery.buzz import PERIOD, Components, log_bands, on_impulses
from benchmarks.recovery.codec import RUNS
from benchmarks.recovery.corpus import FRAME
from benchmarks.recovery.student import Crops, LossWeights, Stage, losses, new_student
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.config import VoxtralConfig

CONFIG = VoxtralConfig.from_dict(params_json(PRESETS["tiny"], {})).codec


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return smallest_corpus(tmp_path_factory.mktemp("recovery") / "corpus")


@pytest.fixture(autouse=True)
def all_clips(monkeypatch):
    """The corpus is small: components are fitted to all of it."""
    monkeypatch.setattr(buzz, "OTHERS", 1)


@pytest.fixture(scope="module")
def wave(corpus):
    found = max((clip.read() for clip in corpus.split("train")), key=len)
    return found[: len(found) // FRAME * FRAME]


def test_the_envelope_stays_and_the_pitch_is_100_hz(wave):
    found = on_impulses(wave[None])[0]
    assert found.shape == wave.shape
    loud = log_bands(wave[None])[0] > np.log(0.02)
    difference = (log_bands(found[None])[0] - log_bands(wave[None])[0])[loud]
    assert np.median(np.abs(difference)) < 0.3  # 2.6 dB
    assert np.sqrt(np.mean(found**2)) == pytest.approx(np.sqrt(np.mean(wave**2)), rel=0.15)
    assert np.corrcoef(found[PERIOD:], found[:-PERIOD])[0, 1] > 0.9
    assert np.corrcoef(wave[PERIOD:], wave[:-PERIOD])[0, 1] < 0.7
    both = np.stack([wave, 0.1 * wave])
    assert np.allclose(on_impulses(both)[0], found, atol=1e-6)
    assert np.abs(on_impulses(np.zeros((1, 2 * FRAME), np.float32))).max() == 0


def test_components_tell_sounds_apart_and_not_their_place(corpus, wave):
    components = Components(corpus, 36)
    found = components(wave[None])[0]
    assert found.shape == (len(wave) // FRAME, 36)
    assert np.abs(found).max() <= 1
    assert 0.3 < found[:, 0].std() < 0.7  # two deviations are 1
    later = components(wave[None, FRAME:])[0]
    assert np.allclose(later[1:], found[2:], atol=1e-4)  # the first window hears what is before it


def test_batches_and_losses_take_it(corpus, monkeypatch):
    plain, batch = (Crops(corpus, CONFIG, 2, 3, seed=0, buzz=wanted).batch(0) for wanted in (False, True))
    assert "target" not in plain
    assert mx.array_equal(plain["waves"], batch["waves"])
    assert np.array_equal(np.array(batch["target"]), on_impulses(np.array(batch["waves"])))
    student = new_student(corpus, CONFIG, 0.3, seed=3)
    compared = []
    for name in ("waveform_l1", "phase_loss", "log_mel_loss", "multi_resolution_stft_loss"):
        monkeypatch.setattr(students, name, lambda decoded, other, **_: compared.append(other) or mx.zeros(()))
    _, terms = losses(student, batch, LossWeights(phase=1.0, components=1.0), Stage(cycle=0))
    assert len(compared) == 4
    assert all(mx.array_equal(other, batch["target"]) for other in compared)
    latents = student.codec.encode_latents(batch["waves"])[..., CONFIG.semantic_dim :]
    expected = np.mean((np.tanh(np.array(latents)) - np.array(batch["components"])) ** 2)
    assert float(terms["components"]) == pytest.approx(expected, rel=1e-4)
    assert RUNS["words"].buzz


def test_too_few_frames_are_told(corpus):
    with pytest.raises(DataError, match="500 components need as many frames"):
        Components(corpus, 500)
