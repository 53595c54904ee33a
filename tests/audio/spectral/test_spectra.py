"""Spectra that losses and discriminators share: the same numbers and gradients, each transform made once."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.audio.spectral import plain
from mlx_voxclone.audio.spectral.plain import unit_window
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.losses import adversarial_losses, log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.model.discriminator import MultiResolutionDiscriminator

SIZES = (126, 76, 64)


def noise(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(0.1 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture
def transforms(monkeypatch):
    """Window sizes of the transforms, forward and back, in the order in which they are asked for."""
    found = {"rfft": [], "irfft": []}

    def counted(name):
        transform = getattr(mx.fft, name)

        def call(x, *arguments, **options):
            found[name].append(options.get("n") or x.shape[-1])
            return transform(x, *arguments, **options)

        monkeypatch.setattr(mx.fft, name, call)

    counted("rfft")
    counted("irfft")
    return found


@pytest.fixture(scope="module")
def discriminators():
    mx.random.seed(0)
    return MultiResolutionDiscriminator(SIZES[:2], 2)


def all_terms(discriminators, ours, theirs) -> mx.array:
    """What an encoder's step makes of two sounds, in one number."""
    stft = multi_resolution_stft_loss(ours, theirs, sizes=SIZES)
    mel = log_mel_loss(ours, theirs, scales=[(SIZES[-1], 8)])
    hinge, matching = adversarial_losses(discriminators, theirs, ours)
    return stft + mel + hinge.sum() + 2 * matching.sum()


def test_a_step_makes_each_transform_once(discriminators, transforms):
    target = noise(2, 600, seed=1)

    def loss(x):
        return all_terms(discriminators, *(Spectra(y, paired=SIZES[:2]) for y in (x, target)))

    mx.eval(mx.value_and_grad(loss)(noise(2, 600)))
    assert sorted(transforms["rfft"]) == sorted(2 * SIZES)
    assert sorted(transforms["irfft"]) == sorted(SIZES)


def test_shared_spectra_give_the_terms_and_gradients_of_each_alone(discriminators, transforms):
    x, target = noise(2, 600), noise(2, 600, seed=1)
    alone = mx.value_and_grad(lambda x: all_terms(discriminators, x, target))(x)
    before = len(transforms["rfft"])
    shared = mx.value_and_grad(
        lambda x: all_terms(discriminators, *(Spectra(y, paired=SIZES[:2]) for y in (x, target)))
    )(x)
    assert len(transforms["rfft"]) - before < before
    for ours, theirs in zip(shared, alone):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("n_fft", [63, 64])
@pytest.mark.parametrize("paired", [(), (63, 64)])
def test_magnitudes_are_those_of_the_transform(n_fft, paired):
    """With pairs or without, the same numbers and the same gradient; silence has none."""
    x = mx.concatenate([noise(1, 300), mx.zeros((1, 300))])
    weights = noise(2, plain.frame_count(300, n_fft, n_fft // 4), n_fft // 2 + 1, seed=2)
    got = mx.vjp(lambda x: Spectra(x, paired=paired).magnitude(n_fft), [x], [weights])
    expected = mx.vjp(lambda x: plain.magnitude(x, n_fft, n_fft // 4, unit_window(n_fft)), [x], [weights])
    for (ours,), (theirs,) in zip(got, expected):
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-6)
    assert not np.array(got[1][0][1]).any()


def test_the_window_has_unit_energy():
    for n_fft in (4, 75, 2296):
        assert mx.square(unit_window(n_fft)).sum().item() == pytest.approx(1.0, rel=1e-5)


def test_items_of_unequal_lengths_are_those_alone():
    x, target = noise(2, 300), noise(2, 300, seed=1)
    shared = Spectra(x, (300, 200)), Spectra(target, (300, 200))
    together = multi_resolution_stft_loss(*shared, None, "none", sizes=SIZES)
    alone = multi_resolution_stft_loss(x[1:, :200], target[1:, :200], sizes=SIZES)
    assert together[1].item() == pytest.approx(alone.item(), rel=1e-5)


def test_what_does_not_fit_is_refused():
    x = noise(2, 100)
    with pytest.raises(ValueError, match=r"shape \[batch, samples >= 1\], got \[100\]"):
        Spectra(x[0])
    with pytest.raises(ValueError, match=r"spectra of lengths \[100, 100\] cannot be read with lengths \[100, 50\]"):
        log_mel_loss(Spectra(x), Spectra(x), (100, 50))
    with pytest.raises(ValueError, match="the same shape and lengths"):
        Spectra(x).difference(Spectra(x, (100, 50)), 64)
