"""Leftovers of a studio that was killed in the middle of something: deleted at its next start.

Only names that the studio and its commands use, only where they use them, and never through a link. A folder that
another process still writes is locked by it and stays.
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
    """Delete all leftovers. Call it first, with the folder locked by this process."""
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
    """Folders in a folder, without links."""
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
    return []
