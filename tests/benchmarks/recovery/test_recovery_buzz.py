"""The target that a small decoder can hit: the recording's bands on impulses, their principal components."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from recovery_corpus import TINY_CODEC

from benchmarks.recovery import buzz
from benchmarks.recovery import student as students
from benchmarks.recovery.batches import Crops
from benchmarks.recovery.buzz import PERIOD, Components, log_bands, on_impulses
from benchmarks.recovery.codec import RUNS
from benchmarks.recovery.corpus import FRAME
from benchmarks.recovery.first_weights import hear_energies, new_student
from benchmarks.recovery.student import LossWeights, Stage, losses
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.errors import DataError
from mlx_voxclone.model.codec import Codec


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
    assert components.weights.mean() == pytest.approx(1)
    assert (np.diff(components.weights) <= 0).all()


def test_the_encoder_starts_with_energies_that_do_not_depend_on_phases():
    mx.random.seed(0)
    codec = Codec(TINY_CODEC, encoder=True)
    hear_energies(codec)
    layer = codec.encoder_blocks[0].layers[0]
    half, time = TINY_CODEC.dim // 2, np.arange(10 * FRAME) / SAMPLE_RATE
    centres = np.linspace(*(1127 * np.log(1 + np.array([60, 0.45 * SAMPLE_RATE]) / 700)), half // 2)  # mel
    for band in (2, 7, 12):
        hertz = 700 * np.expm1(centres[band] / 1127)
        waves = np.stack([np.sin(2 * np.pi * hertz * time + phase) for phase in np.linspace(0, np.pi, 5)])
        x = codec.input_proj(
            mx.array(waves.reshape(5, -1, TINY_CODEC.patch_size).astype(np.float32))
        )  # [phases, N, dim]
        energies = np.array(layer.feed_forward(layer.ffn_norm(x)))[:, 20:, half : half + half // 2]
        assert energies.mean(axis=(0, 1)).argmax() == band
        assert energies[..., band].std() < 0.2 * energies[..., band].mean()
        linear = np.array(x)[:, 20:, 2 * band]
        assert linear.min() < -0.5 * linear.max() < 0  # the filter itself follows the phase


def test_batches_and_losses_take_it(corpus, monkeypatch):
    plain, batch = (Crops(corpus, TINY_CODEC, 2, 3, seed=0, buzz=wanted).batch(0) for wanted in (False, True))
    assert "target" not in plain
    assert mx.array_equal(plain["waves"], batch["waves"])
    values = np.array(batch["components"])
    assert np.array_equal(np.array(batch["target"]), on_impulses(np.array(batch["waves"])))
    student = new_student(corpus, TINY_CODEC, 0.3, seed=3)
    compared = []
    for name in ("waveform_l1", "phase_loss", "log_mel_loss", "multi_resolution_stft_loss"):
        monkeypatch.setattr(students, name, lambda decoded, other, **_: compared.append(other) or mx.zeros(()))
    _, terms = losses(student, batch, LossWeights(phase=1.0, components=1.0), Stage(cycle=0))
    assert len(compared) == 4
    assert all(mx.array_equal(other, batch["target"]) for other in compared)
    latents = student.codec.encode_latents(batch["waves"])[..., TINY_CODEC.semantic_dim :]
    weights = np.array(batch["component_weights"])
    expected = np.mean(weights * (np.tanh(np.array(latents)) - values) ** 2)
    assert float(terms["components"]) == pytest.approx(expected, rel=1e-4)
    assert RUNS["words"].buzz


def test_a_told_decoder_speaks_the_components_and_teaches_the_encoder_nothing(corpus):
    student = new_student(corpus, TINY_CODEC, 0.3, seed=3, energies=True)
    batch = Crops(corpus, TINY_CODEC, 2, 3, seed=0, buzz=True).batch(0)
    gradient, only_sound = nn.value_and_grad(student, losses), LossWeights(commitment=0, units=0, spread=0)
    first, last = "codec.input_proj.conv.parametrizations", "codec.output_proj.conv.parametrizations"
    for told in (False, True):
        _, found = gradient(student, batch, only_sound, Stage(cycle=0, told=told))
        sizes = {key: float(mx.abs(value).max()) for key, value in tree_flatten(found)}
        assert max(size for key, size in sizes.items() if key.startswith(last)) > 0
        assert (max(size for key, size in sizes.items() if key.startswith(first)) > 0) is not told
    _, before = losses(student, batch, LossWeights(), Stage(cycle=0, told=True))
    batch["components"] = -batch["components"]
    _, after = losses(student, batch, LossWeights(), Stage(cycle=0, told=True))
    assert float(before["l1"]) != pytest.approx(float(after["l1"]), rel=1e-3)
    assert float(before["units"]) == float(after["units"])  # semantic codes stay the encoder's


def test_too_few_frames_are_told(corpus):
    with pytest.raises(DataError, match="500 components need as many frames"):
        Components(corpus, 500)
