"""Framing, STFT and mel: equal to numpy, scipy and torch in float64, and with exact gradients."""

import importlib.util
from pathlib import Path

import losses_reference as reference
import mlx.core as mx
import numpy as np
import pytest
import scipy.signal
from places import ROOT

from benchmarks import spectral as benchmark
from mlx_voxclone.audio.spectral.plain import centre_pad, frame, frame_count, hann_window, mel_filterbank, overlap_add
from mlx_voxclone.audio.spectral.stft import log_mel, stft, stft_magnitude
from mlx_voxclone.errors import ConfigError

FIXTURES = np.load(ROOT / "tests" / "fixtures" / "losses" / "torch_losses.npz")
# (n_fft, hop, samples): dividing and not, odd, gaps between frames, one frame, shorter than a frame, an unused tail
FRAMINGS = [(8, 2, 40), (8, 3, 41), (7, 3, 40), (7, 2, 23), (5, 9, 50), (6, 6, 36), (9, 4, 9), (9, 4, 3), (1, 1, 4)]
TRANSFORMS = [
    (*case, 2) for case in ((16, 4, 60), (15, 4, 61), (15, 7, 60), (16, 5, 9), (16, 4, 8), (16, 4, 1), (4, 1, 1))
]


def noise(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def relative(ours, expected):
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert ours.shape == expected.shape
    return np.abs(ours - expected).max() / np.sqrt((np.abs(expected) ** 2).mean())


def starts(n_fft, hop, samples):
    return range(0, max(samples, n_fft) - n_fft + 1, hop)


# ---- frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_fft", "hop", "samples"), FRAMINGS)
def test_frames_are_the_slices_of_the_signal(n_fft, hop, samples):
    x = noise(np.random.default_rng(0), 3, samples)
    padded = np.pad(x, [(0, 0), (0, max(0, n_fft - samples))])
    expected = np.stack([padded[:, start : start + n_fft] for start in starts(n_fft, hop, samples)], axis=1)
    np.testing.assert_array_equal(np.array(frame(mx.array(x), n_fft, hop)), expected)


@pytest.mark.parametrize(("n_fft", "hop", "samples"), FRAMINGS)
def test_gradient_of_frame_is_its_adjoint(n_fft, hop, samples):
    rng = np.random.default_rng(1)
    x, y = noise(rng, 2, samples), noise(rng, 2, len(starts(n_fft, hop, samples)), n_fft)
    _, (back,) = mx.vjp(lambda x: frame(x, n_fft, hop), [mx.array(x)], [mx.array(y)])
    expected = np.zeros((2, max(samples, n_fft)))
    for index, start in enumerate(starts(n_fft, hop, samples)):
        expected[:, start : start + n_fft] += y[:, index]
    np.testing.assert_allclose(np.array(back), expected[:, :samples], atol=1e-5)
    forward = np.array(frame(mx.array(x), n_fft, hop)).astype(np.float64)
    np.testing.assert_allclose((forward * y).sum(), (x * np.array(back).astype(np.float64)).sum(), rtol=1e-5)


def test_overlap_add_is_the_gradient_and_frame_its_inverse_on_disjoint_frames():
    x = noise(np.random.default_rng(2), 2, 24)
    np.testing.assert_array_equal(np.array(overlap_add(frame(mx.array(x), 6, 6), 6, 24)), x)


def test_frames_of_a_transposed_view():
    x = noise(np.random.default_rng(3), 40, 2)
    ours = np.array(frame(mx.array(x).T, 8, 3))
    np.testing.assert_array_equal(ours, np.array(frame(mx.array(np.ascontiguousarray(x.T)), 8, 3)))


@pytest.mark.parametrize("function", [lambda x: frame(x, 16, 4), lambda x: stft_magnitude(x, 16, 4)])
def test_no_scatter_in_the_gradient(function, tmp_path):
    graph = tmp_path / "graph.dot"

    def operations(gradient):
        mx.export_to_dot(str(graph), gradient)
        return graph.read_text()

    x = mx.array(noise(np.random.default_rng(4), 2, 64))
    ours = operations(mx.grad(lambda x: mx.square(function(x)).sum())(x))
    plain = operations(mx.grad(lambda x: mx.square(mx.as_strided(x, (2, 13, 16), (64, 4, 1))).sum())(x))
    assert "Scatter" in plain
    assert "Scatter" not in ours


def test_the_benchmark_compares_like_with_like():
    for size in (76, 542):
        times, error = benchmark.compare(size, 2, 3000, 1)
        assert times.shape == (2,)
        assert error < 1e-4


# ---- stft ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_fft", [*reference.STFT_SIZES, 1024])
def test_stft_equals_scipy(n_fft):
    x = noise(np.random.default_rng(5), 4000)
    hop = n_fft // 4
    window = scipy.signal.get_window("hann", n_fft)
    _, _, expected = scipy.signal.stft(
        x.astype(np.float64), window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary="even", padded=False
    )
    ours = np.array(stft(mx.array(x)[None], n_fft, hop))[0]
    assert relative(ours, expected.T * window.sum()) < 1e-5
    assert len(ours) == frame_count(4000, n_fft, hop)


@pytest.mark.parametrize("n_fft", [2296, 126, 77, 7, 64])
def test_stft_equals_torch(n_fft):
    x, hop = FIXTURES[f"stft.{n_fft}.x"], int(FIXTURES[f"stft.{n_fft}.hop"])
    assert relative(stft(mx.array(x), n_fft, hop), FIXTURES[f"stft.{n_fft}.spectrum"]) < 1e-5


@pytest.mark.parametrize(("n_fft", "hop", "samples", "batch"), TRANSFORMS)
def test_stft_and_magnitude_equal_numpy_at_any_length(n_fft, hop, samples, batch):
    x = noise(np.random.default_rng(6), batch, samples)
    expected = np.stack([reference.stft(row, n_fft, hop) for row in x])
    assert relative(stft(mx.array(x), n_fft, hop), expected) < 1e-5
    assert relative(stft_magnitude(mx.array(x), n_fft, hop), np.abs(expected)) < 1e-5


@pytest.mark.parametrize(("n_fft", "hop", "samples", "batch"), TRANSFORMS)
def test_gradients_equal_finite_differences(n_fft, hop, samples, batch):
    rng = np.random.default_rng(7)
    x = noise(rng, batch, samples)
    shape = np.stack([reference.stft(row, n_fft, hop) for row in x]).shape
    a, b = noise(rng, *shape), noise(rng, *shape)

    def spectra(x):
        return np.stack([reference.stft(row, n_fft, hop) for row in x])

    def linear(x):
        spectrum = stft(x, n_fft, hop)
        return (spectrum.real * mx.array(a) + spectrum.imag * mx.array(b)).sum()

    def linear_reference(x):
        return (spectra(x).real * a + spectra(x).imag * b).sum()

    coordinates = min(6, x.size)
    gradient = mx.grad(linear)(mx.array(x))
    reference.assert_gradient(linear_reference, x, gradient, rng, coordinates=coordinates)
    gradient = mx.grad(lambda x: (stft_magnitude(x, n_fft, hop) * mx.array(a)).sum())(mx.array(x))
    reference.assert_gradient(lambda x: (np.abs(spectra(x)) * a).sum(), x, gradient, rng, coordinates=coordinates)


def test_own_window_is_applied():
    x = noise(np.random.default_rng(8), 1, 50)
    plain = np.array(stft(mx.array(x), 8, 8, mx.ones(8)))[0]
    np.testing.assert_allclose(plain[1], np.fft.rfft(x[0, 4:12]), atol=1e-5)
    np.testing.assert_allclose(np.array(hann_window(12)), scipy.signal.get_window("hann", 12), atol=1e-7)


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-20])
def test_silence_has_finite_gradients(level):
    x = mx.full((1, 64), level)
    assert mx.isfinite(mx.grad(lambda x: stft_magnitude(x, 16, 4).sum())(x)).all()
    assert mx.isfinite(mx.grad(lambda x: log_mel(x, n_fft=64, n_mels=8).sum())(x)).all()
    if level == 0:
        np.testing.assert_array_equal(np.array(mx.grad(lambda x: stft_magnitude(x, 16, 4).sum())(x)), 0)
        np.testing.assert_allclose(np.array(log_mel(x, n_fft=64, n_mels=8)), np.log(1e-5), rtol=1e-6)


