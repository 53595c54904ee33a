"""Recordings of a synthetic speaker, as a browser would send them."""

from io import BytesIO

import numpy as np
import soundfile

from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

RATE = 24_000
AGREED = {"who": "Ann Example", "when": "2026-11-30T10:00:00+00:00", "purpose": "reading aloud", "statement": "Yes."}


def spoken(text: str, seed: int = 0, *, before: float = 0.3, after: float = 0.3) -> np.ndarray:
    """A text, with silence around: float32 [samples] at 24 kHz."""
    silence = [np.zeros(round(seconds * RATE), np.float32) for seconds in (before, after)]
    return np.concatenate([silence[0], synthesise(text, SyntheticSpeaker.sample(4), seed), silence[1]])


def wav(samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_24", format: str = "WAV") -> bytes:
    """A file's bytes."""
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, subtype=subtype, format=format)
    return buffer.getvalue()
