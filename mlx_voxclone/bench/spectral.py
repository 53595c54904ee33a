"""The spectral losses of a training step: multi-resolution STFT and log-mel, value and gradient."""

import math
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.spectral.choice import kernels_win, use_metal
from mlx_voxclone.audio.spectral.plain import centre_pad, hann_window, mel_filterbank
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.bench.measure import Peer, Row, taking_turns
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.losses.stft import STFT_SIZES

MEL = (1024, 80)  # window and bands


def measure_spectral(batch: int = 4, seconds: float = 4.0, repeats: int = 3, peers: bool = True) -> Row:
    """Time the STFT loss over the codec's eight window sizes with the mel loss, of noise, and their gradient.

    With `peers`, beside the same from MLX's own parts: `as_strided` frames, `rfft` and MLX's gradients of these, which
    scatter.
    """
    pred, target = _noise(batch, round(seconds * SAMPLE_RATE))
    ours, plain = (mx.value_and_grad(partial(loss, target=target)) for loss in (losses, plain_losses))
    works = {"ours": lambda: mx.eval(ours(pred))}
    if peers:
        works["as_strided + rfft"] = lambda: mx.eval(plain(pred))
    found = taking_turns(works, repeats)
    own = found.pop("ours")
    kernels = sum(map(kernels_win, STFT_SIZES)) if use_metal() else 0
    return Row(
        name="spectral losses",
        what=f"{batch} x {seconds:g} s, STFT of {len(STFT_SIZES)} sizes and mel, value and gradient",
        speed=batch * seconds / own.seconds,
        unit="s of audio/s",
        seconds=own.seconds,
        cpu_seconds=own.cpu_seconds,
        peak=own.peak,
        peers=[
            Peer(name, other.seconds, other.cpu_seconds, other.peak, "MLX's memory") for name, other in found.items()
        ],
        more={"sizes_on_metal_kernels": kernels},
    )


def losses(pred: mx.array, target: mx.array) -> mx.array:
    """The STFT loss of eight sizes and the mel loss of one, of [B, T], on shared spectra."""
    ours, theirs = Spectra(pred), Spectra(target)
    return multi_resolution_stft_loss(ours, theirs) + log_mel_loss(ours, theirs, scales=[MEL])


def plain_losses(pred: mx.array, target: mx.array) -> mx.array:
    """The same from MLX's own parts, with nothing but their own gradients."""
    n_fft, bands = MEL
    filters = mel_filterbank(SAMPLE_RATE, n_fft, bands) * math.sqrt(3 * n_fft / 8)
    ours, theirs = (mx.log(mx.maximum(plain_magnitude(x, n_fft) @ filters.T, 1e-5)) for x in (pred, target))
    stft = sum(plain_stft_loss(pred, target, size) for size in STFT_SIZES) / len(STFT_SIZES)
    return stft + mx.abs(ours - theirs).mean(axis=(-2, -1)).mean()


def plain_stft_loss(pred: mx.array, target: mx.array, size: int) -> mx.array:
    """The STFT loss of one size from MLX's own parts."""
    return mx.abs(plain_magnitude(pred, size) - plain_magnitude(target, size)).mean(axis=(-2, -1)).mean()


def plain_magnitude(x: mx.array, size: int) -> mx.array:
    """Magnitudes as the losses take them, by `as_strided` and `rfft`."""
    hop, padded = size // 4, centre_pad(x, size)
    batch, length = padded.shape
    frames = mx.as_strided(padded, (batch, 1 + (length - size) // hop, size), (length, hop, 1))
    return mx.abs(mx.fft.rfft(frames * (hann_window(size) / math.sqrt(3 * size / 8))))


def _noise(batch: int, samples: int) -> mx.array:
    noise = np.random.default_rng(0).standard_normal((2, batch, samples))
    return mx.array((0.1 * noise).astype(np.float32))
