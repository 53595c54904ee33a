"""A page on a model that is none: it records what reaches it, and speaks a short tone, or until it is stopped."""

import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from mlx_voxclone.demo.page import build
from mlx_voxclone.demo.studio import MainThread, Studio
from mlx_voxclone.speech import speaker as speaking
from mlx_voxclone.speech.speaker import SpeechResult

RATE = 24_000
FOR_EVER = "for ever."  # a text that is spoken until it is stopped


class Tokenizer:
    frames = 0  # of speech, that the last prompt was asked to leave room for

    def prompt(self, text, rows, frames=0):
        self.frames = frames or self.frames
        return [1] * (rows + 5) + [3 if text == FOR_EVER else 2] * len(text.split())


class Stand:
    """A speaker with the voices `alto` and `bass`, and an encoder."""

    voices: ClassVar = ["alto", "bass"]
    has_encoder, sampling_rate = True, RATE

    def __init__(self):
        self.tokenizer, self.clips = Tokenizer(), []
        self.release = SimpleNamespace(path="stand")
        backbone = SimpleNamespace(dim=8, max_seq_len=4096)
        self.model = SimpleNamespace(config=SimpleNamespace(backbone=backbone, codec=SimpleNamespace(frame_rate=12.5)))

    def voice_rows(self, voice=None, reference=None):
        assert (voice in self.voices) != (reference is not None)
        if reference is not None:
            assert reference.dtype == np.float32
            self.clips.append(reference)
        return np.zeros((4, 8), np.float32)


class Spoken(list):
    """Calls that reached the model, as (ids, seed); `begun` counts those for ever, `stopped` their ends."""

    begun = stopped = 0

    def speak(self, model, ids, rows, *, max_frames, seed, on_frame):
        assert all(type(number) is int for number in (*ids, max_frames, seed))
        assert 0 <= seed < 2**63
        assert len(ids) + max_frames <= 4096
        self.append((list(ids), seed))
        if 3 in ids:
            self.begun += 1
            try:
                for frame in range(10_000):
                    on_frame(frame)
                    time.sleep(0.01)
            finally:
                self.stopped += 1
        samples = 0.1 * np.sin(np.arange(RATE // 10) / 9).astype(np.float32)
        return SpeechResult(samples, np.zeros((37, 1), np.int32), True)


def page_of(monkeypatch):
    """A page (not launched), the thread that serves it, and what reaches the model."""
    spoken, thread = Spoken(), MainThread()
    monkeypatch.setattr(speaking, "speak", spoken.speak)
    return build(Studio(Stand()), thread, "A stand-in."), thread, spoken
