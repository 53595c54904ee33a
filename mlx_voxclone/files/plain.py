"""Files as users hand them over, read with bounds: nothing that has no end or never answers, no JSON without a floor.

A named pipe in the place of a file waits for ever, a device never ends, and JSON of a thousand brackets ends Python's
stack, here or in whatever walks through it later. All of these are an `OSError` or a `ValueError` here.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

MAX_DEPTH = 100  # levels; what our own files hold has under ten
_NOT_PLAIN = "not a plain file but a pipe or a device"
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EIO)
MAX_JSON = 1 << 28  # bytes; the release's tokenizer is 15 MB


def may_pass(error: Exception) -> bool:
    """Whether an error says nothing of the file: the machine lacks something, and may have it a moment later."""
    return isinstance(error, OSError) and error.errno in _PASSING


def open_plain(path: str | Path) -> BinaryIO:
    """A file opened to be read as bytes, at once whatever it is.

    Raises:
        OSError: missing, not readable, or no plain file (a pipe, a device, a directory).
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, _NOT_PLAIN, str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def open_own(path: str | Path, flags: int = 0) -> int:
    """A descriptor of a file of a known name to read and write, which is made if it is missing.

    Whoever can put a link there could have us write anywhere: none is followed. As the `opener` of `open` it does so
    whatever the mode says.

    Args:
        flags: of `os.open`; what tells how to open is decided here, `O_APPEND` counts.

    Raises:
        OSError: it is a link, a pipe or a device, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags & os.O_APPEND, 0o666)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise OSError(e.errno, "a link, and nothing is written through it; remove it", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, _NOT_PLAIN, str(path))
    return handle


def read_plain(path: str | Path, most: int = MAX_JSON) -> bytes:
    """The bytes of a plain file.

    Raises:
        OSError: see `open_plain`.
        ValueError: it has more than `most` bytes.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What a JSON text says.

    Args:
        pairs: makes the object of the (key, value) pairs; None: a dict.

    Raises:
        ValueError: no JSON, or nested more than `MAX_DEPTH` deep.
    """
    try:
        content = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as e:
        if "set_int_max_str_digits" in str(e):
            raise ValueError("a number of thousands of digits") from None
        raise
    opened = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if opened > MAX_DEPTH:  # else it cannot be that deep
        _check_depth(content)
    return content


def read_json(path: str | Path, most: int = MAX_JSON) -> Any:
    """What a JSON file says.

    Raises:
        OSError: see `open_plain`.
        ValueError: more than `most` bytes, not UTF-8, or see `parse_json`.
    """
    return parse_json(read_plain(path, most).decode("utf-8"))


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number that a float can hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def reason_of(error: Exception) -> str:
    """What an OSError or ValueError of these functions says, without the number and the path of the former."""
    return getattr(error, "strerror", None) or str(error)


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)]


def _too_deep() -> ValueError:
    return ValueError("nested too deeply")
