"""L1 distance between log-mel spectrograms, at one scale or several."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_voxclone.audio.spectral.plain import Lengths, frame_counts, log_of_bands, mel_filterbank, window_energy
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.losses._reduce import check_pair, frame_means, reduce_items

SINGLE_SCALE = ((1024, 80),)  # (n_fft, n_mels), one scale as in HiFi-GAN (Kong et al. 2020)


def log_mel_loss(
    pred: mx.array | Spectra,
    target: mx.array | Spectra,
    lengths: Lengths | None = None,
    reduction: str = "mean",
    *,
    scales: Sequence[tuple[int, int]] = SINGLE_SCALE,
    sample_rate: int = 24000,
) -> mx.array:
    """Mean over the scales (n_fft, n_mels) of the mean absolute difference of `log_mel` of pred and target.

    These are signals [B, T], or their `Spectra`.

    Hop n_fft // 4, bands from 0 Hz to half the sample rate, natural log floored at 1e-5. The gradient goes to `pred`
    alone and is finite for silence. An item's frames are those of the item analysed alone (`lengths`: valid samples per
    item, None: all). "none" gives [B], "mean" their mean weighted by length. Raises ConfigError for scales that give no
    filterbank, ValueError for shapes or lengths that do not fit.
    """
    pred, target = Spectra.of(pred, lengths), Spectra.of(target, lengths)
    check_pair(pred.signals, target.signals, 2)
    if not scales or min(n_fft for n_fft, _ in scales) < 4:
        raise ConfigError(f"mel loss: needs one or more (n_fft, n_mels) with n_fft of at least 4, got {list(scales)}")
    items = 0.0
    for n_fft, n_mels in scales:
        counts = frame_counts(pred.lengths, n_fft, n_fft // 4)
        # Mel bands are of the plain window, the shared spectra of one with unit energy.
        filters = window_energy(n_fft) * mel_filterbank(sample_rate, n_fft, n_mels)
        ours, theirs = (log_of_bands(sound.magnitude(n_fft), filters) for sound in (pred, target))  # [B, F, n_mels]
        items = items + frame_means(mx.abs(ours - mx.stop_gradient(theirs)), counts)
    return reduce_items(items / len(scales), pred.lengths, reduction)
