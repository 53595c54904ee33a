"""Quantisation noise of task `encoder`: what reaches the decoder, how often, and that batching changes none of it."""

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from tasks_data import MemoryData, clip, encoder_parameters, scratch_codec

from mlx_voxclone.model.quantizer import QuantisationNoise
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.loop.optimizers import groups as optimizers
from mlx_voxclone.train.loop.trainer import Trainer

OFF = EncoderSection(crop_seconds=0.48, stft_sizes=[512, 128])
ON = OFF.model_copy(update={"quantisation_noise": True})
DATA = MemoryData([clip(0), clip(1), clip(2, 7000), clip(3, 1921)], [clip(4, 15000)])
SETTINGS = {"learning_rate": 1e-3, "eval_every": 0, "save_every": 0}


@pytest.fixture(scope="module")
def codec(miniature):
    return scratch_codec(miniature)


@pytest.fixture(scope="module")
def task(codec):
    return EncoderTask(codec, DATA, ON, seed=1)


@pytest.fixture(scope="module")
def latents(codec):
    """Of six items, one for each semantic choice with each acoustic one."""
    return mx.random.normal((6, 5, codec.config.latent_dim), key=mx.random.key(0))


@pytest.fixture(scope="module")
def every_choice(codec):
    """Items 0-2 semantic quantised, 3-5 not; acoustic quantised, noise, untouched, in turns."""
    offset = mx.random.uniform(-0.04, 0.04, (6, 5, codec.config.acoustic_dim), key=mx.random.key(1))
    untouched = mx.array([False, False, True] * 2)
    return QuantisationNoise(
        semantic=mx.array([True] * 3 + [False] * 3),
        acoustic=mx.array([True, False, False] * 2),
        offset=mx.where(untouched[:, None, None], 0.0, offset),
    )


def batch_of(task, *indices, epoch=0):
    return to_device(task.collate([task.item(epoch, i) for i in indices]))


def trained(miniature, directory, batch_size=2, accumulate=1, steps=2, section=ON, resume=None, **settings):
    task = EncoderTask(scratch_codec(miniature), DATA, section, seed=1)
    settings = TrainSettings(steps=steps, batch_size=batch_size, accumulate=accumulate, **SETTINGS, **settings)
    result = Trainer(task, settings, directory, quiet=True, resume=resume).run()
    return result, {k: np.array(v) for k, v in encoder_parameters(task.codec).items()}


# ---- the quantiser ---------------------------------------------------------------------------------------------------


def test_each_item_is_quantised_or_not_as_its_choice_says(codec, latents, every_choice):
    split = codec.config.semantic_dim
    quantised = np.array(codec.quantizer.decode(codec.quantizer.encode(latents)))
    made, semantic_z, rows = (np.array(x) for x in codec.quantizer.straight_through(latents, every_choice))
    z, bounded, offset = np.array(latents), np.tanh(np.array(latents)), np.array(every_choice.offset)
    assert np.abs(made[:3, :, :split] - quantised[:3, :, :split]).max() < 1e-6
    assert (made[3:, :, :split] == z[3:, :, :split]).all()
    for first in (0, 3):
        assert np.abs(made[first, :, split:] - quantised[first, :, split:]).max() < 1e-6
        noisy, untouched = first + 1, first + 2
        assert np.abs(made[noisy, :, split:] - bounded[noisy, :, split:] - offset[noisy]).max() < 1e-6
        assert np.abs(offset[noisy]).max() > 0.03
        assert np.abs(made[untouched, :, split:] - bounded[untouched, :, split:]).max() < 1e-6
    # the pair of the commitment loss does not depend on the choice
    assert (semantic_z == z[..., :split]).all()
    assert np.abs(rows - quantised[..., :split]).max() < 1e-6


def test_the_gradient_is_that_of_the_continuous_values_whatever_the_choice(codec, latents, every_choice):
    split = codec.config.semantic_dim
    weight = mx.random.normal(latents.shape, key=mx.random.key(2))
    grad = mx.grad(lambda z: (codec.quantizer.straight_through(z, every_choice)[0] * weight).sum())(latents)
    slope = 1 - mx.tanh(latents[..., split:]) ** 2
    want = mx.concatenate([weight[..., :split], weight[..., split:] * slope], axis=-1)
    for item in range(6):
        assert relative_error(grad[item], want[item]) < 1e-5


