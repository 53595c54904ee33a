"""One sentence, spoken by several models to be compared: with the same seed, within the same bounds.

What the pages to listen on stand on. Texts are bounded by their tokens before any model speaks, so that a mistake costs
no time, and speech is cut off where the model does not end.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlx_voxclone.errors import DataError

if TYPE_CHECKING:  # a page answers before MLX is loaded
    from mlx_voxclone.speech.speaker import SpeechResult

MAX_SECONDS = 30  # of speech
MAX_TOKENS = 1000  # of a text: several times what can be said in MAX_SECONDS
MAX_CHARACTERS = 8_000  # beyond, a text is not even cut into tokens
_SILENT = {"C", "M", "Z"}  # Unicode categories that nobody can say: control, marks alone, blanks


def is_sayable(text: str) -> bool:
    """Whether a text holds anything but blanks, marks and control characters."""
    return not all(unicodedata.category(c)[0] in _SILENT for c in text)


def max_frames(speaker: Any) -> int:
    """Frames after which speech is cut off."""
    return max(1, round(MAX_SECONDS * speaker.model.config.codec.frame_rate))


def bounded_prompt(speaker: Any, text: str, rows: Any) -> list[int]:
    """The ids of a prompt; the one place that bounds a text by its tokens.

    Args:
        speaker: a `speech.speaker.Speaker`.
        text: as it is said (`text.forms.as_said`).
        rows: the voice, `[N, dim]`.

    Raises:
        DataError: more than `MAX_TOKENS`, or than the model's context holds beside the voice and the speech.
    """
    ids = speaker.tokenizer.prompt(text, rows.shape[0], max_frames(speaker))
    count = len(ids) - len(speaker.tokenizer.prompt(".", rows.shape[0])) + 1
    if count > MAX_TOKENS:
        raise DataError(f"the text is too long: {count:,} tokens; up to {MAX_TOKENS:,} are possible, so split it")
    return ids


def speak_each(
    text: str, voices: Sequence[tuple[Any, Any]], seed: int, on_frame: Callable[[int], object]
) -> "list[SpeechResult]":
    """Speak a text with each of some models.

    Args:
        text: as it is said.
        voices: pairs of a `Speaker` and the rows of its voice, `[N, dim]`.
        seed: the same for all.
        on_frame: called with the frames so far, of each anew; what it raises ends the speech.

    Raises:
        DataError: see `bounded_prompt`; before any of them speaks.
        NotFiniteError: damaged weights.
    """
    from mlx_voxclone.speech.speaker import speak

    prompts = [bounded_prompt(speaker, text, rows) for speaker, rows in voices]
    return [
        speak(speaker.model, ids, rows, max_frames=max_frames(speaker), seed=seed, on_frame=on_frame)
        for (speaker, rows), ids in zip(voices, prompts)
    ]
