"""What lies where in a tar file. Nothing is ever extracted: a member is a name, an offset and a size."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlx_voxclone.errors import DataError

_LARGEST_HEADER = 1 << 20  # bytes: what an honest header takes is a few hundred
_LONG_NUMBER = re.compile(rb"\d{256}")
_MOST_MEMBERS = 200_000


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file inside a tar file; the name is a label, and no path to anything."""

    name: str
    offset: int
    size: int


class _Bounded:
    """A file of which headers are read: a header that states a size of gigabytes is refused before it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.HeaderError(f"a header of {size} bytes")
        content = self._file.read(size)
        if _LONG_NUMBER.search(content):  # which Pythons before 3.11.10 search in quadratic time
            raise tarfile.HeaderError("a header with a number of hundreds of digits")
        return content


def members(path: Path, skipped: Counter | None = None) -> Iterator[Member]:
    """The plain files of an uncompressed tar file, in order.

    Args:
        skipped: counts what else is in it, by kind.

    Raises:
        DataError: no tar file, compressed, cut off, damaged, or one that lies about what it holds.
    """
    skipped = Counter() if skipped is None else skipped
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            tar = tarfile.TarFile(fileobj=_Bounded(file), mode="r", errorlevel=0)
            last = -1
            for count in range(_MOST_MEMBERS + 1):
                found = tar.next()
                if found is None:
                    break
                # Negative sizes lead backwards, in Pythons that let them.
                if tar.offset <= last:
                    raise DataError(f"{path}: damaged: its headers form a loop")
                if count == _MOST_MEMBERS:
                    raise DataError(f"{path}: more than {_MOST_MEMBERS} files in one shard; split it into several")
                last, tar.members = tar.offset, []  # else all of them stay in memory
                if not found.isreg() or found.issparse():
                    skipped[_kind(found)] += 1
                    continue
                if found.size < 0 or found.offset_data + found.size > size:
                    raise DataError(f"{path}: cut off, {found.name[:80]!r} in it reaches beyond its end; copy it again")
                # Bytes that are no UTF-8 are written out: the name is a label, and goes into files of text.
                name = found.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                yield Member(name, found.offset_data, found.size)
        except RecursionError:
            raise DataError(f"{path}: damaged: its headers are nested without end; copy it again") from None
        except (tarfile.TarError, ValueError, ArithmeticError, LookupError, TypeError) as e:
            raise DataError(f"{path}: not a readable tar file ({e}); shards are uncompressed .tar") from None
        if last < 0:
            raise DataError(f"{path}: not a tar file, or an empty one; shards are uncompressed .tar")
        if not _ended(file, last, size):
            raise DataError(f"{path}: cut off or damaged after {last} of {size} bytes; copy it again")


def _ended(file: BinaryIO, at: int, size: int) -> bool:
    """Whether the headers stop where the archive does: at zeros, of which some writers leave out all."""
    file.seek(min(at, size))
    rest = file.read(tarfile.BLOCKSIZE)
    return at <= size and not rest.strip(b"\0")


def _kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "directory"
    return "link" if info.issym() or info.islnk() else "special file"
