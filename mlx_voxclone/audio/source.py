"""What audio is read from: a regular file, or bytes in memory; and the error for one that cannot be used."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.foreign import absent


class AudioError(DataError):
    """An audio file that cannot be used; `reason` is the short word that reports count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class AudioBytes:
    """An audio file that lies in memory, e.g. because it is a part of an archive; `name` is for messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


AudioSource = str | Path | AudioBytes


def as_source(path: AudioSource) -> Path | AudioBytes:
    return path if isinstance(path, AudioBytes) else Path(path)


def check_source(path: Path | AudioBytes) -> None:
    """Refuse what is no file with something in it. A pipe or a device would be waited for without end.

    Raises:
        AudioError: `missing`, `unreadable` (a directory, a pipe, a device, a folder that may not be entered),
            `zero-length`.
    """
    if isinstance(path, AudioBytes):
        size = len(path.content)
    else:
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise AudioError("missing", f"{path}: {absent(path) or 'no such audio file'}") from None
        except (OSError, ValueError) as e:
            if reason := absent(path):  # a name that no file can have
                raise AudioError("missing", f"{path}: {reason}") from None
            detail = (getattr(e, "strerror", None) or str(e)).lower()
            raise AudioError("unreadable", f"{path}: cannot be read ({detail})") from None
        if stat.S_ISDIR(status.st_mode):
            raise AudioError("unreadable", f"{path}: is a directory, an audio file is expected")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(
                "unreadable", f"{path}: is a pipe or a device, an audio file is expected; write it to a file first"
            )
        size = status.st_size
    if not size:
        raise AudioError("zero-length", f"{path}: the file is empty")


@contextlib.contextmanager
def opened(path: Path | AudioBytes) -> Iterator[tuple[BinaryIO, int]]:
    """The bytes of an audio file, and how many they are.

    Raises:
        AudioError: `unreadable`.
    """
    if isinstance(path, AudioBytes):
        yield BytesIO(path.content), len(path.content)
        return
    try:
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except OSError as e:
        raise AudioError("unreadable", f"{path}: cannot be read ({(e.strerror or str(e)).lower()})") from None
