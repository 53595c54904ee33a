"""Levels and Silero VAD together: the network says which sounds are speech, the levels where they begin and end."""

import numpy as np

from mlx_voxclone.audio.segment import FRAME_SECONDS

_REACH = round(0.25 / FRAME_SECONDS)  # frames to each side of what the network hears: soft onsets, dying sounds


def together(levels: np.ndarray, loud: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Frames of speech.

    What the network hears is kept, and so is what is loud within 0.25 s of it.

    Args:
        levels, loud: [frames], see `segment.frame_levels` and `segment.speech_mask`.
        heard: bool [frames], from `silero.SileroMeter`.
    """
    if not heard.any():
        return loud
    near = np.convolve(heard, np.ones(2 * _REACH + 1), "same") > 0
    return heard | (loud & near)
