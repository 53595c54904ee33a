"""Temporary files of a studio lie in its own folder, where its next start finds what an end in the middle has left.

HOME/.temporary/ is that of the studio and of the programs that its tasks run; VOICE/.temporary/ that of a training,
which outlives the studio. What lies elsewhere, such as in the system's folder, nobody would ever delete.
"""

import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mlx_voxclone.studio.home import Home, private
from mlx_voxclone.studio.train.process import holder, tell

FOLDER = ".temporary"
TASK, LOCK = "task-", "lock"  # a folder of a task's program: prefix of its name, and the file that the program locks
_PATIENCE = 5.0  # seconds that a program which is killed has to end
_elsewhere: list[str] = []  # where temporary files lay before


@contextlib.contextmanager
def kept_in(home: Home) -> Iterator[Path]:
    """A block in which this process makes its temporary files in HOME/.temporary. Raises CheckpointError."""
    before, folder = tempfile.gettempdir(), private(home.path / FOLDER)
    _elsewhere.append(before)
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        _elsewhere.pop()


def system_folder() -> str:
    """The system's own: for files without a name, which leave nothing, and may be written where HOME's disk is full."""
    return _elsewhere[0] if _elsewhere else tempfile.gettempdir()


def fresh(voice: Path) -> Path:
    """An empty folder for the temporary files of a voice's training, in the voice's folder. Raises OSError."""
    remove(voice)
    (voice / FOLDER).mkdir(mode=0o700)
    return voice / FOLDER


def remove(voice: Path) -> None:
    """Delete what a training has left of `fresh`."""
    shutil.rmtree(voice / FOLDER, ignore_errors=True)


def clear(home: Home) -> None:
    """Delete what an earlier studio has left in HOME/.temporary; programs of its tasks that still run are ended."""
    folder = home.path / FOLDER
    if folder.is_symlink() or not folder.is_dir():
        return
    for place in folder.iterdir():
        if place.is_symlink() or not place.is_dir():
            with contextlib.suppress(OSError):
                place.unlink()
        elif _ended(place / LOCK):
            shutil.rmtree(place, ignore_errors=True)


def _ended(lock: Path) -> bool:
    """End the program that holds a lock; whether nobody holds it."""
    until = time.monotonic() + _PATIENCE
    while (found := holder(lock)) is not None and time.monotonic() < until:
        tell(found, signal.SIGKILL, all_of_it=True)
        time.sleep(0.05)
    return found is None
