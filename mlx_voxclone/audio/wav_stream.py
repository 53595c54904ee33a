"""WAV piece by piece: into a file that is there when it is complete, or down a pipe as the pieces come."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlx_voxclone.audio.io import output_file, wav_data, wav_header

Write = Callable[[np.ndarray], None]


@contextlib.contextmanager
def wav_file(path: str | Path, *, float32: bool = False) -> Iterator[Write]:
    """Write mono audio of 24 kHz in pieces; the file is that of `write_wav` of them all, and appears at the end.

    Yields:
        A function that takes the next samples `[samples]`.
    Raises:
        DataError, OSError: as `write_wav`; nothing is left behind then, and an older file is untouched.
    """
    count = 0
    with output_file(path) as file:

        def write(samples: np.ndarray) -> None:
            nonlocal count
            data = wav_data(path, samples, float32)
            count += len(data)
            file.write(data.data)

        file.write(wav_header(path, 0, float32))
        yield write
        file.seek(0)
        file.write(wav_header(path, count, float32))


@contextlib.contextmanager
def wav_pipe(file: BinaryIO, name: str, *, float32: bool = False) -> Iterator[Write]:
    """Write mono audio of 24 kHz in pieces to where nobody can go back to: the header states no length.

    Players and `audio_info` take such a header for "as much as comes". Every piece is flushed. Nothing is written
    before the first one.

    Yields:
        A function that takes the next samples `[samples]`.
    Raises:
        DataError: samples that are no audio, see `write_wav`; `name` stands for the file.
        BrokenPipeError: the reader has gone.
    """
    header = wav_header(name, None, float32)

    def write(samples: np.ndarray) -> None:
        nonlocal header
        file.write(header + wav_data(name, samples, float32).tobytes())
        file.flush()
        header = b""

    yield write
