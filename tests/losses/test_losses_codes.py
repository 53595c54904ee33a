"""The losses on true codes against float64 definitions, torch, the quantiser, and their own promises."""

import losses_reference as reference
import mlx.core as mx
import numpy as np
import pytest
from places import ROOT

from mlx_voxclone.losses import acoustic_code_loss, semantic_code_loss
from mlx_voxclone.model.quantizer import AcousticCodebook, SemanticCodebook

FIXTURES = np.load(ROOT / "tests" / "fixtures" / "losses" / "torch_losses.npz")
K, D, A = 16, 6, 5
LENGTHS = (7, 4, 1)
ROWS = np.random.default_rng(99).standard_normal((K, D)).astype(np.float32) + 1


def semantic_loss(z, codes, *args, **keywords):
    return semantic_code_loss(z, codes, mx.array(ROWS), *args, **keywords)


def nll(logits, code):
    """-log softmax in float64 at one index of the last axis."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, np.asarray(code)[..., None], axis=-1)[..., 0]
    return np.log(np.exp(logits).sum(axis=-1)) - chosen


def semantic_definition(z, codes, temperature=1.0):
    return nll(-np.square(z[..., None, :] - ROWS.astype(np.float64)).sum(axis=-1) / temperature, codes).mean()


def acoustic_definition(z, codes, margin=0.5):
    distance = np.abs(np.tanh(z) - (codes / 10 - 1))
    return (np.maximum(distance - margin * 0.05, 0) * 10).mean()


CASES = {
    "semantic": (semantic_loss, semantic_definition, K, {"temperature": 2.5}),
    "acoustic": (acoustic_code_loss, acoustic_definition, 21, {"margin": 0.3}),
}
every_loss = pytest.mark.parametrize("name", CASES)


def draw(name, rng, batch=3, frames=7):
    """Latents and codes, float32 and int32 numpy."""
    width = D if name == "semantic" else A
    z = rng.standard_normal((batch, frames, width)).astype(np.float32)
    codes = rng.integers(0, CASES[name][2], (batch, frames) if name == "semantic" else z.shape)
    return z, codes.astype(np.int32)


# ---- both ------------------------------------------------------------------------------------------------------------


def test_they_equal_torch():
    z, codes, rows = (mx.array(FIXTURES[f"codes.{key}"]) for key in ("semantic_z", "semantic", "codebook"))
    levels = mx.array(FIXTURES["codes.acoustic_z"]), mx.array(FIXTURES["codes.acoustic"])
    for name, value_and_gradient in {
        "semantic_code_loss": mx.value_and_grad(semantic_code_loss)(z, codes, rows, temperature=3.0),
        "acoustic_code_loss": mx.value_and_grad(acoustic_code_loss)(*levels),
    }.items():
        value, gradient = value_and_gradient
        np.testing.assert_allclose(value.item(), FIXTURES[f"{name}.value"], rtol=2e-6)
        np.testing.assert_allclose(np.array(gradient), FIXTURES[f"{name}.grad"], rtol=1e-5, atol=1e-6)


@every_loss
def test_value_and_gradient_equal_the_definition_and_what_lies_behind_an_item_does_not_matter(name):
    loss, definition, size, keywords = CASES[name]
    rng = np.random.default_rng(0)
    z, codes = draw(name, rng)
    clean = z.astype(np.float64)
    for item, length in enumerate(LENGTHS):
        z[item, length:] = rng.choice([np.nan, np.inf, -1e38], z[item, length:].shape)
        codes[item, length:] = rng.choice([-1, size, 2**31 - 1], codes[item, length:].shape)

    def defined(x):
        return reference.batch_mean(lambda a, b: definition(a, b, *keywords.values()), x, codes, LENGTHS)

    value, gradient = mx.value_and_grad(loss)(mx.array(z), mx.array(codes), LENGTHS, **keywords)
    np.testing.assert_allclose(value.item(), defined(clean), rtol=2e-6)
    reference.assert_gradient(defined, clean, gradient, rng, coordinates=40)
    for item, length in enumerate(LENGTHS):
        assert (np.array(gradient)[item, length:] == 0).all()


@every_loss
def test_an_item_does_not_depend_on_its_batch(name):
    loss, *_ = CASES[name]
    z, codes = (mx.array(x) for x in draw(name, np.random.default_rng(1)))
    items = np.array(loss(z, codes, LENGTHS, "none"))
    assert items.shape == (3,)
    for item, length in enumerate(LENGTHS):
        alone = loss(z[item : item + 1, :length], codes[item : item + 1, :length])
        np.testing.assert_allclose(items[item], alone.item(), rtol=1e-6)
    mean = loss(z, codes, LENGTHS).item()
    np.testing.assert_allclose(mean, np.dot(items, LENGTHS) / sum(LENGTHS), rtol=1e-6)
    assert abs(mean - items.mean()) > 1e-3  # weighted by frames, not by items


@every_loss
@pytest.mark.parametrize("scale", [0.0, 1e2, 1e6, 1e30])
def test_silence_and_huge_latents_stay_finite(name, scale):
    loss, *_ = CASES[name]
    z, codes = draw(name, np.random.default_rng(2))
    value, gradient = mx.value_and_grad(loss)(mx.array(z * np.float32(scale)), mx.array(codes))
    assert np.isfinite(value.item())
    assert mx.isfinite(gradient).all()


@every_loss
def test_bfloat16_latents(name):
    loss, definition, *_ = CASES[name]
    z, codes = draw(name, np.random.default_rng(3))
    z = mx.array(z).astype(mx.bfloat16)
    value, gradient = mx.value_and_grad(loss)(z, mx.array(codes))
    assert (value.dtype, gradient.dtype) == (mx.float32, mx.bfloat16)
    np.testing.assert_allclose(value.item(), definition(np.array(z.astype(mx.float32), np.float64), codes), rtol=2e-6)


@every_loss
def test_a_code_that_cannot_be_is_never_plausible(name):
    loss, _, size, _ = CASES[name]
    z, codes = draw(name, np.random.default_rng(4))
    for code in (-1, size, 2**31 - 1):
        bad = codes.copy()
        bad[1, 2] = code
        items = np.array(loss(mx.array(z), mx.array(bad), reduction="none"))
        assert items[1] == np.inf
        assert np.isfinite(items[[0, 2]]).all()


@every_loss
def test_misuse(name):
    loss, *_ = CASES[name]
    z, codes = (mx.array(x) for x in draw(name, np.random.default_rng(5)))
    with pytest.raises(ValueError, match="do not fit|same non-empty shape of 3 axes"):
        loss(z, codes[:, :4])
    with pytest.raises(ValueError, match=r"lengths must be 3 integers in 1\.\.7"):
        loss(z, codes, (8, 1, 1))
    with pytest.raises(ValueError, match="codes must be integers"):
        loss(z, codes.astype(mx.float32))
    with pytest.raises(ValueError, match='reduction must be "mean" or "none"'):
        loss(z, codes, None, "sum")
    wrong = {"margin": 1.5} if name == "acoustic" else {"temperature": 0.0}
    with pytest.raises(ValueError, match=r"margin must be in 0\.\.1|temperature must be above 0"):
        loss(z, codes, **wrong)
    if name != "semantic":
        with pytest.raises(ValueError, match="levels must be at least 2"):
            loss(z, codes, levels=1)
    else:
        with pytest.raises(ValueError, match="do not fit"):
            semantic_code_loss(z, codes, mx.array(ROWS[:, 1:]))


# ---- semantic --------------------------------------------------------------------------------------------------------


def test_the_codebook_gets_no_gradient():
    z, codes = (mx.array(x) for x in draw("semantic", np.random.default_rng(6)))
    assert (np.array(mx.grad(lambda rows: semantic_code_loss(z, codes, rows))(mx.array(ROWS))) == 0).all()


def test_its_most_probable_code_is_the_encoded_one():
    """At a low temperature the loss vanishes for the quantiser's own codes and for no others."""
    codebook = SemanticCodebook(K, D)
    codebook.embedding_sum, codebook.cluster_usage = mx.array(ROWS * 3), mx.full((K,), 3.0)
    z = mx.random.normal((1, 200, D), key=mx.random.key(0)) + 1
    codes = codebook.encode(z)
    assert len(np.unique(np.array(codes))) > K // 2
    each = [semantic_code_loss(z[:, t : t + 1], codes[:, t : t + 1], codebook.embedding).item() for t in range(200)]
    assert max(each) < np.log(K)
    assert semantic_code_loss(z, codes, codebook.embedding, temperature=1e-4).item() < 0.05
    other = (codes + 1) % K
    assert semantic_code_loss(z, other, codebook.embedding, temperature=1e-4).item() > 1e3


