"""Standard streams that can be written to whatever the caller made of them: closed, without a reader, not UTF-8.

What is said of an input may hold its names and texts, and these may hold orders to a terminal: a title, a cleared
screen, a line that runs backwards. They are shown, never given.
"""

import errno
import os
import re
import select
import stat
import sys
from typing import Any

from mlx_voxclone.process import signals

_GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that was closed
# Control characters but for tab and line feed, and marks that turn the direction of writing around.
_ORDERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_OF_BARS = re.compile(r"(\r|\x1b\[A)")  # what tqdm writes: back to the line's beginning, one line up
_closed: set[str] = set()


def visible(text: str) -> str:
    """A text with orders to a terminal as escapes (`\\x1b`)."""
    return _ORDERS.sub(lambda match: ascii(match[0])[1:-1], text)


def prepare() -> None:
    """Make the streams of this process fit to be written to.

    A closed one becomes the null device: else the next file that is opened would get its number, and with it whatever
    a library prints. Characters that the encoding lacks become escapes, and so do orders to a terminal. What cannot be
    said on stderr is dropped; where its reader has gone, see `signals.reader_gone`.
    """
    if isinstance(sys.stderr, _Messages):
        return
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            _closed.add(name)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (lives as long as the process)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _Results(sys.stdout)  # type: ignore[assignment]
    sys.stderr = _Messages(sys.stderr)  # type: ignore[assignment]


def check_reader() -> None:
    """Find out whether the messages still have a reader, without writing any: see `signals.reader_gone`."""
    if isinstance(sys.stderr, _Messages):
        sys.stderr.check()


def stdout_is_closed() -> bool:
    """Whether the caller gave this process no stdout."""
    return "stdout" in _closed or sys.stdout is None


def discard(stream: Any) -> None:
    """Send what a stream still holds nowhere, so that the interpreter's last flush stays silent."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(null)


class _Results:
    """stdout: texts are `visible`; bytes (`buffer`) stay as they are."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Messages(_Results):
    """stderr: what cannot be written there is no reason for a command to fail."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._pipe = None
        if stat.S_ISFIFO(os.fstat(2).st_mode):
            self._pipe = select.poll()
            self._pipe.register(2, 0)  # errors are told unasked

    def check(self) -> None:
        if self._pipe is not None and self._pipe.poll(0):
            self._failed(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def write(self, text: str) -> int:
        parts = _OF_BARS.split(text)
        try:
            self._stream.write("".join(visible(part) if k % 2 == 0 else part for k, part in enumerate(parts)))
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno in _GONE:
            self._pipe = None
            discard(self._stream)
            signals.reader_gone()
