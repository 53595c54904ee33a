"""What may be asked for when a text is spoken: bounds, and voices that are kept in files of their own."""

import math
from pathlib import Path

MAX_SECONDS = 60.0  # of one utterance, which is cut off there
PAUSE = 0.35  # seconds of silence after a sentence of a long text
BATCH = 8  # chunks of a long text at once: three times as many frames a second as one alone
STREAM_BATCH = 4  # where somebody listens meanwhile: the first sound comes when all of these are spoken
MAX_STEPS, MAX_GUIDANCE, MAX_PAUSE, MAX_BATCH = 1000, 100, 60, 256  # beyond, it is a slip of the hand
TRIES = 3  # of a chunk that may not be right
MAX_TRIES = 20
NO_WORDS = "the text has no letter and no digit; give some words to speak"
NOTHING_SAID = "the model ended before its first frame: nothing to write; try another text or voice"


def fault(max_seconds: float, steps: int | None, cfg_alpha: float) -> tuple[str, str] | None:
    """The first option out of its bounds and what it must be, such as `("max_seconds", "must be ...")`; None: all fit.

    Args:
        max_seconds: of speech, cut off there.
        steps: Euler steps per frame; None: the checkpoint's.
        cfg_alpha: guidance.
    """
    if not 0 < max_seconds < math.inf:
        return "max_seconds", f"must be above 0 and finite, got {max_seconds:g}"
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        return "steps", f"must be from 1 to {MAX_STEPS}, got {steps}"
    if not abs(cfg_alpha) <= MAX_GUIDANCE:
        return "cfg_alpha", f"must be a finite number up to {MAX_GUIDANCE}, got {cfg_alpha:g}"
    return None


def voice_file(voice: str) -> Path | None:
    """The file of a voice that is kept apart, fetched where it is an address of the hub; None: a checkpoint's voice.

    Raises:
        CheckpointError: not to be had from the hub.
    """
    from mlx_voxclone.files.hub import VOICE, VOICE_SUFFIXES, is_address, local

    if not (is_address(voice) or Path(voice).suffix in VOICE_SUFFIXES):  # no voice's name has a dot
        return None
    return local(voice, VOICE)
