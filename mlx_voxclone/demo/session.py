"""What the demo keeps while it runs: a folder that nobody else may look into.

Uploads, everything spoken and what the web server writes lie in that folder. It is deleted at the end, after a signal
too. After `kill -9` it stays until the next start: who holds a folder holds a lock in it, which the system gives back.
"""

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.process.temporaries import is_held, try_lock

PREFIX, _NEW = "voxclone-demo-", ".voxclone-demo-"  # of a folder, and until it is locked
_LOCK = "lock"
_NEW_SECONDS = 60.0  # then whoever was about to lock a folder is dead


@contextlib.contextmanager
def private_folder(place: str | Path | None = None) -> Iterator[Path]:
    """A folder of this process, readable by its owner alone and deleted at the end; those of dead processes are
    deleted first.

    Args:
        place: where to make it; None: the system's folder for temporary files.

    Raises:
        ConfigError: it cannot be made.
    """
    place = Path(place or tempfile.gettempdir()).resolve()
    clear_dead(place)
    try:
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=place))
    except OSError as e:
        raise ConfigError(f"{place}: no folder for uploads can be made there ({e.strerror}); set TMPDIR") from None
    folder = place / f"{PREFIX}{secrets.token_hex(8)}"
    with (new / _LOCK).open("w") as lock:
        try_lock(lock.fileno())
        new.rename(folder)
        try:
            yield folder
        finally:
            _delete(folder)


def clear_dead(place: Path) -> None:
    """Delete this user's folders of processes that have died."""
    for folder in place.glob(f"{PREFIX}*"):
        if _own(folder) and not _held(folder / _LOCK):
            _delete(folder)
    for folder in place.glob(f"{_NEW}*"):
        with contextlib.suppress(OSError):
            if _own(folder) and time.time() - folder.lstat().st_mtime > _NEW_SECONDS:
                _delete(folder)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Have this process, and Gradio in it, put temporary files there; Gradio keeps no history and reports nothing."""
    variables = {
        "TMPDIR": str(folder),
        "GRADIO_TEMP_DIR": str(uploads(folder)),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
    }
    uploads(folder).mkdir(mode=0o700, exist_ok=True)
    before, directory = {name: os.environ.get(name) for name in variables}, tempfile.tempdir
    os.environ.update(variables)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = directory
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def uploads(folder: Path) -> Path:
    """Where in the folder Gradio puts what is uploaded and spoken."""
    return folder / "gradio"


def _own(folder: Path) -> bool:
    try:
        return folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.getuid()
    except OSError:
        return False


def _held(lock: Path) -> bool:
    """Whether a process that lives holds the lock."""
    try:
        with lock.open("r") as file:
            return is_held(file.fileno()) is True
    except OSError:  # no lock there
        return False


def _delete(folder: Path) -> None:
    for _ in range(3):  # a thread of the server may be writing still
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
