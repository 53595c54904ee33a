"""The usage loss against its float64 definition, finite differences, and what it is for: no collapse."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.losses import level_usage_loss, usage_loss

K, D, A, L = 12, 6, 5, 21
LENGTHS = (7, 4, 1)
ROWS = np.random.default_rng(99).standard_normal((K, D)).astype(np.float32) + 1
PRIOR = np.random.default_rng(98).dirichlet(np.full(K, 0.7)).astype(np.float32)
LEVEL_PRIOR = np.random.default_rng(97).dirichlet(np.full(L, 0.7), A).astype(np.float32)


def semantic_loss(z, *args, **keywords):
    return usage_loss(z, mx.array(ROWS), mx.array(PRIOR), *args, **keywords)


def level_loss(z, *args, **keywords):
    return level_usage_loss(z, mx.array(LEVEL_PRIOR), *args, **keywords)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def kl(share, prior, smoothing):
    prior = prior.astype(np.float64)
    prior = (1 - smoothing) * prior / prior.sum(axis=-1, keepdims=True) + smoothing / prior.shape[-1]
    return (share * np.log(share / prior)).sum(axis=-1).mean()


def semantic_definition(frames, temperature=1.0, smoothing=0.01):
    """`frames`: valid ones, float64 [N, D]."""
    distances = np.square(frames[:, None] - ROWS.astype(np.float64)).sum(axis=-1)
    return kl(softmax(-distances / temperature).mean(axis=0), PRIOR, smoothing)


def level_definition(frames, temperature=1.0, smoothing=0.01):
    def spread(position):
        return softmax(-np.square(position[..., None] - np.arange(L)) / temperature)

    share = spread((np.tanh(frames) + 1) * (L - 1) / 2).mean(axis=0)
    return kl(share, np.einsum("al,lk->ak", LEVEL_PRIOR.astype(np.float64), spread(np.arange(L))), smoothing)


CASES = {"semantic": (semantic_loss, semantic_definition, D), "levels": (level_loss, level_definition, A)}
each = pytest.mark.parametrize("name", CASES)


def draw(name, seed=0):
    return np.random.default_rng(seed).standard_normal((3, 7, CASES[name][2])).astype(np.float32) + np.float32(0.5)


def valid(z):
    return np.concatenate([item[:n] for item, n in zip(z.astype(np.float64), LENGTHS)])


@each
@pytest.mark.parametrize("keywords", [{}, {"temperature": 3.0}, {"temperature": 0.7, "smoothing": 0.3}])
def test_it_equals_its_definition_whatever_lies_behind_an_item(name, keywords):
    loss, definition, _ = CASES[name]
    z = draw(name)
    assert definition(valid(z), **keywords) > 0.05
    np.testing.assert_allclose(
        loss(mx.array(z), LENGTHS, **keywords).item(), definition(valid(z), **keywords), rtol=1e-5
    )
    flat = z.reshape(1, -1, z.shape[2])
    whole = definition(flat[0].astype(np.float64), **keywords)
    np.testing.assert_allclose(loss(mx.array(flat), **keywords).item(), whole, rtol=1e-5)
    value, gradient = mx.value_and_grad(lambda x: loss(x, LENGTHS, **keywords))(mx.array(z))
    for i, n in enumerate(LENGTHS):
        z[i, n:] = np.nan
    dirty, dirty_gradient = mx.value_and_grad(lambda x: loss(x, LENGTHS, **keywords))(mx.array(z))
    assert dirty.item() == value.item()
    np.testing.assert_array_equal(np.array(dirty_gradient), np.array(gradient))
    assert all((np.array(gradient)[i, n:] == 0).all() for i, n in enumerate(LENGTHS))


@each
def test_the_gradient_equals_finite_differences(name):
    loss, definition, _ = CASES[name]
    z = draw(name, 1)
    gradient = np.array(mx.grad(lambda x: loss(x, LENGTHS))(mx.array(z)))
    step = 1e-5
    for i, n in enumerate(LENGTHS):
        for place in np.ndindex(n, z.shape[2]):
            moved = [z.astype(np.float64) for _ in range(2)]
            moved[0][(i, *place)] += step
            moved[1][(i, *place)] -= step
            expected = (definition(valid(moved[0])) - definition(valid(moved[1]))) / (2 * step)
            np.testing.assert_allclose(gradient[(i, *place)], expected, rtol=2e-3, atol=2e-5)


def test_the_temperature_may_be_an_array_and_the_gradient_goes_to_the_latents_alone():
    z = mx.array(draw("semantic"))
    assert semantic_loss(z, temperature=mx.array(2.0)).item() == semantic_loss(z, temperature=2.0).item()
    rows, prior = mx.grad(lambda r, p: usage_loss(z, r, p), argnums=(0, 1))(mx.array(ROWS), mx.array(PRIOR))
    assert not np.array(rows).any()
    assert not np.array(prior).any()


def test_a_prior_of_counts_is_one_of_shares():
    z = mx.array(draw("semantic"))
    counts = usage_loss(z, mx.array(ROWS), mx.array(PRIOR * 5000))
    np.testing.assert_allclose(counts.item(), semantic_loss(z).item(), rtol=1e-6)


# ---- what it is for --------------------------------------------------------------------------------------------------


def test_a_collapsed_batch_costs_more_than_a_spread_one():
    """Against a flat prior: all on one row log K, spread over all rows 0; half of the rows in between."""
    flat = mx.ones(K)
    values = {}
    for name, used in {"one": [3], "half": range(0, K, 2), "all": range(K)}.items():
        z = mx.array(ROWS[np.resize(list(used), 24)][None])
        values[name] = usage_loss(z, mx.array(ROWS), flat, temperature=0.01).item()
    np.testing.assert_allclose([values[n] for n in ("one", "half", "all")], [np.log(K), np.log(2), 0], atol=1e-5)


def test_collapsed_levels_cost_more_than_those_used_as_the_prior_says():
    counts = np.random.default_rng(5).multinomial(200, LEVEL_PRIOR[0].astype(np.float64) / LEVEL_PRIOR[0].sum(), A)
    values = np.arctanh(np.linspace(-1, 1, L).clip(-0.99999, 0.99999)).astype(np.float32)
    z = np.stack([np.random.default_rng(i).permutation(np.repeat(values, c)) for i, c in enumerate(counts)], axis=1)
    prior = mx.array(counts.astype(np.float32))
    assert level_usage_loss(mx.array(z[None]), prior).item() < 1e-2
    assert level_usage_loss(mx.array(z[None]), prior, smoothing=1e-6).item() < 1e-5
    assert level_usage_loss(mx.full((1, 200, A), 0.1), prior).item() > 1.0


def descend(loss, z, rate, steps=400):
    """(first value, last value, final latents) of plain gradient descent."""
    step, first, z = mx.value_and_grad(loss), None, mx.array(z)
    for _ in range(steps):
        value, gradient = step(z)
        first = value.item() if first is None else first
        z = z - rate * gradient
        mx.eval(z)
    return first, value.item(), np.array(z)


def test_going_down_the_gradient_brings_usage_to_the_prior():
    """From frames near one point, whose codes are few."""
    start = np.random.default_rng(2).standard_normal((4, 40, D)).astype(np.float32) * 0.05
    first, last, z = descend(semantic_loss, start, 16.0)
    assert last < 0.1 * first
    codes = [np.square(x.reshape(-1, 1, D) - ROWS).sum(axis=-1).argmin(axis=-1) for x in (start, z)]
    before, after = (np.abs(np.bincount(c, minlength=K) / len(c) - PRIOR).sum() for c in codes)
    assert after < 0.3 * before


def test_going_down_the_gradient_brings_levels_to_the_prior():
    """From the middle to a bell around level 5, three levels wide."""
    bell = np.exp(-0.5 * np.square((np.arange(L) - 5) / 3)).astype(np.float32)
    start = np.random.default_rng(2).standard_normal((4, 40, A)).astype(np.float32) * 0.2
    prior = mx.array(np.tile(bell, (A, 1)))
    first, last, z = descend(lambda z: level_usage_loss(z, prior), start, 10.0)
    assert last < 0.1 * first
    positions = (np.tanh(z) + 1) * 10
    np.testing.assert_allclose(positions.mean(axis=(0, 1)), 5, atol=0.5)
    np.testing.assert_allclose(positions.std(axis=(0, 1)), 3, atol=0.7)


def test_codes_that_the_prior_lacks_cost_a_bounded_amount():
    prior = np.zeros(K, np.float32)
    prior[0] = 1
    z = mx.array(np.repeat(ROWS[5:6], 8, axis=0)[None])
    value, gradient = mx.value_and_grad(lambda x: usage_loss(x, mx.array(ROWS), mx.array(prior), temperature=0.01))(z)
    np.testing.assert_allclose(value.item(), np.log(K / 0.01), rtol=1e-5)
    assert np.isfinite(np.array(gradient)).all()


def test_the_release_size_in_float32():
    """8192 rows that lie close together, far from the origin, and shares far below float32's smallest number."""
    rng = np.random.default_rng(3)
    rows = (100 + 0.1 * rng.standard_normal((8192, 32))).astype(np.float32)
    prior = rng.dirichlet(np.full(8192, 0.3))
    z = (rows[rng.integers(0, 8192, 60)] + 0.02 * rng.standard_normal((60, 32))).astype(np.float32)
    inputs = mx.array(z[None]), mx.array(rows), mx.array(prior.astype(np.float32))
    value, gradient = mx.value_and_grad(lambda x: usage_loss(x, *inputs[1:], temperature=0.01))(inputs[0])
    far = z.astype(np.float64)[:, None] - rows.astype(np.float64)
    share = softmax(-np.square(far).sum(axis=-1) / 0.01).mean(axis=0)
    smoothed = 0.99 * prior + 0.01 / 8192
    expected = (share * (np.log(np.maximum(share, 1e-300)) - np.log(smoothed))).sum()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-3)
    assert np.isfinite(np.array(gradient)).all()
    assert np.abs(np.array(gradient)).max() > 0


