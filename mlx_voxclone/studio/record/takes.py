"""Takes: what was recorded for each sentence. The latest usable one counts, the others are kept aside until deleted.

A slot is a sentence at its turn: `de-007`, in a second round `de-007.2`, or `own-003` for a text of the user's. Which
comes next follows from the takes that are there, so a reload, a second tab or another day goes on where this one ended.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.source import AudioBytes, AudioError
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.files.texts import damage, words
from mlx_voxclone.studio.home import Project, json_text
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.record import consent
from mlx_voxclone.studio.record.checks import BAD, Check, check, wave
from mlx_voxclone.studio.record.prompts import LANGUAGES, SYLLABLES, sentences
from mlx_voxclone.studio.record.shelf import Shelf, gone, in_voice, lock

LONGEST_TAKE = 45.0  # seconds; the page stops by itself before
LARGEST_TAKE = 1 << 24  # bytes: 45 s at 96 kHz in 24 bits
LONGEST_TEXT = 400  # characters: about 30 s of speech
PLAN = "plan.json"  # what was skipped, and texts of the user's own
_SLOT = re.compile(r"(?P<kind>[a-z]{2,9})-(?P<number>\d{3,4})(\.(?P<round>\d{1,3}))?")
_ROUNDS = 99
_NOTHING_PLANNED: dict[str, list[str]] = {"skipped": [], "own": []}
_MOST_PLAN = 1 << 22  # bytes


class DamagedPlan(CheckpointError):
    """`plan.json` cannot be read. It is never overwritten, because it holds texts that people typed."""


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
    peaks: tuple[float, ...] = ()  # the waveform as it is drawn

    @property
    def speech(self) -> float:
        """Seconds from the first to the last word."""
        return self.check.speech


@dataclass(frozen=True)
class Taken:
    """The takes of a voice and its plan as they are at one moment, and which sentence comes next.

    Attributes:
        takes: in the order in which they were made. damaged: files that cannot be read. plan: what was skipped, and
            the user's own texts.
    """

    language: str
    takes: tuple[Take, ...]
    plan: dict[str, list[str]]
    damaged: tuple[Path, ...] = ()

    @property
    def used(self) -> list[Take]:
        """The one usable take of each slot."""
        return [take for take in self.takes if take.used]

    @property
    def skipped(self) -> list[str]:
        """Slots that were passed by and have no usable take."""
        used = {take.slot for take in self.used}
        return [key for key in self.plan["skipped"] if key not in used]

    def slot(self, key: str) -> Slot:
        """
        Raises:
            Missing: there is no such sentence.
        """
        return _slot(key, self.language, self.plan["own"])

    def next(self) -> Slot:
        """The first sentence without a usable take that was not skipped; the user's own texts come first."""
        done = {take.slot for take in self.used} | {*self.plan["skipped"]}
        return self.slot(next(key for key in self._order() if key not in done))

    def _order(self) -> Iterator[str]:
        yield from (f"own-{number:03d}" for number in range(1, len(self.plan["own"]) + 1))
        count = len(sentences(self.language))
        for turn in range(1, _ROUNDS + 1):
            behind = "" if turn == 1 else f".{turn}"
            yield from (f"{self.language}-{number:03d}{behind}" for number in range(1, count + 1))
        yield f"{self.language}-001"  # nobody reads a hundred rounds


