"""Two sounds made alike in all but what is compared, for a blind test.

Both are cut to their speech with a short margin, brought to one level of speech, faded at the ends and padded with
silence to one length. Each copy that is served gets faint noise of its own (dither of 16 bits): no two files are the
same, and all have the same size.
"""

import math

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.segment import (
    FRAME_SECONDS,
    NORMAL_LEVEL,
    NORMAL_PEAK,
    frame_levels,
    speech_level,
    speech_mask,
    trim,
)

WHAT = "cut to speech, one level of speech, padded with silence to one length, every copy with dither of its own"
_FADE_SECONDS, _TAIL_SECONDS = 0.01, 0.2
_STEP = 1 / 32768  # of 16 bits


def made_alike(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut, level, fade and pad two sounds.

    Args:
        first, second: float32 [S] at 24 kHz.

    Returns:
        Both, float32 of one length. Their speech is at -23 dB of full scale, or as near to it as the peaks of both let
        the level be; silence stays silence.
    """
    cut = [_cut(samples) for samples in (first, second)]
    levels = [_speech_level(samples) for samples in cut]
    target = NORMAL_LEVEL
    for samples, level in zip(cut, levels):
        if math.isfinite(level):
            target = min(target, level + 20 * math.log10(NORMAL_PEAK / float(np.abs(samples).max())))
    length = max(map(len, cut)) + round(_TAIL_SECONDS * SAMPLE_RATE)
    padded = []
    for samples, level in zip(cut, levels):
        gain = 10 ** ((target - level) / 20) if math.isfinite(level) else 1.0
        padded.append(np.pad(_faded(samples * np.float32(gain)), (0, length - len(samples))))
    return padded[0], padded[1]


def copied(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy of a sound with dither of its own: triangular, up to one step of 16 bits either way."""
    noise = rng.random(len(samples)) - rng.random(len(samples))
    return (np.clip(samples, -NORMAL_PEAK, NORMAL_PEAK) + _STEP * noise).astype(np.float32)


def _cut(samples: np.ndarray) -> np.ndarray:
    span = trim(speech_mask(frame_levels([samples], SAMPLE_RATE)))
    if span is None:
        return np.asarray(samples, np.float32)
    first, last = (round(frame * FRAME_SECONDS * SAMPLE_RATE) for frame in (span.start, span.end))
    return np.asarray(samples[first:last], np.float32)


def _speech_level(samples: np.ndarray) -> float:
    levels = frame_levels([samples], SAMPLE_RATE)
    return speech_level(levels, speech_mask(levels))


def _faded(samples: np.ndarray) -> np.ndarray:
    count = min(len(samples) // 2, round(_FADE_SECONDS * SAMPLE_RATE))
    slope = np.sin(np.linspace(0, np.pi / 2, count, dtype=np.float32)) ** 2
    out = samples.copy()
    out[:count] *= slope
    out[len(out) - count :] *= slope[::-1]
    return out
