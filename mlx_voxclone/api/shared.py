"""What all of the API stands on: paths as they are given, errors of our own, one computation at a time."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from mlx_voxclone.errors import ConfigError, NotFiniteError
from mlx_voxclone.files.hub import is_address
from mlx_voxclone.files.paths import expanded

Place = str | os.PathLike[str]

_LOCK = threading.RLock()  # of all models: MLX evaluates arrays that several threads share for one of them at a time


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """One computation at a time in this process, and numbers that are not finite as an error of ours."""
    with _LOCK:
        try:
            yield
        except FloatingPointError as e:
            raise NotFiniteError(f"{e}: its weights are damaged; take another file, or get it again") from None


def is_place(value: object) -> TypeGuard[Place]:
    """Whether a value is meant as a path."""
    return isinstance(value, str | os.PathLike)


def path_of(place: object, what: str) -> Path:
    """A path as a user gives it, `~` and `$NAME` expanded.

    Args:
        what: names it in messages, such as `output`.

    Raises:
        ConfigError: no path, an empty one, or an unknown variable in it.
    """
    return Path(text_of(place, what))


def file_of(place: object, what: str) -> Path | str:
    """`path_of`, or an address of the hub as it is."""
    return place if isinstance(place, str) and is_address(place) else path_of(place, what)


def text_of(place: object, what: str) -> str:
    """`path_of` as text: addresses and ids of the hub stay as they are."""
    text = os.fspath(place) if is_place(place) else None
    if not isinstance(text, str):
        raise ConfigError(f"{what}: a path (str or Path) is expected, got {place!r:.80}")
    if not text or "\0" in text:
        raise ConfigError(f"{what}: {text!r:.80} is no path")
    return expanded(text)