def test_all_quantised_is_what_no_noise_gives(codec, latents):
    yes = mx.array([True] * 6)
    offset = mx.full((6, 5, codec.config.acoustic_dim), 0.5)
    with_noise = codec.quantizer.straight_through(latents, QuantisationNoise(yes, yes, offset))
    for one, other in zip(with_noise, codec.quantizer.straight_through(latents)):
        assert (np.array(one) == np.array(other)).all()


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_shares_over_many_items(task):
    """50 % VQ; 50 / 25 / 25 % FSQ, noise, untouched; the two drawn independently (four standard errors allowed)."""
    n = 3000
    drawn = [task.item(*divmod(i, task.n_items))["quantisation"] for i in range(n)]
    semantic = np.array([one["semantic"] for one in drawn])
    acoustic = np.array([one["acoustic"] for one in drawn])
    noisy = np.array([bool(one["offset"].any()) for one in drawn])
    assert not (acoustic & noisy).any()
    for share, want in (
        (semantic, 0.5),
        (acoustic, 0.5),
        (noisy, 0.25),
        (~acoustic & ~noisy, 0.25),
        (semantic & acoustic, 0.25),
        (semantic & noisy, 0.125),
    ):
        assert abs(share.mean() - want) < 4 * np.sqrt(want * (1 - want) / n)


def test_the_noise_is_uniform_up_to_one_21st_and_drawn_for_every_value(task):
    offsets = [task.item(epoch, i)["quantisation"]["offset"] for epoch in range(30) for i in range(task.n_items)]
    values = np.concatenate([offset.ravel() for offset in offsets if offset.any()])
    assert values.size > 10000
    assert values.dtype == np.float32
    share, _ = np.histogram(values, bins=10, range=(-1 / 21, 1 / 21))
    assert share.sum() == values.size  # none outside
    assert np.abs(share / values.size - 0.1).max() < 4 * np.sqrt(0.09 / values.size)
    assert len(np.unique(values)) > 0.99 * values.size


def test_an_item_has_one_value_for_each_of_its_frames_and_draws_the_same_again(task, codec):
    for index in range(task.n_items):
        once, again = task.item(2, index), task.item(2, index)
        frames = codec.config.n_frames(len(once["waveform"]))
        assert once["quantisation"]["offset"].shape == (frames, codec.config.acoustic_dim)
        assert all(np.array_equal(once["quantisation"][k], again["quantisation"][k]) for k in once["quantisation"])


def test_the_switch_leaves_crops_and_gains_as_they_are(task, codec):
    off = EncoderTask(codec, DATA, OFF, seed=1)
    for index in range(task.n_items):
        plain, noisy = off.item(0, index), task.item(0, index)
        assert (plain["waveform"] == noisy["waveform"]).all()
        assert set(plain) == {"id", "waveform", "step"}
    assert set(off.collate([off.item(0, 0)])) == {"waveform", "lengths", "step"}
    assert off.fingerprint() != task.fingerprint()


# ---- in training -----------------------------------------------------------------------------------------------------


def test_it_changes_what_training_hears_and_nothing_that_is_measured(task, codec):
    off = EncoderTask(codec, DATA, OFF, seed=1)
    indices = range(task.n_items)
    with_noise, without = (t.losses(batch_of(t, *indices)) for t in (task, off))
    for term in ("l1", "stft", "mel"):
        assert with_noise[term].item() != without[term].item()
    assert with_noise["commitment"].item() == without["commitment"].item()
    for ours, theirs in zip(task.heldout_batches(), off.heldout_batches(), strict=True):
        ours, theirs = task.losses(to_device(ours)), off.losses(to_device(theirs))
        assert all(ours[term].item() == theirs[term].item() for term in ours)


def test_an_item_keeps_its_choice_and_noise_in_any_batch(task):
    """Items of all kinds and lengths: together they lose what each loses alone."""
    indices = range(task.n_items)
    together = task.losses(batch_of(task, *indices))
    alone = [task.losses(batch_of(task, i)) for i in indices]
    for term, value in together.items():
        assert value.item() == pytest.approx(sum(one[term].item() for one in alone), rel=1e-4)


@pytest.mark.slow
def test_micro_batches_equal_one_batch(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizers, "EPS", 1e-3)
    one, a = trained(miniature, tmp_path / "one", batch_size=4, accumulate=1)
    four, b = trained(miniature, tmp_path / "four", batch_size=1, accumulate=4)
    _, plain = trained(miniature, tmp_path / "off", batch_size=4, section=OFF)
    assert four.last_loss == pytest.approx(one.last_loss, rel=1e-5)
    for name in a:
        assert np.abs(a[name] - b[name]).max() < 1e-5, name
    assert max(np.abs(a[name] - plain[name]).max() for name in a) > 1e-4  # the noise was there


@pytest.mark.slow
def test_resumed_equals_uninterrupted(miniature, tmp_path):
    _, whole = trained(miniature, tmp_path / "whole", steps=6)
    trained(miniature, tmp_path / "half", steps=6, stop_after=3)
    _, resumed = trained(miniature, None, steps=6, resume=tmp_path / "half")
    assert all((whole[k] == resumed[k]).all() for k in whole)
