"""A lock on a directory that one process writes into: a second one is refused, with the first one's process id.

The lock is `flock` on `DIR/.lock`, which the system takes away when the process ends, however it does: after `kill -9`
or a power cut the file may stay, and locks nothing. What it holds says who has it. (`filelock`, which comes with
huggingface-hub, empties the file that it locks, and could not tell.)

Where a file system knows no locks (some network folders) what the file holds decides: a process of this machine that
lives, or another machine's, has it. A line says so.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import open_own, parse_json, reason_of
from mlx_voxclone.process.temporaries import LOOKS, clear_dead, is_alive, same, try_lock

LOCK = ".lock"
_ours: dict[Path, int] = {}  # directories that this process has locked -> how often


@contextlib.contextmanager
def held(directory: str | Path, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Keep other processes from a directory; it is made if need be, and gone again if it is empty at the end.

    What dead processes have left there is cleared. A process may take a lock that it has already.

    Args:
        directory: to be written into.
        say: receives a line where the file system knows no locks.

    Raises:
        CheckpointError: another process has it, it cannot be written, or a link in it leads out.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory}: is a file; choose another name for the directory")
    key = Path(os.path.realpath(directory))
    if key in _ours:
        _ours[key] += 1
        try:
            yield
        finally:
            _ours[key] -= 1
        return
    new = [place for place in (directory, *directory.parents) if not place.exists()]
    try:
        descriptor = _taken(directory, say)
    except BaseException:
        _remove_empty(new)
        raise
    _ours[key] = 1
    try:
        _refuse_links(directory)
        clear_dead(directory, again=True)
        yield
    finally:
        del _ours[key]
        with contextlib.suppress(OSError):
            if same(descriptor, directory / LOCK):
                (directory / LOCK).unlink()
        os.close(descriptor)
        _remove_empty(new)


def _refuse_links(directory: Path) -> None:
    """What is written, replaced and cleared in a directory lies in it: somebody else's may hold links to anything."""
    root, folders = os.path.realpath(directory), [os.fspath(directory)]
    while folders:
        with contextlib.suppress(PermissionError, FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_symlink() and not _lies_in(root, target := os.path.realpath(entry.path)):
                    raise CheckpointError(
                        f"{entry.path}: a link to {target}, outside of {directory}, where it would be written; put that"
                        " itself there, or let a link lead to all of the directory"
                    )


def _lies_in(root: str, path: str) -> bool:
    return os.path.commonpath([root, path]) == root


def _taken(directory: Path, say: Callable[[str], None]) -> int:
    path = directory / LOCK
    while True:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = open_own(path)
        except OSError as e:
            place = path if path.is_symlink() else directory
            raise CheckpointError(f"{place}: cannot be written ({reason_of(e).lower()})") from e
        try:
            locked, holder = try_lock(descriptor, patience=LOOKS), _read(descriptor)
            if locked is False:
                raise CheckpointError(f"{directory}: is in use by {_named(holder)}; wait for it, or end it")
            if not same(descriptor, path):  # its holder has just ended and removed it
                os.close(descriptor)
                continue
            if locked is None:
                _check_holder(directory, holder, _written(descriptor))
                say(f"note: {directory}: its file system knows no locks; let no other machine write there meanwhile")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
            return descriptor
        except OSError as e:
            os.close(descriptor)
            raise CheckpointError(f"{path}: cannot be written ({(e.strerror or str(e)).lower()})") from e
        except BaseException:
            os.close(descriptor)
            raise


def _check_holder(directory: Path, holder: dict, written: float) -> None:
    """Without locks of the system: refuse what may still be held."""
    if not holder or (written < _booted() and holder["host"] == socket.gethostname()):
        return
    if holder["host"] == socket.gethostname() and not is_alive(holder["pid"]):
        return
    raise CheckpointError(
        f"{directory}: is in use by {_named(holder)}; if that has ended, delete {directory / LOCK} and run again"
    )


def _read(descriptor: int) -> dict:
    """Who has written the file; {} if that cannot be told."""
    try:
        holder = parse_json(os.pread(descriptor, 4096, 0))
        return {"pid": int(holder["pid"]), "host": str(holder["host"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _written(descriptor: int) -> float:
    return os.fstat(descriptor).st_mtime


def _named(holder: dict) -> str:
    if not holder:
        return "another process"
    elsewhere = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
    return f"process {holder['pid']}{elsewhere}"


def _booted() -> float:
    """When this machine was started, in seconds since the epoch."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS counts sleep in either
    return time.time() - time.clock_gettime(clock)


def _remove_empty(places: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for place in places:
            place.rmdir()
