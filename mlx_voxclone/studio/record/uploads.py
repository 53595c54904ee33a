"""Files that were brought: recordings, texts beside them, and tables of texts, in any order.

A recording is kept as it came, under a number; its own name is for people alone. A text belongs to the recording of the
same name (`ann/001.txt` to `ann/001.wav`), a table's row to the recording that it names; one that comes before its
recording waits for it. Recordings of up to half a minute are checked at once, longer ones are cut later (`long.py`).
"""

import base64
import contextlib
import hashlib
import shutil
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mlx_voxclone.audio.decode import audio_info, check_channels
from mlx_voxclone.audio.io import read_audio, write_flac
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.duplicates import Sounds
from mlx_voxclone.data.entries import AUDIO_SUFFIXES, LARGEST_TEXT, read_text
from mlx_voxclone.data.ingest import MAX_TRANSCRIBED_SECONDS
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import damage, words
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.record.checks import Check, check, wave
from mlx_voxclone.studio.record.consent import require
from mlx_voxclone.studio.record.shelf import Shelf, gone, in_voice, lock
from mlx_voxclone.studio.record.takes import LONGEST_TEXT, sayable
from mlx_voxclone.studio.record.waiting import MOST, Waiting

TEXTS, LISTS = (".txt",), (".csv", ".tsv", ".psv", ".list", ".lst", ".jsonl")
ACCEPTED = (*sorted(AUDIO_SUFFIXES), *TEXTS, *LISTS)
LARGEST_FILE = 2_000_000_000  # bytes: three hours of the largest WAV that microphones make
LARGEST_LIST = 32 << 20
LONGEST_SECONDS = 6 * 3600.0
PLAYED = (".wav", ".flac", ".mp3", ".ogg")  # by every browser
_SHOWN = 120  # characters of a file's name
_copying = threading.Lock()  # a player asks for a sound several times at once
_coming: dict[tuple[Path, str], str] = {}  # names of sounds that are being taken in, by voice and digest


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
        with lock:
            self._set_text(id, self.shelf.notes(id), text)

    def set_clip_text(self, id: str, text: str) -> None:
        """What is said in a clip of a long recording; see `set_text`."""
        _change_text(Shelf(self.project.clips), id, text, "hand")

    def remove(self, id: str) -> None:
        """Delete a recording and what was cut from it.

        Raises:
            Missing: no such recording.
        """
        self.shelf.remove(id, Shelf(self.project.clips).remove_clips_of)

    def waiting(self) -> int:
        """Texts whose recording has not come yet."""
        return len(Waiting(self.project.uploads).texts)

    def _add_sound(self, name: str, source: Path, suffix: str) -> Received:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._alone(name, digest):
            return self._add_new(name, source, suffix, digest)

    @contextlib.contextmanager
    def _alone(self, name: str, digest: str) -> Iterator[None]:
        """The time in which a sound is taken in. Raises Mistake: it is here, or on its way in another tab."""
        coming = (self.project.folder, digest)
        with lock:
            there = self.shelf.same(digest)
            if there is not None or coming in _coming:
                other = there[1].get("name") if there is not None else _coming[coming]
                raise Mistake("files", "record.wrong.same_file", name=shown(name), other=other)
            _coming[coming] = shown(name)
        try:
            yield
        finally:
            del _coming[coming]

    def _add_new(self, name: str, source: Path, suffix: str, digest: str) -> Received:
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
        text = self._text_for(_key(name), long)  # it waits on until its recording is on the disk
        found, heard = (None, np.zeros(0, np.uint32)) if long else check(source, text)
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
            "print": base64.b64encode(heard.astype("<u4").tobytes()).decode(),
            "like": None if long else self._sounds_like(heard),
            "heard": played,
            "peaks": wave(source, info.seconds),
        }
        with source.open("rb") as file:
            id = self.shelf.add(notes, lambda target: shutil.copyfileobj(file, target, 1 << 20), suffix)
        late = self._text_for(_key(name), long) if text is None else None  # it has come meanwhile
        if late is not None:
            with lock:
                typed = self.shelf.notes(id).get("text")
                if not typed:
                    self._set_text(id, notes, late, "file")
            text = typed or late
        if text is not None:
            self._taken(_key(name), text)
        if not played:
            with contextlib.suppress(OSError, DataError):  # it is kept; the copy is made when somebody listens
                playable(self.shelf, id)
        key = "long_with_text" if long and text else "long" if long else "with_text" if text else "without_text"
        if text is None and not long and self._waits(_key(name)):
            key = "text_too_long"
        return Received(shown(name), key, {"seconds": round(info.seconds)}, id)

    def _sounds_like(self, heard: np.ndarray) -> str | None:
        """Name of a recording that sounds the same: another format or level of it."""
        items = self.shelf.items()
        found = Sounds([_print(notes) for _, notes in items]).match(heard)
        return None if found is None else items[found][1].get("name")

    # Texts

    def _add_text(self, name: str, source: Path) -> Received:
        try:
            text = read_text(source)
        except DataError:
            raise Mistake("files", "record.wrong.text_file", name=shown(name)) from None
        if damage(text) or words(text) is None:
            raise Mistake("files", "record.wrong.text_file", name=shown(name))
        given, refused = self._give({_key(name): words(text) or ""})
        key = "text_too_long_for" if refused else "text" if given else "text_waits"
        return Received(shown(name), key, {})

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
        given, refused = self._give(texts)
        told = {"count": len(texts), "given": given}
        return Received(shown(name), *(("list_too_long", told | {"refused": refused}) if refused else ("list", told)))

    def _give(self, texts: dict[str, str]) -> tuple[int, int]:
        """Give texts to the recordings without one that they are of; the others wait.

        Returns:
            How many were given, and how many are too long for their recording: these wait, too.
        Raises:
            Mistake: more would wait than can be.
        """
        given = refused = 0
        with lock:
            waiting = Waiting(self.project.uploads)
            waiting.add(texts)
            for id, notes in self.shelf.items():
                if notes.get("text") or (key := waiting.key_for(str(notes.get("key")))) is None:
                    continue
                try:
                    self._set_text(id, notes, waiting.texts[key], "file")
                except Mistake:
                    refused += 1
                except Missing:
                    continue
                else:
                    del waiting.texts[key]
                    given += 1
            if len(waiting.texts) > MOST:
                raise Mistake("files", "record.wrong.many_texts", most=MOST)
            waiting.write()
        return given, refused

    def _set_text(self, id: str, notes: dict[str, Any], text: str, by: str = "hand") -> None:
        said = _said(text, bool(notes.get("long")))
        if notes.get("long") and said != notes.get("text"):  # it is cut anew with its text
            self.shelf.change(id, text=said, text_by=by, cut=None)
            Shelf(self.project.clips).remove_clips_of(id)
        elif not notes.get("long"):
            _change_text(self.shelf, id, text, by)

    def _text_for(self, key: str, long: bool) -> str | None:
        """The text that waits for a recording, unless it is too long for it."""
        waiting = Waiting(self.project.uploads)
        found = waiting.key_for(key)
        try:
            return None if found is None else _said(waiting.texts[found], long)
        except Mistake:
            return None

    def _waits(self, key: str) -> bool:
        return Waiting(self.project.uploads).key_for(key) is not None

    def _taken(self, key: str, text: str) -> None:
        """A text waits no longer: it is kept with its recording."""
        with lock:
            waiting = Waiting(self.project.uploads)
            found = waiting.key_for(key)
            if found is not None and words(waiting.texts[found]) == text:
                del waiting.texts[found]
                waiting.write()


