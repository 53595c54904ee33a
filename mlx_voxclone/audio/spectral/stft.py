"""STFT and mel spectrogram: on Metal kernels or plain operations, whichever `audio.spectral.choice` takes."""

import mlx.core as mx

from mlx_voxclone.audio.spectral import metal, plain
from mlx_voxclone.audio.spectral.choice import signal_for_metal
from mlx_voxclone.audio.spectral.plain import Lengths


def _prepare(n_fft: int, hop: int | None, window: mx.array | None) -> tuple[int, mx.array]:
    hop = max(1, n_fft // 4) if hop is None else hop
    window = plain.hann_window(n_fft) if window is None else mx.stop_gradient(window.astype(mx.float32))
    if window.shape != (n_fft,):
        raise ValueError(f"the window must have shape [{n_fft}], got {list(window.shape)}")
    return hop, window


def stft(
    x: mx.array,
    n_fft: int,
    hop: int | None = None,
    window: mx.array | None = None,
    lengths: Lengths | None = None,
) -> mx.array:
    """Centred short-time Fourier transform: x [B, T] -> complex64 [B, F, n_fft // 2 + 1].

    `hop` in samples (default n_fft // 4), `window` [n_fft] (default periodic Hann); conventions and `lengths` as in
    `audio.spectral.plain`. F = `plain.frame_count` of the longest item. The window is a constant: no gradient goes to
    it. Raises ValueError for impossible shapes, sizes or lengths, ConfigError as `choice.use_metal`.
    """
    hop, window = _prepare(n_fft, hop, window)
    found = signal_for_metal(x, n_fft, hop, lengths)
    if found is not None:
        signal, ends = found
        parts = metal.spectrum(signal, n_fft, hop, window, ends)
        return parts[0] + 1j * parts[1]
    return plain.stft(x, n_fft, hop, window, lengths)


def stft_magnitude(
    x: mx.array,
    n_fft: int,
    hop: int | None = None,
    window: mx.array | None = None,
    lengths: Lengths | None = None,
) -> mx.array:
    """|stft(...)|: x [B, T] -> float32 [B, F, n_fft // 2 + 1]; arguments and errors as `stft`.

    The gradient with respect to x is exact, and zero where the magnitude is zero (digital silence). The window is a
    constant.
    """
    hop, window = _prepare(n_fft, hop, window)
    found = signal_for_metal(x, n_fft, hop, lengths)
    if found is not None:
        signal, ends = found
        return metal.magnitude(signal, n_fft, hop, window, ends)
    return plain.magnitude(x, n_fft, hop, window, lengths)


def log_mel(
    x: mx.array,
    sample_rate: int = 24000,
    n_fft: int = 1024,
    hop: int | None = None,
    n_mels: int = 80,
    fmin: float = 0.0,
    fmax: float | None = None,
) -> mx.array:
    """Log-mel spectrogram: x [B, T] -> float32 [B, F, n_mels], natural log of max(mel, 1e-5).

    mel = `plain.mel_filterbank` applied to the Hann-windowed, unnormalised STFT magnitude (power 1, as HiFi-GAN's mel
    loss); hop defaults to n_fft // 4. Below the floor the gradient is zero. Errors as `stft` and
    `plain.mel_filterbank`.
    """
    filters = plain.mel_filterbank(sample_rate, n_fft, n_mels, fmin, fmax)
    return plain.log_of_bands(stft_magnitude(x, n_fft, hop), filters)
