"""A target for reconstruction that a small decoder can hit: the recording's spectral envelope on impulses.

A decoder of this bit rate cannot follow the phases of a recording, and a small one that is trained for an hour on
spectra alone decodes a mumble (docs/LOG.md, "What stands between the benchmark's codec and words"). Here impulses come
at one of four pitches, all of them in step with 20 ms, so that a frame depends on its envelope and its pitch alone: a
vocoder. Words are heard in it and the speaker is, breath is not.
"""

from functools import cache

import numpy as np

from benchmarks.recovery.corpus import FRAME, TRACK_HOP, Corpus
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.prosody import fundamental
from mlx_voxclone.audio.spectral.plain import mel_filterbank
from mlx_voxclone.errors import DataError

FFT, BANDS, HOP = 512, 32, 128
FIRST = 200  # samples before an impulse at the start of a frame
PITCHES = (100, 150, 200, 250)  # Hz
HEARD_HOPS = 16  # of 10 ms: the pitch of a hop is the median over so many, up to it
LATE = 3  # hops from the start of the window that a fundamental frequency is found in to its middle
FLOOR = 3e-3  # of a band's level, under its logarithm
FITTED_SECONDS = 6  # of each training clip
OTHERS = 3  # one in so many clips that are no recordings of people is used


def on_impulses(waves: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Impulses at some pitch, with the energy of waves [B, S] in each of 32 bands: float32 [B, S].

    Args:
        steps: index into `PITCHES` of each frame of 1920 samples, [B, ceil(S / 1920)].
    """
    down, up, window = _bands()
    buzz = _impulses()[steps].reshape(len(waves), -1)[:, : waves.shape[1]]  # [B, S]
    spectra = np.fft.rfft(_windows(buzz, HOP) * window).astype(np.complex64)  # [B, F, K]
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


def pitch_steps(samples: np.ndarray) -> np.ndarray:
    """Index into `PITCHES` of samples [S] every 10 ms: the nearest to the median pitch of 160 ms, int8 [S // 240].

    Where nothing is voiced, what was before stays, and before the first voiced sound its pitch.
    """
    hops = len(samples) // TRACK_HOP
    found = np.full(hops + HEARD_HOPS, np.nan)
    frequency = fundamental(samples)[0][: hops - LATE]
    found[HEARD_HOPS + LATE :][: len(frequency)] = frequency
    steps = np.full(hops, -1, np.int8)
    for hop, heard in enumerate(np.lib.stride_tricks.sliding_window_view(found, HEARD_HOPS)[1:]):
        voiced = heard[np.isfinite(heard)]
        if len(voiced):
            steps[hop] = np.argmin(np.abs(np.log(np.array(PITCHES) / np.median(voiced))))
        elif hop:
            steps[hop] = steps[hop - 1]
    known = steps[steps >= 0]
    return np.where(steps >= 0, steps, known[0] if len(known) else 0)


@cache
def _impulses() -> np.ndarray:
    """One frame of impulses at each of the pitches: float32 [pitches, 1920]."""
    frames = np.zeros((len(PITCHES), FRAME), np.float32)
    for frame, pitch in zip(frames, PITCHES):
        period = SAMPLE_RATE // pitch
        frame[FIRST % period :: period] = 1
    return frames


class Components:
    """Acoustic values: the first principal components of a frame's log bands (eight hops of 10 ms), then its pitch.

    `weights` [count] are what each counts for in a loss, 1 on average: the components' deviations, which say how much
    of the spectrum they are, and for the pitch that of the first of them.

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
        self._axes = np.linalg.svd(frames - self._mean, full_matrices=False)[2][: count - 1]
        self._deviation = ((frames - self._mean) @ self._axes.T).std(axis=0)
        weights = np.append(self._deviation, self._deviation[0])
        self.weights = (weights / weights.mean()).astype(np.float32)

    def __call__(self, waves: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Values of waves [B, S] and the pitches `steps` [B, S // 1920] of their frames: float32 [B, T, count].

        Two deviations of a component are 1, and what is beyond is cut to -1..1. Pitches go from -0.75 to 0.75.
        """
        scores = (log_bands(waves) - self._mean) @ self._axes.T
        scores = np.clip(scores / (2 * self._deviation + 1e-9), -1, 1)  # [B, T, count - 1]
        pitch = 1.5 * steps[:, : scores.shape[1], None] / max(1, len(PITCHES) - 1) - 0.75
        return np.concatenate([scores, pitch], axis=-1).astype(np.float32)


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
