"""What the checks compute on: miniatures that ship or come from seeds, and with `--full` the release's sizes."""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.files.atomic import free_bytes
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.miniature.micro import SPEAKING, make_micro

FULL_BYTES = 8.2e9  # of the full-size checkpoint
_SPARE = 1e9


@dataclass(frozen=True)
class Place:
    """Where checks work, and at which sizes.

    Attributes:
        folder: of the whole series; gone at its end.
        full: the release's sizes where a check has any.
    """

    folder: Path
    full: bool

    @property
    def params(self) -> dict:
        """`params.json` of the sizes in question."""
        return params_json(PRESETS["full" if self.full else "tiny"], {})

    def speaking(self) -> Path:
        """The trained miniature, which speaks."""
        return self._made(SPEAKING)

    def sized(self) -> Path | None:
        """A checkpoint of random numbers at the sizes in question; None: the disk has no room for it."""
        name = "full" if self.full else "tiny"
        if self.full and not (self.folder / name).exists() and free_bytes(self.folder) < FULL_BYTES + _SPARE:
            return None
        return self._made(name)

    def _made(self, preset: str) -> Path:
        path = self.folder / preset
        return path if path.exists() else make_micro(path, preset)


def on_gpu() -> bool:
    """Whether MLX computes on a GPU."""
    return mx.default_device() == mx.gpu


def relative(got: mx.array, want: mx.array) -> float:
    """RMS of the difference over the RMS of what is wanted, in float32."""
    got, want = got.astype(mx.float32), want.astype(mx.float32)
    size = mx.sqrt(mx.mean(mx.square(want)))
    return (mx.sqrt(mx.mean(mx.square(got - want))) / mx.maximum(size, 1e-30)).item()
