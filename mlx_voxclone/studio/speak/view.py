"""What the page shows of a speech: its state in words that the page knows, its sentences, its sound."""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.speak.history import Asked, Sentence, Speech, seconds_of
from mlx_voxclone.studio.speak.sound import Joined, joined
from mlx_voxclone.studio.tasks import Task, Tasks
from mlx_voxclone.studio.troubles import CLOSED

ROWS = 50  # sentences that are shown at once
FULL, LOST = "sound_full", "sound_lost"
_EXCERPT = 90  # letters


@dataclass(frozen=True)
class View:
    """A speech as it is now.

    Attributes:
        state: `waiting`, `running`, `cancelling`, `done`, `cancelled`, `failed`, or `interrupted` by the studio's end.
            It is looked at once, since the task goes on meanwhile.
        task: what speaks or has spoken last; None: it is known no more. ahead: tasks before it.
        again: number of the sentence that is spoken again.
        sound: all that was spoken; None: nothing, or it is only being spoken.
        trouble: why the sound could not be joined: "sound_full" (the disk), "sound_lost" (a sentence); or empty.
    """

    speech: Speech
    state: str
    asked: Asked
    sentences: list[Sentence]
    task: Task | None
    ahead: int
    again: int | None
    sound: Joined | None
    trouble: str

    @property
    def open(self) -> bool:
        """Whether it waits or speaks."""
        return self.state in ("waiting", "running", "cancelling")

    @property
    def first_time(self) -> bool:
        """Whether what is spoken is not yet a sound: it can be heard as it comes."""
        return self.open and self.again is None

    @property
    def spoken(self) -> int:
        """Sentences that have been spoken."""
        return sum(one.take is not None for one in self.sentences)

    @property
    def seconds(self) -> float:
        """Of all that was spoken."""
        return seconds_of(self.sentences)

    @property
    def doubtful(self) -> int:
        """Sentences that may not be right."""
        return sum(one.take is not None and one.take.doubt is not None for one in self.sentences)

    @property
    def moment(self) -> str:
        """When it was asked for."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.asked.created))

    @property
    def excerpt(self) -> str:
        """The beginning of the text."""
        return excerpt(self.asked.text)

    @property
    def revision(self) -> str:
        """Another one whenever something else is to be shown."""
        percent = None
        if self.task is not None and self.task.total:
            percent = 20 * self.task.done // self.task.total
        what = self.task.what if self.task is not None else ""
        shown: list[Any] = [self.state, self.ahead, percent, what, self.spoken, self.trouble]
        shown += [(len(one.takes), one.used) for one in self.sentences]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:12]


def task_of(speech: Speech, tasks: Tasks) -> Task | None:
    """What speaks it or has spoken it last; None: it is known no more."""
    try:
        return tasks.get(speech.person, str(speech.state().get("task", "")))
    except Missing:
        return None


def view_of(speech: Speech, tasks: Tasks, *, with_sound: bool = True) -> View:
    """What is to be shown of a speech. Raises Missing, CheckpointError."""
    asked, noted = speech.asked(), speech.state()
    task, sound, trouble = task_of(speech, tasks), None, ""
    again = noted.get("again") if isinstance(noted.get("again"), int) else None
    state, ahead = _state_of(task), 0
    sentences = speech.sentences()  # of a task that has ended: all that it has spoken
    is_open = state in ("waiting", "running", "cancelling")
    if state == "":
        state = "done" if all(one.take is not None for one in sentences) else "interrupted"
    if state == "waiting" and task is not None:
        ahead = tasks.ahead_of(task)
    if with_sound and not (is_open and again is None):
        try:
            sound = joined(speech, sentences)
        except (OSError, CheckpointError):
            trouble = FULL
        except DataError:
            trouble = LOST
    return View(speech, state, asked, sentences, task, ahead, again, sound, trouble)


def _state_of(task: Task | None) -> str:
    """Of what speaks; empty: it has spoken all that it was asked to, or is known no more."""
    if task is None or (state := task.state) == "done":
        return ""
    if state == "failed":
        return "interrupted" if task.cause == CLOSED else "failed"
    return "cancelling" if state == "running" and task.cancelling else state


def excerpt(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT else line[: _EXCERPT - 1].rsplit(" ", 1)[0] + "\u2026"
