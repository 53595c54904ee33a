"""Waveform, STFT and mel losses against float64 finite differences, torch, and their own promises."""

from functools import partial

import losses_reference as reference
import mlx.core as mx
import numpy as np
import pytest
from places import ROOT

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.losses.stft import STFT_SIZES

FIXTURES = np.load(ROOT / "tests" / "fixtures" / "losses" / "torch_losses.npz")
FEW = ((32, 5), (256, 40), (512, 80))
# (n_fft, n_mels) of the Descript Audio Codec (Kumar et al. 2023)
MULTI_SCALE = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
# name -> (ours, the float64 definition for one item)
LOSSES = {
    "waveform_l1": (waveform_l1, reference.waveform_l1),
    "stft_loss": (multi_resolution_stft_loss, reference.stft_loss),
    "mel_loss": (log_mel_loss, reference.mel_loss),
    "mel_multi_loss": (partial(log_mel_loss, scales=FEW), partial(reference.mel_loss, scales=FEW)),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def pair(rng, batch, samples):
    return (0.3 * rng.standard_normal((2, batch, samples))).astype(np.float32)


@every_loss
@pytest.mark.parametrize("lengths", [(900, 900), (900, 411), (70, 1)])
def test_value_and_gradient_equal_the_definition(name, lengths):
    ours, item_loss = LOSSES[name]
    rng = np.random.default_rng(sum(lengths))
    pred, target = pair(rng, 2, 900)

    def definition(x):
        return reference.batch_mean(item_loss, x, target.astype(np.float64), lengths)

    value, gradient = mx.value_and_grad(lambda x: ours(x, mx.array(target), lengths))(mx.array(pred))
    np.testing.assert_allclose(value.item(), definition(pred.astype(np.float64)), rtol=1e-5)
    # the last valid sample and its neighbours are where an item's own reflection shows
    reference.assert_gradient(definition, pred, gradient, rng, tolerance=5e-3)
    edge = np.zeros_like(pred)
    edge[1, max(0, lengths[1] - 3) : lengths[1]] = 1
    size = np.sqrt((np.array(gradient) ** 2).mean())
    assert abs((np.array(gradient) * edge).sum() - reference.slope(definition, pred.astype(float), edge)) < 0.01 * size


@every_loss
def test_value_and_gradient_equal_torch(name):
    pred, target = FIXTURES["audio.pred"], FIXTURES["audio.target"]
    value, gradient = mx.value_and_grad(lambda x: LOSSES[name][0](x, mx.array(target)))(mx.array(pred))
    np.testing.assert_allclose(value.item(), FIXTURES[f"{name}.value"], rtol=1e-5)
    expected = FIXTURES[f"{name}.grad"]
    error = np.sqrt(((np.array(gradient) - expected) ** 2).mean() / (expected**2).mean())
    assert error < 5e-4  # the fixture has no near ties, where the sign would be a matter of rounding


@every_loss
def test_zero_at_equality_and_no_gradient_to_the_target(name):
    ours = LOSSES[name][0]
    pred, target = (mx.array(x) for x in pair(np.random.default_rng(1), 2, 700))
    assert ours(pred, pred).item() == 0
    np.testing.assert_array_equal(np.array(mx.grad(ours)(pred, pred)), 0)
    to_pred, to_target = mx.grad(ours, argnums=(0, 1))(pred, target)
    assert mx.abs(to_pred).max().item() > 0
    np.testing.assert_array_equal(np.array(to_target), 0)


@every_loss
def test_items_depend_on_neither_neighbours_nor_padding(name):
    ours = LOSSES[name][0]
    lengths = (1500, 640, 30, 1, 1500)
    pred, target = pair(np.random.default_rng(2), 5, 1600)
    for item, length in enumerate(lengths):  # whatever lies behind an item's end, NaN included, must not matter
        pred[item, length:], target[item, length:] = np.nan, np.inf
    items, pull = mx.vjp(lambda x: ours(x, mx.array(target), lengths, "none"), [mx.array(pred)], [mx.ones(5)])
    items, gradient = np.array(items[0]), np.array(pull[0])
    assert items.shape == (5,)
    for item, length in enumerate(lengths):
        alone = [mx.array(x[item : item + 1, :length]) for x in (pred, target)]
        value, own = mx.value_and_grad(ours)(*alone)
        np.testing.assert_allclose(items[item], value.item(), rtol=1e-5)
        np.testing.assert_allclose(gradient[item, :length], np.array(own)[0], rtol=1e-3, atol=1e-3 * np.abs(own).max())
        np.testing.assert_array_equal(gradient[item, length:], 0)
    mean = ours(mx.array(pred), mx.array(target), lengths).item()
    np.testing.assert_allclose(mean, np.dot(items, lengths) / sum(lengths), rtol=1e-5)


@every_loss
@pytest.mark.parametrize("samples", [1, 2, 75, 1149])
@pytest.mark.parametrize("silent", ["pred", "target", "both", "neither"])
def test_silence_and_tiny_clips_stay_finite(name, samples, silent):
    pred, target = pair(np.random.default_rng(3), 1, samples)
    if silent in ("pred", "both"):
        pred[:] = 0
    if silent in ("target", "both"):
        target[:] = 0
    value, gradient = mx.value_and_grad(LOSSES[name][0])(mx.array(pred), mx.array(target))
    assert np.isfinite(value.item())
    assert np.isfinite(np.array(gradient)).all()
    assert (value.item() == 0) == (silent == "both")


@every_loss
def test_bfloat16_input(name):
    ours = LOSSES[name][0]
    pred, target = (mx.array(x).astype(mx.bfloat16) for x in pair(np.random.default_rng(4), 2, 700))
    value, gradient = mx.value_and_grad(ours)(pred, target)
    assert (value.dtype, gradient.dtype) == (mx.float32, mx.bfloat16)
    assert value.item() == ours(pred.astype(mx.float32), target.astype(mx.float32)).item()


@every_loss
def test_misuse_is_refused(name):
    ours, x = LOSSES[name][0], mx.zeros((2, 50))
    for other in (mx.zeros((2, 51)), mx.zeros((1, 50))):
        with pytest.raises(ValueError, match="same non-empty shape"):
            ours(x, other)
    with pytest.raises(ValueError, match=r"lengths must be 2 integers in 1\.\.50"):
        ours(x, x, (50, 51))
    with pytest.raises(ValueError, match='"mean" or "none"'):
        ours(x, x, None, "sum")


def test_no_size_dominates():
    rng = np.random.default_rng(5)
    pred, target = (mx.array(x) for x in pair(rng, 2, 24000))
    values = np.array([multi_resolution_stft_loss(pred, target, sizes=(size,)).item() for size in STFT_SIZES])
    assert STFT_SIZES == reference.STFT_SIZES
    assert values.max() / values.min() < 1.05
    np.testing.assert_allclose(multi_resolution_stft_loss(pred, target).item(), values.mean(), rtol=1e-5)


def test_losses_scale_with_the_signal():
    pred, target = (mx.array(x) for x in pair(np.random.default_rng(6), 1, 3000))
    for loss in (waveform_l1, multi_resolution_stft_loss):
        np.testing.assert_allclose(loss(3 * pred, 3 * target).item(), 3 * loss(pred, target).item(), rtol=1e-5)
    # a gain is a constant step in the log domain
    np.testing.assert_allclose(log_mel_loss(2 * pred, pred).item(), np.log(2), rtol=1e-4)


def test_every_scale_of_the_multi_scale_mel_has_a_filterbank():
    pred, target = (mx.array(x) for x in pair(np.random.default_rng(7), 1, 3000))
    values = [log_mel_loss(pred, target, scales=(scale,)).item() for scale in MULTI_SCALE]
    np.testing.assert_allclose(log_mel_loss(pred, target, scales=MULTI_SCALE).item(), np.mean(values), rtol=1e-5)


def test_sizes_that_make_no_transform_are_refused():
    x = mx.zeros((1, 50))
    for sizes in ((), (76, 3)):
        with pytest.raises(ConfigError, match="STFT loss: needs one or more window sizes"):
            multi_resolution_stft_loss(x, x, sizes=sizes)
    for scales in ((), ((2, 1),)):
        with pytest.raises(ConfigError, match="mel loss: needs one or more"):
            log_mel_loss(x, x, scales=scales)
    with pytest.raises(ConfigError, match="use fewer bands"):
        log_mel_loss(x, x, scales=((64, 80),))


def test_long_waveforms_are_summed_to_float32_rounding():
    pred = np.abs(np.random.default_rng(8).standard_normal((1, 1_000_001))).astype(np.float32)
    value = waveform_l1(mx.array(pred), mx.zeros(pred.shape)).item()
    np.testing.assert_allclose(value, pred.astype(np.float64).mean(), rtol=5e-7)
