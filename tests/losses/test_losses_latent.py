"""Commitment, semantic cross-entropy and flow matching against float64 definitions, torch, and their own promises."""

import losses_reference as reference
import mlx.core as mx
import numpy as np
import pytest
from places import ROOT

from mlx_voxclone.losses import commitment_loss, flow_matching_loss, flow_matching_targets, semantic_cross_entropy
from mlx_voxclone.model.quantizer import levels_to_values, values_to_levels

FIXTURES = np.load(ROOT / "tests" / "fixtures" / "losses" / "torch_losses.npz")
N_VALID = 66


def noise(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def from_torch(name, value, gradient):
    np.testing.assert_allclose(value.item(), FIXTURES[f"{name}.value"], rtol=1e-6)
    np.testing.assert_allclose(np.array(gradient), FIXTURES[f"{name}.grad"], rtol=1e-5, atol=1e-7)


# ---- commitment ------------------------------------------------------------------------------------------------------


def test_commitment_equals_torch_and_moves_only_the_encoder():
    z_e, z_q = mx.array(FIXTURES["commitment.z_e"]), mx.array(FIXTURES["commitment.z_q"])
    value, (to_encoder, to_codes) = mx.value_and_grad(commitment_loss, argnums=(0, 1))(z_e, z_q)
    from_torch("commitment_loss", value, to_encoder)
    np.testing.assert_array_equal(np.array(to_codes), 0)
    assert commitment_loss(z_e, z_e).item() == 0


def test_commitment_gradient_and_valid_region():
    rng = np.random.default_rng(0)
    z_e, z_q, lengths = noise(rng, 3, 7, 8), noise(rng, 3, 7, 8), (7, 4, 1)
    for item, length in enumerate(lengths):
        z_e[item, length:], z_q[item, length:] = np.nan, np.inf

    def definition(z):
        return reference.batch_mean(lambda a, b: np.square(a - b).mean(), z, z_q.astype(np.float64), lengths)

    value, gradient = mx.value_and_grad(commitment_loss)(mx.array(z_e), mx.array(z_q), lengths)
    clean = np.nan_to_num(z_e).astype(np.float64)
    np.testing.assert_allclose(value.item(), definition(clean), rtol=1e-6)
    reference.assert_gradient(definition, clean, gradient, rng, coordinates=20)
    items = np.array(commitment_loss(mx.array(z_e), mx.array(z_q), lengths, "none"))
    for item, length in enumerate(lengths):
        alone = commitment_loss(mx.array(z_e[item : item + 1, :length]), mx.array(z_q[item : item + 1, :length]))
        np.testing.assert_allclose(items[item], alone.item(), rtol=1e-6)
        np.testing.assert_array_equal(np.array(gradient)[item, length:], 0)


def test_commitment_in_bfloat16_and_misuse():
    z = mx.array(noise(np.random.default_rng(1), 2, 5, 8)).astype(mx.bfloat16)
    value, gradient = mx.value_and_grad(commitment_loss)(z, mx.zeros_like(z))
    assert (value.dtype, gradient.dtype) == (mx.float32, mx.bfloat16)
    np.testing.assert_allclose(value.item(), np.square(np.array(z.astype(mx.float32))).mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="same non-empty shape of 3 axes"):
        commitment_loss(z, z[:, :4])
    with pytest.raises(ValueError, match=r"lengths must be 2 integers in 1\.\.5"):
        commitment_loss(z, z, (5, 6))


# ---- semantic cross-entropy ------------------------------------------------------------------------------------------


def likelihoods(logits, targets):
    """-log p per target in float64, over rows 1..N_VALID-1 alone."""
    logits = np.asarray(logits, np.float64)[..., 1:N_VALID]
    peak = logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, np.asarray(targets)[..., None] - 1, axis=-1)
    return (np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True)) + peak - chosen)[..., 0]


def summed(*arguments):
    return semantic_cross_entropy(*arguments).sum()


