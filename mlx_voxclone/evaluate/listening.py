"""A Whisper that listens while a text is spoken: what it hears of each chunk, and how much of that is wrong."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.data.transcribe import Transcriber
from mlx_voxclone.evaluate.intelligibility import check_installed, errors, normalise
from mlx_voxclone.files.texts import base_language
from mlx_voxclone.speech.narration import Heard

# Languages that do not divide words by blanks, or not where a reader would: letters are compared.
BY_LETTERS = frozenset(("zh", "ja", "th", "lo", "my", "km", "yue", "bo"))


@contextlib.contextmanager
def listener(whisper: str) -> Iterator[Callable[[str | None], Callable[[str, np.ndarray], Heard]]]:
    """Load a Whisper for the time of the block.

    Args:
        whisper: directory in mlx-whisper's format, or a hub id.

    Yields:
        A function that takes a language's code (None: the Whisper finds out) and gives the `listen` of a `Narration`.
        It raises DataError for a language that this Whisper cannot hear.
    Raises:
        DataError: mlx-whisper or jiwer is not installed, or the model cannot be loaded.
    """
    check_installed()
    with Transcriber(whisper) as transcriber:

        def of_language(language: str | None) -> Callable[[str, np.ndarray], Heard]:
            if language is not None:
                transcriber.check_language(language)
            by_letters = base_language(language or "") in BY_LETTERS

            def listen(text: str, samples: np.ndarray) -> Heard:
                heard, _ = transcriber.transcribe_samples(samples, SAMPLE_RATE, language)
                return compared(text, heard, by_letters)

            return listen

        yield of_language


def compared(text: str, heard: str | None, by_letters: bool = False) -> Heard:
    """What is wrong in what was heard of a text; a text without words (signs alone) has nothing to be wrong."""
    if not normalise(text):
        return Heard(heard, 0, 0)
    found = errors(text, heard)
    if by_letters:
        return Heard(heard, found.letter_edits, found.letters)
    return Heard(heard, found.word_edits, found.words)
