"""Transcripts that cannot be right, told by their lengths alone: before anything is trained.

Whether a text is what is said is judged much later, by the language model (`train/judge/codes.py`). What can be known
at once: nobody speaks 50 letters a second, not every recording says the same, and longer recordings have longer texts.
"""

import difflib
import re
from collections.abc import Sequence

import numpy as np

from mlx_voxclone.data.clips import Clip
from mlx_voxclone.errors import DataError

FASTEST = 50.0  # letters a second: 15 are usual, 25 are fast
FEWEST, LEAST_SPREAD = 10, 0.1  # clips, and deviation over mean of their lengths, to compare lengths by
MOST_CHARACTERS = 2 * FASTEST  # a second, of every kind: a text of signs alone has no letter
LEAST_CORRELATION = 0.3  # of ranks: above 0.8 with right transcripts, about 0 with those of other recordings


def may_be_same(one: str | None, other: str | None) -> bool:
    """Whether two clips with these texts may be the same recording, or cuts of it that overlap by most of the shorter.

    Texts that have no run of words in common of more than half of the shorter one say that they are not; a missing text
    says nothing.
    """
    if one is None or other is None:
        return True
    a, b = (re.findall(r"\w+", text.casefold()) for text in (one, other))
    common = difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size
    return 2 * common > min(len(a), len(b)) or not (a and b)


def is_sayable(clip: Clip) -> bool:
    """Whether a clip's text could be said within the clip (and a second more)."""
    return clip.text is not None and can_be_said(clip.text, clip.seconds)


def can_be_said(text: str, seconds: float) -> bool:
    """Whether a text could be said within so many seconds (and one more)."""
    fits = len(text) <= MOST_CHARACTERS * (seconds + 1.0)  # first: it may be a whole book
    return fits and _letters(text) <= FASTEST * (seconds + 1.0)


def check_said(name: str, text: str, seconds: float) -> None:
    """Refuse a text that cannot be what is said: as part of a sequence it would take any amount of memory.

    Raises:
        DataError: with the name of what it belongs to.
    """
    if not can_be_said(text, seconds):
        raise DataError(
            f"{name}: its text is too long: it has {len(text)} characters, at most"
            f" {MOST_CHARACTERS * (seconds + 1):.0f} fit into {seconds:.1f} s of speech ({FASTEST:.0f}"
            f" letters a second): {text[:40]!r}"
        )


def check_same(clips: Sequence[Clip]) -> None:
    """Refuse more than two transcripts that are all the same.

    Raises:
        DataError: they are.
    """
    texts = [clip.text for clip in clips if clip.text]
    if len(texts) > 2 and len({" ".join(text.casefold().split()) for text in texts}) == 1:
        raise DataError(
            f"all {len(texts)} transcripts are the same ({texts[0][:40]!r}); give each clip its own transcript"
        )


def doubtful(clips: Sequence[Clip]) -> list[str]:
    """A line for each text that is too long for its clip, and one if lengths of texts and clips do not go together."""
    texted = [clip for clip in clips if clip.text]
    lines = [
        f"{clip.source or clip.path}: its text ({_length(clip.text)}) is too long for {clip.seconds:.1f} s, so"
        f" it is left out: {clip.text[:60]!r}"
        for clip in texted
        if not is_sayable(clip)
    ]
    correlation = length_correlation([clip for clip in texted if is_sayable(clip)])
    if correlation is not None and correlation < LEAST_CORRELATION:
        lines.append(
            f"the transcripts may belong to other recordings: longer clips do not have longer texts (rank correlation"
            f" {correlation:.2f}, above 0.8 is usual); compare a few before hours of training"
        )
    return lines


def length_correlation(clips: Sequence[Clip]) -> float | None:
    """Rank correlation of the seconds of clips and the letters of their texts; None where lengths tell nothing."""
    pairs = np.array([(clip.seconds, _letters(clip.text)) for clip in clips], dtype=np.float64).reshape(-1, 2)
    if len(pairs) < FEWEST or (pairs.std(axis=0) < LEAST_SPREAD * pairs.mean(axis=0)).any():
        return None
    return float(np.corrcoef(pairs.argsort(axis=0).argsort(axis=0).T)[0, 1])


def _length(text: str) -> str:
    letters = _letters(text)
    return f"{letters} letters" if 2 * letters >= len(text) else f"{len(text)} characters"


def _letters(text: str) -> int:
    return sum(character.isalnum() for character in text)
