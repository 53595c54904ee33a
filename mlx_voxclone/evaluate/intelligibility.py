"""What a listener would understand: word and character error rates of what a Whisper hears, by jiwer."""

from dataclasses import dataclass

from mlx_voxclone.errors import DataError
from mlx_voxclone.whisper.compare import normalise


@dataclass(frozen=True)
class Errors:
    """Of one text: edits against the reference, so that rates over many texts weigh them by length.

    Args:
        word_edits, words: substitutions, deletions and insertions of words; words of the reference.
        letter_edits, letters: the same for characters, spaces among them.
    """

    word_edits: int
    words: int
    letter_edits: int
    letters: int

    @property
    def wer(self) -> float:
        return self.word_edits / self.words

    @property
    def cer(self) -> float:
        return self.letter_edits / self.letters


def check_installed() -> None:
    """Raise DataError where jiwer is missing: before hours of work, not at the first text that was heard."""
    try:
        import jiwer  # noqa: F401
    except ImportError:
        raise DataError("error rates need jiwer; install it with: pip install 'mlx-voxclone[evaluate]'") from None


def errors(said: str, heard: str | None) -> Errors:
    """Compare what should be said with what was heard (None: nothing).

    Raises:
        DataError: nothing should be said, or jiwer is not installed.
    """
    reference, hypothesis = normalise(said), normalise(heard or "")
    if not reference:
        raise DataError("the text holds no words to compare with")
    check_installed()
    import jiwer

    if not hypothesis:
        words = len(reference.split())
        return Errors(words, words, len(reference), len(reference))
    found = jiwer.process_words(reference, hypothesis), jiwer.process_characters(reference, hypothesis)
    edits = [f.substitutions + f.deletions + f.insertions for f in found]
    return Errors(edits[0], len(reference.split()), edits[1], len(reference))
