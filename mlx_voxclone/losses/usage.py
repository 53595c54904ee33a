"""How a batch uses the codes against how they are usually used: a term against collapse onto a few of them.

Counts have no gradient, so every frame is spread softly over the codes near it; the mean over the batch's valid frames
is compared with a prior. The value belongs to the batch, not to its items: the mean of KL(item || prior) exceeds
KL(mean of the items || prior) by the mutual information of item and code, which is what a recording says. Driving that
to zero would ask every recording to use all codes alike.

A batch of N frames holds N codes at most. Against a prior spread over many more, even true codes leave about
log(codes in use by the prior / N) nats, and a gradient towards softer latents than the true ones: the term wants large
batches, and a weight that lets the others decide.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.spectral.plain import check_lengths
from mlx_voxclone.losses._reduce import checked_temperature
from mlx_voxclone.model.quantizer import values_to_levels

_LEAST = 1e-30  # below it, a share counts as this in the logarithm, whose gradient so stays finite


def usage_loss(
    z: mx.array,
    codebook: mx.array,
    prior: mx.array,
    lengths_frames: Sequence[int] | None = None,
    *,
    temperature: float | mx.array = 1.0,
    smoothing: float = 0.01,
) -> mx.array:
    """KL(mean of softmax(-||z - row||^2 / temperature) || prior) over the semantic codebook, in nats: a scalar.

    `z` [B, T, D] semantic latents, `codebook` [K, D] as `SemanticCodebook.embedding` gives it, `prior` [K] shares (they
    need not add up to 1), `temperature` in units of squared distance. `smoothing` is the share of a uniform
    distribution that is mixed into the prior: a code that it lacks costs at most log(K / smoothing) nats per frame.
    `lengths_frames`: valid frames per item (None: all); what lies behind them, NaN too, reaches nothing.

    The gradient goes to `z` alone. Memory: about three float32 [frames, K], 0.1 MiB a frame at the release's 8192 codes
    (measured with the gradient), so 40 MiB for eight crops of 4 s. Raises ValueError for shapes, lengths, temperatures
    or smoothings that do not fit.
    """
    if z.ndim != 3 or codebook.ndim != 2 or codebook.shape[1] != z.shape[2] or prior.shape != codebook.shape[:1]:
        shapes = [list(array.shape) for array in (z, codebook, prior)]
        raise ValueError(f"latents [B, T, D], codebook [K, D] and prior [K] do not fit: {shapes}")
    temperature = checked_temperature(temperature)
    # Distances to what the rows have in common would drown their small differences in float32.
    rows = mx.stop_gradient(codebook.astype(mx.float32))
    centre = rows.mean(axis=0)
    rows = rows - centre
    logits = 2.0 * ((_valid_frames(z, lengths_frames) - centre) @ rows.T) - mx.sum(mx.square(rows), axis=-1)
    return _divergence(mx.softmax(logits / temperature, axis=-1).mean(axis=0), prior, smoothing)


def level_usage_loss(
    z: mx.array,
    prior: mx.array,
    lengths_frames: Sequence[int] | None = None,
    *,
    temperature: float | mx.array = 1.0,
    smoothing: float = 0.01,
) -> mx.array:
    """The same for the levels: the mean over the acoustic codebooks of KL(soft histogram || prior), in nats: a scalar.

    `z` [B, T, A] raw acoustic latents, before tanh, `prior` [A, L] shares per codebook. A value is spread over the
    levels by softmax(-(distance in levels)^2 / temperature); the prior's levels are spread alike, so that values in the
    middle of their cells that are used as the prior says cost nothing but the smoothing. Lengths, smoothing and errors
    are those of `usage_loss`.
    """
    if z.ndim != 3 or prior.ndim != 2 or prior.shape[0] != z.shape[2] or prior.shape[1] < 2:
        raise ValueError(f"latents [B, T, A] and prior [A, L] do not fit: {list(z.shape)}, {list(prior.shape)}")
    temperature, levels = checked_temperature(temperature), mx.arange(prior.shape[1], dtype=mx.float32)

    def spread(position: mx.array) -> mx.array:
        return mx.softmax(-mx.square(position[..., None] - levels) / temperature, axis=-1)

    position = values_to_levels(mx.tanh(_valid_frames(z, lengths_frames)), prior.shape[1])
    return _divergence(spread(position).mean(axis=0), prior.astype(mx.float32) @ spread(levels), smoothing)


def _valid_frames(z: mx.array, lengths_frames: Sequence[int] | None) -> mx.array:
    """`[B, T, D]` to `[N, D]` float32: the valid frames of all items, one after the other."""
    lengths = check_lengths(lengths_frames, z)
    flat = z.astype(mx.float32).reshape(-1, z.shape[2])
    if min(lengths) == z.shape[1]:
        return flat
    valid = np.arange(z.shape[1]) < np.asarray(lengths)[:, None]
    return flat[mx.array(np.flatnonzero(valid))]


def _divergence(share: mx.array, prior: mx.array, smoothing: float) -> mx.array:
    """Mean over leading axes of KL(share || smoothed prior) over the last one, in nats."""
    if not 0 < smoothing <= 1:
        raise ValueError(f"smoothing must be above 0 and at most 1, got {smoothing}")
    prior = mx.stop_gradient(prior.astype(mx.float32))
    prior = (1.0 - smoothing) * prior / prior.sum(axis=-1, keepdims=True) + smoothing / prior.shape[-1]
    return (share * (mx.log(mx.maximum(share, _LEAST)) - mx.log(prior))).sum(axis=-1).mean()