def test_a_codebook_far_from_the_origin_costs_no_digits():
    """What all rows have in common must not swallow how they differ: ||row||^2 alone is 2.5e7 here, in steps of 2."""
    z, codes = draw("semantic", np.random.default_rng(7))
    far = 2048.0  # with multiples of 1/256, the sums are exact in float32: only the loss can lose something
    z, rows = np.round(z * 256) / 256, np.round(ROWS * 256) / 256
    near = semantic_code_loss(mx.array(z), mx.array(codes), mx.array(rows)).item()
    moved = semantic_code_loss(mx.array(z + far), mx.array(codes), mx.array(rows + far)).item()
    assert moved == pytest.approx(near, rel=1e-3)


def test_descent_on_it_reaches_the_true_codes():
    z, codes = (mx.array(x) for x in draw("semantic", np.random.default_rng(8)))
    for _ in range(200):
        z = z - 2.0 * mx.grad(semantic_loss)(z, codes)
    nearest = np.square(np.array(z)[..., None, :] - ROWS).sum(axis=-1).argmin(axis=-1)
    assert (nearest == np.array(codes)).all()


# ---- acoustic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
def test_inside_the_margin_nothing_is_lost_and_nothing_pulls(margin):
    """From one side of each cell to the other, the two ends of the scale among them."""
    codes = np.repeat(np.arange(21), 40)
    values = (codes / 10 - 1) + np.tile(np.linspace(-0.0499, 0.0499, 40), 21)
    keep = np.abs(values) < 0.9999
    codes, values = codes[keep], values[keep]
    distance = np.abs(values - (codes / 10 - 1))
    z = mx.array(np.arctanh(values).astype(np.float32))[:, None, None]
    target = mx.array(codes.astype(np.int32))[:, None, None]
    assert (np.array(AcousticCodebook(21).encode(z)) == np.array(target)).all()
    lost = np.array(acoustic_code_loss(z, target, None, "none", margin=margin))
    pull = np.array(mx.grad(lambda x: acoustic_code_loss(x, target, None, "none", margin=margin).sum())(z)).ravel()
    inside, outside = distance < margin * 0.05 - 1e-6, distance > margin * 0.05 + 1e-6
    assert inside.sum() + outside.sum() == len(codes)
    assert (lost[inside] == 0).all()
    assert (pull[inside] == 0).all()
    np.testing.assert_allclose(lost[outside], 10 * (distance - margin * 0.05)[outside], atol=1e-5)
    assert (np.sign(pull[outside]) == np.sign(values - (codes / 10 - 1))[outside]).all()


def test_descent_on_it_reaches_the_true_levels():
    z, codes = (mx.array(x) for x in draw("acoustic", np.random.default_rng(9)))
    for _ in range(600):
        z = z - 0.5 * mx.grad(acoustic_code_loss)(z, codes)
    assert (AcousticCodebook(21).encode(z) == codes).all()


def test_another_number_of_levels():
    z = mx.arctanh(mx.array([[[-0.9, 0.1, 0.45]]]))
    value = acoustic_code_loss(z, mx.array([[[0, 2, 4]]]), levels=5, margin=0.4)
    np.testing.assert_allclose(value.item(), (0.0 + 0.0 + 0.9) / 3, rtol=1e-5)
