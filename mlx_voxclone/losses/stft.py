"""Multi-resolution STFT magnitude loss (arXiv 2603.25551, the frequency half of the codec's reconstruction loss)."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_voxclone.audio.spectral.plain import Lengths, frame_counts
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.losses._reduce import check_pair, frame_means, reduce_items

# The window sizes of the codec's eight STFT discriminators, in samples at 24 kHz (arXiv 2603.25551).
STFT_SIZES = (2296, 1418, 876, 542, 334, 206, 126, 76)


def multi_resolution_stft_loss(
    pred: mx.array | Spectra,
    target: mx.array | Spectra,
    lengths: Lengths | None = None,
    reduction: str = "mean",
    *,
    sizes: Sequence[int] = STFT_SIZES,
) -> mx.array:
    """Mean over the sizes of the mean absolute difference of STFT magnitudes of pred and target.

    These are signals [B, T], or their `Spectra`.
    Each size n uses a Hann window and a hop of n // 4 samples. The paper gives no normalisation; here the window has
    unit energy (divided by its L2 norm, sqrt(3 n / 8)), so that white noise of a given level has the same expected
    magnitude at every size and none dominates: plain magnitudes of noise grow with sqrt(n), 5.5-fold over these sizes.

    The gradient goes to `pred` alone and is finite for silence. An item's frames are those of the item analysed alone,
    reflected at its own end (`lengths`: valid samples per item, None: all). "none" gives [B], "mean" their mean
    weighted by length. Raises ConfigError for sizes under 4, ValueError for shapes or lengths that do not fit.
    """
    pred, target = Spectra.of(pred, lengths), Spectra.of(target, lengths)
    check_pair(pred.signals, target.signals, 2)
    if not sizes or min(sizes) < 4:
        raise ConfigError(f"STFT loss: needs one or more window sizes of at least 4 samples, got {list(sizes)}")
    items = 0.0
    for size in sizes:
        counts = frame_counts(pred.lengths, size, size // 4)
        items = items + frame_means(pred.difference(target, size), counts)  # [B, F, bins] -> [B]
    return reduce_items(items / len(sizes), pred.lengths, reduction)
