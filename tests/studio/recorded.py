"""Recordings of a synthetic speaker, as a browser would send them."""

import base64
from io import BytesIO

import numpy as np
import pytest
import soundfile

from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.studio.record import long
from mlx_voxclone.studio.record.checks import check
from mlx_voxclone.studio.record.shelf import Shelf

whisper = pytest.mark.skipif(not long.whisper_installed(), reason="the extra `transcribe` is not installed")
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


def many(project, takes: int = 0, uploads: int = 0, clips: int = 0) -> None:
    """A voice of many recordings, as they are kept: one sound, checked once, under many notes."""
    sound = wav(spoken("papa mino lesu."))
    (project.folder / "one.wav").write_bytes(sound)
    found, words = check(project.folder / "one.wav", "papa mino lesu.")
    drawn = {"check": found.content(), "peaks": [0.5] * 160, "seconds": found.seconds}
    language = project.info()["language"]

    def add(shelf: str, number: int, suffix: str = ".wav", **values) -> str:
        notes = {**drawn, "created": "2026-11-30T10:00:00+00:00", "sha256": f"{number:064x}", **values}
        return Shelf(getattr(project, shelf)).add(notes, lambda file: file.write(sound), suffix)

    for number in range(takes):
        turn, place = divmod(number, 40)
        add("takes", number, slot=f"{language}-{place + 1:03d}.{turn + 2}", text=f"take {number}.")
    for number in range(uploads):
        printed = base64.b64encode((words + np.uint32(number)).astype("<u4").tobytes()).decode()
        own = {"name": f"file {number}.wav", "key": f"file {number}", "text": None, "long": False, "cut": None}
        add("uploads", number, heard=True, print=printed, **own)
    if clips:
        long = add("uploads", uploads, name="chapter.wav", key="chapter", text=None, long=True, cut=clips, heard=True)
        shelf = Shelf(project.clips)
        shelf.folder.mkdir()
        for number in range(1, clips + 1):
            (shelf.folder / f"{long}~{number:03d}.wav").write_bytes(sound)
            shelf.keep_notes(f"{long}~{number:03d}", {**drawn, "upload": long, "name": f"clip {number}", "text": None})
