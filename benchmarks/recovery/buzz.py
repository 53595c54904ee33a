"""A target for reconstruction that a small decoder can hit: the recording's spectral envelope on a buzz of 100 Hz.

A decoder of this bit rate cannot follow the phases of a recording, and a small one that is trained for an hour on
spectra alone decodes a mumble (docs/LOG.md, "What stands between the benchmark's codec and words"). Here there is one
impulse in each of the decoder's patches, so phases are known and a patch depends on the envelope alone: a vocoder.
Words are heard in it, pitch and breath are not.
"""

from functools import cache

import numpy as np

from benchmarks.recovery.corpus import FRAME, TRACK_HOP, Corpus
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.spectral.plain import mel_filterbank
from mlx_voxclone.errors import DataError

FFT, BANDS, HOP = 512, 32, 128
PERIOD, FIRST = TRACK_HOP, 200  # samples between impulses, and before the first one
FLOOR = 3e-3  # of a band's level, under its logarithm
FITTED_SECONDS = 6  # of each training clip
OTHERS = 3  # one in so many clips that are no recordings of people is used


def on_impulses(waves: np.ndarray) -> np.ndarray:
    """Waves [B, S] as impulses every 10 ms with the waves' energy in each of 32 bands: float32 [B, S]."""
    down, up, window = _bands()
    buzz = np.zeros((1, waves.shape[1]), np.float32)
    buzz[:, FIRST::PERIOD] = 1
    spectra = np.fft.rfft(_windows(buzz, HOP) * window).astype(np.complex64)  # [1, F, K]
    energy = np.square(np.abs(np.fft.rfft(_windows(waves, HOP) * window))).astype(np.float32) @ down  # [B, F, bands]
    gain = np.sqrt(energy / (np.square(np.abs(spectra)) @ down + 1e-6)) @ up  # [B, F, K]
    pieces = (np.fft.irfft(spectra * gain) * window).reshape(*gain.shape[:2], -1, HOP)
    count, parts = pieces.shape[1:3]
    weights = np.square(window).reshape(parts, HOP)
    sums = np.zeros((len(waves), count + parts, HOP), np.float32)
    weight = np.zeros((count + parts, HOP), np.float32)
    for k in range(parts):  # overlapping windows are added
        sums[:, k : k + count] += pieces[:, :, k]
        weight[k : k + count] += weights[k]
    joined = (sums / np.maximum(weight, 1e-2)).reshape(len(waves), -1)
    return np.ascontiguousarray(joined[:, FFT // 2 : FFT // 2 + waves.shape[1]], np.float32)


class Components:
    """The first principal components of a frame's log bands (eight hops of 10 ms, 32 bands), as acoustic values.

    `weights` [count] are what each counts for in a loss, 1 on average: their deviations, so that those which say more
    of the spectrum are learnt first.

    Args:
        corpus: whose training clips they are fitted to.
        count: of acoustic values.

    Raises:
        DataError: the corpus has fewer frames than that.
    """

    def __init__(self, corpus: Corpus, count: int) -> None:
        clips = corpus.split("train")
        kept = [clip for number, clip in enumerate(clips) if clip.kind == "real" or number % OTHERS == 0]
        frames = np.concatenate([log_bands(clip.read()[None, : FITTED_SECONDS * SAMPLE_RATE])[0] for clip in kept])
        if len(frames) < count:
            raise DataError(f"{count} components need as many frames of training clips; there are {len(frames)}")
        self._mean = frames.mean(axis=0)
        self._axes = np.linalg.svd(frames - self._mean, full_matrices=False)[2][:count]
        self._deviation = ((frames - self._mean) @ self._axes.T).std(axis=0)
        self.weights = (self._deviation / self._deviation.mean()).astype(np.float32)

    def __call__(self, waves: np.ndarray) -> np.ndarray:
        """Components of waves [B, S], two deviations being 1, cut to -1..1: float32 [B, T, count]."""
        scores = (log_bands(waves) - self._mean) @ self._axes.T
        return np.clip(scores / (2 * self._deviation + 1e-9), -1, 1).astype(np.float32)


def log_bands(waves: np.ndarray) -> np.ndarray:
    """Log levels of waves [B, S] in 32 bands, the eight hops of a latent frame side by side: [B, S // 1920, 256]."""
    down, _, window = _bands()
    windows = _windows(waves, TRACK_HOP)[:, : waves.shape[1] // TRACK_HOP]
    magnitude = np.abs(np.fft.rfft(windows * window)) / np.sqrt(np.square(window).sum())
    levels = np.log(np.sqrt(np.square(magnitude) @ down) + FLOOR)  # [B, hops, bands]
    count = waves.shape[1] // FRAME
    return levels[:, : count * (FRAME // TRACK_HOP)].reshape(len(waves), count, -1)


@cache
def _bands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over bands [K, bands], their values at each bin [bands, K], and the window [FFT]."""
    filters = np.array(mel_filterbank(SAMPLE_RATE, FFT, BANDS)).T  # [K, bands]
    up = (filters / (filters.sum(axis=1, keepdims=True) + 1e-9)).T
    up[0, : np.argmax(filters.sum(axis=1) > 0)] = 1  # bins below the lowest band follow it
    down = filters / (filters.sum(axis=0) + 1e-9)
    return down.astype(np.float32), up.astype(np.float32), np.hanning(FFT + 1)[:-1].astype(np.float32)


def _windows(waves: np.ndarray, hop: int) -> np.ndarray:
    """Waves [B, S] in centred windows: [B, F, FFT]."""
    padded = np.pad(waves, ((0, 0), (FFT // 2, FFT // 2)), mode="reflect")
    return np.lib.stride_tricks.sliding_window_view(padded, FFT, axis=1)[:, ::hop]
