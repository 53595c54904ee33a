"""Progress: bars on a terminal, silent where stderr is none; or a caller's own functions in their place (`told_to`)."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

Progress = Callable[[int, int | None, str], object]  # done, total (None: unknown), what
Message = Callable[[str], None]


@dataclass(frozen=True)
class Listener:
    """What is called in the place of bars and of lines on stderr."""

    progress: Progress
    message: Message


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def listener() -> Listener | None:
    """The functions that the caller wants called; None: progress goes to stderr."""
    return _listener.get()


@contextlib.contextmanager
def told_to(progress: Progress | None, message: Message | None) -> Iterator[None]:
    """In this block nothing is shown: every step of a bar calls `progress`, every line beside one `message`."""
    token = _listener.set(Listener(progress or (lambda done, total, what: None), message or (lambda line: None)))
    try:
        yield
    finally:
        _listener.reset(token)


class _Told:
    """Has of a tqdm bar what is used here, and tells a listener."""

    disable = False

    def __init__(self, listener: Listener, iterable: Iterable = (), total: int | None = None, desc: str = "", **_: Any):
        self.total, self.n, self._iterable, self._what, self._listener = total, 0, iterable, desc, listener

    def update(self, n: int = 1) -> None:
        self.n += n
        self._listener.progress(self.n, self.total, self._what)

    def __iter__(self) -> Iterator:
        for item in self._iterable:
            yield item
            self.update()

    def close(self) -> None:
        pass

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def progress_bar(*, quiet: bool = False, **options: Any):
    """A tqdm bar that vanishes when done. `options` as tqdm's: total, unit, desc, ..."""
    if not quiet and (told := listener()) is not None:
        return _Told(told, **options)
    from tqdm import tqdm  # here: --help does without it

    return tqdm(disable=True if quiet else None, leave=False, **options)


def progress_over(items: Iterable, total: int, what: str) -> Iterable:
    """The items, with a bar named `what`; the form that `data.prepare` and the codes stage take."""
    return progress_bar(iterable=items, total=total, desc=what)


@dataclass(frozen=True)
class Reporter:
    """What a piece of work reports to: lines for the user, and progress bars.

    Attributes:
        say: receives a line.
        bars: whether to show progress bars.
    """

    say: Message = lambda line: None
    bars: bool = False

    def bar(self, **options: Any):
        """A `progress_bar`, or one that shows nothing."""
        return progress_bar(quiet=not self.bars, **options)

    def over(self, items: Iterable, total: int, what: str) -> Iterable:
        """The items, with a bar named `what`."""
        return progress_over(items, total, what) if self.bars else items

    def without_lines(self) -> "Reporter":
        """The same without lines: for work that has been announced already."""
        return replace(self, say=SILENT.say)


SILENT, BARS = Reporter(), Reporter(bars=True)


@contextlib.contextmanager
def weight_bar(quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes of weights; yields what is to be called with those dealt with since the last call, and in all."""
    with progress_bar(quiet=quiet, desc="weights", unit="B", unit_scale=True, delay=1) as bar:

        def advance(count: int, total: int) -> None:
            bar.total = total
            bar.update(count)

        yield advance
