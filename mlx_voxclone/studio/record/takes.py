"""Takes: what was recorded for each sentence. The latest usable one counts, the others are kept aside until deleted.

A slot is a sentence at its turn: `de-007`, in a second round `de-007.2`, or `own-003` for a text of the user's. Which
comes next follows from the takes that are there, so a reload, a second tab or another day goes on where this one ended.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.source import AudioBytes, AudioError
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.files.texts import damage, words
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.record import consent
from mlx_voxclone.studio.record.checks import BAD, Check, check, wave
from mlx_voxclone.studio.record.prompts import SYLLABLES, sentences
from mlx_voxclone.studio.record.shelf import Shelf, lock

LONGEST_TAKE = 45.0  # seconds; the page stops by itself before
LARGEST_TAKE = 1 << 24  # bytes: 45 s at 96 kHz in 24 bits
LONGEST_TEXT = 400  # characters: about 30 s of speech
PLAN = "plan.json"  # what was skipped, and texts of the user's own
_SLOT = re.compile(r"(?P<kind>[a-z]{2,9})-(?P<number>\d{3,4})(\.(?P<round>\d{1,3}))?")
_ROUNDS = 99


@dataclass(frozen=True)
class Slot:
    """A sentence at its turn."""

    key: str
    text: str
    number: int  # of the sentence, from 1
    count: int  # sentences of its kind


@dataclass(frozen=True)
class Take:
    """A recording of a slot. `used`: it is the one of its slot that training takes."""

    id: str
    slot: str
    text: str
    created: str
    path: Path
    check: Check
    used: bool = False

    @property
    def speech(self) -> float:
        """Seconds from the first to the last word."""
        return self.check.speech


class Takes:
    """The takes of a voice, and which sentence comes next."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.shelf = Shelf(project.takes)

    @property
    def language(self) -> str:
        """Of the sentences; a voice of no known language reads syllables."""
        return self.project.info().get("language") or SYLLABLES

    def record(self, slot: str, sound: bytes) -> Take:
        """Keep a take and check it; it is on the disk when this returns, good or bad.

        Args:
            sound: a WAV, as a file's bytes.
        Raises:
            Mistake: nobody has agreed to a recording; not a WAV, cut off on its way, or too long.
            Missing: no such slot.
            CheckpointError: the disk refuses.
        """
        consent.require(self.project)
        text = self.slot(slot).text
        if len(sound) > LARGEST_TAKE or not sound.startswith(b"RIFF"):
            raise Mistake("take", "record.wrong.not_whole")
        try:
            seconds = audio_info(AudioBytes("take", sound)).seconds
        except AudioError:
            raise Mistake("take", "record.wrong.not_whole") from None
        if seconds > LONGEST_TAKE:
            raise Mistake("take", "record.wrong.take_too_long", seconds=round(LONGEST_TAKE))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        notes = {"slot": slot, "text": text, "text_by": "prompt", "created": created, "check": None}
        id = self.shelf.add(notes, lambda file: file.write(sound))
        self._check(id)
        return self.take(id)

    def take(self, id: str) -> Take:
        """
        Raises:
            Missing: no such take.
        """
        self.shelf.notes(id)
        return next((take for take in self.all() if take.id == id), None) or _missing(id)

    def all(self) -> list[Take]:
        """Every take, in the order in which they were made."""
        takes = []
        for id, notes in self.shelf.items():
            with contextlib.suppress(Missing):  # deleted meanwhile
                takes.append(self._take(id, notes))
        best = {take.slot: take.id for take in takes if take.check.state != BAD}  # the last one wins
        return [Take(**{**vars(take), "used": best.get(take.slot) == take.id}) for take in takes]

    def used(self) -> list[Take]:
        """The one usable take of each slot, in the order in which they were made."""
        return [take for take in self.all() if take.used]

    def remove(self, id: str) -> None:
        """Delete a take; of a slot with an earlier usable one, that counts again.

        Raises:
            Missing: no such take.
        """
        self.shelf.remove(id)

    def set_text(self, id: str, text: str) -> Take:
        """What was said in a take, where that is not the sentence.

        Raises:
            Missing: no such take.
            Mistake: nothing that can be said, too long, or damaged.
        """
        said = sayable(text)
        notes = self.shelf.notes(id)
        if said != notes.get("text"):
            self.shelf.change(id, text=said, text_by="hand")
            self._check(id)
        return self.take(id)

    # Which sentence comes next

    def slot(self, key: str) -> Slot:
        """
        Raises:
            Missing: there is no such sentence.
        """
        match = _SLOT.fullmatch(key)
        if match is None:
            raise Missing(f"there is no sentence {key[:20]!r}")
        texts = self._own() if match["kind"] == "own" else sentences(self.language)
        number = int(match["number"])
        kinds = ("own",) if match["round"] else ()
        if match["kind"] not in ("own", self.language) or match["kind"] in kinds or not 1 <= number <= len(texts):
            raise Missing(f"there is no sentence {key[:20]!r}")
        return Slot(key, texts[number - 1], number, len(texts))

    def next(self) -> Slot:
        """The first sentence without a usable take that was not skipped; the user's own texts come first."""
        done = {take.slot for take in self.used()} | set(self.skipped())
        return self.slot(next(key for key in self._order() if key not in done))

    def skip(self, key: str) -> None:
        """Pass a sentence by, until `unskip`.

        Raises:
            Missing: there is no such sentence.
        """
        key = self.slot(key).key
        with lock:
            plan = self._plan(to_change=True)
            self._write({**plan, "skipped": sorted({*plan["skipped"], key})})

    def unskip(self) -> None:
        """Offer all that was skipped again."""
        with lock:
            self._write({**self._plan(to_change=True), "skipped": []})

    def skipped(self) -> list[str]:
        """Slots that were passed by and have no usable take."""
        used = {take.slot for take in self.used()}
        return [key for key in self._plan()["skipped"] if key not in used]

    def add_own(self, text: str) -> Slot:
        """A text of the user's own, to be read next.

        Raises:
            Mistake: nobody has agreed to a recording; nothing that can be said, too long, or damaged.
        """
        consent.require(self.project)
        said = sayable(text)
        with lock:
            plan = self._plan(to_change=True)
            if said not in plan["own"]:
                plan["own"].append(said)
                self._write(plan)
            return self.slot(f"own-{plan['own'].index(said) + 1:03d}")

    def _order(self) -> Iterator[str]:
        yield from (f"own-{number:03d}" for number in range(1, len(self._own()) + 1))
        count = len(sentences(self.language))
        for turn in range(1, _ROUNDS + 1):
            behind = "" if turn == 1 else f".{turn}"
            yield from (f"{self.language}-{number:03d}{behind}" for number in range(1, count + 1))
        yield f"{self.language}-001"  # nobody reads a hundred rounds

    def _own(self) -> list[str]:
        return self._plan()["own"]

    def _plan(self, *, to_change: bool = False) -> dict[str, list[str]]:
        """`skipped` and `own`; of a file that cannot be read nothing, unless it is to be changed: texts would be lost.

        Raises:
            CheckpointError: it cannot be read, and is to be changed.
        """
        path = self.project.takes / PLAN
        try:
            found = read_json(path, 1 << 22)
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError) as e:
            if to_change:
                raise CheckpointError(f"{path}: cannot be read ({e}); move it away to go on without it") from None
            found = {}
        lists = {key: found.get(key) if isinstance(found, dict) else None for key in ("skipped", "own")}
        return {key: list(value) if isinstance(value, list) else [] for key, value in lists.items()}

    def _write(self, plan: dict[str, list[str]]) -> None:
        self.project.takes.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.project.takes / PLAN, json.dumps(plan, ensure_ascii=False, indent=1))

    def _take(self, id: str, notes: dict[str, Any]) -> Take:
        path = self.shelf.sound(id)
        found = Check.of(notes.get("check")) or check(path, notes.get("text"))[0]  # the studio ended before it was
        return Take(id, str(notes.get("slot")), notes.get("text") or "", str(notes.get("created")), path, found)

    def _check(self, id: str) -> None:
        """Check a take, and draw its waveform."""
        path = self.shelf.sound(id)
        found, _ = check(path, self.shelf.notes(id).get("text"))
        self.shelf.change(id, check=found.content(), peaks=wave(path, found.seconds))


def sayable(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text for a recording, tidy.

    Args:
        longest: characters.
    Raises:
        Mistake: nothing that can be said, too long, or damaged.
    """
    if damage(text):
        raise Mistake("text", "record.wrong.damaged_text")
    found = words(text)
    if found is None:
        raise Mistake("text", "record.wrong.empty_text")
    if len(found) > longest:
        raise Mistake("text", "record.wrong.long_text", count=len(found), most=longest)
    return found


def _missing(id: str) -> Take:
    raise Missing(f"there is no recording {id[:20]!r} here any more")
