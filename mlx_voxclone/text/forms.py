"""The one place where a text takes the form in which it is spoken and learnt.

`say`, the Python API, the demo and `pairs` speak what `as_said` returns, `prepare` keeps what `as_learnt` returns: the
same words become the same tokens, here and in mlx-audio. See `signs`, `markup` and `english` for what is changed.
"""

from collections.abc import Callable

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import base_language, spoken, tidy, words
from mlx_voxclone.text.english import in_brackets, with_amounts
from mlx_voxclone.text.markup import without_markup
from mlx_voxclone.text.numbers import numbers_of
from mlx_voxclone.text.signs import as_servers


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
        numbers: put numbers in words, once markup is out; needs the language.
        what: names the text in messages.

    Raises:
        DataError: damaged, nothing in it that can be spoken, or numbers that cannot be put in words.
    """
    line = spoken(text, what)
    if words(line) is None:
        raise DataError(f"{what} has no letter and no digit; give some words to speak")
    line = form_of(language, verbatim=verbatim, numbers=numbers)(text)
    if line is None or words(line) is None:
        raise DataError(f"{what} has no words beside its markup; give some words to speak")
    return line


def form_of(
    language: str | None = None, *, verbatim: bool = False, numbers: bool = False
) -> Callable[[str], str | None]:
    """What puts one block of a long text (a paragraph, a verse) as `as_said` puts a line; None where nothing is left.

    Raises:
        DataError: numbers that cannot be put in words.
    """
    in_words = numbers_of(language).in_words if numbers else str

    def form(text: str) -> str | None:
        if verbatim:
            return tidy(in_words(text))
        # Markup goes first: what is a number of a link, an entity or a list is none to speak.
        return _line(in_words(without_markup(text, is_english(language))), language)

    return form


def as_learnt(text: str | None, language: str | None = None, numbers: bool = False) -> str | None:
    """A transcript in the form in which its words would be spoken; None where there are none.

    A transcript has no markup: none is taken out. Raises DataError as `numbers_of` does.
    """
    line = words(text) if text else None
    if line is None:
        return None
    return _line(numbers_of(language).in_words(line) if numbers else line, language)


def is_english(language: str | None) -> bool:
    return language is not None and base_language(language) in ("en", "english")


def _line(text: str, language: str | None) -> str | None:
    line = tidy(text)
    if line is None or not any(character.isalnum() for character in line):
        return line
    if is_english(language):
        return as_servers(with_amounts(line), in_brackets)
    return as_servers(line)
