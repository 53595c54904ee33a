"""A command in a process of its own that outlives the studio, and is found again by the lock that it holds.

Whoever starts the process locks a file (`flock`) and hands the lock on: the process holds it until it ends, however it
does, and a process that gets its number later does not. What the file holds says which process that is. Where the file
system knows no locks, the process's number and the moment it was started say whether it is still the same.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import open_own, parse_json
from mlx_voxclone.process.temporaries import LOOKS, is_alive, is_held, try_lock

COMMAND = (sys.executable, "-m", "mlx_voxclone.cli")
OWN_LOCK = "training.lock"  # in a voice's folder: held by the training that the studio has started
_MOST = 4096  # bytes of a lock's file
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Busy(CheckpointError):
    """Somebody else holds a lock that is needed."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; `pid` None: it has not said yet."""

    pid: int | None


def start(
    arguments: Sequence[str], locks: Sequence[Path], log: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start a command in a session of its own, holding all the locks, with what it says appended to a log.

    Args:
        arguments: the program and its arguments.
        locks: files, made if missing.
        log: its folder is the process's working directory.
        variables: added to its environment.

    Raises:
        Busy: a lock is held. OSError: the process cannot be started, or a file not be written.
    """
    with open(log, "ab", opener=open_own) as output:
        return holding(
            locks,
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment() | dict(variables or {}),
        )


def holding(locks: Sequence[Path], arguments: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a program in a session of its own, without input, that holds all the locks until it ends.

    Args:
        options: of `subprocess.Popen`.

    Raises:
        Busy: a lock is held. OSError: the program cannot be started, or a file not be written.
    """
    with ExitStack() as stack:
        taken = []
        for lock in locks:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            locked = try_lock(descriptor, patience=LOOKS)
            if locked is False or (locked is None and _lives(_content(descriptor))):
                raise Busy(f"{lock}: is held by another process")
            os.ftruncate(descriptor, 0)
            taken.append(descriptor)
        begun = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, pass_fds=taken, start_new_session=True, **options
        )
        said = json.dumps({"pid": begun.pid, "began": _began(begun.pid)}).encode()
        try:
            for descriptor in taken:
                os.pwrite(descriptor, said, 0)
        except OSError:  # a full disk: nobody could tell it to end
            begun.kill()
            begun.wait()
            raise
    return begun


def environment() -> dict[str, str]:
    """That of a process of ours: it finds this package wherever it is started, and says at once what it says."""
    package = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def holder(lock: Path) -> Holder | None:
    """Who holds a lock: that of `start`, or a run directory's `.lock`; None: nobody."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        held, content = is_held(descriptor), _content(descriptor)
        if held is False or (held is None and not _lives(content)):
            return None
        return Holder(content.get("pid"))
    finally:
        os.close(descriptor)


def tell(found: Holder, number: signal.Signals, *, all_of_it: bool = False) -> None:
    """Send a signal to a process; `all_of_it`: to those that it has started, too."""
    if found.pid is None or found.pid <= 1:
        return
    with suppress(ProcessLookupError, PermissionError):
        if all_of_it and os.getpgid(found.pid) == found.pid:
            os.killpg(found.pid, number)
        else:
            os.kill(found.pid, number)


def _content(descriptor: int) -> dict:
    """What a lock's file says; {} if that cannot be told."""
    try:
        found = parse_json(os.pread(descriptor, _MOST, 0))
        if found.get("host") not in (None, socket.gethostname()):
            return {}  # a number of another machine's is none of a process here
        return {"pid": int(found["pid"]), "began": str(found.get("began") or "")}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _lives(content: dict) -> bool:
    """Whether the process that a lock's file names is still the same one."""
    pid = content.get("pid")
    return pid is not None and is_alive(pid) and content["began"] in ("", _began(pid))


def _began(pid: int) -> str:
    """When a process was started, as text to compare; empty if that cannot be told."""
    try:
        if _BOOT.exists():  # Linux: clock ticks since the machine was started, and which start that was
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            return f"{_BOOT.read_text().strip()} {fields[19].decode()}"
        asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5)
        return asked.stdout.strip()
    except (OSError, IndexError, subprocess.SubprocessError):
        return ""
