"""The files of voices that come and go: one appears and vanishes whole, whatever ends the process meanwhile.

    DIR/NAME.safetensors  rows of the voice, as `bake` and trainings write them
    DIR/NAME.wav          the clip that it was made of, 24 kHz mono
    DIR/NAME.json         its record: when, of which clip, for which model, and who agreed

A voice is there once its rows are. While it is being made or removed its record says so (`pending`) and is locked. A
record that says so without a lock is what a killed process has left: `clear` completes the voice if its rows are there,
and removes the rest of one that has none, so that its name is free. Other files than these are left alone.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.voices import EMBEDDING, is_voice_name
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import open_plain, parse_json
from mlx_voxclone.process.temporaries import clear_dead, same, try_lock

ROWS, CLIP, RECORD = ".safetensors", ".wav", ".json"
_PENDING = "pending"
_MOST_RECORD = 1 << 16  # bytes


class TakenError(Exception):
    """A voice or a file has the name already, or the voice is just being made or removed."""


class VoiceFolder:
    """A folder of voices.

    Args:
        path: made if it is missing, for its owner alone; what a killed process has left in it is cleared.

    Raises:
        OSError: it cannot be made or read.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path.resolve()
        with os.scandir(self.path) as entries:
            names = [entry.name.removesuffix(RECORD) for entry in entries if entry.name.endswith(RECORD)]
        clear_dead(self.path, again=True)
        for name in filter(is_voice_name, names):
            self.clear(name)

    def file(self, name: str, suffix: str) -> Path:
        """A file of a voice. Raises ValueError: no voice has such a name."""
        if not is_voice_name(name):
            raise ValueError(name)
        return self.path / f"{name}{suffix}"

    def has(self, name: str) -> bool:
        """Whether a voice is there."""
        return _is_plain(self.file(name, ROWS))

    def names(self) -> set[str]:
        """Of the voices that are there. Raises OSError."""
        with os.scandir(self.path) as entries:
            found = [e.name for e in entries if e.name.endswith(ROWS) and e.is_file(follow_symlinks=False)]
        return {name for file in found if is_voice_name(name := file.removesuffix(ROWS))}

    def is_taken(self, name: str) -> bool:
        """Whether anything has the name."""
        self.clear(name)
        return any(os.path.lexists(self.file(name, suffix)) for suffix in (ROWS, CLIP, RECORD))

    def has_record(self, name: str) -> bool:
        """Whether a voice came by an upload."""
        return _is_plain(self.file(name, RECORD))

    def record(self, name: str) -> dict[str, Any] | None:
        """What is known of an upload; None: the voice did not come by one.

        Raises:
            OSError, ValueError: damaged.
        """
        if not self.has_record(name):
            return None
        with open_plain(self.file(name, RECORD)) as file:
            return _record(file)

    def keep(self, name: str, record: Mapping[str, Any], clip: np.ndarray, rows: mx.array) -> None:
        """Make a voice.

        Args:
            record: JSON.
            clip: float samples `[S]`, 24 kHz.
            rows: `[N, dim]`.

        Raises:
            TakenError: another server on the folder was first, or the operator. OSError, CheckpointError, DataError: it
            cannot be written; then nothing of it is there.
        """
        with self._claimed(name) as file:
            written = [RECORD]
            try:
                if any(os.path.lexists(self.file(name, suffix)) for suffix in (ROWS, CLIP)):
                    raise TakenError(name)
                _write_pending(file, record)
                write_wav(self.file(name, CLIP), clip)
                written.insert(0, CLIP)
                save_tensors(self.file(name, ROWS), {EMBEDDING: rows.astype(mx.bfloat16)})
                written.insert(0, ROWS)
                write_text_atomic(self.file(name, RECORD), _line(record))
            except BaseException:
                self._remove_files(name, written)
                raise

    def remove(self, name: str) -> None:
        """Remove a voice that has a record.

        Raises:
            TakenError: it is just being made, or removed by somebody else. FileNotFoundError: it is not there. OSError:
            it cannot be removed.
        """
        with open(self.file(name, RECORD), "r+b", buffering=0, opener=_plain_alone) as file:
            if try_lock(file.fileno()) is False or not same(file.fileno(), self.file(name, RECORD)):
                raise TakenError(name)
            if not os.fstat(file.fileno()).st_size:  # somebody was about to make it, and begins again
                self.file(name, RECORD).unlink()
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.file(name, ROWS)))
            with contextlib.suppress(OSError, ValueError):  # on a full disk, or with a damaged record, it goes without
                _write_pending(file, _record(file))
            self._remove_files(name)

    def clear(self, name: str) -> None:
        """Put in order what a killed process has left of a voice; what somebody is at, and all else, stays."""
        with contextlib.suppress(OSError, ValueError, CheckpointError), open(
            self.file(name, RECORD), "r+b", buffering=0, opener=_plain_alone
        ) as file:  # fmt: skip
            if not _is_pending(file) or try_lock(file.fileno()) is not True:
                return
            if not same(file.fileno(), self.file(name, RECORD)) or not _is_pending(file):
                return  # it was completed in between
            if not os.fstat(file.fileno()).st_size:  # before anything else was written
                self.file(name, RECORD).unlink()
            elif self.has(name):
                record = _record(file)
                del record[_PENDING]
                write_text_atomic(self.file(name, RECORD), _line(record))
            else:
                self._remove_files(name)

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[BinaryIO]:
        """An empty record of a name that is free, locked for the time of the block. Raises TakenError."""
        path = self.file(name, RECORD)
        while True:
            try:
                file = open(path, "x+b", buffering=0)  # noqa: SIM115
            except FileExistsError:
                raise TakenError(name) from None
            with file:
                if try_lock(file.fileno()) is False or not same(file.fileno(), path):
                    continue  # somebody who clears has looked at it in between
                yield file
                return

    def _remove_files(self, name: str, suffixes: Sequence[str] = (ROWS, CLIP, RECORD)) -> None:
        """The rows first, with which the voice is gone; the record last, with which its name is free."""
        for suffix in suffixes:
            self.file(name, suffix).unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _plain_alone(path: str, flags: int) -> int:
    """An `opener` that follows no link and opens files alone."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is no plain file", path)
    return handle


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _record(file: BinaryIO) -> dict[str, Any]:
    """Raises ValueError: it is none."""
    file.seek(0)
    content = file.read(_MOST_RECORD + 1)
    found = parse_json(content) if len(content) <= _MOST_RECORD else None
    if not isinstance(found, dict):
        raise ValueError("no record of a voice")
    return found


def _is_pending(file: BinaryIO) -> bool:
    """Raises ValueError: no record."""
    return not os.fstat(file.fileno()).st_size or _record(file).get(_PENDING) is True


def _write_pending(file: BinaryIO, record: Mapping[str, Any]) -> None:
    """In place: the file is locked, and what is written is no shorter than what was there."""
    content = _line({**record, _PENDING: True}).encode()
    if os.pwrite(file.fileno(), content, 0) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())
