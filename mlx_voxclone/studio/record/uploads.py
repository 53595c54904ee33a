"""Files that were brought: recordings, texts beside them, and tables of texts, in any order.

A recording is kept as it came, under a number; its own name is for people alone. A text belongs to the recording of the
same name (`ann/001.txt` to `ann/001.wav`), a table's row to the recording that it names; one that comes before its
recording waits for it. Recordings of up to half a minute are checked at once, longer ones are cut later (`long.py`).
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np

from mlx_voxclone.audio.decode import audio_info, check_channels
from mlx_voxclone.audio.io import read_audio, write_flac
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.duplicates import Sounds
from mlx_voxclone.data.entries import AUDIO_SUFFIXES, LARGEST_TEXT, read_text
from mlx_voxclone.data.ingest import MAX_TRANSCRIBED_SECONDS
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.files.texts import damage, words
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.record.checks import check, wave
from mlx_voxclone.studio.record.consent import require
from mlx_voxclone.studio.record.shelf import Shelf, lock
from mlx_voxclone.studio.record.takes import LONGEST_TEXT, sayable

TEXTS, LISTS = (".txt",), (".csv", ".tsv", ".psv", ".list", ".lst", ".jsonl")
ACCEPTED = (*sorted(AUDIO_SUFFIXES), *TEXTS, *LISTS)
LARGEST_FILE = 2_000_000_000  # bytes: three hours of the largest WAV that microphones make
LARGEST_LIST = 32 << 20
LONGEST_SECONDS = 6 * 3600.0
PLAYED = (".wav", ".flac", ".mp3", ".ogg")  # by every browser
_WAITING = "texts.json"  # of recordings that have not come yet, by name
_MOST_WAITING = 100_000
_SHOWN = 120  # characters of a file's name


@dataclass(frozen=True)
class Received:
    """What became of a file: `key` of a sentence in `record.received`, its values, and a recording's id."""

    name: str
    key: str
    values: dict[str, object]
    id: str | None = None


