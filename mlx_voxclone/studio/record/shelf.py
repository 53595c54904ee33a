"""Numbered items in a folder, each a sound and its notes: `0001-1a2b3c4d.wav` and `0001-1a2b3c4d.json`.

Both are written whole and flushed to the disk. The notes come first, under another name (`.coming-ID.json`), then the
sound, then the notes get their own: an item is there if both are, so whatever ends the studio, no sound is without its
text. One that is deleted has its notes renamed first (`.going-ID.json`). `finish` ends what an end of the studio has
left of either. An id is never used twice, and no file's name is a path here.
An id ends in the first four digits of its sound's SHA-256, so that the same sound is found by its name (`same`).
"""

import contextlib
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlx_voxclone.data.listings.names import SUFFIXES
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.atomic import atomic_file, write_text_atomic
from mlx_voxclone.files.plain import is_number, read_json
from mlx_voxclone.studio.home import json_text
from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.record.checks import Check

ID = re.compile(r"\d{4,6}-[0-9a-f]{4}([0-9a-f]{4})?(~\d{3,5})?")
Item = tuple[str, dict[str, Any]]  # an id and its notes
_COMING, _GOING = ".coming-", ".going-"  # before the name of notes: of an item that is being added, or deleted
_HEARD = ".heard.flac"
_SHORT = 4  # digits of a digest in an id
_MOST_NOTES = 1 << 24  # bytes
_WORDS = ("slot", "text", "text_by", "created", "name", "key", "sha256", "like", "suffix", "upload")
_FIGURES = ("seconds", "start", "size", "cut")
_SWITCHES = ("long", "heard")
lock = threading.RLock()  # of all notes: they are small, and a home has one studio


