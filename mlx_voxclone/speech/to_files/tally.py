"""What is told after many chunks were spoken: those that may not be right, and how much a listener heard wrong."""

from dataclasses import dataclass, field

from mlx_voxclone.speech.narration import Spoken

MOSTLY_WRONG = 0.4  # share of words, from which a listener is of little use


@dataclass(kw_only=True)
class Tally:
    """Counts what is known of chunks.

    Attributes:
        doubts: `(name, reason)` of what may not be right.
        wrong, words: what a listener heard; 0 words without one.
    """

    doubts: list[tuple[str, str]] = field(default_factory=list)
    wrong: int = 0
    words: int = 0

    def count(self, name: str, spoken: Spoken) -> None:
        """Take a chunk; `name` says which one it is, to somebody who reads the doubts."""
        if spoken.doubt is not None:
            self.doubts.append((name, spoken.doubt))
        if spoken.heard is not None:
            self.wrong, self.words = self.wrong + spoken.heard.wrong, self.words + spoken.heard.words

    def warning(self) -> str | None:
        """A line where so much was heard wrong that the Whisper could hardly choose; else None."""
        if not self.words or self.wrong / self.words < MOSTLY_WRONG:
            return None
        return (
            f"{self.wrong / self.words:.0%} of the words were heard wrong, so much that it could hardly choose: the"
            " speech is bad, or this Whisper does not know its language; try a larger one, or say which language it is"
        )
