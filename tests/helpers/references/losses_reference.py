"""Float64 numpy versions of the spectral functions and losses, written from their definitions for comparison."""

import numpy as np

STFT_SIZES = (2296, 1418, 876, 542, 334, 206, 126, 76)
LOG_FLOOR = 1e-5


def stft(x, n_fft, hop):
    """One signal [T] -> complex [F, bins]: reflect padding, periodic Hann window, explicit frames."""
    half = n_fft // 2
    x = np.asarray(x, np.float64)
    if len(x) <= half:
        x = np.concatenate([x, np.zeros(half + 1 - len(x))])
    padded = np.pad(x, half, mode="reflect")
    window = np.hanning(n_fft + 1)[:-1]
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.stack([np.fft.rfft(padded[start : start + n_fft] * window) for start in starts])


def mel_filterbank(sample_rate, n_fft, n_mels):
    """Slaney's filters, one triangle at a time."""

    def to_hz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(sample_rate / 2 / 1000) / np.log(6.4)
    points = [to_hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)]
    frequencies = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    rows = np.zeros((n_mels, n_fft // 2 + 1))
    for band in range(n_mels):
        low, peak, high = points[band : band + 3]
        for index, frequency in enumerate(frequencies):
            if low < frequency <= peak:
                rows[band, index] = (frequency - low) / (peak - low)
            elif peak < frequency < high:
                rows[band, index] = (high - frequency) / (high - peak)
        rows[band] *= 2 / (high - low)
    return rows


def log_mel(x, n_fft, n_mels, sample_rate=24000):
    magnitude = np.abs(stft(x, n_fft, n_fft // 4))
    return np.log(np.maximum(magnitude @ mel_filterbank(sample_rate, n_fft, n_mels).T, LOG_FLOOR))


def waveform_l1(pred, target):
    return np.abs(pred - target).mean()


def stft_loss(pred, target, sizes=STFT_SIZES):
    total = 0.0
    for size in sizes:
        energy = np.sqrt((np.hanning(size + 1)[:-1] ** 2).sum())
        ours, theirs = (np.abs(stft(x, size, size // 4)) / energy for x in (pred, target))
        total += np.abs(ours - theirs).mean()
    return total / len(sizes)


def mel_loss(pred, target, scales=((1024, 80),)):
    return np.mean([np.abs(log_mel(pred, *scale) - log_mel(target, *scale)).mean() for scale in scales])


def batch_mean(item_loss, pred, target, lengths):
    """Mean weighted by length of the losses of the items, each cut to its length and taken alone."""
    items = [item_loss(p[:length], t[:length]) for p, t, length in zip(pred, target, lengths)]
    return np.dot(items, lengths) / np.sum(lengths)


def slope(function, x, direction, step=1e-6):
    """Central difference of a scalar function of x along a direction."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def assert_gradient(function, x, gradient, rng, tolerance=1e-3, coordinates=6):
    """Checks a float32 gradient against float64 differences: single coordinates and random directions.

    Errors are relative to the RMS of the gradient (coordinates) or its norm (directions).
    """
    x, gradient = np.asarray(x, np.float64), np.asarray(gradient, np.float64)
    assert gradient.shape == x.shape
    assert np.isfinite(gradient).all()
    size = np.sqrt((gradient**2).mean())
    assert size > 0
    for index in rng.choice(x.size, coordinates, replace=False):
        direction = np.zeros(x.size)
        direction[index] = 1
        expected = slope(function, x, direction.reshape(x.shape))
        assert abs(gradient.ravel()[index] - expected) <= tolerance * size
    for _ in range(3):
        direction = rng.standard_normal(x.shape)
        expected = slope(function, x, direction)
        assert abs((gradient * direction).sum() - expected) <= tolerance * size * np.sqrt(x.size)
