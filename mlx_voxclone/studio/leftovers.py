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
from mlx_voxclone.studio import temporary
from mlx_voxclone.studio.home import ID, NAME, Home, Person
from mlx_voxclone.studio.keep import removal
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.speak.history import ASKED
from mlx_voxclone.studio.train.process import OWN_LOCK, holder

_DELETED = re.compile(r"\.trash-.+-[0-9a-f]{12}")  # voices, speeches, exports: see `keep.exports.trash`
_OF_A_VOICE = re.compile(r"\.cancelled-\d+|upload-[a-z0-9_]{8}")  # a training that was cancelled, a file that came in
_SHELVES = ("takes", "uploads", "clips")


def clear(home: Home) -> None:
    """Delete all leftovers. Call it first, with the folder locked by this process."""
    temporary.clear(home)
    for person in _folders(home.path / "people"):
        voices = person / "voices"
        if NAME.fullmatch(person.name) and not voices.is_symlink():
            removal.clear(Person(home, person.name))
        for place in (voices, person / "speech"):
            _clear(place, _DELETED)
        for voice in _folders(voices):
            _clear(voice, _OF_A_VOICE)
            _clear(voice / "exports", _DELETED)
            if holder(voice / OWN_LOCK) is None:  # no training has outlived the studio
                _clear(voice, re.compile(re.escape(temporary.FOLDER)))
            for shelf in _SHELVES:
                if not (voice / shelf).is_symlink():
                    along = [Shelf(voice / "clips").remove_clips_of] if shelf == "uploads" else []
                    with contextlib.suppress(OSError):  # a folder that may not be read keeps nobody from the studio
                        Shelf(voice / shelf).finish(*along)
    clear_below(home.path)
    for person in _folders(home.path / "people"):
        for voice in _folders(person / "voices"):
            if ID.fullmatch(voice.name):
                with contextlib.suppress(OSError):
                    (voice / removal.DELETES_SPEECHES).unlink(missing_ok=True)
                    voice.rmdir()  # where nothing is in it: it was about to be made
        for speech in _folders(person / "speech"):
            if ID.fullmatch(speech.name) and not (speech / ASKED).exists():
                for place in (speech / "takes", speech):
                    with contextlib.suppress(OSError):
                        place.rmdir()


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
