"""What was spoken, on disk: a folder per speech.

    PERSON/speech/ID/asked.json        text, voice, options, and the sentences it was divided into
    PERSON/speech/ID/takes.jsonl       a line for each sentence spoken, and for each choice between its takes
    PERSON/speech/ID/takes/0003-1.wav  the fourth sentence as it was spoken the second time, with its pause behind it

Lines are only ever added, so nothing that was spoken is lost by what comes after it.
"""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import open_own, parse_json
from mlx_voxclone.speech.chunks import Chunk
from mlx_voxclone.studio.home import ID, Person, change_json, new_id, private, read_json, write_json
from mlx_voxclone.studio.mistakes import Missing

FOLDER = "speech"
PER_PAGE = 10
ASKED, _TAKES, _STATE = "asked.json", "takes.jsonl", "state.json"
_write = threading.Lock()  # of lines


@dataclass(frozen=True)
class Asked:
    """What was to be spoken.

    Attributes:
        voice: key of it, see `voices`; title: its name then.
        language: code. seed: of the first sentence, the next ones have the next seeds.
        steps: of the flow. guidance: 1 is none.
        chunks: the sentences, each with the seconds of silence behind it.
        model: directory of the checkpoint; a voice that was trained here has its own.
        created: seconds since 1970.
    """

    text: str
    voice: str
    title: str
    language: str
    seed: int
    steps: int
    guidance: float
    chunks: tuple[Chunk, ...]
    model: str = ""
    created: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Take:
    """A sentence as it was spoken once.

    Attributes:
        file: name in `takes/`. seconds: with the pause behind it.
        doubt: "no_end", "silent" or "length": why it may not be right; None: nothing is known against it.
    """

    file: str
    seed: int
    seconds: float
    doubt: str | None = None


@dataclass
class Sentence:
    """A part of the text that is spoken in one go.

    Attributes:
        pause: seconds of silence behind it. takes: the oldest first. used: which of them is heard; -1: none yet.
    """

    number: int
    text: str
    pause: float
    takes: list[Take] = field(default_factory=list)
    used: int = -1

    @property
    def take(self) -> Take | None:
        """The one that is heard."""
        return self.takes[self.used] if self.takes else None

    @property
    def next_seed(self) -> int:
        """That of another take."""
        return (max(take.seed for take in self.takes) + 1) % 2**63


class Speech:
    """One text as it is spoken; any thread may read it, one at a time writes."""

    def __init__(self, person: Person, id: str) -> None:
        self.person, self.id = person, id
        self.folder = person.folder / FOLDER / id
        self.takes = self.folder / "takes"

    @property
    def there(self) -> bool:
        """Whether it has not been deleted."""
        return (self.folder / ASKED).is_file()

    def asked(self) -> Asked:
        """Raises Missing, CheckpointError."""
        values = read_json(self.folder / ASKED)
        if not values:
            raise Missing("there is no such speech")
        try:
            chunks = tuple(Chunk(text, pause) for text, pause in values.pop("chunks"))
            return Asked(**values, chunks=chunks)
        except (TypeError, ValueError, KeyError):
            raise CheckpointError(f"{self.folder / ASKED}: is damaged; delete this speech") from None

    def sentences(self) -> list[Sentence]:
        """All of them, in order, with what was spoken of each so far."""
        found = [Sentence(number, one.text, one.pause) for number, one in enumerate(self.asked().chunks)]
        for line in self._lines():
            with contextlib.suppress(KeyError, IndexError, TypeError):  # a line that a full disk cut off
                sentence = found[line["n"]]
                if "file" in line:
                    sentence.takes.append(Take(line["file"], line["seed"], line["seconds"], line["doubt"]))
                    sentence.used = len(sentence.takes) - 1
                elif 0 <= line["use"] < len(sentence.takes):
                    sentence.used = line["use"]
        return found

    def add(self, number: int, samples: np.ndarray, seed: int, doubt: str | None) -> Take:
        """Keep a take of a sentence, which is heard from then on.

        Args:
            samples: float32 `[S]` at 24 kHz, the pause behind it included.

        Raises:
            OSError, DataError, CheckpointError: not written; all is as it was.
        """
        name = f"{number:04d}-{len(self.sentences()[number].takes)}.wav"
        write_wav(self.takes / name, samples)
        take = Take(name, seed, len(samples) / SAMPLE_RATE, doubt)
        self._append({"n": number, **asdict(take)})
        return take

    def use(self, number: int, take: int) -> None:
        """Have another take of a sentence heard. Raises Missing: no such one."""
        sentences = self.sentences()
        if not 0 <= number < len(sentences) or not 0 <= take < len(sentences[number].takes):
            raise Missing("there is no such take")
        self._append({"n": number, "use": take})

    def state(self) -> dict[str, Any]:
        """`task`: id of the one that spoke last; `again`: number of the sentence that it speaks again, or None."""
        return read_json(self.folder / _STATE)

    def change_state(self, **values: Any) -> None:
        """Set keys of `state`."""
        change_json(self.folder / _STATE, **values)

    def delete(self) -> None:
        """Remove all of it. What still writes into it fails."""
        gone = self.folder.with_name(f".trash-{self.id}-{new_id()}")  # what an end in the middle leaves is cleared
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.folder, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            content = (self.folder / _TAKES).read_bytes()
        except FileNotFoundError:
            return
        for line in content.splitlines():
            with contextlib.suppress(ValueError):
                found = parse_json(line)
                if isinstance(found, dict):
                    yield found

    def _append(self, values: dict[str, Any]) -> None:
        path = self.folder / _TAKES
        with _write, open(open_own(path), "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            torn = b"" if file.read(1) in (b"", b"\n") else b"\n"  # a power cut: no line is written behind half of one
            try:
                file.write(torn + json.dumps(values).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise


def seconds_of(sentences: Sequence[Sentence]) -> float:
    """Of all that was spoken, pauses included."""
    return sum(one.take.seconds for one in sentences if one.take is not None)


def new_speech(person: Person, asked: Asked) -> Speech:
    """Begin a speech. Raises CheckpointError: a full disk, among others."""
    speech = Speech(person, new_id())
    private(speech.takes)
    os.chmod(speech.folder, 0o700)
    values = asdict(asked) | {"chunks": [[one.text, one.pause] for one in asked.chunks]}
    try:
        write_json(speech.folder / ASKED, values)
    except BaseException:
        speech.delete()
        raise
    return speech


def speech_of(person: Person, id: str) -> Speech:
    """A person's speech. Raises Missing."""
    speech = Speech(person, id)
    if not ID.fullmatch(id) or not speech.there:
        raise Missing("there is no such speech")
    return speech


def speeches(person: Person, page: int = 1) -> tuple[list[Speech], int]:
    """Those on a page of the history, the newest first, and how many pages there are (at least one)."""
    found: list[tuple[int, str]] = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(person.folder / FOLDER):
            with contextlib.suppress(OSError):
                if ID.fullmatch(entry.name):
                    found.append((os.stat(Path(entry.path, ASKED)).st_mtime_ns, entry.name))
    found.sort(reverse=True)
    pages = max(1, -(-len(found) // PER_PAGE))
    first = PER_PAGE * (min(max(page, 1), pages) - 1)
    return [Speech(person, id) for _, id in found[first : first + PER_PAGE]], pages
