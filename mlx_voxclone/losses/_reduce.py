"""How every waveform and latent loss turns errors into numbers.

An item's value is the mean over its own valid region, so it depends neither on its neighbours in the batch nor on how
far the batch is padded. "mean" weights the items by their lengths: sum_i lengths_i * item_i / sum_i lengths_i.
"""

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.spectral.plain import Lengths, alike, as_floats, check_lengths, longest

# Running sums in float32 lose digits in proportion to their length (measured: 5e-5 at 0.8 M elements on CPU), so long
# rows are added up in two steps.
_CHUNK = 512


def check_pair(pred: mx.array, target: mx.array, ndim: int) -> None:
    """Raises ValueError unless both arrays have the same shape of `ndim` axes, none of them empty."""
    if pred.shape != target.shape or pred.ndim != ndim or 0 in pred.shape:
        raise ValueError(
            f"prediction and target must have the same non-empty shape of {ndim} axes, "
            f"got {list(pred.shape)} and {list(target.shape)}"
        )


def valid_mask(counts: Lengths, size: int) -> mx.array:
    """Boolean [B, size]: True at the first counts[i] places of row i."""
    if isinstance(counts, mx.array):
        return mx.arange(size)[None, :] < counts[:, None]
    return mx.array(np.arange(size)[None, :] < np.asarray(counts)[:, None])


def cut_to_valid(x: mx.array, lengths: Lengths | None) -> mx.array:
    """x [B, T, ...] as float32, cut to the longest item, with zeros in place of whatever lies behind an item's end.

    Zeros go in before any arithmetic, so that a NaN there reaches neither the value nor the gradient.
    """
    lengths = check_lengths(lengths, x)
    size = longest(lengths, x)
    x = x[:, :size].astype(mx.float32)  # [B, size, ...]
    if alike(lengths):
        return x
    mask = valid_mask(lengths, size).reshape(x.shape[0], size, *[1] * (x.ndim - 2))
    return mx.where(mask, x, 0.0)


def row_sums(x: mx.array) -> mx.array:
    """Sum of each row of float32 [B, N] -> [B], to float32 rounding also for long rows."""
    batch, size = x.shape
    if size > _CHUNK:
        x = mx.pad(x, [(0, 0), (0, -size % _CHUNK)]).reshape(batch, -1, _CHUNK).sum(axis=-1)  # [B, chunks]
    return x.sum(axis=-1)


def frame_means(errors: mx.array, counts: Lengths) -> mx.array:
    """Mean over the first counts[i] frames of item i and all of the last axis: [B, F, D] -> [B].

    `errors` must be finite everywhere; frames behind counts[i] get no gradient.
    """
    per_frame = errors.mean(axis=-1)  # [B, F]
    if isinstance(counts, mx.array) or min(counts) < errors.shape[1]:
        per_frame = mx.where(valid_mask(counts, errors.shape[1]), per_frame, 0.0)
    return row_sums(per_frame) / as_floats(counts)


def reduce_items(items: mx.array, lengths: Lengths, reduction: str) -> mx.array:
    """Item values [B] -> scalar weighted by length ("mean") or unchanged ("none"); ValueError for other names."""
    if reduction == "none":
        return items
    if reduction != "mean":
        raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
    if isinstance(lengths, mx.array):
        return (items * (as_floats(lengths) / as_floats(lengths).sum())).sum()
    weights = np.asarray(lengths, np.float64)
    return (items * mx.array((weights / weights.sum()).astype(np.float32))).sum()
