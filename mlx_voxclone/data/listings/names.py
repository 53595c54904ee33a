"""The file that a listed name means, where the list was written on another system than the files lie on.

Windows and cameras write `001.WAV` for `001.wav`, macOS decomposes accents, Windows writes `wavs\\001.wav` and
`C:\\data\\001.wav`. A name is taken as it stands if there is such a file; else the one file that it can mean is.
"""

import contextlib
import os
import re
import unicodedata
from pathlib import Path

from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.files.paths import expanded

# Of files of one name, the first: what loses nothing, then what is lossy, last what cannot be decoded here.
SUFFIXES = (
    *(".wav", ".flac", ".aiff", ".aif", ".aifc", ".w64", ".rf64", ".caf", ".au"),
    *(".opus", ".ogg", ".oga", ".mp3", ".m4a", ".aac", ".mp4", ".wma", ".webm"),
)
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def is_windows_path(name: str) -> bool:
    """Whether a name is an absolute path of a Windows machine."""
    return _WINDOWS.match(name) is not None


def has_audio_suffix(name: str) -> bool:
    """Whether a name of any system ends as audio does."""
    return os.path.splitext(name.strip().replace("\\", "/"))[1].lower() in SUFFIXES


def folded(name: str) -> str:
    """One spelling of names that differ by case or by how accents are composed."""
    return unicodedata.normalize("NFC", name.casefold())


class Names:
    """Finds the files of one list.

    Attributes:
        respelt: names that were found under another spelling.
        moved: absolute Windows paths whose end was found beside the list.
    """

    def __init__(self) -> None:
        self.respelt: list[str] = []
        self.moved: list[str] = []
        self._folders: dict[str, dict[str, list[str]]] = {}

    def path(self, base: str | Path, name: str, where: str = "") -> str:
        """The path of a listed file by `find`; where there is none, the name itself, for `prepare` to say so.

        `~` and `$HOME` at its beginning are expanded, unless there is a file of that name.
        """
        if (found := self.find(base, name, where)) is not None:
            return found
        if name.startswith(("~", "$")):
            with contextlib.suppress(ConfigError):
                return expanded(name)
        return name

    def find(self, base: str | Path, name: str, where: str = "") -> str | None:
        """The path of a listed file, relative names from `base`; None: there is none.

        Args:
            where: names the list's line in messages.

        Raises:
            DataError: several files that differ by their spelling alone, none of them as listed.
        """
        if os.path.isfile(os.path.join(base, name)):
            return name
        if is_windows_path(name):
            parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")][1:]
            for first in range(len(parts)):
                if (found := self._respelt(base, parts[first:], where)) is not None:
                    self.moved.append(name)
                    return found
            return None
        parts = name.replace("\\", "/").split("/")
        start = "/" if name.startswith("/") else ""
        found = self._respelt(os.path.join(base, start), [part for part in parts if part not in ("", ".")], where)
        if found is None:
            return None
        self.respelt.append(name)
        return start + found

    def _respelt(self, base: str | Path, parts: list[str], where: str) -> str | None:
        path = ""
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            place = os.path.join(base, path)
            if part == ".." or (not last and os.path.isdir(os.path.join(place, part))):
                path = os.path.join(path, part)
                continue
            found = self._listed(place).get(folded(part), [])
            if part not in found and len(alike := [n for n in found if composed(n) == composed(part)]) == 1:
                found = alike
            if part in found:
                found = [part]
            if len(found) > 1:
                raise DataError(f"{where}: {part} can be {' or '.join(sorted(found))}; spell it exactly as the file")
            if not found:
                return None
            path = os.path.join(path, found[0])
        return path if path and os.path.isfile(os.path.join(base, path)) else None

    def _listed(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder by their folded spelling; each folder is listed once."""
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder or "."):
                    names.setdefault(folded(name), []).append(name)
            except (OSError, ValueError):
                pass
            self._folders[folder] = names
        return self._folders[folder]

    def has_audio(self, folder: str | Path, stem: str) -> bool:
        """Whether a recording in a folder has just this name, whatever its suffix."""
        names = self._listed(os.path.join(folder, ""))
        return any(os.path.splitext(n)[0] == stem for suffix in SUFFIXES for n in names.get(folded(stem + suffix), []))

    def notes(self, listing: str | Path) -> list[str]:
        """What a user should know."""
        name, notes = Path(listing).name, []
        if self.respelt:
            notes.append(
                f"{name}: {len(self.respelt)} names are not spelt as their files are (case, accents or slashes),"
                f" such as {self.respelt[0]}"
            )
        if self.moved:
            notes.append(
                f"{name}: {len(self.moved)} Windows paths are looked up beside the list, such as {self.moved[0]}"
            )
        return notes


def composed(name: str) -> str:
    """A name with composed accents (NFC), as texts have them; macOS and its archives decompose those of files."""
    return unicodedata.normalize("NFC", name)