@pytest.mark.parametrize("lengths", [(50, 50, 50), (60, 31, 1), (9, 8, 7)])
def test_items_are_analysed_as_if_alone(lengths):
    x = noise(np.random.default_rng(9), 3, 60)
    for item, length in enumerate(lengths):
        x[item, length:] = np.nan
    ours = np.array(stft_magnitude(mx.array(x), 16, 4, lengths=lengths))
    for item, length in enumerate(lengths):
        count = frame_count(length, 16, 4)
        expected = np.abs(reference.stft(x[item, :length], 16, 4))
        assert relative(ours[item, :count], expected) < 1e-5
    gradient = np.array(mx.grad(lambda x: mx.square(stft_magnitude(x, 16, 4, lengths=lengths)).sum())(mx.array(x)))
    for item, length in enumerate(lengths):
        assert np.abs(gradient[item, :length]).max() > 0
        np.testing.assert_array_equal(gradient[item, length:], 0)


@pytest.mark.parametrize("lengths", [(50, 50, 50), (60, 31, 1), (9, 8, 7)])
@pytest.mark.parametrize("n_fft", [16, 15, 60])
def test_lengths_may_be_an_array_whose_values_are_not_looked_at(lengths, n_fft):
    """The same frames, and zeros or frames of zeros behind them: one compiled function serves any lengths."""
    x, weights = (mx.array(noise(np.random.default_rng(9), 3, n)) for n in (60, 600))

    def loss(x, lengths):
        found = stft_magnitude(x, n_fft, 4, lengths=lengths)
        counts = [frame_count(length, n_fft, 4) for length in (lengths if isinstance(lengths, tuple) else known)]
        parts = [mx.square(item[:count].flatten()) for item, count in zip(found, counts)]
        return sum((part * weights[i, : part.size]).sum() for i, part in enumerate(parts))

    known = lengths
    value, gradient = mx.value_and_grad(loss)(x, lengths)
    same, other = mx.value_and_grad(loss)(x, mx.array(lengths))
    np.testing.assert_allclose(same.item(), value.item(), rtol=1e-5)
    np.testing.assert_allclose(np.array(other), np.array(gradient), atol=1e-4)
    with pytest.raises(ValueError, match="lengths must be 3 integers"):
        stft_magnitude(x, n_fft, 4, lengths=mx.array(lengths[:2]))
    with pytest.raises(ValueError, match="lengths must be 3 integers"):
        stft_magnitude(x, n_fft, 4, lengths=mx.array(lengths, mx.float32))


