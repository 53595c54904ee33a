"""Float64 numpy versions of the discriminators and their losses, written from their definitions for comparison."""

import numpy as np
from losses_reference import stft

LAYERS = [(1, 1), (2, 1), (2, 2), (2, 4), (1, 1)]  # stride in bins, dilation in frames


def conv2d(x, weight, bias, stride, dilation):
    """x [F, K, C], weight [O, frames, bins, C] -> [F, ceil(K / stride), O], one tap after the other."""
    frames, bins, _ = x.shape
    outputs, times, span, _ = weight.shape
    early, low = times // 2 * dilation, span // 2
    x = np.pad(x, [(early, early), (low, low), (0, 0)])
    out = np.zeros((frames, -(-bins // stride), outputs)) + bias
    for time, tap in np.ndindex(times, span):
        out += x[time * dilation :][:frames, tap : tap + bins : stride] @ weight[:, time, tap].T
    return out


def normed_weight(v, g):
    norms = np.array([np.sqrt((row**2).sum()) for row in v])
    return v * (g / norms)[:, None, None, None]


def spectrum_pairs(x, n_fft):
    energy = np.sqrt((np.hanning(n_fft + 1)[:-1] ** 2).sum())
    spectrum = stft(x, n_fft, n_fft // 4) / energy
    return np.stack([spectrum.real, spectrum.imag], axis=-1)


def judge(parameters, n_fft, x):
    """One signal [S] -> (logits [F, K'], features); parameters as the module's, in float64."""

    def conv(layer, x, stride=1, dilation=1):
        return conv2d(x, normed_weight(layer["v"], layer["g"]), layer["bias"], stride, dilation)

    features, x = [], spectrum_pairs(x, n_fft)
    for layer, (stride, dilation) in zip(parameters["convs"], LAYERS):
        x = conv(layer, x, stride, dilation)
        x = np.where(x > 0, x, 0.2 * x)
        features.append(x)
    return conv(parameters["head"], x)[..., 0], features


def hinge(real, fake):
    """Lists of logits of one item, one array per size."""
    sizes = [np.maximum(1 - r, 0).mean() + np.maximum(1 + f, 0).mean() for r, f in zip(real, fake)]
    return np.mean(sizes)


def feature_matching(real, fake):
    """Lists over sizes of lists of features of one item."""
    pairs = [pair for r, f in zip(real, fake) for pair in zip(r, f)]
    return np.mean([np.abs(r - f).mean() / max(np.abs(r).mean(), 1e-3) for r, f in pairs])
