"""Distance of projected semantic latents to the states of a frozen speech recogniser (arXiv 2603.25551, weight 1.0)."""

import mlx.core as mx

from mlx_voxclone.audio.spectral.plain import Lengths, check_lengths
from mlx_voxclone.losses._reduce import check_pair, cut_to_valid, frame_means

# Shorter vectors count as shorter than they are in direction, so that the gradient, which grows as 1 / norm, ends.
MIN_NORM = 1e-3


def distillation_loss(projected: mx.array, teacher: mx.array, lengths_frames: Lengths | None = None) -> mx.array:
    """Mean of 1 - cosine between `projected` and `teacher` [B, T, D] over each item's frames: [B], 0 (alike) to 2.

    The gradient goes to `projected` alone: the teacher is given. A zero vector on either side gives 1 and a finite
    gradient; an item without a teacher may hold zeros and be left out by its weight.

    `lengths_frames`: valid frames per item (None: all). Raises ValueError for shapes or lengths that do not fit.
    """
    check_pair(projected, teacher, 3)
    lengths = check_lengths(lengths_frames, projected)
    ours, theirs = _direction(cut_to_valid(projected, lengths)), _direction(cut_to_valid(teacher, lengths))
    cosine = (ours * mx.stop_gradient(theirs)).sum(axis=-1, keepdims=True)  # [B, T, 1]
    return frame_means(1.0 - cosine, lengths)


def _direction(x: mx.array) -> mx.array:
    """x / max(||x||, MIN_NORM) along the last axis, with a gradient also at 0."""
    return x * mx.rsqrt(mx.maximum(mx.square(x).sum(axis=-1, keepdims=True), MIN_NORM**2))
