"""Speaking with the variants of a run, one model after another."""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mlx_voxclone.api.speech import TextToSpeech, speaker_of
from mlx_voxclone.errors import VoxcloneWarning
from mlx_voxclone.process.progress import Progress
from mlx_voxclone.speech.side_by_side import speak_each
from mlx_voxclone.speech.speaker import SpeechResult
from mlx_voxclone.studio.listen.voices import Variant


class Loads(Protocol):
    """What loads checkpoints: `studio.models.Models`."""

    def speaker(
        self, path: Any, *, adapters: Any = (), encoder: Any = None, progress: Progress | None = None
    ) -> TextToSpeech: ...


class Bench:
    """Says sentences with variants, on the thread that computes. Each voice is taken once.

    Args:
        models: loads the checkpoints.
        loading: called while one is loaded, see `Models.speaker`; what it raises ends that.
    """

    def __init__(self, models: Loads, loading: Progress) -> None:
        self._models, self._loading, self._rows = models, loading, {}

    def say(self, variant: Variant, text: str, seed: int, on_frame: Callable[[int], object]) -> SpeechResult:
        """Speak a text.

        Args:
            text: as it is said (`text.forms.as_said`).
            on_frame: called with the frames (80 ms) so far; what it raises ends the speech.

        Raises:
            VoxcloneError: a text that is too long, a model that cannot be loaded, recordings that are gone.
        """
        on_frame(0)
        tts = self._models.speaker(
            variant.model, adapters=variant.adapters, encoder=variant.encoder, progress=self._loading
        )
        on_frame(0)
        if variant not in self._rows:
            self._rows[variant] = _rows(tts, variant)
        return speak_each(text, [(speaker_of(tts), self._rows[variant])], seed, on_frame)[0]


def _rows(tts: TextToSpeech, variant: Variant):
    """The voice's rows `[N, dim]`."""
    if variant.voice is not None:
        return tts.voice_from(variant.voice).rows
    samples = np.concatenate([clip.read() for clip in variant.clips])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxcloneWarning)  # two people in it: the run has said so
        return tts.voice_from(samples).rows