def playable(shelf: Shelf, id: str) -> Path:
    """What browsers can play of a recording: the sound itself, or a copy of it, which is made if it is missing. A long
    one has no copy, only the sound.

    Raises:
        Missing: no such recording, or it is deleted meanwhile.
        DataError, OSError: the copy cannot be made.
    """
    heard, sound = shelf.heard(id), shelf.sound(id)
    if sound.suffix in PLAYED or shelf.notes(id).get("long"):
        return sound
    with _copying:
        if not heard.is_file():
            with in_voice(shelf.folder) as written:
                written.append(heard)
                write_flac(heard, np.clip(read_audio(sound), -1, 1))
            if not sound.is_file():
                heard.unlink(missing_ok=True)
                raise gone(id)
    return heard


def _said(text: str, long: bool) -> str | None:
    """A text for a recording; None for an empty one. Raises Mistake: too long or damaged."""
    return sayable(text, LARGEST_TEXT if long else 2 * LONGEST_TEXT) if text.strip() else None


def _change_text(shelf: Shelf, id: str, text: str, by: str) -> None:
    """Another text for a short recording, with the check of both."""
    notes, said = shelf.notes(id), _said(text, False)
    if said != notes.get("text"):
        known = Check.of(notes.get("check"))
        found = (known.with_text(said) if known else None) or check(shelf.sound(id), said)[0]
        shelf.change(id, text=said, text_by=by, check=found.content())


def _print(notes: dict[str, Any]) -> np.ndarray:
    """The fingerprint of a recording, uint32 [words]; empty where there is none."""
    try:
        return np.frombuffer(base64.b64decode(notes.get("print") or "", validate=True), "<u4")
    except (TypeError, ValueError):
        return np.zeros(0, np.uint32)


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
