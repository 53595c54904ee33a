"""L1 distance between waveforms (arXiv 2603.25551, the time-domain half of the codec's reconstruction loss)."""

import mlx.core as mx

from mlx_voxclone.audio.spectral.plain import Lengths, as_floats, check_lengths
from mlx_voxclone.losses._reduce import check_pair, cut_to_valid, reduce_items, row_sums


def waveform_l1(pred: mx.array, target: mx.array, lengths: Lengths | None = None, reduction: str = "mean") -> mx.array:
    """Mean absolute difference per sample of pred and target [B, T], in units of full scale.

    The gradient goes to `pred` alone. `lengths`: valid samples per item (None: all). "none" gives [B], "mean" their
    mean weighted by length. Raises ValueError for shapes, lengths or reductions that do not fit.
    """
    check_pair(pred, target, 2)
    lengths = check_lengths(lengths, pred)
    difference = cut_to_valid(pred, lengths) - mx.stop_gradient(cut_to_valid(target, lengths))
    items = row_sums(mx.abs(difference)) / as_floats(lengths)  # [B, T] -> [B]
    return reduce_items(items, lengths, reduction)
