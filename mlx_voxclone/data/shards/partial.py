"""Shards on their way into the cache: `KEY.partial`, locked by the process that fetches it."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mlx_voxclone.data.shards.fetch import Abandoned
from mlx_voxclone.files.plain import open_own
from mlx_voxclone.process.temporaries import clear_dead, same, try_lock


@contextmanager
def locked(path: Path, stop: threading.Event) -> Iterator[IO[bytes]]:
    """The file, open for writing, when no other process writes it.

    Raises:
        Abandoned: `stop` was set while waiting. OSError: the file system has no locks.
    """
    while True:
        with open(path, "ab", opener=open_own) as file:
            locked = try_lock(file.fileno())
            if locked is None:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))
            if locked and same(file.fileno(), path):  # else its fetcher has renamed it
                yield file
                return
        if stop.wait(0.2):
            raise Abandoned


def clear_stale(cache: Path) -> None:
    """Remove what processes that were killed have left half fetched in a cache directory."""
    clear_dead(cache, again=True)
    for path in cache.glob("*.partial"):
        if path.is_symlink():  # none of ours
            continue
        with suppress(OSError), open(path, "ab", opener=open_own) as file:
            if try_lock(file.fileno()) and same(file.fileno(), path):  # else it is a whole shard by now
                path.unlink()
