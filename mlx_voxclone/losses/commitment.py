"""Commitment loss of the semantic quantiser (van den Oord et al. 2017; arXiv 2603.25551, weight 0.1)."""

import mlx.core as mx

from mlx_voxclone.audio.spectral.plain import Lengths, check_lengths
from mlx_voxclone.losses._reduce import check_pair, cut_to_valid, frame_means, reduce_items


def commitment_loss(
    z_e: mx.array, z_q: mx.array, lengths_frames: Lengths | None = None, reduction: str = "mean"
) -> mx.array:
    """Mean over dimensions of (z_e - sg(z_q))^2, for encoder outputs z_e and code vectors z_q [B, T, D].

    The mean over D, not the sum of the formula ||z_e - sg(z_q)||^2, keeps the weight independent of the width. The
    gradient goes to `z_e` alone: code vectors never move. `lengths_frames`: valid frames per item (None: all). "none"
    gives [B], "mean" their mean weighted by frames. Raises ValueError for shapes or lengths that do not fit.
    """
    check_pair(z_e, z_q, 3)
    lengths = check_lengths(lengths_frames, z_e)
    difference = cut_to_valid(z_e, lengths) - mx.stop_gradient(cut_to_valid(z_q, lengths))
    return reduce_items(frame_means(mx.square(difference), lengths), lengths, reduction)
