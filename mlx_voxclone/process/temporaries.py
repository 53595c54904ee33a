"""Temporaries beside what they will become: held by the process that writes them, cleared when that is dead.

`.NAME.PID-TOKEN.partial`, a file or a directory. Its writer holds a lock on it (`flock`), which the system takes away
when the process ends, however it does. So whoever gets the lock has found what nobody writes any more. Where the file
system knows no locks (some network folders), only what a dead process of this very machine has left is cleared: TOKEN
begins with a digest of the machine's name. Reads and writes nothing else.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"
_NAME = re.compile(r"\.(?P<name>.+)\.(?:(?P<pid>\d+)-)?(?P<token>[0-9a-f]{8})\.partial", re.DOTALL)
LOOKS = 0.3  # seconds: longer than anybody looks whether something is held
_LONGEST = 200  # bytes of a name that are kept: file systems take 255 in all
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_cleared: set[tuple[int, int, str]] = set()  # directories that this process has looked through


def try_lock(descriptor: int, *, patience: float = 0.0) -> bool | None:
    """Lock an open file or directory until it is closed: True locked, False another process has it, None no locks.

    Args:
        patience: seconds to try for, where others look whether it is held (`is_held`).
    """
    until = time.monotonic() + patience
    while (locked := _flock(descriptor, fcntl.LOCK_EX)) is False and time.monotonic() < until:
        time.sleep(0.005)
    return locked


def is_held(descriptor: int) -> bool | None:
    """Whether another process has locked an open file or directory; None: no locks.

    It holds a shared lock from then on, until it is closed: any number of processes may look at once.
    """
    locked = _flock(descriptor, fcntl.LOCK_SH)
    return None if locked is None else not locked


def _flock(descriptor: int, kind: int) -> bool | None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def is_alive(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    return True


def same(descriptor: int, path: Path) -> bool:
    """Whether an open file is still what lies at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


@contextlib.contextmanager
def made(path: Path, *, directory: bool = False) -> Iterator[Path]:
    """An empty temporary beside `path`, a file or a directory, held by this process for the time of the block.

    Whatever ends the block, it has been renamed by then or is removed.

    Raises:
        OSError: it cannot be made.
    """
    clear_dead(path.parent)
    temporary = held = None
    try:
        while held is None:
            owner = f"{os.getpid()}-{_machine()}{secrets.token_hex(2)}"
            temporary = path.with_name(f".{_shortened(path.name)}.{owner}{PARTIAL}")
            held = _created(temporary, directory)
        yield temporary
    finally:
        if temporary is not None:
            if directory:
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def writer_of(path: Path, but: Path | None = None) -> int | None:
    """Process that is making `path` under a temporary name other than `but`; None: nobody, or nobody can tell."""
    for place, match in _found(path.parent):
        if match["name"] == _shortened(path.name) and match["pid"] and place != but and _is_dead(place, match) is False:
            return int(match["pid"])
    return None


def clear_dead(directory: str | Path, *, again: bool = False) -> None:
    """Remove what dead processes have left in a directory: once per process and directory, or `again`."""
    try:
        there = os.stat(directory)
    except OSError:
        return
    key = there.st_dev, there.st_ino, os.path.abspath(directory)  # a number alone may be another one's by now
    if key in _cleared and not again:
        return
    _cleared.add(key)
    for place, match in _found(Path(directory)):
        with contextlib.suppress(OSError):
            _clear(place, match)


def clear_below(directory: str | Path) -> None:
    """`clear_dead` for a directory and all under it."""
    for root, names, _ in os.walk(directory):
        clear_dead(root, again=True)
        names[:] = [name for name in names if not _NAME.fullmatch(name)]


def _created(temporary: Path, directory: bool) -> int | None:
    """A descriptor that holds its lock until it is closed; None: somebody who clears has looked at it in between."""
    if directory:
        temporary.mkdir()
        descriptor = os.open(temporary, os.O_RDONLY)
    else:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    if try_lock(descriptor, patience=LOOKS) is not False and same(descriptor, temporary):
        return descriptor
    os.close(descriptor)
    return None


def _clear(place: Path, match: re.Match) -> None:
    descriptor = _opened(place)
    try:
        if _is_left(try_lock(descriptor), match) and same(descriptor, place):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_dead(place: Path, match: re.Match) -> bool | None:
    try:
        descriptor = _opened(place)
    except OSError:
        return None
    try:
        held = is_held(descriptor)
        return _is_left(None if held is None else not held, match)
    finally:
        os.close(descriptor)


def _is_left(unheld: bool | None, match: re.Match) -> bool:
    """Whether nobody writes a temporary any more; `unheld` None: locks do not tell."""
    if unheld is not None:
        return unheld
    return bool(match["pid"]) and match["token"].startswith(_machine()) and not is_alive(int(match["pid"]))


def _opened(place: Path) -> int:
    """A descriptor that can be locked; over the network that takes one that can be written to."""
    kind = place.lstat().st_mode
    if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "neither file nor directory", str(place))
    return os.open(place, os.O_NOFOLLOW | (os.O_RDONLY if stat.S_ISDIR(kind) else os.O_RDWR))


def _found(directory: Path) -> list[tuple[Path, re.Match]]:
    try:
        names = [entry.name for entry in os.scandir(directory)]
    except OSError:
        return []
    return [(directory / name, match) for name in names if (match := _NAME.fullmatch(name))]


def _shortened(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def _machine() -> str:
    """Four hex digits of this machine's name."""
    return f"{zlib.crc32(socket.gethostname().encode()) & 0xFFFF:04x}"
