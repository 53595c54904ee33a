"""Quantised base and LoRA: what is wrapped, what trains, and that the start and the end compute what they must."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from golden import relative_error
from mlx.utils import tree_flatten, tree_unflatten
from tasks_data import full_model

from mlx_voxclone.adapters import lora
from mlx_voxclone.adapters.lora import AdapterSwitch, add_lora, apply_adapters, lora_parameters, quantise_backbone
from mlx_voxclone.adapters.mix import LowRank
from mlx_voxclone.adapters.names import TARGETS
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.blocks import dequantised
from mlx_voxclone.model.blocks.dequantised import DequantisedLinear
from mlx_voxclone.model.blocks.recompute import KeyedDropout, recomputed


def embeddings(model, seed=0):
    return mx.random.normal((2, 11, model.config.backbone.dim), key=mx.random.key(seed))


def test_at_the_start_lora_changes_nothing(miniature):
    """B is zero: adapted and base are the same to the bit. A is not zero, or nothing would ever learn."""
    model = full_model(miniature)
    x = embeddings(model)
    base = np.array(model.hidden_states(x))
    add_lora(model, rank=4, alpha=8.0)
    assert (np.array(model.hidden_states(x)) == base).all()
    for name, value in lora_parameters(model).items():
        assert (np.abs(np.array(value)).max() == 0) == name.endswith("lora_b"), name


def test_only_a_and_b_train(miniature):
    model = full_model(miniature)
    quantise_backbone(model, 8)
    names = add_lora(model, rank=4, alpha=8.0)
    layers = model.config.backbone.n_layers
    assert len(names) == len(TARGETS) * layers
    trainable = [k for k, _ in tree_flatten(model.trainable_parameters())]
    assert sorted(trainable) == sorted(f"{n}.{part}" for n in names for part in ("lora_a", "lora_b"))


@pytest.mark.parametrize("alpha", [4.0, 16.0])
def test_strength_is_alpha_over_rank(miniature, alpha):
    model = full_model(miniature)
    add_lora(model, rank=4, alpha=alpha, targets=["wq"])
    module = model.layers[0].attention.wq
    module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(1))
    x = embeddings(model)
    want = x @ module.linear.weight.T + alpha / 4 * (x @ module.lora_a @ module.lora_b)
    assert relative_error(module(x), want) < 1e-5


def test_which_linears(miniature):
    model = full_model(miniature)
    names = add_lora(model, rank=2, alpha=2.0, targets=["wv", "w2"], layers=1)
    assert names == ["layers.1.attention.wv", "layers.1.feed_forward.w2"]
    assert isinstance(model.layers[0].attention.wv, nn.Linear)
    for kwargs, said in (
        ({"targets": ["wx"]}, "wx"),
        ({"targets": []}, "empty"),
        ({"layers": 3}, "2 layers"),
        ({"layers": 0}, "2 layers"),
    ):
        with pytest.raises(ConfigError, match=said):
            add_lora(full_model(miniature), rank=2, alpha=2.0, **kwargs)


def test_the_seed_decides_a(miniature):
    values = []
    for seed in (0, 0, 1):
        model = full_model(miniature)
        add_lora(model, rank=2, alpha=2.0, targets=["wq"], seed=seed)
        values.append(np.array(model.layers[0].attention.wq.lora_a))
    assert (values[0] == values[1]).all()
    assert (values[0] != values[2]).any()


@pytest.mark.parametrize(("bits", "worst"), [(8, 0.02), (4, 0.3)])
def test_quantised_base_is_close_to_the_original(miniature, bits, worst):
    model = full_model(miniature)
    x = embeddings(model)
    base = model.hidden_states(x)
    quantise_backbone(model, bits)
    assert 0 < relative_error(model.hidden_states(x), base) / 6 < worst  # largest error; about six times the RMS one
    kinds = {type(getattr(layer.attention, t)) for layer in model.layers for t in ("wq", "wo")}
    assert kinds <= {DequantisedLinear, nn.QuantizedLinear}
    assert isinstance(model.acoustic_transformer.layers[0].attention.wq, nn.Linear)  # the head stays as it is


def quantised(inputs, outputs, bits, group_size=64, seed=0):
    linear = nn.Linear(inputs, outputs, bias=False)
    linear.weight = mx.random.normal(linear.weight.shape, key=mx.random.key(seed))
    return nn.QuantizedLinear.from_linear(linear, group_size, bits)


@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (6, 64), (4, 64), (8, 32), (6, 32), (4, 128), (3, 64)])
def test_dequantised_weights_are_those_of_mlx_to_the_bit(bits, group_size):
    linear = quantised(128, 32, bits, group_size)
    want = mx.dequantize(linear.weight, linear.scales, linear.biases, group_size=group_size, bits=bits)
    linear.__class__ = DequantisedLinear
    assert (np.array(linear.dequantised()) == np.array(want)).all()
    assert len(np.unique(np.array(want))) > 2**bits


@pytest.mark.parametrize("shape", [(3, 5, 128), (128,), (1, 1, 128), (2, 128)])
@pytest.mark.parametrize("bits", [8, 4])
def test_dequantising_first_is_the_same_product_with_the_same_gradient(bits, shape):
    linear = quantised(128, 32, bits)
    x = mx.random.normal(shape, key=mx.random.key(1))

    def loss(x):
        return mx.sum(linear(x) * mx.cos(mx.arange(32)))

    want, want_gradient = linear(x), mx.grad(loss)(x)
    linear.__class__ = DequantisedLinear
    assert relative_error(linear(x), want) < 1e-5
    assert relative_error(mx.grad(loss)(x), want_gradient) < 1e-5


def test_no_dequantised_weight_outlives_its_product():
    """Many linears one after the other: forward and back never have all of their weights in memory. (How many they have
    is how far MLX allocates ahead of what it computes, a few dozen operations.)"""
    layers = [quantised(128, 128, 8, seed=k) for k in range(96)]
    for layer in layers:
        layer.__class__ = DequantisedLinear
    x = mx.random.normal((4, 128), key=mx.random.key(1))
    mx.eval(x, [layer.parameters() for layer in layers])

    def loss(x):
        for layer in layers:
            x = layer(x)
        return x.sum()

    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.grad(loss)(x))
    assert mx.get_peak_memory() - before < 0.6 * 96 * (4 * 128 * 128)


def test_a_group_that_does_not_fit_is_refused(miniature, monkeypatch):
    monkeypatch.setattr(lora, "GROUP_SIZE", 128)
    with pytest.raises(ConfigError, match="multiple of 128"):
        quantise_backbone(full_model(miniature), 8)


def changes(parameters, scale):
    modules = {name.rpartition(".")[0] for name in parameters}
    return {
        m: LowRank(np.array(parameters[f"{m}.lora_a"]), scale * np.array(parameters[f"{m}.lora_b"])) for m in modules
    }


def test_applied_adapters_compute_what_was_trained(miniature):
    model = full_model(miniature)
    add_lora(model, rank=4, alpha=8.0, targets=["wq", "w1"])
    for i, layer in enumerate(model.layers):
        for module in (layer.attention.wq, layer.feed_forward.w1):
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape, key=mx.random.key(i))
    x = embeddings(model)
    want = model.hidden_states(x)
    fresh = full_model(miniature)
    assert relative_error(fresh.hidden_states(x), want) > 1e-2
    apply_adapters(fresh, changes(lora_parameters(model), scale=2.0))
    assert relative_error(fresh.hidden_states(x), want) < 1e-6
    assert not tree_flatten(fresh.trainable_parameters())


@pytest.mark.parametrize(
    ("module", "shapes", "said"),
    [
        ("layers.7.attention.wq", ((64, 4), (4, 64)), "layers.7"),
        ("layers.0.attention.wz", ((64, 4), (4, 64)), "wz"),
        ("tok_embeddings", ((64, 4), (4, 64)), "tok_embeddings"),
        ("layers.0.attention.wq", ((32, 4), (4, 64)), "shape"),
        ("layers.0.attention.wq", ((64, 4), (4, 63)), "shape"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(miniature, module, shapes, said):
    with pytest.raises(ConfigError, match=said):
        apply_adapters(full_model(miniature), {module: LowRank(*map(np.zeros, shapes))})


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_parts_of_a_weight_are_dequantised_one_after_the_other(bits, monkeypatch):
    """In less memory than the weight takes, with the products of the whole."""
    linear = nn.QuantizedLinear(512, 2048, False, 64, bits)
    x = mx.random.normal((3, 512))
    want = x @ mx.dequantize(linear.weight, linear.scales, linear.biases, 64, bits).T
    mx.eval(linear.parameters(), want)
    linear.__class__ = DequantisedLinear
    monkeypatch.setattr(dequantised, "AT_ONCE", 100 * 512)
    assert mx.allclose(linear(x), want, atol=1e-5).item()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(linear(x))
    assert mx.get_peak_memory() - before < 0.5 * 4 * 512 * 2048


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_below_the_adapted_ones_are_not_gone_back_through(miniature, recompute):
    """Their forward pass is all that they take: the gradient of nothing that trains goes through them, nor through the
    first linear of the first adapted layer."""
    multiplied = []

    class Watched(DequantisedLinear):
        def dequantised(self, *dtype):
            multiplied.append(self.number)
            return super().dequantised(*dtype)

    model = full_model(miniature)
    quantise_backbone(model, 8)
    model.recompute = recompute
    for i, layer in enumerate(model.layers):
        for module in (layer.attention.wq, layer.feed_forward.w2):
            module.__class__, module.number = Watched, i
    add_lora(model, rank=4, alpha=8.0, layers=1)
    x = embeddings(model)
    lora_gradients(model, x, embeddings(model, 1))
    assert multiplied.count(0) == 2  # forward, two linears
    # Forward, and back through the second; or forward twice, and back through both, of which one is never evaluated.
    assert multiplied.count(1) == (6 if recompute else 3)


# --- computing layers again -------------------------------------------------------------------------------------------


def lora_gradients(model, x, target, seed=0):
    """Loss and gradients of A and B, with the random numbers of a seed."""

    def loss(parameters):
        model.update(tree_unflatten(list(parameters.items())))
        return mx.mean(mx.square(model.hidden_states(x) - target))

    parameters = dict(tree_flatten(model.trainable_parameters()))
    mx.random.seed(seed)
    value, gradients = mx.value_and_grad(loss)(parameters)
    mx.eval(value, gradients)
    model.update(tree_unflatten(list(parameters.items())))
    return value.item(), {name: np.array(gradient) for name, gradient in gradients.items()}


def trained(miniature, **options):
    model = full_model(miniature)
    add_lora(model, rank=4, alpha=8.0, **options)
    for i, (name, value) in enumerate(lora_parameters(model).items()):
        if name.endswith("lora_b"):
            model.update(tree_unflatten([(name, 0.1 * mx.random.normal(value.shape, key=mx.random.key(i)))]))
    return model


@pytest.mark.parametrize("bits", [0, 8])
def test_recomputed_layers_have_the_same_gradient(miniature, bits):
    model = full_model(miniature)
    if bits:
        quantise_backbone(model, bits)
    add_lora(model, rank=4, alpha=8.0)
    x, target = embeddings(model), embeddings(model, 1)
    plain = lora_gradients(model, x, target)
    model.recompute = True
    again = lora_gradients(model, x, target)
    assert again[0] == pytest.approx(plain[0], rel=1e-6)
    assert again[1].keys() == plain[1].keys()
    assert any(np.abs(gradient).max() > 0 for gradient in plain[1].values())
    for name, gradient in plain[1].items():
        np.testing.assert_allclose(again[1][name], gradient, rtol=1e-5, atol=1e-8, err_msg=name)


def test_recomputed_dropout_is_the_dropout_of_the_loss(miniature):
    """The gradient is that of the numbers drawn: finite differences of the loss with the same seed."""
    model = trained(miniature, dropout=0.3)
    model.train()
    model.recompute = True
    x, target = embeddings(model), embeddings(model, 1)
    value, gradients = lora_gradients(model, x, target)
    assert value != lora_gradients(model, x, target, seed=1)[0]
    parameters = dict(tree_flatten(model.trainable_parameters()))
    rng = np.random.default_rng(0)
    direction = {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in parameters.items()}
    step, values = 1e-3, []
    for sign in (1, -1):
        moved = {name: p + sign * step * mx.array(direction[name]) for name, p in parameters.items()}
        model.update(tree_unflatten(list(moved.items())))
        values.append(lora_gradients(model, x, target)[0])
    wanted = sum((gradients[name] * direction[name]).sum(dtype=np.float64) for name in gradients)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(wanted, rel=1e-2)


def test_recomputed_layers_keep_less_in_memory(miniature):
    model = full_model(miniature)
    add_lora(model, rank=4, alpha=8.0, targets=["w2"])
    model.layers = [model.layers[0], model.layers[1]] * 5  # deep enough to see
    x = mx.random.normal((2, 128, 64), key=mx.random.key(0))
    peaks = []
    for model.recompute in (False, True):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        start = mx.get_active_memory()
        lora_gradients(model, x, mx.zeros_like(x))
        peaks.append(mx.get_peak_memory() - start)
    assert peaks[1] < 0.5 * peaks[0]


class TwoDropouts(nn.Module):
    """A block whose output shows what both of its dropouts keep."""

    def __init__(self):
        super().__init__()
        self.gain = mx.ones((1,))
        self.first, self.second = KeyedDropout(0.5), KeyedDropout(0.5)

    def __call__(self, x):
        return self.gain * mx.stack([self.first(x), self.second(x)])


def test_dropouts_of_a_recomputed_block_draw_apart():
    """Each for itself, others in every pass, with the mean of what goes in."""
    mx.random.seed(0)
    block, x = TwoDropouts(), mx.ones((4000,))
    kept = np.array(mx.concatenate([recomputed(block, x), recomputed(block, x)]))
    assert set(np.unique(kept)) == {0.0, 2.0}
    correlations = np.corrcoef(kept)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.1
    assert kept.mean(axis=1) == pytest.approx(1, abs=0.1)
    block.eval()
    assert (np.array(recomputed(block, x)) == 1).all()


def test_a_switch_computes_what_each_set_alone_does(miniature):
    """Also where sets cover other linears, and behind one the base is the one it was, to the bit."""
    rng, x = np.random.default_rng(0), embeddings(full_model(miniature))

    def change(model, module, target):
        outputs, inputs = model.layers[0][module][target].weight.shape
        halves = rng.standard_normal((inputs, 2)), 0.1 * rng.standard_normal((2, outputs))
        return {f"layers.0.{module}.{target}": LowRank(*(half.astype(np.float32) for half in halves))}

    model = full_model(miniature)
    model.merge()
    base = np.array(model.hidden_states(x))
    sets = {"a": change(model, "attention", "wq"), "b": change(model, "feed_forward", "w1")}
    switch = AdapterSwitch(model)
    for key, changes in sets.items():
        switch.add(key, changes)
    for key in ("a", None, "b", "a", "a", None):
        switch.use(key)
        found = np.array(model.hidden_states(x))
        if key is None:
            np.testing.assert_array_equal(found, base)
            continue
        alone = full_model(miniature)
        apply_adapters(alone, sets[key])
        assert relative_error(mx.array(found), alone.hidden_states(x)) < 1e-5
        assert relative_error(mx.array(found), mx.array(base)) > 1e-3
    switch.add(None, sets["b"])
    switch.use(None)
    assert relative_error(model.hidden_states(x), mx.array(base)) > 1e-3
    with pytest.raises(KeyError):
        switch.use("of nobody")
