"""Quantisation noise of the codec's training: what reaches the decoder, and how often."""

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from tasks_data import scratch_codec

from benchmarks.recovery.quantisation import QuantisationNoise, draw_quantisation, partly_quantised


@pytest.fixture(scope="module")
def codec(miniature):
    return scratch_codec(miniature)


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


# ---- the quantiser ---------------------------------------------------------------------------------------------------


def test_each_item_is_quantised_or_not_as_its_choice_says(codec, latents, every_choice):
    split = codec.config.semantic_dim
    quantised = np.array(codec.quantizer.decode(codec.quantizer.encode(latents)))
    made, semantic_z, rows = (np.array(x) for x in partly_quantised(codec.quantizer, latents, every_choice))
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
    grad = mx.grad(lambda z: (partly_quantised(codec.quantizer, z, every_choice)[0] * weight).sum())(latents)
    slope = 1 - mx.tanh(latents[..., split:]) ** 2
    want = mx.concatenate([weight[..., :split], weight[..., split:] * slope], axis=-1)
    for item in range(6):
        assert relative_error(grad[item], want[item]) < 1e-5


def test_all_quantised_is_what_no_noise_gives(codec, latents):
    yes = mx.array([True] * 6)
    offset = mx.full((6, 5, codec.config.acoustic_dim), 0.5)
    with_noise = partly_quantised(codec.quantizer, latents, QuantisationNoise(yes, yes, offset))
    for one, other in zip(with_noise, codec.quantizer.straight_through(latents)):
        assert (np.array(one) == np.array(other)).all()


# ---- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_shares_over_many_items():
    """50 % VQ; 50 / 25 / 25 % FSQ, noise, untouched; the two drawn independently (four standard errors allowed)."""
    n = 3000
    drawn = [draw_quantisation(np.random.default_rng(i), 4, 36, 21) for i in range(n)]
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


def test_the_noise_is_uniform_up_to_one_21st_and_drawn_for_every_value():
    offsets = [draw_quantisation(np.random.default_rng(i), 6, 36, 21)["offset"] for i in range(240)]
    values = np.concatenate([offset.ravel() for offset in offsets if offset.any()])
    assert values.size > 10000
    assert values.dtype == np.float32
    share, _ = np.histogram(values, bins=10, range=(-1 / 21, 1 / 21))
    assert share.sum() == values.size  # none outside
    assert np.abs(share / values.size - 0.1).max() < 4 * np.sqrt(0.09 / values.size)
    assert len(np.unique(values)) > 0.99 * values.size