@dataclass(frozen=True)
class Look:
    """A folder as it is at one moment: its items in order, and files of notes that cannot be read."""

    items: tuple[Item, ...]
    damaged: tuple[Path, ...] = ()


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

    def look(self) -> Look:
        """Everything, each file of notes read once."""
        found, damaged = [], []
        for id in self.ids():
            path = self.folder / f"{id}.json"
            try:
                found.append((id, _read(path)))
            except FileNotFoundError:
                continue  # deleted meanwhile
            except (OSError, ValueError):
                damaged.append(path)
        return Look(tuple(found), tuple(damaged))

    def items(self) -> list[Item]:
        """Ids and notes, in order."""
        return list(self.look().items)

    def notes(self, id: str) -> dict[str, Any]:
        """
        Raises:
            Missing: no such item, or its notes cannot be read.
        """
        try:
            return _read(self._notes_path(id))
        except (OSError, ValueError):
            raise gone(id) from None

    def sound(self, id: str) -> Path:
        """The sound's file.

        Raises:
            Missing: no such item.
        """
        path = self.sound_of(id, self.notes(id))
        if not path.is_file():
            raise gone(id)
        return path

    def sound_of(self, id: str, notes: dict[str, Any]) -> Path:
        """The sound's file by an item's notes; it may have been deleted meanwhile."""
        suffix = notes.get("suffix", ".wav")
        return self.folder / f"{id}{suffix if suffix in SUFFIXES else '.wav'}"

    def heard(self, id: str) -> Path:
        """Where a copy lies that browsers can play, of a sound that they cannot. Raises Missing for what is no id."""
        return self._notes_path(id).with_suffix(_HEARD)

    def same(self, digest: str, **values: str) -> Item | None:
        """The item whose sound has this SHA-256 and whose notes have these values. Other notes are not read."""
        for id in self.ids():
            if id.endswith(digest[:_SHORT]):
                with contextlib.suppress(Missing):
                    notes = self.notes(id)
                    if all(notes.get(key) == value for key, value in {**values, "sha256": digest}.items()):
                        return id, notes
        return None

    def add(self, notes: dict[str, Any], write: Callable[[IO[bytes]], object], suffix: str = ".wav") -> str:
        """A new item: both of its files are on the disk when this returns.

        Args:
            notes: with `sha256`, of the sound.
            write: writes the sound into the file that it is given.
            suffix: of the sound, one of those that audio has.
        Returns:
            Its id.
        Raises:
            CheckpointError: the disk refuses (full, read-only); nothing is left behind.
            Missing: the voice is deleted meanwhile; nothing of it comes back.
        """
        if suffix not in SUFFIXES:
            raise ValueError(f"{suffix!r} is no suffix of audio")
        with in_voice(self.folder) as written:
            with lock:
                id = self._free_id(notes["sha256"])
                coming = self.folder / f"{_COMING}{id}.json"
                written += [coming, self._notes_path(id), self.folder / f"{id}{suffix}"]
                write_text_atomic(coming, json_text({**notes, "suffix": suffix}), overwrite=False)
            try:
                with atomic_file(written[-1]) as file:
                    write(file)
                coming.rename(self._notes_path(id))
            except BaseException:
                for path in written:
                    path.unlink(missing_ok=True)
                raise
        return id

    def change(self, id: str, **values: Any) -> dict[str, Any]:
        """Change some of an item's notes; the new ones, all of them.

        Raises:
            Missing: no such item.
        """
        with in_voice(self.folder) as written, lock:
            notes = {**self.notes(id), **values}
            written.append(self._notes_path(id))
            self._write(id, notes)
        return notes

    def keep_notes(self, id: str, notes: dict[str, Any]) -> None:
        """Write the notes of a sound that is here already under this id."""
        with lock:
            self._write(id, notes)

    def remove(self, id: str, along: Callable[[str], object] = lambda id: None) -> None:
        """Delete an item.

        Args:
            along: deletes what goes with it, by its id.
        Raises:
            Missing: no such item.
        """
        with lock:
            self.sound(id)
            self._remove(id, along)

    def remove_clips_of(self, id: str, behind: int = 0) -> None:
        """Delete the clips cut from a recording of another shelf, of those only what comes behind a number; also those
        whose notes cannot be read."""
        with lock:
            for clip in self.ids():
                of, _, number = clip.partition("~")
                if of == id and number and int(number) > behind:
                    self._remove(clip)

    def finish(self, along: Callable[[str], object] = lambda id: None) -> None:
        """Finish what an end of the studio in the middle has left: an item with both of its files is there, one that
        was being deleted goes, as `remove` has it, whatever its notes hold. Call it while nobody adds anything."""
        for path in self._marked():
            mark = _COMING if path.name.startswith(_COMING) else _GOING
            id = path.name.removeprefix(mark).removesuffix(".json")
            with contextlib.suppress(OSError, ValueError, VoxcloneError):
                own = self._notes_path(id)
                if own.exists():
                    continue
                if mark == _COMING and self.sound_of(id, _read(path)).is_file():
                    path.rename(own)
                else:
                    along(id)
                    self._delete(id, path)

    def _remove(self, id: str, along: Callable[[str], object] = lambda id: None) -> None:
        """Delete an item by its name: its notes need not be readable."""
        going = self.folder / f"{_GOING}{id}.json"
        self._notes_path(id).rename(going)
        along(id)
        self._delete(id, going)

    def _delete(self, id: str, notes: Path) -> None:
        """Delete an item's files, its notes last."""
        for suffix in (*SUFFIXES, _HEARD):
            (self.folder / f"{id}{suffix}").unlink(missing_ok=True)
        notes.unlink(missing_ok=True)

    def _marked(self) -> list[Path]:
        """Notes of items that are being added or deleted."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        marks = re.compile(rf"({re.escape(_COMING)}|{re.escape(_GOING)}){ID.pattern}\.json")
        return [path for path in paths if marks.fullmatch(path.name) and not path.is_symlink()]

    def _free_id(self, digest: str) -> str:
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        names = [name.removeprefix(_COMING).removeprefix(_GOING) for name in names]
        numbers = [int(match[0]) for name in names if (match := re.match(r"\d{4,6}(?=-)", name))]
        return f"{max(numbers, default=0) + 1:04d}-{secrets.token_hex(2)}{digest[:_SHORT]}"

    def _notes_path(self, id: str) -> Path:
        if not ID.fullmatch(id):
            raise gone(id)
        return self.folder / f"{id}.json"

    def _write(self, id: str, notes: dict[str, Any]) -> None:
        write_text_atomic(self._notes_path(id), json_text(notes))


def gone(id: str) -> Missing:
    """The error of a recording that is not there, or was deleted meanwhile."""
    return Missing(f"there is no recording {id[:20]!r} here any more")


@contextlib.contextmanager
def in_voice(folder: Path) -> Iterator[list[Path]]:
    """The time in which something is written into one of a voice's folders, which is made if it is missing.

    Yields:
        A list for the files that are being written: of a voice that is deleted meanwhile none of them comes back.
    Raises:
        Missing: the voice has been deleted, before or meanwhile.
    """
    voice, written = folder.parent / "voice.json", []
    try:
        if voice.is_file():
            folder.mkdir(exist_ok=True)
            yield written
    finally:
        if not voice.is_file():
            with contextlib.suppress(OSError):
                for path in written:
                    path.unlink(missing_ok=True)
                folder.rmdir()
                folder.parent.rmdir()
            raise Missing("there is no such voice")


def _read(path: Path) -> dict[str, Any]:
    """Notes as they were written.

    Raises:
        OSError, ValueError: they cannot be read, or something in them is not what it should be.
    """
    notes = read_json(path, _MOST_NOTES)
    if not isinstance(notes, dict):
        raise ValueError("no JSON object")
    good = all(isinstance(notes.get(key), str | None) for key in _WORDS)
    good = good and all(is_number(notes[key]) for key in _FIGURES if notes.get(key) is not None)
    good = good and all(isinstance(notes.get(key), bool | None) for key in _SWITCHES)
    drawn = notes.get("peaks")
    if not good or not (drawn is None or (isinstance(drawn, list) and _are_numbers(drawn))):
        raise ValueError("notes of another kind")
    Check.of(notes.get("check"))
    return notes


def _are_numbers(values: list[Any]) -> bool:
    """`is_number` of many, quickly."""
    try:
        return {*map(type, values)} <= {int, float} and math.isfinite(sum(values))
    except OverflowError:
        return False
