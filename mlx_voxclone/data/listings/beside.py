"""The transcript beside a recording: a `.txt` of its name."""

import os
from pathlib import Path

from mlx_voxclone.data.entries import read_text
from mlx_voxclone.data.listings.names import Names
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import damage, words

_SUFFIX = ".txt"


class TextsBeside:
    """Finds and reads them below one folder; `.TXT` and decomposed names count as well."""

    def __init__(self, folder: Path) -> None:
        self._root = os.path.realpath(folder)
        self._names = Names()

    def find(self, audio: Path) -> str | None:
        """The text beside a recording, tidy; None: there is none.

        Raises:
            DataError: no plain file, a link that leads out of the folder, not UTF-8, too large, damaged.
        """
        name = audio.stem + _SUFFIX
        path = audio.with_name(name)
        if not os.path.isfile(path):
            if os.path.lexists(path):
                raise DataError(f"{path}: not a plain file (or a link to none); a text is expected beside {audio.name}")
            found = self._names.find(audio.parent, name, str(audio.parent))
            if found is None:
                return None
            if (stem := Path(found).stem) != audio.stem and self._names.has_audio(audio.parent, stem):
                return None  # it is of a recording of just that name
            path = audio.with_name(found)
        if path.is_symlink():
            self._check_link(path, audio)
        text = read_text(path)
        if reason := damage(text):
            raise DataError(f"{path}: holds {reason}; save it again as UTF-8")
        return words(text)

    def _check_link(self, path: Path, audio: Path) -> None:
        """A link may lead to where the recording itself lies, or to another place in the folder."""
        target = os.path.realpath(path)
        places = (self._root, os.path.dirname(os.path.realpath(audio)))
        if not any(os.path.commonpath([target, place]) == place for place in places):
            raise DataError(f"{path}: a link to {target}, outside of {self._root}; put the text itself there")
