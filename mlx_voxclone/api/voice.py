"""A voice that is kept apart from any checkpoint."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.api.shared import Place, path_of
from mlx_voxclone.checkpoint.voices import EMBEDDING
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import DataError

_FRAME_SECONDS = 0.08


class Voice:
    """Rows that stand for a speaker in the prompt, of models as wide as that which made them.

    `TextToSpeech.voice_from` makes one; `say(voice=...)` and `bake(voices=...)` take it.

    Args:
        rows: floats `[N, dim]`, one per frame of 80 ms, the END row last; kept in bfloat16, as files keep them.

    Raises:
        DataError: another shape or type, or numbers that are not finite.
    """

    def __init__(self, rows: "np.ndarray | mx.array"):
        self.rows = rows_of(rows)

    def __repr__(self) -> str:
        return f"<Voice of {self.seconds:.1f} s>"

    @property
    def seconds(self) -> float:
        """Of speech behind it."""
        return (self.rows.shape[0] - 1) * _FRAME_SECONDS

    def save(self, path: Place, *, overwrite: bool = False) -> Path:
        """Write it into a `.safetensors` file, which `say`, `voice_from`, `bake` and the commands take; its path.

        Raises:
            DataError: another ending.
            CheckpointError: the file exists (unless `overwrite`), or cannot be written.
        """
        place = path_of(path, "voice")
        if place.suffix != ".safetensors":
            raise DataError(f"{place}: a voice is kept in a .safetensors file; give it that ending")
        save_tensors(place, {EMBEDDING: self.rows}, overwrite=overwrite)
        return place


def rows_of(rows: "np.ndarray | mx.array") -> mx.array:
    """bfloat16 `[N, dim]`, evaluated (so that it keeps no model in memory); what is no voice is refused."""
    floats = isinstance(rows, mx.array) and mx.issubdtype(rows.dtype, mx.floating)
    if not floats and not (isinstance(rows, np.ndarray) and rows.dtype.kind == "f"):
        raise DataError(f"a voice is floats [N, dim], the END row last; got {type(rows).__name__}")
    found = mx.array(rows).astype(mx.bfloat16)
    if found.ndim != 2 or found.shape[0] < 2 or found.shape[1] < 1:
        raise DataError(f"a voice is floats [N, dim], the END row last; got {list(found.shape)}")
    if not mx.isfinite(found).all().item():
        raise DataError("the voice holds infinite or undefined numbers; make it again")
    return found