def test_cross_entropy_equals_torch():
    logits, targets, mask = (mx.array(FIXTURES[f"semantic.{key}"]) for key in ("logits", "targets", "mask"))
    n_valid = int(FIXTURES["semantic.n_valid_rows"])
    assert 0 < mask.sum().item() < mask.size

    def counted(logits):
        return mx.where(mask, semantic_cross_entropy(logits, targets, n_valid), 0.0).sum()

    value, gradient = mx.value_and_grad(counted)(logits)
    from_torch("semantic_cross_entropy", value, gradient)


def test_cross_entropy_equals_the_definition_with_its_gradient():
    rng = np.random.default_rng(2)
    logits, targets = 3 * noise(rng, 5, 128), rng.integers(1, N_VALID, 5).astype(np.int32)
    values = semantic_cross_entropy(mx.array(logits), mx.array(targets), N_VALID)
    np.testing.assert_allclose(np.array(values), likelihoods(logits, targets), rtol=1e-5)
    gradient = mx.grad(summed)(mx.array(logits), mx.array(targets), N_VALID)
    reference.assert_gradient(lambda x: likelihoods(x, targets).sum(), logits, gradient, rng, coordinates=40)


def test_weighted_flow_matching_is_a_weighted_mean():
    rng = np.random.default_rng(4)
    predicted, v = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
    frames, dims = np.array([[1.0], [0.0], [0.5]], np.float32), np.array([2.0, 0.0, 1.0, 1.0], np.float32)
    for weights in (frames, dims, frames * dims):
        got = flow_matching_loss(mx.array(predicted), mx.array(v), weights=mx.array(weights))
        assert float(got) == pytest.approx(((predicted - v) ** 2 * weights).mean(axis=1).sum(), rel=1e-5)


def test_impossible_rows_get_neither_probability_nor_gradient():
    """With all possible logits equal the loss is log(possible rows), however large the impossible ones are."""
    logits = np.zeros((1, 128), np.float32)
    logits[:, 0] = logits[:, N_VALID:] = 50
    targets = mx.array([5])
    value, gradient = mx.value_and_grad(summed)(mx.array(logits), targets, N_VALID)
    np.testing.assert_allclose(value.item(), np.log(N_VALID - 1), rtol=1e-6)
    gradient = np.array(gradient)[0]
    assert gradient[0] == 0
    assert (gradient[N_VALID:] == 0).all()
    assert (gradient[1:N_VALID] != 0).all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_cross_entropy_is_finite_with_masked_and_huge_logits(dtype):
    logits = 100 * noise(np.random.default_rng(3), 4, 128)
    logits[:, 0] = logits[:, N_VALID:] = -np.inf
    logits[1:3, 10:20] = -np.inf
    logits[2, 40] = 3e4
    targets = mx.array([1, 30, 41, N_VALID - 1])
    logits = mx.array(logits).astype(dtype)
    value, gradient = mx.value_and_grad(summed)(logits, targets, N_VALID)
    assert (value.dtype, gradient.dtype) == (mx.float32, dtype)
    expected = likelihoods(logits.astype(mx.float32), targets).sum()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-6)
    assert mx.isfinite(gradient).all()


@pytest.mark.parametrize("target", [0, N_VALID, 127, 128, 9999, -1])
def test_a_target_that_cannot_be_is_never_plausible(target):
    logits = mx.array(noise(np.random.default_rng(5), 1, 128))
    assert semantic_cross_entropy(logits, mx.array([target]), N_VALID).item() == np.inf


def test_cross_entropy_misuse():
    logits, targets = mx.zeros((2, 3, 128)), mx.ones((2, 3), mx.int32)
    with pytest.raises(ValueError, match="do not fit"):
        semantic_cross_entropy(logits[0], targets, N_VALID)
    for n_valid in (1, 129):
        with pytest.raises(ValueError, match=r"n_valid_rows must be in 2\.\.128"):
            semantic_cross_entropy(logits, targets, n_valid)


# ---- flow matching ---------------------------------------------------------------------------------------------------