def test_bfloat16_is_computed_in_float32():
    x = mx.array(noise(np.random.default_rng(10), 2, 60)).astype(mx.bfloat16)
    assert frame(x, 8, 3).dtype == mx.float32
    np.testing.assert_array_equal(np.array(stft(x, 16, 4)), np.array(stft(x.astype(mx.float32), 16, 4)))
    gradient = mx.grad(lambda x: stft_magnitude(x, 16, 4).sum())
    assert gradient(x).dtype == mx.bfloat16
    assert mx.array_equal(gradient(x), gradient(x.astype(mx.float32)).astype(mx.bfloat16))


# ---- mel -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_fft", "n_mels"), [(1024, 80), (32, 5), (2048, 320)])
def test_filterbank_equals_the_definition(n_fft, n_mels):
    assert relative(mel_filterbank(24000, n_fft, n_mels), reference.mel_filterbank(24000, n_fft, n_mels)) < 1e-5


def test_filterbank_equals_librosa():
    """mlx-whisper carries librosa's filters for Whisper: 16 kHz, 400 points."""
    package = importlib.util.find_spec("mlx_whisper")
    if package is None:
        pytest.skip("mlx-whisper is not installed")
    theirs = np.load(Path(package.origin).parent / "assets" / "mel_filters.npz")
    for n_mels in (80, 128):
        assert relative(mel_filterbank(16000, 400, n_mels), theirs[f"mel_{n_mels}"]) < 1e-5


def test_filterbank_limits():
    filters = np.array(mel_filterbank(24000, 512, 20, 300.0, 6000.0))
    frequencies = np.fft.rfftfreq(512, 1 / 24000)
    assert (filters[:, (frequencies <= 300) | (frequencies >= 6000)] < 1e-12).all()
    # Slaney's normalisation: every triangle has unit area in Hz, up to its sampling
    np.testing.assert_allclose(filters.sum(axis=1) * 24000 / 512, 1, atol=0.1)
    with pytest.raises(ConfigError, match="use fewer bands or a larger n_fft"):
        mel_filterbank(24000, 128, 80)
    for limits in ((-1.0, None), (500.0, 400.0), (0.0, 12001.0)):
        with pytest.raises(ConfigError, match="fmin < fmax <= 12000 Hz"):
            mel_filterbank(24000, 512, 20, *limits)


@pytest.mark.parametrize("samples", [1, 100, 3000])
def test_log_mel_equals_numpy_with_its_gradient(samples):
    rng = np.random.default_rng(11)
    x = noise(rng, 1, samples)
    expected = reference.log_mel(x[0], 512, 40)
    ours = log_mel(mx.array(x), n_fft=512, n_mels=40)
    assert np.abs(np.array(ours)[0] - expected).max() < 1e-4
    weights = noise(rng, *expected.shape)
    gradient = mx.grad(lambda x: (log_mel(x, n_fft=512, n_mels=40)[0] * mx.array(weights)).sum())(mx.array(x))
    reference.assert_gradient(
        lambda x: (reference.log_mel(x[0], 512, 40) * weights).sum(), x, gradient, rng, coordinates=min(6, samples)
    )


# ---- misuse ----------------------------------------------------------------------------------------------------------


def test_impossible_arguments_are_refused():
    x = mx.zeros((2, 50))
    for bad in (mx.zeros(50), mx.zeros((2, 0)), mx.zeros((2, 5, 1))):
        with pytest.raises(ValueError, match="expected a signal of shape"):
            frame(bad, 8, 2)
    for n_fft, hop in ((0, 1), (8, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            stft(x, n_fft, hop)
    with pytest.raises(ValueError, match="the window must have shape"):
        stft(x, 8, 2, mx.ones(7))
    for lengths in ((50,), (50, 51), (0, 50)):
        with pytest.raises(ValueError, match="lengths must be 2 integers in 1..50"):
            centre_pad(x, 8, lengths)
