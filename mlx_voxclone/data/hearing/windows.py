"""Where a long recording is heard: windows that a Whisper takes at once, cut at pauses."""

import numpy as np

from mlx_voxclone.audio.segment import FRAME_SECONDS, Span, cut_at_pauses

LONGEST_WINDOW = 28.0  # seconds; a Whisper takes 30
_PIECES = (2.0, 12.0)  # seconds, of what is joined into windows: two or three fill one


def windows(levels: np.ndarray, mask: np.ndarray) -> list[Span]:
    """Windows in order that hold all speech, each of up to `LONGEST_WINDOW`; long silences fall out.

    Args:
        levels: [frames], dB, from `audio.segment.frame_levels`.
        mask: [frames], from `audio.segment.speech_mask`.
    """
    joined: list[Span] = []
    for piece in cut_at_pauses(levels, mask, *_PIECES):
        if joined and (piece.end - joined[-1].start) * FRAME_SECONDS <= LONGEST_WINDOW:
            joined[-1] = Span(joined[-1].start, piece.end)
        else:
            joined.append(piece)
    return joined
