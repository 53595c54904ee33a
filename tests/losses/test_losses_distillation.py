"""The distillation loss: cosine against float64, gradients against differences, and what it trains."""

import losses_reference as reference
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tasks_data import scratch_codec

from mlx_voxclone.losses.distillation import distillation_loss

LENGTHS = (7, 4, 1)


def definition(projected, teacher):
    """One item [T, D] in float64."""
    norms = np.linalg.norm(projected, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return (1 - (projected * teacher).sum(axis=-1) / norms).mean()


def draw(seed, shape=(3, 7, 5)):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) * scale for scale in (0.3, 40)]


def test_values_are_the_definition_over_valid_frames():
    projected, teacher = draw(0)
    for p, t in ((projected, teacher), (projected, projected * 9), (projected, -projected)):
        items = np.array(distillation_loss(mx.array(p), mx.array(t), LENGTHS))
        expected = [definition(a[:n].astype(np.float64), b[:n]) for a, b, n in zip(p, t, LENGTHS)]
        np.testing.assert_allclose(items, expected, atol=2e-6)
    whole = distillation_loss(mx.array(projected), mx.array(teacher))
    np.testing.assert_allclose(whole, [definition(p, t) for p, t in zip(projected, teacher)], atol=2e-6)


def test_what_lies_behind_an_item_matters_neither_for_value_nor_gradient():
    projected, teacher = draw(1)
    spoilt = [x.copy() for x in (projected, teacher)]
    for x in spoilt:
        x[1, 4:], x[2, 1:] = np.nan, np.inf
    value = mx.value_and_grad(lambda p, t: distillation_loss(p, t, LENGTHS).sum())
    clean, dirty = value(mx.array(projected), mx.array(teacher)), value(*map(mx.array, spoilt))
    assert clean[0].item() == dirty[0].item()
    gradient = np.array(dirty[1])
    np.testing.assert_array_equal(np.array(clean[1]), gradient)
    assert not gradient[1, 4:].any()
    assert not gradient[2, 1:].any()


def test_gradient_matches_differences():
    projected, teacher = draw(2, (1, 6, 5))
    gradient = mx.grad(lambda p: distillation_loss(p, mx.array(teacher)).sum())(mx.array(projected))
    rng = np.random.default_rng(3)
    reference.assert_gradient(lambda p: definition(p[0], teacher[0].astype(np.float64)), projected, gradient, rng)


def test_the_teacher_gets_no_gradient():
    projected, teacher = map(mx.array, draw(4))
    assert not np.array(mx.grad(lambda t: distillation_loss(projected, t).sum())(teacher)).any()


@pytest.mark.parametrize("zero", ["projected", "teacher", "both"])
def test_zero_vectors_give_one_and_a_finite_gradient(zero):
    projected, teacher = draw(5)
    if zero != "teacher":
        projected[:, 0] = 0
    if zero != "projected":
        teacher[:, 0] = 0
    items = distillation_loss(mx.array(projected[:, :1]), mx.array(teacher[:, :1]))
    np.testing.assert_allclose(np.array(items), 1)
    gradient = np.array(mx.grad(lambda p: distillation_loss(p, mx.array(teacher)).mean())(mx.array(projected)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() < 100
    assert gradient[:, 0].any() == (zero == "projected")


@pytest.mark.parametrize(("shape", "lengths"), [((2, 7, 5), None), ((3, 7, 5), (8, 1, 1))])
def test_what_does_not_fit_is_refused(shape, lengths):
    projected, _ = map(mx.array, draw(6))
    with pytest.raises(ValueError):
        distillation_loss(projected, mx.zeros(shape), lengths)


def test_the_gradient_reaches_the_encoder_through_the_quantiser(miniature):
    """The term sees quantised semantic latents alone; it must move all of the encoder all the same."""
    codec = scratch_codec(miniature)
    codec.freeze()
    for part in (codec.input_proj, *codec.encoder_blocks):
        part.unfreeze()
    mx.random.seed(1)
    projection = nn.Linear(codec.config.semantic_dim, 12)
    rng = np.random.default_rng(8)
    wave = mx.array(0.1 * rng.standard_normal((2, 5760)).astype(np.float32))
    teacher = mx.array(rng.standard_normal((2, 3, 12)).astype(np.float32))
    model = nn.Module()
    model.codec, model.projection = codec, projection

    def loss(model):
        quantised, _, _ = model.codec.quantizer.straight_through(model.codec.encode_latents(wave))
        return distillation_loss(model.projection(quantised[..., : codec.config.semantic_dim]), teacher).mean()

    value, gradients = nn.value_and_grad(model, loss)(model)
    found = {name: np.array(g) for name, g in tree_flatten(gradients)}
    assert {name for name in found if name.startswith("projection")} == {"projection.weight", "projection.bias"}
    assert len(found) == 114 + 2
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in found.values())
    last = found["codec.encoder_blocks.7.conv.parametrizations.weight.original1"]
    assert not last[codec.config.semantic_dim :].any()  # acoustic latents have no part in it
    # One step down the gradient of the projection, whose path is smooth, lowers the loss.
    projection.weight = projection.weight - 0.5 * gradients["projection"]["weight"]
    assert loss(model).item() < value.item()