class Uploads:
    """The files of a voice."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.shelf = Shelf(project.uploads)

    def check_name(self, name: str, size: int | None) -> None:
        """Refuse a file before it is read, by its name and size in bytes (None: not known).

        Raises:
            Mistake: nobody has agreed; no recording, text or table by its name; empty or too large.
        """
        require(self.project)
        suffix = _suffix(name)
        if suffix not in ACCEPTED:
            raise Mistake("files", "record.wrong.kind_of_file", name=shown(name))
        most = LARGEST_FILE if suffix in AUDIO_SUFFIXES else LARGEST_TEXT if suffix in TEXTS else LARGEST_LIST
        if size is not None and size > most:
            raise Mistake("files", "record.wrong.large_file", name=shown(name), most=round(most / 1e6))
        if size == 0:
            raise Mistake("files", "record.wrong.empty_file", name=shown(name))

    def add(self, name: str, source: Path) -> Received:
        """Take a file in.

        Args:
            name: as the browser tells it, perhaps with folders; it is shown and compared, and never used as a path.
            source: where its bytes are; they are copied.
        Raises:
            Mistake: see `check_name`; the very same file is there already, or it cannot be read.
            CheckpointError: the disk refuses.
        """
        self.check_name(name, source.stat().st_size)
        suffix = _suffix(name)
        if suffix in TEXTS:
            return self._add_text(name, source)
        if suffix in LISTS:
            return self._add_list(name, source, suffix)
        return self._add_sound(name, source, suffix)

    def set_text(self, id: str, text: str) -> None:
        """What is said in a recording; an empty text takes it away.

        Raises:
            Missing: no such recording.
            Mistake: too long or damaged.
        """
        notes = self.shelf.notes(id)
        longest = LARGEST_TEXT if notes.get("long") else 2 * LONGEST_TEXT
        said = sayable(text, longest) if text.strip() else None
        if said == notes.get("text"):
            return
        if notes.get("long"):  # it is cut anew with its text
            self._remove_clips(id)
            self.shelf.change(id, text=said, text_by="hand", cut=None)
        else:
            found, _ = check(self.shelf.sound(id), said)
            self.shelf.change(id, text=said, text_by="hand", check=found.content())

    def remove(self, id: str) -> None:
        """Delete a recording and what was cut from it.

        Raises:
            Missing: no such recording.
        """
        self.shelf.remove(id)
        self._remove_clips(id)

    def waiting(self) -> int:
        """Texts whose recording has not come yet."""
        return len(self._waiting())

    def _remove_clips(self, id: str) -> None:
        clips = Shelf(self.project.clips)
        for clip in clips.ids():
            if clip.partition("~")[0] == id:
                clips.remove(clip)

    def _add_sound(self, name: str, source: Path, suffix: str) -> Received:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        for _, notes in self.shelf.items():
            if notes.get("sha256") == digest:
                raise Mistake("files", "record.wrong.same_file", name=shown(name), other=notes.get("name"))
        try:
            info = audio_info(source)
            check_channels(info)
        except AudioError as e:
            key = {"channels": "channels", "truncated": "cut_off"}.get(e.reason, "unreadable")
            raise Mistake("files", f"record.wrong.{key}", name=shown(name)) from None
        if info.seconds > LONGEST_SECONDS:
            raise Mistake("files", "record.wrong.hours", name=shown(name), most=round(LONGEST_SECONDS / 3600))
        long = info.seconds > MAX_TRANSCRIBED_SECONDS
        played = suffix in PLAYED
        text = self._text_for(_key(name))  # it waits on until its recording is on the disk
        found, heard = (None, np.zeros(0, np.uint32)) if long else check(source, text)
        other = None if long else self._sounds_like(heard)
        notes = {
            "name": shown(name),
            "key": _key(name),
            "sha256": digest,
            "size": source.stat().st_size,
            "seconds": round(info.seconds, 3),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "text": text,
            "text_by": "file" if text else None,
            "long": long,
            "cut": None,
            "check": found.content() if found else None,
            "print": heard.tolist(),
            "like": other,
            "heard": played,
            "peaks": wave(source, info.seconds),
        }
        with source.open("rb") as file:
            id = self.shelf.add(notes, lambda target: shutil.copyfileobj(file, target, 1 << 20), suffix)
        if text is None and (text := self._text_for(_key(name))) is not None:  # it has come meanwhile
            self.set_text(id, text)
            self.shelf.change(id, text_by="file")
        if text is not None:
            self._taken(_key(name), text)
        if not played and not long:
            with contextlib.suppress(AudioError):  # the check has told it
                write_flac(self.shelf.heard(id), np.clip(read_audio(self.shelf.sound(id)), -1, 1))
        key = "long_with_text" if long and text else "long" if long else "with_text" if text else "without_text"
        return Received(shown(name), key, {"seconds": round(info.seconds)}, id)

    def _sounds_like(self, heard: np.ndarray) -> str | None:
        """Name of a recording that sounds the same: another format or level of it."""
        for _, notes in self.shelf.items():
            known = np.array(notes.get("print") or [], np.uint32)
            if len(known) and Sounds([known]).hold(heard):
                return notes.get("name")
        return None

    # Texts

    def _add_text(self, name: str, source: Path) -> Received:
        try:
            text = read_text(source)
        except DataError:
            raise Mistake("files", "record.wrong.text_file", name=shown(name)) from None
        if damage(text) or words(text) is None:
            raise Mistake("files", "record.wrong.text_file", name=shown(name))
        given = self._give({_key(name): words(text) or ""})
        return Received(shown(name), "text" if given else "text_waits", {})

    def _add_list(self, name: str, source: Path, suffix: str) -> Received:
        with tempfile.TemporaryDirectory(prefix="upload-", dir=self.project.folder) as folder:
            named = Path(folder) / f"list{suffix}"
            shutil.copyfile(source, named)
            try:
                entries = read_listing(named).entries
            except DataError as e:
                reason = str(e).replace(str(named), shown(name))
                raise Mistake("files", "record.wrong.list_file", name=shown(name), line=reason) from None
        texts = {}
        for entry in entries:
            if entry.text:
                file = entry.file.removeprefix(f"{folder}/")
                texts[_key(file)] = entry.text
        given = self._give(texts)
        return Received(shown(name), "list", {"count": len(texts), "given": given})

    def _give(self, texts: dict[str, str]) -> int:
        """Give texts to the recordings without one that they are of; the others wait. Returns how many were given."""
        given = 0
        with lock:
            waiting = {**self._waiting(), **texts}
            for id, notes in self.shelf.items():
                if not notes.get("text") and (key := _matching(waiting, str(notes.get("key")))) is not None:
                    self.set_text(id, waiting.pop(key))
                    self.shelf.change(id, text_by="file")
                    given += 1
            self._write(waiting)
        return given

    def _text_for(self, key: str) -> str | None:
        waiting = self._waiting()
        found = _matching(waiting, key)
        return None if found is None else waiting[found]

    def _taken(self, key: str, text: str) -> None:
        """A text waits no longer: it is kept with its recording."""
        with lock:
            waiting = self._waiting()
            found = _matching(waiting, key)
            if found is not None and waiting[found] == text:
                del waiting[found]
                self._write(waiting)

    def _waiting(self) -> dict[str, str]:
        try:
            found = read_json(self.project.uploads / _WAITING)
        except (OSError, ValueError):
            return {}
        return {str(key): str(text) for key, text in found.items()} if isinstance(found, dict) else {}

    def _write(self, waiting: dict[str, str]) -> None:
        self.project.uploads.mkdir(parents=True, exist_ok=True)
        kept = dict(list(waiting.items())[-_MOST_WAITING:])
        write_text_atomic(self.project.uploads / _WAITING, json.dumps(kept, ensure_ascii=False))


def shown(name: str) -> str:
    """A file's own name, without folders and short, to show to people."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    last = "".join(c for c in last if c.isprintable()).strip() or "?"
    return last if len(last) <= _SHOWN else f"{last[: _SHOWN - 20]}…{last[-19:]}"


def _suffix(name: str) -> str:
    return PurePosixPath(shown(name)).suffix.lower()


def _key(name: str) -> str:
    """What a text and its recording have in common: the path without suffix, in one spelling."""
    path = unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return "/".join(parts).removesuffix(PurePosixPath(parts[-1]).suffix if parts else "")[-1000:]


def _matching(waiting: dict[str, str], key: str) -> str | None:
    """The one waiting text that is of a recording of this name: by all of the path, by its end, or by its last part."""
    if key in waiting:
        return key
    ends = [other for other in waiting if key.endswith(f"/{other}") or other.endswith(f"/{key}")]
    last = key.rpartition("/")[2]
    found = ends or [other for other in waiting if other.rpartition("/")[2] == last]
    return found[0] if len(found) == 1 else None