def test_the_value_is_of_the_batch_not_of_its_items():
    """Items that each keep to a few codes of their own, as recordings do, cost nothing together."""
    flat, rows = mx.ones(K), mx.array(ROWS)
    items = mx.array(np.stack([np.repeat(ROWS[k : k + 1], 10, axis=0) for k in range(K)]))
    assert usage_loss(items, rows, flat, temperature=0.01).item() < 1e-5
    assert usage_loss(items[:1], rows, flat, temperature=0.01).item() > 2.4


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((mx.zeros((7, D)), mx.array(ROWS), mx.array(PRIOR)), {}),
        ((mx.zeros((3, 7, D + 1)), mx.array(ROWS), mx.array(PRIOR)), {}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR[1:])), {}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR), (7, 8, 1)), {}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR), (7, 1)), {}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR), (7, 0, 1)), {}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR)), {"temperature": 0.0}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR)), {"temperature": float("nan")}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR)), {"smoothing": 0.0}),
        ((mx.zeros((3, 7, D)), mx.array(ROWS), mx.array(PRIOR)), {"smoothing": 1.1}),
    ],
)
def test_what_does_not_fit_is_refused(arguments, keywords):
    with pytest.raises(ValueError, match="fit|lengths|temperature|smoothing"):
        usage_loss(*arguments, **keywords)


@pytest.mark.parametrize(
    ("shape", "prior", "keywords"),
    [
        ((7, A), (A, L), {}),
        ((3, 7, A), (A + 1, L), {}),
        ((3, 7, A), (L,), {}),
        ((3, 7, A), (A, 1), {}),
        ((3, 7, A), (A, L), {"temperature": -1.0}),
        ((3, 7, A), (A, L), {"smoothing": -0.1}),
    ],
)
def test_levels_that_do_not_fit_are_refused(shape, prior, keywords):
    with pytest.raises(ValueError, match="fit|temperature|smoothing"):
        level_usage_loss(mx.zeros(shape), mx.ones(prior), **keywords)
