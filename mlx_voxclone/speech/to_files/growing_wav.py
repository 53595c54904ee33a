"""A long WAV that can be interrupted: it grows chunk by chunk, is playable all the time, and goes on later.

While it is spoken, `NAME.partial.wav` holds the audio and `NAME.partial.json` what it is of. A kill loses at most the
chunks that were being spoken. When all is there, the file takes its name.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, wav_data, wav_header
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.process.temporaries import try_lock


class GrowingWav:
    """Mono audio of 24 kHz, chunk after chunk; use `growing_wav`.

    Attributes:
        chunks: how many are in it.
        memory: what was given with the last of them; JSON.
        seconds: of audio.
        ends: seconds at which each chunk ends.
    """

    def __init__(self, file, path: Path, state: Path, float32: bool, identity: Mapping[str, Any]) -> None:
        self._file, self._path, self._state, self._float32 = file, path, state, float32
        self._identity = dict(identity)
        self.chunks = self._samples = 0
        self.memory: Any = None
        self._ends: list[int] = []  # samples

    @property
    def ends(self) -> list[float]:
        return [end / SAMPLE_RATE for end in self._ends]

    @property
    def seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    def append(self, samples: np.ndarray, memory: Any = None) -> None:
        """Write the next chunk `[S]`, and keep `memory` for a command that goes on.

        Raises:
            DataError: more than the 4 GB that a WAV holds.
        """
        data = wav_data(self._path, samples, self._float32)
        header = wav_header(self._path, self._samples + len(data), self._float32)
        self._file.seek(0, os.SEEK_END)
        self._file.write(data.data)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._samples += len(data)
        self._ends.append(self._samples)
        self.chunks, self.memory = self.chunks + 1, memory
        self.save()

    def save(self) -> None:
        counts = {"chunks": self.chunks, "samples": self._samples, "ends": self._ends}
        content = {**self._identity, **counts, "memory": self.memory}
        write_text_atomic(self._state, json.dumps(content) + "\n")

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go on behind the chunks that a state counts; what a kill left behind them is cut off."""
        self.chunks, self._samples, self.memory = (content[key] for key in ("chunks", "samples", "memory"))
        self._ends = list(content["ends"])
        size = len(wav_header(self._path, 0, self._float32)) + self._samples * (4 if self._float32 else 2)
        if os.fstat(self._file.fileno()).st_size < size:
            raise DataError(f"{self._path}: is shorter than {self._state.name} says; delete both and start again")
        self._file.truncate(size)
        self._file.seek(0)
        self._file.write(wav_header(self._path, self._samples, self._float32))
        self._file.flush()


def partial_names(path: str | Path) -> tuple[Path, Path]:
    """Where the audio and its state are while they grow."""
    path = Path(path)
    return path.with_name(f"{path.stem}.partial.wav"), path.with_name(f"{path.stem}.partial.json")


@contextlib.contextmanager
def growing_wav(
    path: str | Path, identity: Mapping[str, Any], *, resume: bool, float32: bool = False
) -> Iterator[GrowingWav]:
    """A WAV to append to; at the end of the block it is `path`, after an exception it stays partial.

    Args:
        path: of the whole file; replaced if it exists.
        identity: what decides what is said: JSON. A partial file of something else is refused.
        resume: go on with a partial file.

    Raises:
        DataError: a partial file that is of something else, in use, damaged, or there without `resume`.
    """
    audio, state = partial_names(path)
    found = _state(state, audio, path, identity) if state.exists() or audio.exists() else None
    if found is not None and not resume and found["chunks"]:
        raise DataError(
            f"{audio}: holds {found['chunks']} chunks of an earlier command; go on with --resume, or delete it"
        )
    found = found if resume else None
    with _opened(audio, new=found is None) as file:
        growing = GrowingWav(file, audio, state, float32, identity)
        if found is not None:
            growing.restore(found)
        else:
            file.write(wav_header(audio, 0, float32))
            growing.save()
        try:
            yield growing
        except BaseException:
            if not growing.chunks:  # nothing to go on with
                _removed(audio, state)
            raise
        os.replace(audio, path)
        _removed(state)


@contextlib.contextmanager
def _opened(path: Path, new: bool):
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if new else 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    with os.fdopen(handle, "r+b") as file:
        if try_lock(file.fileno()) is False:
            raise DataError(f"{path}: another command is writing it; wait for it, or name another output")
        if new:  # not before it is ours
            file.truncate(0)
        yield file


def _state(state: Path, audio: Path, path: str | Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    advice = f"delete {audio.name} and {state.name}, or name another output"
    try:
        content = parse_json(state.read_bytes())
        counts = [content.get(key) for key in ("chunks", "samples")]
        if any(type(count) is not int or count < 0 for count in counts) or "memory" not in content:
            raise ValueError
        ends = content.get("ends")
        if not isinstance(ends, list) or [type(end) for end in ends] != [int] * counts[0]:
            raise ValueError
        if not audio.is_file():
            raise ValueError
    except (OSError, ValueError, AttributeError, RecursionError):
        raise DataError(f"{path}: {audio.name} or {state.name} is damaged; {advice}") from None
    differing = [key for key in identity if content.get(key) != identity[key]]
    if differing:
        raise DataError(f"{audio}: is of another {' and '.join(differing)}; {advice}")
    return content


def _removed(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
