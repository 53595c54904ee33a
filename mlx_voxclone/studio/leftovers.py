"""What an end of the studio in the middle of something has left in its folder: deleted at the next start.

Only names that the studio and its commands give, where they give them, and never through a link. What another process
still writes stays: it holds a lock on it.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

from mlx_voxclone.files.locks import LOCK
from mlx_voxclone.process.temporaries import clear_below
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.train.process import holder

_DELETED = re.compile(r"\.trash-.+-[0-9a-f]{12}")  # voices, speeches, exports: see `keep.exports.trash`
_OF_A_VOICE = re.compile(r"\.cancelled-\d+|upload-[a-z0-9_]{8}")  # a training that was cancelled, a file that came in


def clear(home: Home) -> None:
    """Delete what is left. Called before anything else is done in the folder, which this process has locked."""
    for person in _folders(home.path / "people"):
        voices = person / "voices"
        for place in (voices, person / "speech"):
            _clear(place, _DELETED)
        for voice in _folders(voices):
            _clear(voice, _OF_A_VOICE)
            _clear(voice / "exports", _DELETED)
    clear_below(home.path)


def _clear(folder: Path, names: re.Pattern[str]) -> None:
    if folder.is_symlink():
        return
    for place in _folders(folder):
        if names.fullmatch(place.name) and holder(place / LOCK) is None:
            shutil.rmtree(place, ignore_errors=True)


def _folders(place: Path) -> list[Path]:
    """Those in a folder, links left out."""
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
    return []
