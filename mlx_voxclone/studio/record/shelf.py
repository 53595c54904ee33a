"""Numbered items in a folder, each a sound and its notes: `0001-1a2b.wav` and `0001-1a2b.json`.

Both are written whole and flushed to the disk. The notes come first, then the sound: an item is there if both are, so
whatever ends the studio, no sound is without its text. An id is never used twice, and no file's name is a path here.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mlx_voxclone.data.listings.names import SUFFIXES
from mlx_voxclone.files.atomic import atomic_file, write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.studio.mistakes import Missing

ID = re.compile(r"\d{4,6}-[0-9a-f]{4}(~\d{3,5})?")
_MOST_NOTES = 1 << 24  # bytes
lock = threading.RLock()  # of all notes: they are small, and a home has one studio


class Shelf:
    """The items of one folder, which is made on first use.

    Args:
        folder: of the sounds and their notes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def ids(self) -> list[str]:
        """Of all items, in the order in which they came."""
        if not self.folder.is_dir():
            return []
        files = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        stems = {name.removesuffix(".json") for name in files if name.endswith(".json")}
        sounds = {name.rpartition(".")[0] for name in files if not name.endswith(".json")}
        return sorted(stem for stem in stems & sounds if ID.fullmatch(stem))

    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """Ids and notes, in order."""
        found = []
        for id in self.ids():
            try:
                found.append((id, self.notes(id)))
            except Missing:
                continue  # deleted meanwhile
        return found

    def notes(self, id: str) -> dict[str, Any]:
        """
        Raises:
            Missing: no such item.
        """
        try:
            found = read_json(self._notes_path(id), _MOST_NOTES)
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise Missing(f"there is no recording {id[:20]!r} here any more")
        return found

    def sound(self, id: str) -> Path:
        """The sound's file.

        Raises:
            Missing: no such item.
        """
        suffix = self.notes(id).get("suffix", ".wav")
        path = self.folder / f"{id}{suffix if suffix in SUFFIXES else '.wav'}"
        if not path.is_file():
            raise Missing(f"there is no recording {id[:20]!r} here any more")
        return path

    def heard(self, id: str) -> Path:
        """Where a copy lies that browsers can play, of a sound that they cannot. Raises Missing for what is no id."""
        return self._notes_path(id).with_suffix(".heard.flac")

    def add(self, notes: dict[str, Any], write: Callable[[IO[bytes]], object], suffix: str = ".wav") -> str:
        """A new item: both of its files are on the disk when this returns.

        Args:
            write: writes the sound into the file that it is given.
            suffix: of the sound, one of those that audio has.
        Returns:
            Its id.
        Raises:
            CheckpointError: the disk refuses (full, read-only); nothing is left behind.
        """
        if suffix not in SUFFIXES:
            raise ValueError(f"{suffix!r} is no suffix of audio")
        with lock:
            id = self._free_id()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(id, {**notes, "suffix": suffix}, overwrite=False)
        try:
            with atomic_file(self.folder / f"{id}{suffix}") as file:
                write(file)
        except BaseException:
            self._notes_path(id).unlink(missing_ok=True)
            raise
        return id

    def change(self, id: str, **values: Any) -> dict[str, Any]:
        """Change some of an item's notes; the new ones, all of them.

        Raises:
            Missing: no such item.
        """
        with lock:
            notes = {**self.notes(id), **values}
            self._write(id, notes)
        return notes

    def keep_notes(self, id: str, notes: dict[str, Any]) -> None:
        """Notes of a sound that lies here already, written by others under the item's id."""
        with lock:
            self._write(id, notes)

    def remove(self, id: str) -> None:
        """Delete an item.

        Raises:
            Missing: no such item.
        """
        with lock:
            sound = self.sound(id)
            sound.unlink(missing_ok=True)
            self.heard(id).unlink(missing_ok=True)
            self._notes_path(id).unlink(missing_ok=True)

    def _free_id(self) -> str:
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        numbers = [int(match[0]) for name in names if (match := re.match(r"\d{4,6}(?=-)", name))]
        return f"{max(numbers, default=0) + 1:04d}-{secrets.token_hex(2)}"

    def _notes_path(self, id: str) -> Path:
        if not ID.fullmatch(id):
            raise Missing(f"there is no recording {id[:20]!r} here")
        return self.folder / f"{id}.json"

    def _write(self, id: str, notes: dict[str, Any], *, overwrite: bool = True) -> None:
        write_text_atomic(self._notes_path(id), json.dumps(notes, ensure_ascii=False, indent=1), overwrite=overwrite)
