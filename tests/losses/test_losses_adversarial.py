"""Hinge loss and feature matching against their definitions, where their gradients go, and that they do their work."""

import discriminator_reference as reference
import losses_reference
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_voxclone.losses.adversarial import adversarial_losses, feature_matching_loss, hinge_discriminator_loss
from mlx_voxclone.losses.stft import STFT_SIZES, multi_resolution_stft_loss
from mlx_voxclone.model.discriminator import MultiResolutionDiscriminator

SIZES = (126, 76)


def noise(*shape, seed=0):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def doubles(tree):
    return tree_map(lambda x: np.asarray(x, np.float64), tree)


def largest(tree):
    return max(mx.abs(value).max().item() for _, value in tree_flatten(tree))


# ---- values ----------------------------------------------------------------------------------------------------------


def test_hinge_equals_the_definition_per_item():
    shapes = [(3, 5, 4), (3, 2, 7)]
    real = [noise(*shape, seed=index) for index, shape in enumerate(shapes)]
    fake = [noise(*shape, seed=index + 5) for index, shape in enumerate(shapes)]
    ours = hinge_discriminator_loss(real, fake)
    expected = [reference.hinge([r[i] for r in doubles(real)], [f[i] for f in doubles(fake)]) for i in range(3)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    silent = [mx.zeros((2, 3, 4))]
    assert hinge_discriminator_loss(silent, silent).tolist() == [2.0, 2.0]
    assert hinge_discriminator_loss([mx.full((1, 3, 4), 1.5)], [mx.full((1, 3, 4), -2.0)]).tolist() == [0.0]


def test_feature_matching_equals_the_definition_per_item():
    shapes = [[(3, 5, 4, 2), (3, 5, 2, 2)], [(3, 9, 3, 2), (3, 9, 1, 2)]]
    real = [[noise(*shape, seed=i) for i, shape in enumerate(size)] for size in shapes]
    fake = [[noise(*shape, seed=i + 9) for i, shape in enumerate(size)] for size in shapes]
    real[0][1] = real[0][1] * mx.array([1.0, 100.0, 0.0])[:, None, None, None]  # the last is below the floor
    ours = feature_matching_loss(real, fake)
    expected = [
        reference.feature_matching(
            [[layer[i] for layer in size] for size in doubles(real)],
            [[layer[i] for layer in size] for size in doubles(fake)],
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert feature_matching_loss(real, real).tolist() == [0.0] * 3


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="same shapes"):
        hinge_discriminator_loss([mx.zeros((1, 2, 3))], [mx.zeros((1, 2, 2))])
    with pytest.raises(ValueError, match="same shapes"):
        feature_matching_loss([[]], [[]])
    with pytest.raises(ValueError, match="differ in shape"):
        adversarial_losses(MultiResolutionDiscriminator(SIZES, 1), mx.zeros((1, 200)), mx.zeros((1, 201)))


def test_items_do_not_depend_on_their_neighbours():
    discriminators = MultiResolutionDiscriminator(SIZES, 2)
    real, fake = noise(3, 500), noise(3, 500, seed=1)
    together = adversarial_losses(discriminators, real, fake)
    for item in range(3):
        alone = adversarial_losses(discriminators, real[item : item + 1], fake[item : item + 1])
        for ours, own in zip(together, alone):
            assert ours[item].item() == pytest.approx(own.item(), rel=1e-5)


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    """Tiny discriminators and a pair of signals; logits wide enough to lie on both sides of the hinge's corners."""
    mx.random.seed(3)
    discriminators = MultiResolutionDiscriminator(SIZES, 2)
    for judge in discriminators.judges:
        judge.head.g = judge.head.g * 3
        for conv in judge.convs:
            conv.bias = 0.1 * mx.random.normal(conv.bias.shape)
    return discriminators, noise(2, 300), noise(2, 300, seed=1)


def term_slopes(scene, choose):
    """Gradients of choose(hinge, matching), summed over the items, for the parameters, the decoded and the real."""
    discriminators, real, fake = scene

    def total(parameters, fake, real):
        discriminators.update(parameters)
        return choose(*(items.sum() for items in adversarial_losses(discriminators, real, fake)))

    parameters = discriminators.trainable_parameters()
    slopes = mx.grad(total, argnums=(0, 1, 2))(parameters, fake, real)
    discriminators.update(parameters)
    return slopes


def test_each_term_has_its_own_gradients_and_they_do_not_leak(scene):
    hinge_parameters, hinge_fake, hinge_real = term_slopes(scene, lambda hinge, matching: hinge)
    matching_parameters, matching_fake, matching_real = term_slopes(scene, lambda hinge, matching: matching)
    both_parameters, both_fake, both_real = term_slopes(scene, lambda hinge, matching: hinge + matching)
    assert min(mx.abs(slope).max().item() for _, slope in tree_flatten(hinge_parameters)) > 0
    assert largest(hinge_fake) == 0
    assert largest(matching_parameters) == 0
    assert largest(matching_fake) > 0
    assert largest(hinge_real) == largest(matching_real) == largest(both_real) == 0
    assert largest(tree_map(lambda a, b: a - b, both_parameters, hinge_parameters)) == 0
    assert largest(both_fake - matching_fake) == 0


def test_the_gradient_of_feature_matching_is_that_of_the_definition(scene):
    discriminators, real, fake = scene
    _, ours, _ = term_slopes(scene, lambda hinge, matching: matching)
    own = doubles(discriminators.parameters())["judges"]
    wanted = [reference.judge(judge, size, doubles(real)[0])[1] for judge, size in zip(own, SIZES)]

    def expected(x):
        return reference.feature_matching(wanted, [reference.judge(j, size, x)[1] for j, size in zip(own, SIZES)])

    losses_reference.assert_gradient(expected, fake[0], ours[0], np.random.default_rng(0))


@pytest.mark.parametrize("path", [("convs", 0, "v"), ("convs", 2, "v"), ("convs", 3, "g"), ("head", "bias")])
def test_the_gradient_of_the_hinge_is_that_of_the_definition(scene, path):
    discriminators, real, fake = scene
    ours = term_slopes(scene, lambda hinge, matching: hinge)[0]["judges"]
    own = doubles(discriminators.parameters())["judges"]
    *holders, name = path

    def leaf(tree):
        for key in holders:
            tree = tree[key]
        return tree

    holder = leaf(own[0])

    def expected(value):
        kept, holder[name] = holder[name], value
        logits = [[reference.judge(own[0], SIZES[0], item)[0] for item in doubles(x)] for x in (real, fake)]
        holder[name] = kept
        return sum(reference.hinge([r], [f]) for r, f in zip(*logits)) / len(SIZES)

    slope = leaf(ours[0])[name]
    coordinates = min(4, slope.size)
    losses_reference.assert_gradient(
        expected, holder[name], slope, np.random.default_rng(1), tolerance=2e-3, coordinates=coordinates
    )


@pytest.mark.parametrize(("real_level", "fake_level"), [(0, 0), (0, 0.1), (0.1, 0), (1e-20, 1e-20), (30, 30)])
def test_silence_and_extremes_stay_finite(real_level, fake_level):
    mx.random.seed(4)
    discriminators = MultiResolutionDiscriminator(STFT_SIZES, 2)
    scene = discriminators, real_level * noise(1, 900), fake_level * noise(1, 900, seed=1)
    assert all(mx.isfinite(items).all().item() for items in adversarial_losses(*scene))
    slopes = term_slopes(scene, lambda hinge, matching: hinge + matching)
    assert all(mx.isfinite(slope).all().item() for _, slope in tree_flatten(slopes))


# ---- do they work ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_discriminators_learn_and_feature_matching_then_leads_to_the_real_signal():
    """Tones are real, noise of the same level is decoded; then a noisy tone is moved by the gradient alone."""
    mx.random.seed(5)
    rng = np.random.default_rng(6)
    samples, sizes = 800, (206, 76)
    discriminators = MultiResolutionDiscriminator(sizes, 4)
    optimiser = optim.Adam(4e-3, betas=[0.5, 0.9])

    def tones(count):
        times = np.arange(samples) / 24000
        frequencies, phases = rng.uniform(200, 4000, (count, 1)), rng.uniform(0, 6.28, (count, 1))
        return mx.array((np.sin(2 * np.pi * frequencies * times + phases) * 0.14).astype(np.float32))

    def noises(count):
        return mx.array((0.1 * rng.standard_normal((count, samples))).astype(np.float32))

    def hinge(parameters, real, fake):
        discriminators.update(parameters)
        return adversarial_losses(discriminators, real, fake)[0].mean()

    first = hinge(discriminators.trainable_parameters(), tones(3), noises(3)).item()
    for _ in range(20):
        parameters = discriminators.trainable_parameters()
        slopes = mx.grad(hinge)(parameters, tones(3), noises(3))
        discriminators.update(optimiser.apply_gradients(slopes, parameters))
        mx.eval(discriminators.parameters(), optimiser.state)
    last = hinge(discriminators.trainable_parameters(), tones(8), noises(8)).item()  # not seen before
    assert 1.8 < first < 2.2
    assert last < 1.0

    real = tones(2)
    moved = real + 0.5 * noises(2)
    distance = multi_resolution_stft_loss(moved, real).item()
    matching = mx.value_and_grad(lambda x: adversarial_losses(discriminators, real, x)[1].sum())
    mover, start = optim.Adam(5e-3), matching(moved)[0].item()
    state = {"x": moved}
    for _ in range(20):
        state = mover.apply_gradients({"x": matching(state["x"])[1]}, state)
        mx.eval(state)
    assert matching(state["x"])[0].item() < 0.5 * start
    assert multi_resolution_stft_loss(state["x"], real).item() < 0.7 * distance
    assert mx.square(state["x"] - real).mean().item() < 0.7 * mx.square(moved - real).mean().item()
