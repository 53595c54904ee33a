"""Texts as they are spoken and learnt: one spelling of each, whoever wrote it and wherever it comes from.

`prepare` and every command that speaks take the same text from the same words: accents composed (NFC), blanks of any
kind as single spaces, what shows nothing left out. A text that a wrong decoding has damaged is refused.
"""

import re
import unicodedata

from mlx_voxclone.errors import DataError

# Controls other than blanks, soft hyphens, marks of direction, zero-width blanks, byte order marks, tags.
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffc\U000e0000-\U000e007f]"
)
_BLANK = re.compile("[\u2800\u3164\uffa0]")  # letters and patterns by their class, but nothing is seen
_JOINERS = re.compile("[\u200c\u200d]+")
_OTHER_SCRIPTS = "\u0590"  # from here on, joiners can change how a word is spelt: Persian, Hindi, ...
_WRONG = "\ufffd"  # what a decoder puts where it could not read on


def tidy(text: str) -> str | None:
    """One line of composed characters with single spaces, without invisible ones; None for nothing."""
    if not text.isascii():
        text = _BLANK.sub(" ", _INVISIBLE.sub("", text))
        text = unicodedata.normalize("NFC", text)
        if _JOINERS.search(text):
            text = unicodedata.normalize("NFC", _JOINERS.sub(_joiner, text))
    elif not text.isprintable():
        text = _INVISIBLE.sub("", text)
    return " ".join(text.split()) or None


def words(text: str) -> str | None:
    """What is said, `tidy`; None for a text without any letter or digit, such as `...` or an invisible space."""
    found = tidy(text)
    return found if found is not None and any(character.isalnum() for character in found) else None


def damage(text: str) -> str | None:
    """Why a text cannot be what was written, in a few words; None if it can."""
    if text.isascii():
        return None
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "bytes that are not UTF-8"
    return "U+FFFD, which a wrong decoding leaves in the place of letters" if _WRONG in text else None


def spoken(text: str, what: str = "the text") -> str:
    """A text that somebody wants to hear, `tidy`.

    Args:
        what: names the text in messages.

    Raises:
        DataError: nothing in it, or damaged.
    """
    if reason := damage(text):
        raise DataError(f"{what} holds {reason}; write it again as UTF-8")
    found = tidy(text)
    if found is None:
        raise DataError(f"{what} is empty; give some words to speak")
    return found


def _joiner(match: re.Match[str]) -> str:
    """One joiner between letters of a script that has them, none elsewhere."""
    text, start, end = match.string, match.start(), match.end()
    around = text[start - 1 : start], text[end : end + 1]
    kept = all(c and c >= _OTHER_SCRIPTS and unicodedata.category(c)[0] in "LM" for c in around)
    return match[0][0] if kept else ""


def base_language(code: str) -> str:
    """The language of a code with a country or script, in lower case: `fr_CA` -> `fr`."""
    return re.split("[-_]", code)[0].lower()
