"""Writing without ever leaving half a file: temporary name, flush, fsync, verification, rename.

Whatever ends a write early (Ctrl-C, an exception, a full disk), the target is as it was and the temporary file is gone.
After a power cut or `kill -9` a temporary may stay behind; nothing reads it, and the next command that writes beside it
clears it (`process/temporaries.py`).
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process import temporaries

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SPARE = 16 << 20  # bytes of the disk left free: directory entries, the file system's own needs


def free_bytes(place: str | Path) -> int:
    """Bytes free on the disk where `place` is, or would be."""
    return shutil.disk_usage(existing_parent(place)).free


def same_disk(place: str | Path, other: str | Path) -> bool:
    """Whether two places are, or would be, on one disk."""
    return existing_parent(place).stat().st_dev == existing_parent(other).stat().st_dev


def existing_parent(place: str | Path) -> Path:
    """The place itself, or the nearest directory above that exists."""
    place = Path(place).absolute()
    while not place.exists():
        place = place.parent
    return place


def free_space_check(directory: str | Path, nbytes: int) -> None:
    """Refuse to start what cannot fit.

    Args:
        directory: where to write; need not exist yet.
        nbytes: bytes to be written.

    Raises:
        CheckpointError: less than `nbytes` (and a small reserve) are free.
    """
    free = free_bytes(directory)
    if free < nbytes + _SPARE:
        need, have = _gigabytes(nbytes + _SPARE), _gigabytes(free)
        raise CheckpointError(f"{directory}: no space left: {need} needed, {have} free; free some and run again")


@contextlib.contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; it takes that name when the block ends without an exception.

    Args:
        path: target; its directory is made if need be.
        overwrite: replace an existing file instead of refusing it.

    Raises:
        CheckpointError: the target exists, or cannot be written.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    with _os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, lambda: _refuse_existing(path, overwrite)) as file:
            yield file


@contextlib.contextmanager
def whole_file(path: Path, check: Callable[[], object] = lambda: None) -> Iterator[IO[bytes]]:
    """What all of this rests on: a temporary file beside `path`, flushed to the disk, that then takes its name.

    Args:
        path: target; what is there is replaced.
        check: called just before that; what it raises leaves the target as it was.

    Raises:
        OSError: as it comes from the system.
    """
    with temporaries.made(path) as temporary:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check()
        os.replace(temporary, path)
        _sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Build a directory under a temporary name beside `path`; it appears whole when the block ends well.

    Args:
        path: target: must not exist, or be an empty directory.

    Yields:
        The temporary directory to fill.

    Raises:
        CheckpointError: the target exists, cannot be written, or another process is writing it.
    """
    path = Path(path)
    refuse_existing_directory(path)
    with _os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_writer(path)
        with temporaries.made(path, directory=True) as temporary:
            _refuse_writer(path, but=temporary)
            yield temporary
            for root, _, files in os.walk(temporary):
                for name in files:
                    _sync_file(Path(root, name))
                _sync_directory(Path(root))
            refuse_existing_directory(path)
            os.replace(temporary, path)  # over an empty directory too
            _sync_directory(path.parent)


def refuse_existing_directory(path: str | Path) -> None:
    """Raise CheckpointError unless `path` is free or an empty directory."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        if any(path.iterdir()):
            raise CheckpointError(f"{path}: the output directory exists and is not empty; choose another name")
    elif os.path.lexists(path):
        raise CheckpointError(f"{path}: exists and is not a directory; choose another name for the output")


def write_text_atomic(path: str | Path, text: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text; readers see the old content or the new, never a part."""
    with atomic_file(path, overwrite=overwrite) as file:
        file.write(text.encode("utf-8"))


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir() or (os.path.lexists(path) and not overwrite):
        raise CheckpointError(f"{path}: exists already; choose another name or move it away")


def _refuse_writer(path: Path, but: Path | None = None) -> None:
    """Refuse a directory that another process is making, or two would do the work of which one comes to nothing."""
    if (pid := temporaries.writer_of(path, but)) is not None:
        raise CheckpointError(f"{path}: process {pid} is writing it; wait for that, or choose another name")


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses, as one line."""
    try:
        yield
    except OSError as e:
        if e.errno in _NO_SPACE:
            raise CheckpointError(f"{path}: not written, no space left on its disk; free some and run again") from e
        reason = (e.strerror or str(e)).lower()
        raise CheckpointError(f"{path}: not written ({e.filename or path}: {reason})") from e


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a rename durable. File systems that cannot sync a directory (some network ones) are left alone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
