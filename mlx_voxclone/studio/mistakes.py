"""Mistakes of a person's on the page: one sentence, beside the field that caused it."""

from collections.abc import Mapping
from typing import Any

from mlx_voxclone.errors import VoxcloneError


class Size(int):
    """Bytes, shown with a unit: `5.00 MB`."""


class Mistake(VoxcloneError):
    """A value that cannot be taken.

    Args:
        field: name of the form's field; "" for the form as a whole.
        key: of the sentence in `words/*.toml`.
        line: the library's own message, in English; shown below the sentence.
        values: put into the sentence.
    """

    def __init__(self, field: str, key: str, *, line: str = "", **values: object) -> None:
        super().__init__(line or f"{field or 'form'}: {key}")
        self.field, self.key, self.line, self.values = field, key, line, values

    def beside(self, field: str) -> "Mistake":
        """This one, moved beside another field."""
        self.field = field
        return self


def as_said(key: str, values: Mapping[str, object]) -> dict[str, Any]:
    """A page's text as its key and values, ready for JSON; `web.languages.told` renders it in any language."""

    def plain(value: object) -> Any:
        return getattr(value, "said", None) or (value if isinstance(value, int | float) else str(value))

    return {"key": key, "values": {name: plain(value) for name, value in values.items()}}


def is_said(found: object) -> bool:
    """Whether this is what `as_said` returned, read from a file."""
    return isinstance(found, Mapping) and isinstance(found.get("key"), str) and isinstance(found.get("values"), dict)


class Missing(VoxcloneError):
    """Something that is not there, or not this person's: 404."""


class Cancelled(VoxcloneError):
    """A task that was cancelled."""
