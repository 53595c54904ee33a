"""What a voice's training has made: the checkpoint, the voice by itself, adapters, and how it sounds."""

import os
from dataclasses import dataclass
from pathlib import Path

from mlx_voxclone.adapters.files import CONFIG as ADAPTER_CONFIG
from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.checkpoint.release import PARAMS, WEIGHTS
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.results import ZERO_SHOT, result_of


@dataclass(frozen=True)
class Made:
    """A training that has ended.

    Attributes:
        run: its directory. voice: the name in the checkpoint. baked: the checkpoint; None where it was deleted.
        adapters: that were trained; None: none are there. adapted: whether they are a part of what was delivered.
    """

    run: Path
    voice: str
    baked: Path | None
    adapters: Path | None
    adapted: bool

    def voice_file(self, suffix: str) -> Path | None:
        """The voice by itself, `.safetensors` or `.pt`; None: it is not there."""
        if self.baked is None:
            return None
        path = self.baked / VOICE_DIRECTORY / f"{self.voice}{suffix}"
        return path if _is_file(path) else None

    @property
    def sample(self) -> Path | None:
        """A sentence that the finished voice has said; None: there is none."""
        return next((path for path in sorted((self.run / "samples").glob("after-*.wav")) if _is_file(path)), None)


def made_of(project: Project) -> Made | None:
    """What a voice's training has come to; None: it has not ended, or was of another kind."""
    found = result_of(project.run)
    if found is None or found.voice is None:
        return None
    best, place = project.run / "speaker" / "best", project.run / "baked"
    is_adapted = _is_file(best / TENSORS) and _is_file(best / ADAPTER_CONFIG)
    return Made(
        run=project.run,
        voice=found.voice,
        baked=place if _is_file(place / WEIGHTS) and _is_file(place / PARAMS) else None,
        adapters=best if is_adapted else None,
        adapted=is_adapted and found.delivered != ZERO_SHOT,
    )


def bytes_of(place: Path) -> tuple[int, int]:
    """Files and bytes under a place; links are not followed."""
    if _is_file(place):
        return 1, place.stat().st_size
    files = size = 0
    for root, _, names in os.walk(place):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
                files += 1
            except OSError:  # gone meanwhile
                continue
    return files, size


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
