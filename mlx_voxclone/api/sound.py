"""Audio in and out: float32 samples at 24 kHz, mono."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_voxclone.api.shared import Place, path_of
from mlx_voxclone.audio import io
from mlx_voxclone.audio.output import check_wav_output
from mlx_voxclone.errors import DataError

if TYPE_CHECKING:
    import mlx.core as mx


def read_audio(path: Place) -> np.ndarray:
    """Read a recording (WAV, FLAC, OGG, MP3, ...), resampled to 24 kHz and mixed down; its level is kept.

    Returns:
        float32 `[S]`, S samples at 24 kHz.

    Raises:
        DataError: missing, unreadable, damaged, or no audio that can be used.
    """
    return io.read_audio(path_of(path, "audio"))


def write_wav(path: Place, samples: "np.ndarray | mx.array", *, float32: bool = False) -> None:
    """Write a WAV of 24 kHz, mono. It appears whole or not at all; an older WAV of that name is replaced.

    Args:
        path: ends in `.wav`; its directory exists.
        samples: floats `[S]` at 24 kHz, full scale is 1.
        float32: write floats as they are, in place of 16-bit PCM, which is clipped.

    Raises:
        DataError: samples that are not mono or not finite, another kind of file of that name, no such directory.
    """
    place = path_of(path, "output")
    check_wav_output(place)
    io.write_wav(place, samples_of(samples, str(place)), float32=float32)


def samples_of(samples: Any, what: str) -> np.ndarray:
    """float32 `[S]` of an array of floats; integers, other shapes and what is not finite are refused.

    Raises:
        DataError: names `what`.
    """
    values = np.asarray(samples)
    if values.ndim != 1 or values.dtype.kind != "f":
        found = f"{values.dtype} {list(values.shape)}" if values.dtype.kind in "biufc" else type(samples).__name__
        raise DataError(f"{what}: float samples [S] at {io.SAMPLE_RATE} Hz, mono, are expected; got {found}")
    if not np.isfinite(values).all():
        raise DataError(f"{what}: holds infinite or undefined numbers")
    return values.astype(np.float32)
