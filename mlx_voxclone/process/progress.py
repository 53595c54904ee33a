"""Progress bars: one look, silent where stderr is no terminal."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def progress_bar(*, quiet: bool = False, **options: Any):
    """A tqdm bar that vanishes when done. `options` as tqdm's: total, unit, desc, ..."""
    from tqdm import tqdm  # here: --help does without it

    return tqdm(disable=True if quiet else None, leave=False, **options)


def progress_over(items: Iterable, total: int, what: str) -> Iterable:
    """The items, with a bar named `what`; the form that `data.prepare` and the codes stage take."""
    return progress_bar(iterable=items, total=total, desc=what)


@contextlib.contextmanager
def weight_bar(quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes of weights; yields what is to be called with those dealt with since the last call, and in all."""
    with progress_bar(quiet=quiet, desc="weights", unit="B", unit_scale=True, delay=1) as bar:

        def advance(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        yield advance
