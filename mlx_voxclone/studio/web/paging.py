"""Long lists, a page at a time; each page has an address of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

SIZE = 20  # items on a page
_NEAR = 1  # pages before and behind the one that is shown, to which a link leads


@dataclass(frozen=True)
class Paged:
    """A page of a list.

    Attributes:
        items: those of this page. total: of all pages. number: of the page, from 1. pages: how many there are.
        query: other parameters of the address, kept in links.
    """

    items: Sequence[Any]
    total: int
    number: int
    pages: int
    query: Mapping[str, str]

    @property
    def first(self) -> int:
        """Number of the first item of this page, from 1; 0 of an empty list."""
        return min(self.total, (self.number - 1) * SIZE + 1)

    @property
    def last(self) -> int:
        return min(self.total, self.number * SIZE)

    @property
    def numbers(self) -> list[int | None]:
        """Pages to which links lead: the first, the last, and those around this one; None for what is left out."""
        near = range(self.number - _NEAR, self.number + _NEAR + 1)
        wanted = sorted({1, self.pages, *(number for number in near if 1 <= number <= self.pages)})
        found: list[int | None] = []
        for number in wanted:
            if found and number - (found[-1] or 0) > 1:
                found.append(None)
            found.append(number)
        return found

    def at(self, number: int | None = None, **changes: str) -> str:
        """The query of an address, "" or with its question mark: of this page, another, or one of another list."""
        kept = {**self.query, **changes}
        number = number or (1 if changes else self.number)
        found = {key: value for key, value in kept.items() if value} | ({"page": str(number)} if number > 1 else {})
        return f"?{urlencode(found)}" if found else ""


def paged(items: Sequence[Any], wanted: str | None, query: Mapping[str, str] | None = None) -> Paged:
    """One page of a list.

    Args:
        wanted: its number, from the address; out of range: the nearest page, no number: the first.
    """
    pages = max(1, -(-len(items) // SIZE))
    number = int(wanted) if wanted and wanted.isascii() and wanted.isdecimal() and len(wanted) < 9 else 1
    number = min(max(1, number), pages)
    return Paged(items[(number - 1) * SIZE : number * SIZE], len(items), number, pages, query or {})
