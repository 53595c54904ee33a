"""The Metal kernels for spectra on a Mac: both implementations agree, compiled or not. `pytest -m metal`"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_voxclone.audio.spectral import choice as spectral_choice
from mlx_voxclone.audio.spectral import stft as spectral
from mlx_voxclone.losses import multi_resolution_stft_loss
from mlx_voxclone.losses.stft import STFT_SIZES

pytestmark = pytest.mark.metal

SIZES = [
    *((n, n // 4, 24000) for n in STFT_SIZES),
    (1024, 256, 24000),
    (15, 4, 61),
    (7, 9, 50),
    (334, 83, 100),
    (4, 1, 1),
]


def noise(seed, *shape):
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def on(monkeypatch, name, function, *arguments):
    monkeypatch.setenv(spectral_choice.VARIABLE, name)
    result = function(*arguments)
    mx.eval(result)
    return result


def assert_close(got, expected, tolerance):
    got, expected = np.array(got), np.array(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.sqrt((np.abs(expected) ** 2).mean())


def test_the_self_test_passes_and_the_kernels_are_used(monkeypatch):
    monkeypatch.delenv(spectral_choice.VARIABLE, raising=False)
    assert spectral_choice.self_test() is None
    assert spectral_choice.use_metal()
    with mx.stream(mx.cpu):
        assert not spectral_choice.use_metal()


@pytest.mark.parametrize(("n_fft", "hop", "samples"), SIZES)
def test_both_agree_in_value_and_gradient(n_fft, hop, samples, monkeypatch):
    x, target = noise(n_fft, 2, samples), noise(n_fft + 1, 2, samples)

    def loss(x):
        ours, theirs = (spectral.stft_magnitude(y, n_fft, hop) for y in (x, target))
        return mx.square(ours - theirs).mean()

    (value, gradient), (plain_value, plain) = (on(monkeypatch, n, mx.value_and_grad(loss), x) for n in ("metal", "mlx"))
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    assert_close(gradient, plain, 1e-4)
    assert_close(*(on(monkeypatch, name, spectral.stft, x, n_fft, hop) for name in ("metal", "mlx")), 1e-4)


@pytest.mark.parametrize("lengths", [None, (24000, 24000), (24000, 7000)])
def test_stft_loss(lengths, monkeypatch):
    x, target = 0.3 * noise(0, 2, 24000), 0.3 * noise(1, 2, 24000)

    def loss(x):
        return multi_resolution_stft_loss(x, target, lengths)

    (value, gradient), (plain_value, plain) = (on(monkeypatch, n, mx.value_and_grad(loss), x) for n in ("metal", "mlx"))
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    difference = np.array(gradient) - np.array(plain)  # signs may flip where the two are nearly equal
    assert np.sqrt((difference**2).mean() / (np.array(plain) ** 2).mean()) < 5e-3


@pytest.mark.parametrize("wanted", ["auto", "metal"])
def test_compiled(wanted, monkeypatch):
    """The first use, with its self-test, may be inside of a compiled step."""
    monkeypatch.setenv(spectral_choice.VARIABLE, wanted)
    spectral_choice._trusted.cache_clear()
    layer, x, target = nn.Linear(64, 3000), noise(2, 2, 64), noise(3, 2, 3000)

    def loss(layer, x):
        return multi_resolution_stft_loss(layer(x), target)

    step = nn.value_and_grad(layer, loss)
    (value, gradients), (plain_value, plain) = mx.compile(lambda x: step(layer, x))(x), step(layer, x)
    np.testing.assert_allclose(value.item(), plain_value.item(), rtol=1e-5)
    assert_close(gradients["weight"], plain["weight"], 1e-3)


def test_silence_and_bfloat16(monkeypatch):
    monkeypatch.setenv(spectral_choice.VARIABLE, "metal")
    gradient = mx.grad(lambda x: multi_resolution_stft_loss(x, noise(4, 1, 3000)))
    assert mx.isfinite(gradient(mx.zeros((1, 3000)))).all()
    assert gradient(noise(5, 1, 3000).astype(mx.bfloat16)).dtype == mx.bfloat16
