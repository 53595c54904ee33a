"""Products with gradients of their own: what MLX would derive, in rows; folded convolutions are the unfolded ones."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from golden import relative_error
from mlx.utils import tree_flatten, tree_map

from mlx_voxclone.model.blocks.conv import CausalConv1d, CausalConvTranspose1d
from mlx_voxclone.model.blocks.products import linear, sigmoid, swiglu, transposed


def normal(*shape: int, seed: int = 0, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def in_rows(x: mx.array) -> bool:
    mx.eval(x)
    return memoryview(x).c_contiguous


@pytest.mark.parametrize("shape", [(7, 12), (2, 7, 12), (1, 1, 12)])
@pytest.mark.parametrize("dtypes", [(mx.float32, mx.float32), (mx.bfloat16, mx.bfloat16), (mx.float32, mx.bfloat16)])
def test_linear(shape, dtypes):
    x, weight = normal(*shape, dtype=dtypes[0]), normal(5, 12, seed=1, dtype=dtypes[1])
    towards = normal(*shape[:-1], 5, seed=2)
    values, gradients = [], []
    for product in (linear, lambda x, weight: x @ weight.T):
        values.append(product(x, weight))
        gradients.append(mx.grad(lambda x, w: (product(x, w) * towards).sum(), argnums=(0, 1))(x, weight))  # noqa: B023
    assert values[0].dtype == values[1].dtype
    np.testing.assert_array_equal(*(np.array(value.astype(mx.float32)) for value in values))
    tolerance = 1e-6 if mx.bfloat16 not in dtypes else 0.01  # a rounding of BF16
    for ours, theirs in zip(*gradients):
        assert ours.dtype == theirs.dtype
        assert relative_error(ours.astype(mx.float32), theirs.astype(mx.float32)) < tolerance


def test_gradients_of_weights_are_rows():
    x, weight = normal(7, 12), normal(5, 12, seed=1)
    assert in_rows(mx.grad(lambda w: mx.square(linear(x, w)).sum())(weight))
    assert not in_rows(mx.grad(lambda w: mx.square(x @ w.T).sum())(weight))
    assert in_rows(mx.grad(lambda w: mx.square(transposed(w, 1, 0)).sum())(weight))
    conv = CausalConv1d(12, 5, 4, 2, "replicate")
    _, gradients = nn.value_and_grad(conv, lambda: mx.square(conv(x[None])).sum())()
    assert all(in_rows(gradient) for _, gradient in tree_flatten(gradients))


def test_transposed():
    x, towards = normal(3, 4, 5, 2), normal(2, 5, 3, 4, seed=1)
    assert relative_error(transposed(x, 3, 2, 0, 1), x.transpose(3, 2, 0, 1)) == 0
    gradient = mx.grad(lambda x: (transposed(x, 3, 2, 0, 1) * towards).sum())(x)
    assert relative_error(gradient, towards.transpose(2, 3, 1, 0)) == 0


def test_swiglu_and_its_gradient():
    gate = mx.concatenate([3 * normal(2, 40), mx.array([[-200.0, -30, -1e-6, 0, 30, 200]] * 2)], axis=1)
    up, towards = normal(*gate.shape, seed=1), normal(*gate.shape, seed=2)
    value, (to_gate, to_up) = mx.value_and_grad(lambda g, u: (swiglu(g, u) * towards).sum(), argnums=(0, 1))(gate, up)
    g, u, t = (np.array(x).astype(np.float64) for x in (gate, up, towards))
    with np.errstate(over="ignore"):
        s = 1 / (1 + np.exp(-g))
    assert value.item() == pytest.approx((g * s * u * t).sum(), rel=1e-5)
    assert relative_error(swiglu(gate, up), g * s * u) < 1e-6
    assert relative_error(to_gate, t * u * s * (1 + g * (1 - s))) < 1e-6
    assert relative_error(to_up, t * g * s) < 1e-6


def test_sigmoid():
    x = mx.array(np.linspace(-87, 87, 2001, dtype=np.float32))
    want = 1 / (1 + np.exp(-np.array(x).astype(np.float64)))
    assert np.abs(np.array(sigmoid(x)) / want - 1).max() < 1e-5
    slopes = mx.grad(lambda x: sigmoid(x).sum())(x)
    assert np.abs(np.array(slopes) - want * (1 - want)).max() < 1e-6
    assert sigmoid(x.astype(mx.bfloat16)).dtype == mx.bfloat16


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_sigmoid_and_swiglu_far_from_zero(dtype):
    """exp(-x) is infinite in float32 below x = -88.7: the values are 0 there, and so are the gradients."""
    far = [-1e30, -1e4, -200, -100, -89, -88, 88, 89, 200, 1e4, 1e30]
    x = mx.array(far).astype(dtype)
    want = [0.0 if value < 0 else 1.0 for value in far]
    np.testing.assert_allclose(np.array(sigmoid(x).astype(mx.float32)), want, atol=1e-37)
    slopes = mx.grad(lambda x: sigmoid(x).sum())(x)
    assert slopes.dtype == dtype
    np.testing.assert_allclose(np.array(slopes.astype(mx.float32)), 0, atol=1e-36)
    for gated in (swiglu, lambda gate, up: gate * sigmoid(gate) * up):  # of the codec, of the language model
        to_gate, to_up = mx.grad(lambda gate, up: gated(gate, up).sum(), argnums=(0, 1))(x, mx.ones_like(x))  # noqa: B023
        np.testing.assert_allclose(np.array(to_gate.astype(mx.float32)), want, atol=1e-30)
        np.testing.assert_allclose(
            np.array(to_up.astype(mx.float32)), np.maximum(np.array(x.astype(mx.float32)), 0), atol=1e-30
        )


# ---- folding ---------------------------------------------------------------------------------------------------------

CONVOLUTIONS = [
    lambda: CausalConv1d(6, 5, 7, 1, "reflect"),
    lambda: CausalConv1d(6, 5, 4, 2, "replicate"),
    lambda: CausalConvTranspose1d(6, 5, 4, 2),
]


@pytest.mark.parametrize("build", CONVOLUTIONS, ids=["reflect", "strided", "transposed"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_folded_is_unfolded(build, dtype):
    """Bit for bit, in either precision; replaced parameters are noticed; no name is added; gradients are the same."""
    conv = build()
    conv.set_dtype(dtype)
    names = [name for name, _ in tree_flatten(conv.parameters())]

    def result(x):
        return np.array(conv(x).astype(mx.float32))

    def gradients():
        found = nn.value_and_grad(conv, lambda: mx.square(conv(normal(1, 9, 6, dtype=dtype))).sum())()[1]
        return [np.array(gradient.astype(mx.float32)) for _, gradient in tree_flatten(found)]

    x = normal(2, 9, 6, seed=3, dtype=dtype)
    before, slopes = result(x), gradients()
    conv.fold()
    np.testing.assert_array_equal(result(x), before)
    np.testing.assert_array_equal(result(x.astype(mx.float32)).shape, before.shape)
    assert [name for name, _ in tree_flatten(conv.parameters())] == names
    conv.fold()
    for ours, theirs in zip(gradients(), slopes, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(ours).max() > 0
    conv.fold()
    conv.update(tree_map(lambda array: array * 2, conv.parameters()))  # twice the length, the same direction
    assert relative_error(result(x), 2 * before) < (1e-6 if dtype == mx.float32 else 0.01)
