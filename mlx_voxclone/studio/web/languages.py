"""The page's texts: a TOML file per language, a table per step."""

import string
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from mlx_voxclone.process.amounts import format_bytes
from mlx_voxclone.studio.mistakes import Size, as_said, is_said

DEFAULT = "en"
Words = Callable[..., str]


class Told(str):
    """A text with its key and values (`said`), from which `told` renders it in another language."""

    said: dict[str, Any]


@cache
def languages() -> dict[str, str]:
    """Codes of the languages there are a file of, and their own names."""
    names = [entry.name for entry in (resources.files("mlx_voxclone.studio") / "words").iterdir()]
    codes = sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
    return {code: texts(code)["language"] for code in codes}


@cache
def texts(code: str) -> dict[str, str]:
    """All texts of a language, by `table.key`."""
    file = resources.files("mlx_voxclone.studio") / "words" / f"{code}.toml"
    return dict(_flat(tomllib.loads(file.read_text(encoding="utf-8")), ""))


@cache
def words_in(code: str) -> Words:
    """`t(key, **values)`: a text with the values put in; of one that a language lacks, the English one.

    Raises:
        KeyError: no language has it.
    """
    own, english = texts(code), texts(DEFAULT)
    numbers = _Numbers(*(own.get(key) or english[key] for key in ("common.point", "common.group")))

    def t(key: str, **values: Any) -> str:
        text = own.get(key) or english[key]
        found = Told(numbers.vformat(text, (), values) if values else text)
        found.said = as_said(key, values)
        return found

    return t


class _Numbers(string.Formatter):
    """Puts values into a text: numbers as a language writes them, sizes (`Size`) in the unit that fits."""

    def __init__(self, point: str, group: str) -> None:
        self._marks = str.maketrans({".": point, ",": group, "-": "\N{MINUS SIGN}"})

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Size):
            return format_bytes(value).translate(self._marks)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return super().format_field(value, format_spec)
        usual = "g" if isinstance(value, float) else ""
        return super().format_field(value, format_spec or usual).translate(self._marks)


def told(said: Mapping[str, Any] | None, t: Words) -> str:
    """A text from its key and values (`as_said`); empty if no language has the key any more."""
    try:
        values = {name: told(one, t) if is_said(one) else one for name, one in said["values"].items()} if said else {}
        return t(said["key"], **values) if said else ""
    except (KeyError, ValueError, IndexError, TypeError):  # noted by another version of the studio
        return ""


def now(text: str, t: Words) -> str:
    """A text in the language of `t`: rendered again if its key is known (`Told`), else unchanged."""
    return told(getattr(text, "said", None), t) or text


def failed(what: str, t: Words) -> str:
    """The sentence that a task of this kind has failed; a general one for an unknown kind."""
    try:
        return t(f"trouble.failed.{what}")
    except KeyError:
        return f"{t('common.wrong')}."


def chosen(wanted: str | None, header: str) -> str:
    """Code of the page's language.

    Args:
        wanted: what the person has chosen, None for nothing.
        header: `Accept-Language` of the browser.
    """
    known = languages()
    if wanted in known:
        return str(wanted)
    ranked: list[tuple[float, str]] = []
    for part in header[:1000].split(","):
        code, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((-float(quality or 1), code.partition("-")[0].lower()))
        except ValueError:
            continue
    return next((code for _, code in sorted(ranked, key=lambda one: one[0]) if code in known), DEFAULT)


def _flat(table: dict[str, Any], before: str):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