class Takes:
    """The takes of a voice. What they come to is `now()`: each of its files is read once for it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.shelf = Shelf(project.takes)

    @property
    def language(self) -> str:
        """Of the sentences; a voice of no known language reads syllables."""
        found = self.project.info().get("language")
        return found if isinstance(found, str) and found in LANGUAGES else SYLLABLES

    def now(self) -> Taken:
        """How it stands."""
        look, damaged = self.shelf.look(), []
        try:
            plan = self._plan()
        except DamagedPlan:  # reported on the next attempt to change it
            plan = _NOTHING_PLANNED
            damaged.append(self.project.takes / PLAN)
        takes = []
        for id, notes in look.items:
            with contextlib.suppress(Missing):  # deleted meanwhile
                takes.append(self._take(id, notes))
        best = {take.slot: take.id for take in takes if take.check.state != BAD}  # the last one wins
        chosen = tuple(replace(take, used=best.get(take.slot) == take.id) for take in takes)
        return Taken(self.language, chosen, plan, (*look.damaged, *damaged))

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
        digest = hashlib.sha256(sound).hexdigest()
        with lock:  # sent again because the answer was lost: the same take
            if (same := self.shelf.same(digest, slot=slot)) is not None:
                return self.take(same[0])
            created = datetime.now(UTC).isoformat(timespec="seconds")
            notes = {"slot": slot, "text": text, "text_by": "prompt", "created": created, "check": None}
            id = self.shelf.add({**notes, "sha256": digest}, lambda file: file.write(sound))
        take = self._take(id, self.shelf.notes(id))
        return replace(take, used=take.check.state != BAD)

    def take(self, id: str) -> Take:
        """
        Raises:
            Missing: no such take.
        """
        self.shelf.notes(id)
        found = next((take for take in self.all() if take.id == id), None)
        if found is None:
            raise gone(id)
        return found

    def all(self) -> list[Take]:
        """Every take, in the order in which they were made."""
        return list(self.now().takes)

    def used(self) -> list[Take]:
        """The one usable take of each slot, in the order in which they were made."""
        return self.now().used

    def remove(self, id: str) -> None:
        """Delete a take; of a slot with an earlier usable one, that counts again.

        Raises:
            Missing: no such take.
        """
        self.shelf.remove(id)

    def set_text(self, id: str, text: str) -> Check:
        """What was said in a take, where that is not the sentence; the check of both.

        Raises:
            Missing: no such take.
            Mistake: nothing that can be said, too long, or damaged.
        """
        said = sayable(text)
        take = self._take(id, self.shelf.notes(id))
        if said == take.text:
            return take.check
        found = take.check.with_text(said) or check(take.path, said)[0]
        self.shelf.change(id, text=said, text_by="hand", check=found.content())
        return found

    # Which sentence comes next

    def slot(self, key: str) -> Slot:
        """
        Raises:
            Missing: there is no such sentence.
        """
        try:
            return _slot(key, self.language, self._plan()["own"])
        except DamagedPlan:
            return _slot(key, self.language, [])

    def next(self) -> Slot:
        """See `Taken.next`."""
        return self.now().next()

    def skip(self, key: str) -> None:
        """Pass a sentence by, until `unskip`.

        Raises:
            Missing: there is no such sentence.
        """
        key = self.slot(key).key
        with lock:
            plan = self._plan()
            self._write({**plan, "skipped": sorted({*plan["skipped"], key})})

    def unskip(self) -> None:
        """Offer all that was skipped again."""
        with lock:
            self._write({**self._plan(), "skipped": []})

    def skipped(self) -> list[str]:
        """See `Taken.skipped`."""
        return self.now().skipped

    def add_own(self, text: str) -> Slot:
        """A text of the user's own, to be read next.

        Raises:
            Mistake: nobody has agreed to a recording; nothing that can be said, too long, or damaged.
        """
        consent.require(self.project)
        said = sayable(text)
        with lock:
            plan = self._plan()
            if said not in plan["own"]:
                plan["own"].append(said)
                self._write(plan)
            return self.slot(f"own-{plan['own'].index(said) + 1:03d}")

    def _plan(self) -> dict[str, list[str]]:
        """`skipped` and `own`.

        Raises:
            DamagedPlan: the file cannot be read, or holds something else; to write over it would lose texts.
        """
        path = self.project.takes / PLAN
        try:
            found = read_json(path, _MOST_PLAN)
            plan = {key: found.get(key, []) for key in _NOTHING_PLANNED}
            if not all(isinstance(text, str) for listed in plan.values() for text in [*listed]):
                raise ValueError("a text is none")
            if not all(isinstance(listed, list) for listed in plan.values()):
                raise ValueError("holds no lists of texts")
        except FileNotFoundError:
            return {key: [] for key in _NOTHING_PLANNED}
        except (OSError, ValueError, AttributeError, TypeError) as e:
            raise DamagedPlan(f"{path}: cannot be read ({e}); move it away to go on without it") from None
        return plan

    def _write(self, plan: dict[str, list[str]]) -> None:
        with in_voice(self.project.takes) as written:
            written.append(self.project.takes / PLAN)
            write_text_atomic(written[0], json_text(plan, indent=1))

    def _take(self, id: str, notes: dict[str, Any]) -> Take:
        """
        Raises:
            Missing: it was deleted meanwhile.
        """
        found, drawn = Check.of(notes.get("check")), notes.get("peaks")
        if found is None or drawn is None:  # not yet, or the studio ended before
            found, drawn = self._checked(id, notes.get("text"))
        path = self.shelf.sound_of(id, notes)
        if not path.is_file():
            raise gone(id)
        words = (str(notes.get(key) or "") for key in ("slot", "text", "created"))
        return Take(id, *words, path, found, peaks=tuple(drawn))

    def _checked(self, id: str, text: str | None) -> tuple[Check, list[float]]:
        """Check a take and draw its waveform, once: both are noted.

        Raises:
            Missing: it was deleted meanwhile.
        """
        path = self.shelf.sound(id)
        found, _ = check(path, text)
        drawn = wave(path, found.seconds)
        with contextlib.suppress(CheckpointError):  # a full disk: it is checked again, then
            self.shelf.change(id, check=found.content(), peaks=drawn)
        return found, drawn


def _slot(key: str, language: str, own: list[str]) -> Slot:
    match = _SLOT.fullmatch(key)
    if match is None:
        raise Missing(f"there is no sentence {key[:20]!r}")
    texts = own if match["kind"] == "own" else sentences(language)
    number = int(match["number"])
    kinds = ("own",) if match["round"] else ()
    if match["kind"] not in ("own", language) or match["kind"] in kinds or not 1 <= number <= len(texts):
        raise Missing(f"there is no sentence {key[:20]!r}")
    return Slot(key, texts[number - 1], number, len(texts))


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
