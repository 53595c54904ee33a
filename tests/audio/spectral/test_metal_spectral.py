"""The Metal kernels for spectra, run on the CPU from the source that MLX generates, against float64 numpy."""

import warnings

import losses_reference as reference
import metal_on_cpu
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_voxclone.audio.spectral import choice as spectral_choice
from mlx_voxclone.audio.spectral import metal as metal_spectral
from mlx_voxclone.audio.spectral import stft as spectral
from mlx_voxclone.audio.spectral.metal import FOLD, OVERLAP_ADD
from mlx_voxclone.audio.spectral.plain import frame_count
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.losses.stft import STFT_SIZES

needs_compiler = pytest.mark.skipif(
    metal_on_cpu.COMPILER is None, reason="needs Linux and g++ to run Metal source on the CPU"
)
# (n_fft, hop, samples): even and odd windows, gaps between frames, one frame, too short to be reflected, one sample
SIZES = [(76, 19, 700), (126, 31, 700), (206, 51, 900), (334, 83, 1200)]
ODD_SIZES = [(15, 4, 61), (15, 7, 60), (7, 9, 50), (16, 5, 9), (16, 4, 8), (16, 4, 1), (4, 1, 1), (5, 2, 3), (1, 1, 4)]
every_size = pytest.mark.parametrize(
    ("n_fft", "hop", "samples"),
    [*SIZES, *ODD_SIZES, *(pytest.param(n, n // 4, 4000, marks=pytest.mark.slow) for n in STFT_SIZES)],
)


def noise(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(autouse=True)
def untested(monkeypatch):
    """No choice made before, and none left behind."""
    monkeypatch.delenv(spectral_choice.VARIABLE, raising=False)
    monkeypatch.setattr(spectral_choice, "_faster", lambda n_fft: True)  # the clock here says nothing of a GPU
    monkeypatch.setattr(spectral_choice, "_decided", {})
    spectral_choice._trusted.cache_clear()
    yield
    spectral_choice._trusted.cache_clear()


@pytest.fixture
def metal(monkeypatch):
    metal_on_cpu.use(monkeypatch)


def plainly(function, *arguments):
    """The function on plain operations of MLX."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(spectral_choice.VARIABLE, "mlx")
        result = function(*arguments)
        mx.eval(result)
    return result


def assert_close(got, expected, tolerance):
    got, expected = np.asarray(got, np.complex128), np.asarray(expected, np.complex128)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.sqrt((np.abs(expected) ** 2).mean())


# ---- against float64 -------------------------------------------------------------------------------------------------


def places(n_fft, hop, samples):
    """Sample of each place of each frame [F, n_fft], -1 for an appended zero, by numpy's own padding."""
    half = n_fft // 2
    index = np.concatenate([np.arange(samples), np.full(max(0, half + 1 - samples), -1)])
    padded = np.pad(index, half, mode="reflect")
    return np.stack([padded[start : start + n_fft] for start in range(0, len(padded) - n_fft + 1, hop)])


def window_of(n_fft):
    return np.hanning(n_fft + 1)[:-1] if n_fft > 1 else np.ones(1)


def spectra(x, n_fft, hop):
    index = places(n_fft, hop, x.shape[1])
    return np.fft.rfft(np.where(index < 0, 0, x[:, index]) * window_of(n_fft))


def adjoint(slope, n_fft, hop, samples):
    """Gradient [B, samples] from that of real and imaginary parts, d/dRe + i d/dIm [B, F, bins]."""
    full = np.zeros((*slope.shape[:2], n_fft), complex)
    full[..., : slope.shape[2]] = slope
    frames = np.fft.ifft(full).real * n_fft * window_of(n_fft)
    gradient = np.zeros((len(slope), samples))
    index = places(n_fft, hop, samples)
    for row, item in zip(gradient, frames):
        np.add.at(row, index[index >= 0], item[index >= 0])
    return gradient


@every_size
def test_a_smooth_loss_and_its_gradient_equal_float64(n_fft, hop, samples, metal):
    """Mean square of the difference of magnitudes: no sign to flip where the two are nearly equal."""
    rng = np.random.default_rng(n_fft)
    pred, target = noise(rng, 2, samples), noise(rng, 2, samples)
    ours, theirs = (spectra(x.astype(np.float64), n_fft, hop) for x in (pred, target))
    change = np.abs(ours) - np.abs(theirs)
    slope = 2 * change / change.size * ours / np.maximum(np.abs(ours), 1e-12)  # a window's first sample is zero

    def loss(x, y):
        return mx.square(spectral.stft_magnitude(x, n_fft, hop) - spectral.stft_magnitude(y, n_fft, hop)).mean()

    value, gradient = mx.value_and_grad(loss)(mx.array(pred), mx.array(target))
    np.testing.assert_allclose(value.item(), (change**2).mean(), rtol=1e-5)
    assert_close(gradient, adjoint(slope, n_fft, hop, samples), 1e-4)


@every_size
def test_the_complex_transform_and_its_gradient_equal_float64(n_fft, hop, samples, metal):
    rng = np.random.default_rng(n_fft)
    x = noise(rng, 2, samples)
    expected = spectra(x.astype(np.float64), n_fft, hop)
    a, b = noise(rng, *expected.shape), noise(rng, *expected.shape)

    def loss(x):
        spectrum = spectral.stft(x, n_fft, hop)
        return (spectrum.real * mx.array(a) + spectrum.imag * mx.array(b)).sum(), spectrum

    gradient, spectrum = mx.grad(lambda x: loss(x)[0])(mx.array(x)), loss(mx.array(x))[1]
    assert spectrum.dtype == mx.complex64
    assert_close(spectrum, expected, 1e-5)
    assert_close(gradient, adjoint(a + 1j * b, n_fft, hop, samples), 1e-4)


def test_any_sizes_agree_with_plain_operations(metal):
    rng = np.random.default_rng(0)
    for _ in range(30):
        batch, samples, n_fft, hop = (int(rng.integers(1, limit)) for limit in (4, 120, 60, 40))
        assert spectral_choice._problem(batch, samples, n_fft, hop) is None, (batch, samples, n_fft, hop)


@pytest.mark.parametrize("level", [0.3, 1e-6])
def test_stft_loss(level, metal):
    pred, target = noise(np.random.default_rng(1), 2, 1, 1300) * np.float32([[[level]], [[0.3]]])
    sizes = (76, 126, 206, 334)

    def loss(x):
        return multi_resolution_stft_loss(x, mx.array(target), sizes=sizes)

    value, gradient = mx.value_and_grad(loss)(mx.array(pred))
    np.testing.assert_allclose(value.item(), reference.stft_loss(pred[0], target[0], sizes), rtol=1e-5)
    _, plain = plainly(mx.value_and_grad(loss), mx.array(pred))
    difference = np.array(gradient) - np.array(plain)
    assert np.sqrt((difference**2).mean() / (np.array(plain) ** 2).mean()) < 5e-4


@pytest.mark.slow
def test_stft_loss_at_the_codecs_sizes(metal):
    pred, target = 0.3 * noise(np.random.default_rng(1), 2, 1, 6000)
    value = multi_resolution_stft_loss(mx.array(pred), mx.array(target)).item()
    np.testing.assert_allclose(value, reference.stft_loss(pred[0], target[0]), rtol=1e-5)


def test_losses_and_discriminators_share_the_kernels(metal, monkeypatch):
    """Each window is folded once per signal and added back once, and everything is as with plain operations."""
    used, launch = [], metal_spectral.launch
    monkeypatch.setattr(
        metal_spectral, "launch", lambda kernel, *rest: used.append(kernel.name) or launch(kernel, *rest)
    )
    x, target = 0.3 * mx.array(noise(np.random.default_rng(3), 2, 2, 300))

    def loss(x):
        pair = Spectra(x, paired=(76,)), Spectra(target, paired=(76,))
        seen = [sound.pairs(76) for sound in pair]
        terms = multi_resolution_stft_loss(*pair, sizes=(76, 64)), log_mel_loss(*pair, scales=[(64, 8)])
        return sum(terms) + mx.square(seen[0] - mx.stop_gradient(seen[1])).mean()

    value, gradient = mx.value_and_grad(loss)(x)
    mx.eval(value, gradient)
    assert (used.count("fold"), used.count("overlap_add")) == (4, 2)
    plain_value, plain = plainly(mx.value_and_grad(loss), x)
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    error = np.array(gradient) - np.array(plain)
    assert np.sqrt((error**2).mean() / (np.array(plain) ** 2).mean()) < 5e-4


def test_log_mel(metal):
    x = noise(np.random.default_rng(2), 1, 900)
    got = spectral.log_mel(mx.array(x), n_fft=256, n_mels=20)
    np.testing.assert_allclose(np.array(got)[0], reference.log_mel(x[0], 256, 20), atol=1e-4)

    def loss(x):
        return mx.square(spectral.log_mel(x, n_fft=256, n_mels=20)).mean()

    assert_close(mx.grad(loss)(mx.array(x)), plainly(mx.grad(loss), mx.array(x)), 1e-4)


@pytest.mark.parametrize(("n_fft", "hop", "samples"), [*SIZES, *ODD_SIZES])
@needs_compiler
def test_overlap_add_is_the_adjoint_of_fold(n_fft, hop, samples):
    """<A x, y> = <x, A' y> for any x and y, with any window."""
    rng = np.random.default_rng(3)
    frames, bins = frame_count(samples, n_fft, hop), n_fft // 2 + 1
    x, y, window = noise(rng, 2, samples), noise(rng, 2, 2, frames, bins), noise(rng, n_fft)
    params = mx.array([2, samples, n_fft, hop, frames], mx.int32)
    shared = [mx.array([samples, -(-samples // 2)] + 6 * [0], mx.int32), mx.array(window), params]
    (folded,) = metal_on_cpu.run(FOLD, [mx.array(x), *shared], [y.shape], (bins, frames, 2))
    inputs = [mx.array(y), *shared]
    (gradient,) = metal_on_cpu.run(OVERLAP_ADD, inputs, [x.shape], (samples, 2, 1))
    left, right = np.array(folded).astype(np.float64) * y, np.array(gradient).astype(np.float64) * x
    assert abs(left.sum() - right.sum()) < 1e-5 * np.sqrt((left**2).sum() + (right**2).sum())


# ---- promises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-20])
def test_silence_has_finite_gradients(level, metal):
    x, noisy = mx.full((1, 120), level), mx.array(noise(np.random.default_rng(4), 1, 120))
    gradients = [
        mx.grad(lambda x: spectral.stft_magnitude(x, 16, 4).sum())(x),
        mx.grad(lambda x: log_mel_loss(x, noisy, scales=((64, 8),)))(x),
        mx.grad(lambda x: multi_resolution_stft_loss(x, noisy, sizes=(16, 15)))(x),
        mx.grad(lambda x: multi_resolution_stft_loss(x, x, sizes=(16, 15)))(x),
    ]
    assert all(mx.isfinite(gradient).all() for gradient in gradients)
    if level == 0:
        np.testing.assert_array_equal(np.array(gradients[0]), 0)
    np.testing.assert_array_equal(np.array(gradients[3]), 0)


def test_not_a_number_stays_one(metal):
    x = mx.array(noise(np.random.default_rng(5), 1, 120))
    x[0, 60] = float("nan")
    assert mx.isnan(multi_resolution_stft_loss(x, mx.zeros((1, 120)), sizes=(16,))).item()


def test_bfloat16_is_computed_in_float32(metal):
    x = mx.array(noise(np.random.default_rng(6), 2, 90)).astype(mx.bfloat16)
    gradient = mx.grad(lambda x: spectral.stft_magnitude(x, 16, 4).sum())
    assert spectral.stft_magnitude(x, 16, 4).dtype == mx.float32
    assert gradient(x).dtype == mx.bfloat16
    assert mx.array_equal(gradient(x), gradient(x.astype(mx.float32)).astype(mx.bfloat16))


@pytest.mark.parametrize("lengths", [(80, 80), (80, 31), (3, 80)])
@pytest.mark.parametrize("as_array", [False, True])
def test_batches_of_any_lengths_are_analysed(lengths, as_array, metal, monkeypatch):
    """As plain operations do, which are what an item alone gives; nothing behind an item's end matters."""
    x = noise(np.random.default_rng(7), 2, 90)
    for row, length in zip(x, lengths):
        row[length:] = np.nan
    frames = max(frame_count(length, 16, 4) for length in lengths)
    own = np.arange(frames)[None, :] < np.array([[frame_count(length, 16, 4)] for length in lengths])

    def loss(x, lengths):
        magnitude = spectral.stft_magnitude(x, 16, 4, lengths=lengths)[:, :frames]
        return mx.square(mx.where(mx.array(own)[..., None], magnitude, 0.0)).sum()

    given = mx.array(lengths, mx.int32) if as_array else lengths
    used, launch = [], metal_spectral.launch
    monkeypatch.setattr(metal_spectral, "launch", lambda kernel, *a: used.append(kernel.name) or launch(kernel, *a))
    got = mx.grad(loss)(mx.array(x), given)
    assert used == ["fold", "magnitude", "magnitude_slope", "overlap_add"]
    assert_close(got, plainly(mx.grad(loss), mx.array(x), lengths), 1e-5)
    for row, item, length in zip(np.array(got), x, lengths):
        np.testing.assert_array_equal(row[length:], 0)
        alone = plainly(mx.grad(loss_alone), mx.array(item[None, :length]))
        assert_close(row[None, :length], alone, 1e-5)


def loss_alone(x):
    return mx.square(spectral.stft_magnitude(x, 16, 4)).sum()


def test_what_cannot_be_counted_in_32_bits_is_left_to_plain_operations(metal, monkeypatch):
    x = mx.array(noise(np.random.default_rng(7), 2, 80))
    monkeypatch.setattr(metal_spectral, "launch", None)
    monkeypatch.setattr(metal_spectral, "MAX_ELEMENTS", 2 * 2 * 21 * 9 - 1)  # two items of 21 frames of 9 bins
    assert mx.isfinite(spectral.stft_magnitude(x, 16, 4)).all()


def test_in_a_module(metal):
    layer = nn.Linear(30, 90)
    target = mx.array(noise(np.random.default_rng(8), 2, 90))

    def loss(layer, x):
        return mx.square(spectral.stft_magnitude(layer(x), 16, 4) - spectral.stft_magnitude(target, 16, 4)).mean()

    x = mx.array(noise(np.random.default_rng(9), 2, 30))
    value, gradients = nn.value_and_grad(layer, loss)(layer, x)
    plain_value, plain = plainly(nn.value_and_grad(layer, loss), layer, x)
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    for name in ("weight", "bias"):
        assert_close(gradients[name], plain[name], 1e-4)


def test_own_window_is_applied_and_has_no_gradient(metal):
    x, window = (mx.array(noise(np.random.default_rng(10), *shape)) for shape in ((1, 60), (12,)))
    got = spectral.stft(x, 12, 5, window)
    assert_close(got, plainly(spectral.stft, x, 12, 5, window), 1e-5)
    gradient = mx.grad(lambda window: spectral.stft_magnitude(x, 12, 5, window).sum())
    for to_window in (gradient(window), plainly(gradient, window)):
        np.testing.assert_array_equal(np.array(to_window), 0)


def test_impossible_arguments_are_refused(metal):
    for n_fft, hop in ((0, 1), (8, 0)):
        with pytest.raises(ValueError, match=r"^n_fft and hop must be at least 1, got"):
            spectral.stft_magnitude(mx.zeros((2, 50)), n_fft, hop)
    with pytest.raises(ValueError, match="expected a signal of shape"):
        spectral.stft(mx.zeros(50), 8, 2)
    with pytest.raises(ValueError, match="signals must have the same shape and lengths"):
        Spectra(mx.zeros((2, 50))).difference(Spectra(mx.zeros((2, 49))), 8)
    with pytest.raises(ValueError, match="lengths must be 2 integers"):
        spectral.stft_magnitude(mx.zeros((2, 50)), 8, 2, lengths=(50, 51))


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_plain_operations_without_a_metal_device(monkeypatch):
    monkeypatch.setattr(spectral_choice, "metal_available", lambda: False)
    monkeypatch.setattr(metal_spectral, "launch", None)
    for wanted in ("auto", "mlx", ""):
        monkeypatch.setenv(spectral_choice.VARIABLE, wanted)
        assert not spectral_choice.use_metal()
        assert spectral.stft_magnitude(mx.ones((1, 50)), 16, 4).shape == (1, 13, 9)


def test_metal_is_insisted_on_where_there_is_none(monkeypatch):
    monkeypatch.setattr(spectral_choice, "metal_available", lambda: False)
    monkeypatch.setenv(spectral_choice.VARIABLE, "metal")
    with pytest.raises(ConfigError, match=r"^VOXCLONE_SPECTRAL=metal needs MLX on an Apple GPU.*; unset it$"):
        spectral.stft(mx.ones((1, 50)), 16, 4)


def test_unknown_choice(monkeypatch):
    monkeypatch.setenv(spectral_choice.VARIABLE, "Metal")
    with pytest.raises(ConfigError, match=r"^VOXCLONE_SPECTRAL must be one of auto, mlx, metal, got 'Metal'$"):
        spectral.stft(mx.ones((1, 50)), 16, 4)


def test_kernels_are_used_after_the_self_test(metal, monkeypatch):
    monkeypatch.setenv(spectral_choice.VARIABLE, "auto")
    used = []
    monkeypatch.setattr(metal_spectral, "launch", lambda *a: used.append(a[0].name) or metal_on_cpu.run(*a))
    x = mx.array(noise(np.random.default_rng(0), 1, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mx.eval(spectral.stft_magnitude(x, 16, 4))
        assert used[-2:] == ["fold", "magnitude"]
        del used[:]
        mx.eval(spectral.stft_magnitude(x, 16, 4))
    assert used == ["fold", "magnitude"]  # tested once


FASTER = spectral_choice._faster


@pytest.mark.parametrize("quicker", ["kernels", "rfft"])
def test_each_size_takes_the_way_that_the_clock_finds_faster(quicker, metal, monkeypatch):
    """Timed once, with the gradient, each way several times."""
    monkeypatch.setenv(spectral_choice.VARIABLE, "auto")
    monkeypatch.setattr(spectral_choice, "_faster", FASTER)
    monkeypatch.setattr(spectral_choice, "TIMED_SHAPE", (1, 100))
    monkeypatch.setattr(spectral_choice, "SELF_TEST_SIZES", ())
    used, timed, launch = [], [], metal_spectral.launch
    monkeypatch.setattr(
        metal_spectral, "launch", lambda kernel, *rest: used.append(kernel.name) or launch(kernel, *rest)
    )

    def clocked(work):
        del used[:]
        work()
        assert used in ([], ["fold", "magnitude", "magnitude_slope", "overlap_add"])
        timed.append("kernels" if used else "rfft")
        return 1.0 if timed[-1] == quicker else 1.1

    monkeypatch.setattr(spectral_choice, "_clocked", clocked)
    x = mx.array(noise(np.random.default_rng(0), 1, 50))
    for _ in range(2):
        mx.eval(mx.grad(lambda x: spectral.stft_magnitude(x, 16, 4).sum())(x))  # the first use is inside a gradient
    assert timed == 3 * ["kernels"] + 3 * ["rfft"]
    del used[:]
    mx.eval(spectral.stft_magnitude(x, 16, 4))
    assert bool(used) == (quicker == "kernels")
    monkeypatch.setenv(spectral_choice.VARIABLE, "metal")
    mx.eval(spectral.stft_magnitude(x, 16, 4))
    assert used


def test_what_the_clock_found_is_taken_over(metal, monkeypatch):
    """A run that is resumed computes as it did, whatever the clock says now."""
    monkeypatch.setenv(spectral_choice.VARIABLE, "auto")
    monkeypatch.setattr(spectral_choice, "SELF_TEST_SIZES", ())
    monkeypatch.setattr(spectral_choice, "_faster", lambda n_fft: n_fft == 16)
    found = {n_fft: spectral_choice.kernels_win(n_fft) for n_fft in (16, 15)}
    assert found == {16: True, 15: False}
    kept = spectral_choice.decisions()
    assert kept == {"15": False, "16": True}
    monkeypatch.setattr(spectral_choice, "_decided", {})
    monkeypatch.setattr(spectral_choice, "_faster", lambda n_fft: n_fft != 16)
    spectral_choice.take_decisions(kept)
    assert {n_fft: spectral_choice.kernels_win(n_fft) for n_fft in (16, 15, 12)} == {**found, 12: True}
    assert spectral_choice.decisions() == {"12": True, **kept}


def wrong_kernels(kernel, inputs, shapes, grid):
    return [1.001 * x for x in metal_on_cpu.run(kernel, inputs, shapes, grid)]


def refused_kernels(*_):
    raise RuntimeError("[metal] unable to build the library\nerror: unknown type")


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        (wrong_kernels, r"off by \d\.\de-03 of its RMS"),
        (refused_kernels, r"failed \(\[metal\] unable to build the library\)"),
    ],
)
def test_a_failed_self_test_gives_one_warning_and_plain_operations(launch, told, metal, monkeypatch):
    monkeypatch.setenv(spectral_choice.VARIABLE, "auto")
    monkeypatch.setattr(metal_spectral, "launch", launch)
    x = mx.array(noise(np.random.default_rng(0), 1, 50))
    with pytest.warns(RuntimeWarning, match=told) as caught:
        results = [spectral.stft_magnitude(x, 16, 4) for _ in range(3)]
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    for result in results:
        assert mx.array_equal(result, plainly(spectral.stft_magnitude, x, 16, 4))


def test_the_first_use_may_be_inside_a_gradient(metal, monkeypatch):
    monkeypatch.setenv(spectral_choice.VARIABLE, "auto")
    x = mx.array(noise(np.random.default_rng(0), 1, 50))
    gradient = mx.grad(lambda x: mx.square(spectral.stft_magnitude(x, 16, 4)).sum())
    got = gradient(x)
    assert_close(got, plainly(gradient, x), 1e-5)
