"""The one place where a text takes the form in which it is spoken and learnt.

`say`, the Python API, the demo and `pairs` speak what `as_said` returns, `prepare` keeps what `as_learnt` returns: the
same words become the same tokens, here and in mlx-audio. See `signs`, `markup` and `english` for what is changed.
"""

import re

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import damage, spoken, tidy, words
from mlx_voxclone.text.english import in_brackets, with_amounts
from mlx_voxclone.text.markup import without_markup
from mlx_voxclone.text.numbers import numbers_of
from mlx_voxclone.text.signs import as_servers

PARAGRAPHS = re.compile(r"\n[^\S\n]*(?:\n\s*)+")


def as_said(
    text: str,
    language: str | None = None,
    *,
    verbatim: bool = False,
    numbers: bool = False,
    what: str = "the text",
) -> str:
    """One line that is spoken.

    Args:
        text: as somebody wrote it.
        language: code; English brings English words for amounts of money and for signs in brackets.
        verbatim: change nothing but blanks and invisible characters.
        numbers: put numbers in words first; needs the language.
        what: names the text in messages.

    Raises:
        DataError: damaged, nothing in it that can be spoken, or numbers that cannot be put in words.
    """
    line = spoken(text, what)
    if words(line) is None:
        raise DataError(f"{what} has no letter and no digit; give some words to speak")
    if numbers:
        text = numbers_of(language).in_words(text)
    if verbatim:
        return spoken(text, what)
    line = _line(without_markup(text, is_english(language)), language)
    if line is None or words(line) is None:
        raise DataError(f"{what} has no words beside its markup; give some words to speak")
    return line


def as_read(text: str, language: str | None = None, *, verbatim: bool = False, numbers: bool = False) -> str:
    """A text of any length that is spoken, as `as_said` puts each of its paragraphs; empty lines are between them.

    Raises:
        DataError: damaged, or numbers that cannot be put in words.
    """
    if reason := damage(text):
        raise DataError(f"the text holds {reason}; write it again as UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if numbers:
        text = numbers_of(language).in_words(text)
    if verbatim:
        return text
    paragraphs = [_line(part, language) for part in PARAGRAPHS.split(without_markup(text, is_english(language)))]
    return "\n\n".join(part for part in paragraphs if part is not None)


def as_learnt(text: str | None, language: str | None = None, numbers: bool = False) -> str | None:
    """A transcript in the form in which its words would be spoken; None where there are none.

    A transcript has no markup: none is taken out. Raises DataError as `numbers_of` does.
    """
    line = words(text) if text else None
    if line is None:
        return None
    return _line(numbers_of(language).in_words(line) if numbers else line, language)


def is_english(language: str | None) -> bool:
    return language is not None and re.split("[-_]", language.lower())[0] in ("en", "english")


def _line(text: str, language: str | None) -> str | None:
    line = tidy(text)
    if line is None or not any(character.isalnum() for character in line):
        return line
    if is_english(language):
        return as_servers(with_amounts(line), in_brackets)
    return as_servers(line)
