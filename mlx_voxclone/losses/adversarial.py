"""Adversarial terms of the codec's training (arXiv 2603.25551).

The paper: eight STFT discriminators trained by the hinge loss; the generator gets no adversarial loss proper, only the
L1 feature matching. It does not say over what the terms are averaged nor how the layers are weighted against each
other. Here, as in EnCodec (arXiv 2210.13438): means over places, then over sizes; each layer's distance is divided by
the mean absolute feature of the real signal, so that no layer or size outweighs the others by its scale.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.losses._reduce import row_sums
from mlx_voxclone.model.discriminator import MultiResolutionDiscriminator, frozen

# Smallest mean absolute feature that a distance is divided by: about what a signal at -60 dB gives. It bounds the
# gradient where the real signal is digital silence and the biases are still zero, and where a layer has died.
FEATURE_FLOOR = 1e-3


def _item_means(x: mx.array) -> mx.array:
    """[B, ...] -> [B]"""
    rows = x.reshape(x.shape[0], -1)  # [B, places]
    return row_sums(rows) / rows.shape[1]


@mx.custom_function
def _item_distance(x: mx.array, target: mx.array) -> mx.array:
    """Mean absolute difference per item: two [B, ...] -> [B]; keeps no difference for the backward pass."""
    return _item_means(mx.abs(x - target))


@_item_distance.vjp
def _item_distance_vjp(primals, cotangent, _output):
    x, target = primals
    scale = (cotangent * (x.shape[0] / x.size)).reshape(-1, *[1] * (x.ndim - 1))  # [B, 1, ...]
    slope = mx.sign(x - target) * scale
    return slope, -slope


def _check_alike(real: Sequence[mx.array], fake: Sequence[mx.array]) -> None:
    if not real or [x.shape for x in real] != [x.shape for x in fake]:
        raise ValueError(
            "real and decoded judgements must be of the same shapes, "
            f"got {[list(x.shape) for x in real]} and {[list(x.shape) for x in fake]}"
        )


def hinge_discriminator_loss(real: Sequence[mx.array], fake: Sequence[mx.array]) -> mx.array:
    """relu(1 - D(x)) + relu(1 + D(x_hat)) per item [B]: mean over places, then over sizes.

    `real` and `fake`: the logits [B, F, K'] of every size. 2.0 where the discriminators know nothing, 0 where they are
    sure. For the discriminators alone: judge `stop_gradient(decoded)`. Raises ValueError for shapes that do not match.
    """
    _check_alike(real, fake)
    items = 0.0
    for true, false in zip(real, fake):
        items = items + _item_means(mx.maximum(1 - true, 0)) + _item_means(mx.maximum(1 + false, 0))
    return items / len(real)


def feature_matching_loss(
    real_features: Sequence[Sequence[mx.array]], fake_features: Sequence[Sequence[mx.array]]
) -> mx.array:
    """Relative L1 distance of the discriminators' layers per item [B]: mean over the layers of all sizes.

    A layer's term is mean|D_l(x_hat) - D_l(x)| / max(mean|D_l(x)|, 1e-3), both means over the item's own places and
    channels. Features: for every size the layers' outputs [B, F, K, C]. No gradient reaches the real features, nor the
    divisor; judge the decoded waveform through `frozen(discriminators)` to keep it off the discriminators' weights too.
    Raises ValueError for shapes that do not match.
    """
    real = [layer for size in real_features for layer in size]
    fake = [layer for size in fake_features for layer in size]
    _check_alike(real, fake)
    items = 0.0
    for true, false in zip(real, fake):
        true = mx.stop_gradient(true)
        items = items + _item_distance(false, true) / mx.maximum(_item_means(mx.abs(true)), FEATURE_FLOOR)
    return items / len(real)


def adversarial_losses(
    discriminators: MultiResolutionDiscriminator, real: mx.array | Spectra, fake: mx.array | Spectra
) -> tuple[mx.array, mx.array]:
    """(hinge loss [B], feature matching [B]) of real and decoded waveforms [B, S] or their `Spectra` (whole
    items: no `lengths`), for one common backward pass.

    The hinge loss gives gradient to the discriminators' parameters and none to the waveforms; feature matching gives
    gradient to `fake` and none to the parameters. Every spectrum is computed once, and the real waveform is judged once
    for both. Raises ValueError for waveforms of different shapes.
    """
    real, fake = Spectra.of(real), Spectra.of(fake)
    shapes = list(real.signals.shape), list(fake.signals.shape)
    if shapes[0] != shapes[1]:
        raise ValueError(f"real and decoded waveforms differ in shape: {shapes[0]} and {shapes[1]}")
    fake_spectra = discriminators.spectra(fake)
    true = discriminators.judge([mx.stop_gradient(spectrum) for spectrum in discriminators.spectra(real)])
    false = discriminators.judge([mx.stop_gradient(spectrum) for spectrum in fake_spectra])
    felt = frozen(discriminators).judge(fake_spectra)
    hinge = hinge_discriminator_loss([logits for logits, _ in true], [logits for logits, _ in false])
    return hinge, feature_matching_loss([features for _, features in true], [features for _, features in felt])
