"""Progress bars: one look, silent where stderr is no terminal."""

from collections.abc import Iterable
from typing import Any


def progress_bar(*, quiet: bool = False, **options: Any):
    """A tqdm bar that vanishes when done. `options` as tqdm's: total, unit, desc, ..."""
    from tqdm import tqdm  # here: --help does without it

    return tqdm(disable=True if quiet else None, leave=False, **options)


def progress_over(items: Iterable, total: int, what: str) -> Iterable:
    """The items, with a bar named `what`; the form that `data.prepare` and the codes stage take."""
    return progress_bar(iterable=items, total=total, desc=what)
