"""Products of the same input joined: the same results and weights, no more memory, and parted again where needed."""

import gc

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from golden import params_of, relative_error
from mlx.utils import tree_flatten

from mlx_voxclone.model.blocks.layers import ROTATIONS, FeedForward
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral


@pytest.fixture
def model():
    args = (
        '{"semantic_codebook_size": 64, "acoustic_codebook_size": 21, "n_acoustic_codebook": 36,'
        ' "acoustic_transformer_args": {"input_dim": 32, "dim": 32, "n_layers": 2, "head_dim": 8, "hidden_dim": 64,'
        ' "n_heads": 4, "n_kv_heads": 2}}'
    )
    mx.random.seed(0)
    model = Voxtral(VoxtralConfig.from_dict(params_of({"audio_model_args": args}) | {"n_layers": 2}))
    mx.eval(model.parameters())
    return model


@pytest.fixture
def x():
    return mx.random.normal((2, 7, 32), key=mx.random.key(1))


def states(model, x) -> list[np.ndarray]:
    """With a cache and without, and of the head."""
    cache = model.new_cache()
    parts = [model.hidden_states(x[:, :4], cache), model.hidden_states(x[:, 4:], cache)]
    noise = mx.random.normal((2, 36), key=mx.random.key(2))
    velocity = model.acoustic_transformer.velocity(noise, mx.array([0.2, 0.7]), x[:, 0])
    return [np.array(a) for a in (model.hidden_states(x), mx.concatenate(parts, axis=1), velocity)]


def test_results_weights_and_names_stay(model, x):
    weights = {name: np.array(value) for name, value in tree_flatten(model.parameters())}
    before = states(model, x)
    model.merge()
    for a, b in zip(before, states(model, x)):
        assert relative_error(mx.array(b), mx.array(a)) < 1e-5
    after = dict(tree_flatten(model.parameters()))
    assert after.keys() == weights.keys()
    assert all(np.array_equal(after[name], weights[name]) for name in weights)


def test_it_is_done_once_and_takes_no_memory():
    layer = FeedForward(256, 512)
    mx.eval(layer.parameters())
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    layer.merge()
    assert mx.get_active_memory() - before < 4096  # less where something of an earlier test goes meanwhile
    view = layer.w1.weight
    layer.merge()
    assert layer.w1.weight is view


def test_a_weight_that_changes_is_heeded(model, x):
    model.merge()
    before = states(model, x)[0]
    model.layers[0].attention.wk.weight = model.layers[0].attention.wk.weight * 2
    model.layers[1].feed_forward.w3.weight = model.layers[1].feed_forward.w3.weight * 2
    changed = states(model, x)[0]
    assert np.abs(changed - before).max() > 1e-3
    model.merge()
    assert relative_error(mx.array(states(model, x)[0]), mx.array(changed)) < 1e-5


class Doubled(nn.Module):
    """A linear with something around it, as an adapter is."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def __call__(self, x):
        return 2 * self.linear(x)


def test_gradients_and_adapters_pass_by(model, x):
    def loss(model):
        return mx.mean(mx.square(model.hidden_states(x)))

    _, want = nn.value_and_grad(model, loss)(model)
    model.merge()
    _, got = nn.value_and_grad(model, loss)(model)
    for name, value in tree_flatten(want):
        assert mx.allclose(dict(tree_flatten(got))[name], value, rtol=1e-4, atol=1e-7), name
    before = states(model, x)[0]
    model.layers[0].feed_forward.w1 = Doubled(model.layers[0].feed_forward.w1)
    wrapped = states(model, x)[0]
    assert np.abs(wrapped - before).max() > 1e-3
    model.merge()
    np.testing.assert_allclose(states(model, x)[0], wrapped, rtol=1e-3, atol=1e-5)


def test_places_that_are_not_asked_for_change_nothing(model, x):
    layer, last = model.layers[0], slice(5, None)
    for _ in range(2):
        cache, whole = model.new_cache()[0], model.new_cache()[0]
        assert relative_error(layer(x, queries=last), layer(x)[:, last]) < 1e-5
        assert relative_error(layer(x, cache, last), layer(x, whole)[:, last]) < 1e-5
        assert relative_error(layer(x, cache, last), layer(x, whole)[:, last]) < 1e-5
        model.merge()


def test_rotations_are_those_of_rope(model):
    attention = model.layers[0].attention
    for offset in (0, 3, ROTATIONS - 1, 5 * ROTATIONS):
        heads = mx.random.normal((1, 6, 4, attention.head_dim), key=mx.random.key(offset))
        want = attention._rope(heads, offset)
        assert mx.allclose(attention._turned(heads, offset), want, rtol=1e-4, atol=1e-5), offset
        half = attention._turned(heads.astype(mx.bfloat16), offset)
        assert half.dtype == mx.bfloat16
        assert relative_error(half.astype(mx.float32), want) < 0.02
