"""Texts as they are compared: without case, punctuation and blanks; words with their places in the text."""

import unicodedata
from collections.abc import Sequence

import numpy as np

_APOSTROPHES = "'’"
# Scripts that put no blanks between words: there every character is a word of its own.
_WITHOUT_BLANKS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def normalise(text: str) -> str:
    """What is compared: lower case, no punctuation or symbols, single spaces; accents stay, compatibility forms (NFKC)
    become one. Numbers are left as they are written: write them as words in what is to be said."""
    kept = []
    for letter in unicodedata.normalize("NFKC", text).lower():
        kind = unicodedata.category(letter)
        if kind[0] in "LMN":
            kept.append(letter)
        elif letter in _APOSTROPHES:
            continue  # don't -> dont, which is how it is heard either way
        else:
            kept.append(" ")
    return " ".join("".join(kept).split())


def letters(text: str) -> str:
    """`normalise` without any space: `wood-cutters` and `woodcutters` are one."""
    return normalise(text).replace(" ", "")


def units(text: str) -> list[tuple[int, int]]:
    """The words of a text as (start, end) of their characters, without punctuation around them."""
    found: list[tuple[int, int]] = []
    start = None
    for k, letter in enumerate(text):
        inside = unicodedata.category(letter)[0] in "LMN" or (
            letter in _APOSTROPHES and start is not None and text[k + 1 : k + 2].isalpha()
        )
        alone = inside and not letter.isascii() and unicodedata.name(letter, "").startswith(_WITHOUT_BLANKS)
        if start is not None and (not inside or (alone and unicodedata.category(letter)[0] != "M")):
            found.append((start, k))
            start = None
        if inside and start is None:
            start = k
    return found if start is None else [*found, (start, len(text))]


def distance(a: Sequence, b: Sequence) -> int:
    """Substitutions, deletions and insertions between two sequences."""
    if not a or not b:
        return len(a) + len(b)
    known: dict = {}
    left, right = ([known.setdefault(one, len(known)) for one in side] for side in (a, b))
    right, steps = np.array(right), np.arange(len(b) + 1)
    row = steps.copy()
    for k, one in enumerate(left, 1):
        here = np.empty_like(row)
        here[0] = k
        here[1:] = np.minimum(row[:-1] + (right != one), row[1:] + 1)
        row = np.minimum.accumulate(here - steps) + steps
    return int(row[-1])


def has_digit(text: str) -> bool:
    """Whether a number is written in figures."""
    return any(letter.isnumeric() for letter in text)


def script(text: str) -> str | None:
    """The script that most letters of a text are in, as Unicode names it (`latin`); None for no letters."""
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            name = "latin" if letter.isascii() else unicodedata.name(letter, "?").split()[0].split("-")[0].lower()
            name = "cjk" if name in ("hiragana", "katakana") else name
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=counts.get) if counts else None
