"""A blind A/B/X test of a run's variants: planned, made, answered pair by pair, and kept with the run.

    LISTENING/blind/ID/test.json, answers.jsonl, 01-a.wav, 01-b.wav, 01-x.wav, ...

Which of two variants plays as A, which of A and B is X, and the order of the sentences are drawn by a seed that nobody
sees before the end. Each answer is on disk before the next pair is shown. The outcome goes into `abx.json` of the run.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.evaluate.blind import PAIRS, Outcome, keep_test, outcome_of, read_tests
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.files.plain import open_own, parse_json
from mlx_voxclone.report.run_report import write_report
from mlx_voxclone.studio.home import ID, new_id, private, read_json, write_json
from mlx_voxclone.studio.listen.alike import WHAT, copied, made_alike
from mlx_voxclone.studio.listen.speaking import Bench
from mlx_voxclone.studio.listen.voices import NAMES, Heard, Sentence, Variant
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.results import earlier_runs, is_of, made_now, number
from mlx_voxclone.text.forms import as_said

_FOLDER, _FILE, _ANSWERS = "blind", "test.json", "answers.jsonl"
_KEPT = 3  # tests whose sounds are kept
SLOTS = ("a", "b", "x")
_answering = threading.Lock()


@dataclass(frozen=True)
class Pair:
    """One pair as it is drawn: a sentence, which variant plays as A, B and X, and the seed that both speak with."""

    sentence: int
    a: str
    b: str
    x: str
    seed: int

    def of(self, slot: str) -> str:
        return {"a": self.a, "b": self.b, "x": self.x}[slot]


def plan(sentences: int, first: str, second: str, seed: int, pairs: int = PAIRS) -> list[Pair]:
    """Draw the pairs of a test.

    Every sentence comes once before any comes again, then with another seed. Two coins are tossed for each pair, so
    that nothing can be told from the pairs before it.

    Args:
        sentences: how many there are to take from.
        first, second: names of the variants.
    """
    rng = np.random.default_rng([seed, 0xAB])
    rounds = [rng.permutation(sentences) for _ in range(-(-pairs // sentences))]
    order = [(int(sentence), turn) for turn, listed in enumerate(rounds) for sentence in listed][:pairs]
    drawn = []
    for sentence, turn in order:
        swapped, x_is_b = rng.integers(2, size=2)
        a, b = (second, first) if swapped else (first, second)
        drawn.append(Pair(sentence, a, b, b if x_is_b else a, turn))
    return drawn


def variants_of(heard: Heard, first: object, second: object) -> tuple[Variant, Variant]:
    """The two that a form names. Raises Mistake."""
    one, other = heard.variant(first), heard.variant(second)
    if one is None or other is None:
        raise Mistake("first" if one is None else "second", "listen.mistake.variant")
    if one == other:
        raise Mistake("second", "listen.mistake.same")
    return one, other


def make(
    bench: Bench,
    heard: Heard,
    first: Variant,
    second: Variant,
    listening: Path,
    progress: Callable[[int, int], object],
    *,
    seed: int | None = None,
    language: str | None = None,
    pairs: int = PAIRS,
) -> str:
    """Speak all sentences of a test and write its sounds; returns its id. It appears whole or not at all.

    Args:
        listening: the project's folder.
        progress: called with the sentences spoken and how many there are; what it raises ends the work.
        seed: of the order; None: drawn.

    Raises:
        VoxcloneError: nothing held out; see `Bench.say`.
    """
    if not heard.sentences:
        raise CheckpointError(f"{heard.directory}: holds no recordings with texts that could be compared")
    seed = secrets.randbits(32) if seed is None else seed
    sentences = _spread(heard.sentences, pairs)
    drawn = plan(len(sentences), first.name, second.name, seed, pairs)
    sounds, total = {}, len(drawn) * (first.is_spoken + second.is_spoken)
    for variant in (first, second):  # each model is needed but once
        for pair in drawn:
            sentence, done = sentences[pair.sentence], len(sounds)
            progress(min(done, total), total)
            if variant.is_spoken:
                text = as_said(sentence.text, language)
                said = bench.say(variant, text, pair.seed, lambda frames, done=done: progress(min(done, total), total))
                sounds[variant.name, pair] = said.samples
            else:
                sounds[variant.name, pair] = sentence.recording()
    id, rng = new_id(), np.random.default_rng()
    private(listening)
    with atomic_directory(listening / _FOLDER / id) as folder:
        for number, pair in enumerate(drawn, start=1):
            alike = dict(zip((pair.a, pair.b), made_alike(sounds[pair.a, pair], sounds[pair.b, pair])))
            for slot in SLOTS:
                write_wav(folder / f"{number:02}-{slot}.wav", copied(alike[pair.of(slot)], rng))
        listed = [{"text": sentences[p.sentence].text, "a": p.a, "b": p.b, "x": p.x, "seed": p.seed} for p in drawn]
        created = made_now(heard.directory, (one.created for one in blind_tests(listening)))
        test = {"id": id, "created": created, "training": heard.training, "seed": seed, "sounds": WHAT}
        write_json(folder / _FILE, {**test, "first": first.facts(), "second": second.facts(), "pairs": listed})
        progress(total, total)
    for old in blind_tests(listening)[_KEPT:]:  # what was answered stays
        for sound in old.folder.glob("*.wav"):
            sound.unlink(missing_ok=True)
    return id


def _spread(sentences: Sequence[Sentence], most: int) -> list[Sentence]:
    """At most so many, evenly spaced over the data; of several with one text the first."""
    listed = list({one.text: one for one in reversed(sentences)}.values())[::-1]
    return [listed[k * len(listed) // most] for k in range(most)] if len(listed) > most else listed


class BlindTest:
    """A test that was made.

    Attributes:
        pairs: each with `text`, `a`, `b`, `x` (names of variants), and `answer` once there is one.
    Raises:
        CheckpointError: its file cannot be read, or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.content = folder, read_json(folder / _FILE)
        if not _is_test(self.content, folder.name):
            raise CheckpointError(f"{folder / _FILE}: holds no listening test")
        self.id: str = self.content["id"]
        self.created: float = self.content["created"]
        answers = self._answers()
        self.pairs = [
            {**pair, **({"answer": pair[answers[number]]} if number in answers else {})}
            for number, pair in enumerate(self.content["pairs"], start=1)
        ]

    @property
    def answered(self) -> int:
        return sum("answer" in pair for pair in self.pairs)

    @property
    def current(self) -> int | None:
        """Number of the pair that waits for its answer, from 1; None at the end."""
        return next((number for number, pair in enumerate(self.pairs, start=1) if "answer" not in pair), None)

    @property
    def outcome(self) -> Outcome | None:
        """What the answers show, once all are there."""
        return outcome_of(self.pairs) if self.current is None else None

    def sound(self, number: int, slot: str) -> Path:
        """A file of a pair up to the current one. Raises Missing."""
        if slot not in SLOTS or not 1 <= number <= (self.current or len(self.pairs)):
            raise Missing("there is no such sound")
        return self.folder / f"{number:02}-{slot}.wav"

    def answer(self, number: int, slot: str) -> "BlindTest":
        """Keep the answer to the current pair on disk; the test as it is then. One that comes again, or too late,
        changes nothing.

        Raises:
            Missing: an answer other than `a` or `b`. OSError: what the disk refuses.
        """
        if slot not in ("a", "b"):
            raise Missing("there is no such answer")
        with _answering:
            now = BlindTest(self.folder)
            if now.current != number:
                return now
            line = json.dumps({"pair": number, "answer": slot, "when": time.time()}) + "\n"
            with open(self.folder / _ANSWERS, "a+b", opener=open_own) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                ended = file.read(1) in (b"", b"\n")  # else a power cut has left a part of a line
                file.write(("" if ended else "\n").encode() + line.encode())
                file.flush()
                os.fsync(file.fileno())
            return BlindTest(self.folder)

    def record(self) -> dict[str, Any]:
        """For `abx.json`, with the figures. Raises ValueError before the end."""
        if (outcome := self.outcome) is None:
            raise ValueError("the test has not ended")
        given = {key: self.content.get(key) for key in ("id", "first", "second", "seed", "sounds")}
        figures = {"correct": outcome.correct, "of": outcome.pairs, "interval": outcome.interval, "p": outcome.p}
        ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._ended()))
        return {**given, "ended": ended, **figures, "verdict": outcome.verdict, "pairs": self.pairs}

    def is_of(self, run_dir: Path) -> bool:
        """Whether it was made of this run as it is, and not of one that was there before it."""
        return is_of(run_dir, self.content.get("training"), self.created)

    def keep(self, run_dir: Path) -> bool:
        """Add it to the `abx.json` of its run once it has ended; whether it was not there yet.

        Raises:
            CheckpointError: the file cannot be read or written.
        """
        if self.outcome is None or not self.is_of(run_dir):
            return False
        with _answering:  # two tabs
            if any(one.get("id") == self.id for one in read_tests(run_dir)):
                return False
            keep_test(run_dir, self.record())
        return True

    def _ended(self) -> float:
        """When the last answer was given."""
        try:
            return (self.folder / _ANSWERS).stat().st_mtime
        except OSError:
            return time.time()

    def _answers(self) -> dict[int, str]:
        """Slots by the number of the pair; what a power cut has left of a line is no answer."""
        try:
            lines = (self.folder / _ANSWERS).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        found: dict[int, str] = {}
        for line in lines:
            try:
                entry = parse_json(line)
                number, slot = entry["pair"], entry["answer"]
            except (ValueError, TypeError, KeyError):
                continue
            if slot in ("a", "b") and isinstance(number, int):
                found.setdefault(number, slot)
        return found


