"""What libmpg123 writes on stderr about an MP3, from C, is held back: what is wrong is told in one line of our own."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

_REMARK = re.compile(rb"(?:Note: |Warning: |\[src/libmpg123/|\s*$)[^\n]*\n?")
_lock = threading.Lock()
_inside = 0
_kept: BinaryIO | None = None  # what is written on stderr meanwhile
_stderr = -1  # where it goes otherwise


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold stderr back for the time of the block, and then let through what is not libmpg123's.

    Threads may be in it at once; what others write meanwhile comes when the last one leaves.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _kept, _stderr
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        with contextlib.suppress(OSError):  # without a stderr or a place for files nothing is held back
            file = tempfile.TemporaryFile()  # noqa: SIM115
            try:
                _stderr = os.dup(2)
            except OSError:
                file.close()
                raise
            _flush()
            os.dup2(file.fileno(), 2)
            _kept = file


def _leave() -> None:
    global _inside, _kept
    with _lock:
        _inside -= 1
        if _inside or _kept is None:
            return
        _flush()
        os.dup2(_stderr, 2)
        os.close(_stderr)
        with _kept as file:
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
        _kept = None
        if passed := b"".join(line for line in lines if not _REMARK.fullmatch(line)):
            with contextlib.suppress(OSError):
                os.write(2, passed)


def _flush() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
        sys.stderr.flush()