def test_levels_become_the_values_of_the_decoder():
    values = np.array(levels_to_values(mx.arange(21), 21))
    np.testing.assert_allclose(values, np.linspace(-1, 1, 21), atol=1e-7)
    # and back by the serving code's rule
    np.testing.assert_array_equal(np.round((values + 1) / 2 * 20), np.arange(21))
    np.testing.assert_allclose(values_to_levels(values, 21), np.arange(21), atol=1e-5)
    np.testing.assert_allclose(np.array(levels_to_values(mx.array([0, 2, 4]), 5)), [-1, 0, 1])


def test_the_path_runs_straight_from_noise_to_data():
    rng = np.random.default_rng(6)
    data, start = mx.array(noise(rng, 2, 5, 36)), mx.array(noise(rng, 2, 5, 36))
    for time, end in ((0.0, start), (1.0, data)):
        x_t, _ = flow_matching_targets(data, start, mx.full((2, 5), time))
        np.testing.assert_array_equal(np.array(x_t), np.array(end))
    # the seven Euler steps of inference along the true velocity arrive at the data
    x = start
    for step in range(7):
        x_t, velocity = flow_matching_targets(data, start, mx.full((2, 5), step / 7))
        np.testing.assert_allclose(np.array(x), np.array(x_t), atol=1e-5)
        x = x + velocity / 7
    np.testing.assert_allclose(np.array(x), np.array(data), atol=1e-5)
    times = rng.random((2, 5)).astype(np.float32)
    x_t, _ = flow_matching_targets(data, start, mx.array(times))
    expected = (1 - times[..., None]) * np.array(start) + times[..., None] * np.array(data)
    np.testing.assert_allclose(np.array(x_t), expected, atol=1e-6)


def test_flow_matching_equals_torch_with_frames_left_out():
    pred, v, mask = (mx.array(FIXTURES[key]) for key in ("flow.pred", "flow.v", "semantic.mask"))
    weights = mask.astype(mx.float32)[..., None]
    value, (gradient, to_v) = mx.value_and_grad(flow_matching_loss, argnums=(0, 1))(pred, v, weights)
    from_torch("flow_matching_loss", value, gradient)
    np.testing.assert_array_equal(np.array(to_v), 0)
    assert flow_matching_loss(v, v).item() == 0


def test_flow_matching_gradient():
    rng = np.random.default_rng(7)
    pred, v, weights = noise(rng, 3, 4, 6), noise(rng, 3, 4, 6), (rng.random((3, 4, 1)) < 0.6).astype(np.float32)
    assert 0 < weights.sum() < weights.size

    def definition(x):
        return (weights * np.square(x - v)).mean(axis=-1).sum()

    value, gradient = mx.value_and_grad(flow_matching_loss)(mx.array(pred), mx.array(v), mx.array(weights))
    np.testing.assert_allclose(value.item(), definition(pred.astype(np.float64)), rtol=1e-6)
    reference.assert_gradient(definition, pred, gradient, rng, coordinates=30)
    # a sum: halves of a batch add up to the whole, which gradient accumulation relies on
    halves = [flow_matching_loss(*(mx.array(x[part]) for x in (pred, v, weights))) for part in (slice(1), slice(1, 3))]
    np.testing.assert_allclose(sum(half.item() for half in halves), value.item(), rtol=1e-6)


def test_flow_matching_in_bfloat16_and_misuse():
    rng = np.random.default_rng(8)
    pred = mx.array(noise(rng, 2, 3, 36)).astype(mx.bfloat16)
    value, gradient = mx.value_and_grad(flow_matching_loss)(pred, mx.zeros((2, 3, 36)))
    assert (value.dtype, gradient.dtype) == (mx.float32, mx.bfloat16)
    expected = np.square(np.array(pred.astype(mx.float32))).mean(axis=-1).sum()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-6)
    x = mx.zeros((2, 3, 36))
    with pytest.raises(ValueError, match="do not fit"):
        flow_matching_loss(x, x[:, :2])
    with pytest.raises(ValueError, match="do not fit"):
        flow_matching_targets(x, x, mx.zeros((2,)))
