"""What is made once for a model and used by every run after: entries in the user's cache directory.

    ROOT/MODEL/KIND-DIGEST/               an entry: MODEL begins the model's fingerprint, DIGEST that of what the entry
                                          depends on
    ROOT/MODEL/KIND-DIGEST/complete.json  written last: its files with their sizes, and a few facts to be shown
    ROOT/MODEL/.KIND-DIGEST.lock          locked by the process that makes the entry; the system unlocks it when
                                          that ends

ROOT is $VOXCLONE_CACHE, else `voxclone` in $XDG_CACHE_HOME, else ~/.cache/voxclone. All of it can be deleted at any
time: what is missing is made again.
"""

import errno
import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import existing_parent, free_space_check, write_text_atomic
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.files.plain import open_own, read_json
from mlx_voxclone.process.temporaries import try_lock

ROOT_VARIABLE = "VOXCLONE_CACHE"
COMPLETE = "complete.json"
_ELSEWHERE = f"set {ROOT_VARIABLE} to a directory"
_DIGITS = 16  # of fingerprints and digests, in names
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_POLL = 0.5  # seconds between two looks at a lock


def cache_root() -> Path:
    """The directory of everything that this program keeps between runs; it need not exist."""
    if own := os.environ.get(ROOT_VARIABLE):
        return Path(expanded(own)).absolute()
    return Path(expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")).absolute() / "voxclone"


@contextmanager
def cache_in(root: Path) -> Iterator[None]:
    """Keep everything in `root` for a while: what is made for a throw-away model is not worth keeping."""
    before = os.environ.get(ROOT_VARIABLE)
    os.environ[ROOT_VARIABLE] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ[ROOT_VARIABLE]
        else:
            os.environ[ROOT_VARIABLE] = before


class Entry:
    """One entry of a model; nothing is made before `locked` is entered.

    Args:
        fingerprint: of the model (`Release.fingerprint`).
        kind: what it is, such as `pairs`.
        made_from: what it depends on beside the model, as JSON holds it.

    Attributes:
        path: its directory.
    """

    def __init__(self, fingerprint: str, kind: str, made_from: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        self.path = cache_root() / fingerprint[:_DIGITS] / f"{kind}-{digest[:_DIGITS]}"

    def facts(self) -> dict[str, Any] | None:
        """What `complete` was given; None if the entry is not complete, or lacks what was there when it was."""
        marker = self._marker()
        return None if marker is None or self.damaged() else marker["facts"]

    def recorded(self) -> dict[str, Any] | None:
        """What `complete` was given, whatever has become of the files since; None if the entry is not complete."""
        marker = self._marker()
        return None if marker is None else marker["facts"]

    def damaged(self) -> list[str]:
        """Files of a complete entry that are gone or have another size now; of one that is not complete none."""
        marker = self._marker()
        return [] if marker is None else [n for n, size in marker["sizes"].items() if _size(self.path / n) != size]

    def complete(self, facts: Mapping[str, Any]) -> None:
        """Declare complete what is there.

        Raises:
            CheckpointError: it cannot be written.
        """
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and not p.name.startswith("."))
        sizes = {str(p.relative_to(self.path)): p.stat().st_size for p in files if p.name != COMPLETE}
        write_text_atomic(self.path / COMPLETE, json.dumps({"facts": dict(facts), "sizes": sizes}, indent=1) + "\n")

    def reopen(self) -> None:
        """Declare it not complete."""
        (self.path / COMPLETE).unlink(missing_ok=True)

    @contextmanager
    def locked(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keep other processes from making this entry; waits, with a line, for one that does.

        Raises:
            CheckpointError: the cache cannot be written, or not be locked.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = open(lock, "r+", opener=open_own)  # noqa: SIM115 (closed below)
        except OSError as e:
            raise unwritable(self.path, e) from None
        with file:
            told = False
            while not (locked := try_lock(file.fileno())):
                if locked is None:
                    raise CheckpointError(
                        f"{lock}: cannot be locked, as its file system knows no locks; {_ELSEWHERE} on a local disk"
                    )
                if not told:
                    file.seek(0)
                    say(f"waiting for {file.read().strip() or 'another process'}, which is making {self.path}")
                    told = True
                time.sleep(_POLL)
            file.seek(0)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def check_place(self, needed: float) -> None:
        """Refuse a place where the entry could not be written.

        Args:
            needed: bytes.

        Raises:
            CheckpointError: it cannot be written, or its disk has no room.
        """
        try:
            with tempfile.TemporaryFile(dir=existing_parent(self.path)):
                pass
        except OSError as e:
            raise unwritable(self.path, e) from None
        try:
            free_space_check(self.path, int(needed))
        except CheckpointError as e:
            raise CheckpointError(f"{e}, or {_ELSEWHERE} on another disk") from None

    def _marker(self) -> dict[str, Any] | None:
        try:
            marker = read_json(self.path / COMPLETE)
            usable = isinstance(marker["facts"], dict) and isinstance(marker["sizes"], dict)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return marker if usable else None


def unwritable(path: Path, error: OSError) -> CheckpointError:
    """What to tell of an entry that the operating system does not let be written."""
    if error.errno in NO_SPACE:
        return CheckpointError(f"{path}: no space left on its disk; free some, or {_ELSEWHERE} on another disk")
    reason = (error.strerror or str(error)).lower()
    return CheckpointError(f"{path}: the cache cannot be written ({reason}); {_ELSEWHERE} that can be written")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