def blind_tests(listening: Path) -> list[BlindTest]:
    """Those that were made, the newest first; what cannot be read is left out."""
    place, found = listening / _FOLDER, []
    for path in place.iterdir() if place.is_dir() else ():
        if ID.fullmatch(path.name):
            try:
                found.append(BlindTest(path))
            except VoxcloneError:
                continue
    return sorted(found, key=lambda test: -test.created)


def earlier_tests(listening: Path, run_dir: Path) -> list[dict[str, Any]]:
    """Tests of the trainings before a run that came to their end, the newest first: their records (`abx.json`)."""
    kept = [test for _, earlier in earlier_runs(run_dir) for test in read_tests(earlier)]
    kept += [one.record() for one in blind_tests(listening) if one.outcome is not None and not one.is_of(run_dir)]
    found = {one["id"]: one for one in kept if _is_record(one)}
    return sorted(found.values(), key=lambda one: one["ended"], reverse=True)


def _is_record(one: dict[str, Any]) -> bool:
    counts = one.get("correct"), one.get("of")
    return (
        all(isinstance(one.get(key), str) for key in ("id", "ended"))
        and all(isinstance(count, int) for count in counts)
        and all(isinstance(one.get(side), dict) and one[side].get("name") in NAMES for side in ("first", "second"))
    )


def _is_test(content: dict[str, Any], id: str) -> bool:
    sides, pairs = (content.get("first"), content.get("second")), content.get("pairs")
    if content.get("id") != id or number(content.get("created")) is None or not isinstance(pairs, list) or not pairs:
        return False
    if not all(isinstance(side, dict) and side.get("name") in NAMES for side in sides):
        return False
    return all(
        isinstance(pair, dict)
        and isinstance(pair.get("text"), str)
        and all(pair.get(slot) in NAMES for slot in SLOTS)
        and pair["x"] in (pair["a"], pair["b"])
        for pair in pairs
    )


def blind_test(listening: Path, id: str) -> BlindTest:
    """Raises Missing."""
    folder = listening / _FOLDER / id
    if not ID.fullmatch(id) or not (folder / _FILE).is_file():
        raise Missing("there is no such test")
    return BlindTest(folder)


def refresh_report(run_dir: Path) -> Path:
    """Write the run's report anew, with its listening tests; on the thread that computes. Raises VoxcloneError."""
    return write_report(run_dir)
