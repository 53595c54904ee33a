"""Trainings of a studio: asked for, one at a time on this machine, paused, gone on with, cancelled.

A training is `voxclone train` in a process of its own, which neither the page nor the studio takes down with it. All
that is known of it lies on disk: the queue in HOME/trainings.json; beside a voice's run its configuration, what the
command says, and `training.json`, which holds what was last asked of it. Whether a process still trains says the lock
that it holds (`process.py`), also one that the command line has started in the run directory.
"""

import shutil
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.cache import cache_root
from mlx_voxclone.files.locks import LOCK
from mlx_voxclone.process.limits import describe_os_error
from mlx_voxclone.studio.home import Home, Person, Project, UnreadError, move_aside, moved_aside, read_json, write_json
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.temporary import fresh, remove
from mlx_voxclone.studio.train.former import former, put_aside, put_back, settle
from mlx_voxclone.studio.train.process import COMMAND, OWN_LOCK, Busy, Holder, holder, start, tell
from mlx_voxclone.studio.train.watch import STARTED, Look, error_in, last_lines, look

Name = Literal[
    "none", "waiting", "running", "pausing", "paused", "stopped", "cancelling", "cancelled", "failed", "done"
]
OPEN = ("waiting", "running", "pausing", "cancelling")
CONFIG, SUMMARY = "config.yaml", "summary.json"  # of a run directory
_QUEUE, _NOTE = "trainings.json", "training.json"
_CANCELLED = "cancelled"  # in the place of a wish: it was done
MOST_WAITING = 10  # trainings of a person in the queue
_POLL = 0.3  # seconds between two looks at what is to be done
_PATIENCE = 1.5  # seconds that a cancelled training has to end by itself: nothing of it is kept


@dataclass(frozen=True)
class State:
    """How it stands with a voice's training.

    Attributes:
        name: "stopped" ended without being asked to: the machine was switched off, or somebody ended the process.
        ahead: of one that waits: trainings before it.
        outside: whether the command line has started it.
        error: of one that failed: the command's line.
        killed: whether the system ended the process, as it does where memory is short.
        back: of one that is done: whether it is a former one, put back when a later one was cancelled.
    """

    name: Name
    ahead: int = 0
    outside: bool = False
    error: str = ""
    killed: bool = False
    back: bool = False

    @property
    def open(self) -> bool:
        return self.name in OPEN


@dataclass(frozen=True)
class Turn:
    """A place in the queue. `project` is None for those who may not see whose it is."""

    project: Project | None
    running: bool


class Trainings:
    """All trainings of a studio's folder.

    Args:
        home: the folder.
        machine: file that is locked by the one training of this machine; None: in the cache, which all studios of this
            user share.
        command: the program, and its first arguments.
    """

    def __init__(self, home: Home, machine: Path | None = None, command: Sequence[str] = COMMAND) -> None:
        self._home, self._command = home, tuple(command)
        self._machine = machine or cache_root() / "training.lock"
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._children: dict[Path, Any] = {}  # by the folder of their voice
        self._asked: dict[Path, tuple[Project, float]] = {}  # to be told to stop, and since when
        for project in self._projects():
            settle(project, self.output(project))
            if (wish := self._note(project).get("wish")) == "cancel" or (wish == "pause" and self._holder(project)):
                self._asked[project.folder] = project, time.monotonic()
            elif not wish and not self.state(project).open:  # ended between putting aside and asking
                with suppress(OSError, VoxcloneError):
                    self.put_back(project)
        self._thread: threading.Thread | None = None

    # ---- what a person does ------------------------------------------------------------------------------------------

    def ask(self, project: Project) -> None:
        """Train a voice as its configuration says, or go on with its run, when it is its turn.

        Raises:
            Mistake: it waits or runs already, or too many of the person's wait. CheckpointError: the queue cannot be
                written.
        """
        with self._lock:
            if self.state(project).open:
                raise Mistake("", "train.mistake.busy")
            self.check_room(project.person)
            self._queue(
                [*self._waiting(), {"person": project.person.name, "project": project.id, "asked": time.time()}]
            )
        try:
            self.tick()
        except (OSError, VoxcloneError) as e:  # it waits, and the next look may begin it
            traceback.print_exception(e)

    def check_room(self, person: Person) -> None:
        """Refuse one more training where `MOST_WAITING` of the person's wait. Raises Mistake."""
        if sum(entry.get("person") == person.name for entry in self._waiting()) >= MOST_WAITING:
            raise Mistake("", "train.mistake.many", most=MOST_WAITING)

    def pause(self, project: Project) -> None:
        """Save the last step and end the process; one that waits leaves the queue."""
        self._stop(project, "pause")

    def cancel(self, project: Project) -> None:
        """End the process and delete what it has learnt so far; one that waits leaves the queue as it was before."""
        self._stop(project, "cancel")

    def leave(self, project: Project, patience: float = 5.0) -> None:
        """`cancel`, and wait until nothing writes into the voice's folder any more: before that is deleted."""
        self.cancel(project)
        until = time.monotonic() + patience
        while self._holder(project) is not None and time.monotonic() < until:
            self.tick()
            time.sleep(0.05)

    def put_aside(self, project: Project) -> None:
        """Move a run that has ended out of the way of a new one, into `earlier/` of the voice's folder.

        Raises:
            Mistake: it waits or runs. OSError: it cannot be moved.
        """
        with self._lock:
            if self.state(project).open:
                raise Mistake("", "train.mistake.busy")
            if not project.run.exists():
                return
            note = self._note(project)
            _write(project.folder / _NOTE, {})  # first: what is put aside comes back if this ends in between
            try:
                put_aside(project, self.output(project))
            except OSError:
                _write(project.folder / _NOTE, note)
                raise

    def put_back(self, project: Project) -> None:
        """Move the run that was put aside last to where it was, if there is none in its place.

        Raises:
            OSError: it cannot be moved. CheckpointError: that cannot be noted.
        """
        with self._lock:
            if former(project) is not None:
                _write(project.folder / _NOTE, {"back": True})  # first, or a wish to cancel would be one for this run
                put_back(project, self.output(project))

    def damaged(self, project: Project) -> list[str]:
        """Files of the queue and of a voice's training that cannot be read, or could not and were moved aside."""
        files = (self._home.path / _QUEUE, project.folder / _NOTE)
        found = [[path, *moved_aside(path)] if _is_damaged(path) else moved_aside(path) for path in files]
        return [path.name for paths in found for path in paths]

    # ---- what there is to see ----------------------------------------------------------------------------------------

    def state(self, project: Project) -> State:
        """How it stands with a voice's training; any thread."""
        note = self._note(project)
        wish = note.get("wish")
        if (place := self._place(project)) is not None:
            return State("waiting", ahead=place + self._busy())
        if (found := self._holder(project)) is not None:
            names: dict[Any, Name] = {"pause": "pausing", "cancel": "cancelling"}
            return State(names.get(wish, "running"), outside=found[1])
        if wish == "cancel" and project.folder in self._asked:
            return State("cancelling")
        if wish in ("cancel", _CANCELLED) and not project.run.exists():
            return State("cancelled")
        if error := str(note.get("error") or ""):
            return State("failed", error=error)
        error, delivered = error_in(last_lines(self.output(project))), project.run / SUMMARY
        if error and not (delivered.is_file() and _newer(delivered, self.output(project))):
            return State("failed", error=error)
        if delivered.is_file():
            return State("done", back=bool(note.get("back")))
        if wish == "pause":
            return State("paused")
        if wish or (project.run / CONFIG).is_file():
            return State("stopped", killed=note.get("code") == -signal.SIGKILL)
        return State("none")

    def look(self, project: Project) -> Look:
        """What the run has come to."""
        return look(project.run, self.output(project))

    def turns(self, person: Person) -> list[Turn]:
        """The training that runs and those that wait, in order; of others' only that there are some."""
        running, waiting = self.running(), [self._project(entry) for entry in self._waiting()]
        found = [(one, True) for one in [running] if one is not None] + [(one, False) for one in waiting if one]
        turns = [Turn(one if one.person.name == person.name else None, first) for one, first in found]
        other = not any(turn.running for turn in turns) and holder(self._machine) is not None
        return [Turn(None, True), *turns] if other else turns  # of another studio

    def running(self) -> Project | None:
        """The voice of this studio that is being trained; also by the command line."""
        last = self._project(_read(self._home.path / _QUEUE).get("running") or {})
        found = [last] if last is not None else []
        return next((project for project in [*found, *self._projects()] if self._holder(project) is not None), None)

    def configuration(self, project: Project) -> Path:
        """File that a voice's training starts with."""
        return project.folder / "training.yaml"

    def output(self, project: Project) -> Path:
        """File with what the command has said."""
        return project.folder / "training.log"

    # ---- the work beside ---------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to look after the queue, on a thread of its own, until `close`."""
        self._thread = threading.Thread(target=self._watch, name="trainings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look after it no longer; a training goes on."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(5)

    def tick(self) -> None:
        """Do what is to be done now: processes that have ended, those that are to end, the next one to begin."""
        with self._lock:
            for folder, child in list(self._children.items()):
                if child.poll() is not None:
                    del self._children[folder]
                    remove(folder)
                    if folder.is_dir():
                        _write(folder / _NOTE, {**_read(folder / _NOTE), "code": child.returncode})
            for project, since in list(self._asked.values()):
                self._see_off(project, since)
            waiting = self._waiting()
            first = self._project(waiting[0]) if waiting else None
            if first is not None and holder(first.folder / OWN_LOCK) is not None:
                self._queue(waiting[1:], running=waiting[0])  # the studio was killed between starting it and this
            elif waiting and not self._busy():
                self._begin(waiting)

    def _watch(self) -> None:
        while not self._ended.wait(_POLL):
            try:
                self.tick()
            except Exception as e:  # a full disk, say: the next look may do better
                traceback.print_exception(e)
                self._ended.wait(10 * _POLL)

    def _begin(self, waiting: list[dict[str, Any]]) -> None:
        """Start the first one that waits."""
        entry, *rest = waiting
        if (project := self._project(entry)) is None:  # deleted meanwhile
            self._queue(rest)
            return
        note = {"wish": "run", "code": None, "error": "", "started": time.time()}
        _write(project.folder / _NOTE, note)
        again = (project.run / CONFIG).is_file()
        place = ["--resume", str(project.run)] if again else ["--config", str(self.configuration(project))]
        output = self.output(project)
        try:
            self._machine.parent.mkdir(parents=True, exist_ok=True)
            with open(output, "a", encoding="utf-8") as file:
                file.write(f"{STARTED}{time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            locks, temporary = [project.folder / OWN_LOCK, self._machine], fresh(project.folder)
            child = start([*self._command, "train", *place], locks, output, {"TMPDIR": str(temporary)})
        except Busy:
            return  # another studio was faster; it stays where it is
        except OSError as e:
            self._queue(rest)
            _write(project.folder / _NOTE, note | {"error": describe_os_error(e) or str(e)})
            return
        self._children[project.folder] = child
        self._queue(rest, running={"person": project.person.name, "project": project.id})

    def _stop(self, project: Project, wish: Literal["pause", "cancel"]) -> None:
        with self._lock:
            waiting = self._waiting()
            if (place := self._place(project)) is not None:
                self._queue(waiting[:place] + waiting[place + 1 :])
                self.put_back(project)
                return
            alive = self._holder(project) is not None
            if not alive and not (wish == "cancel" and self.state(project).name in ("paused", "stopped", "failed")):
                return
            _write(project.folder / _NOTE, {**self._note(project), "wish": wish, "error": ""})
            self._asked[project.folder] = project, time.monotonic()
            if alive:
                self._told(project, signal.SIGTERM)
        self.tick()

    def _see_off(self, project: Project, since: float) -> None:
        """What comes after `_stop`: the process has ended, does not hear, or was too young to be told."""
        cancelled = self._note(project).get("wish") == "cancel"
        if self._holder(project) is not None:
            if cancelled and time.monotonic() - since > _PATIENCE:
                self._told(project, signal.SIGKILL)
            elif time.monotonic() - since > _PATIENCE:  # told twice does no harm, not told would
                self._told(project, signal.SIGTERM)
                self._asked[project.folder] = project, time.monotonic()
            return
        try:
            if cancelled and self._was_done(project):
                _write(project.folder / _NOTE, {})
                return
            if cancelled and project.run.exists():
                gone = project.folder / f".cancelled-{time.time_ns()}"
                project.run.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            if cancelled and former(project) is not None:
                self.put_back(project)
            elif cancelled and (project.folder / "voice.json").is_file():
                _write(project.folder / _NOTE, {"wish": _CANCELLED})  # whatever comes into the folder now was not meant
        finally:  # until then it is being cancelled
            del self._asked[project.folder]

    def _was_done(self, project: Project) -> bool:
        """Whether the run had been complete before the process began that is cancelled: nothing of it is deleted."""
        started, delivered = self._note(project).get("started"), project.run / SUMMARY
        return isinstance(started, float) and delivered.is_file() and delivered.stat().st_mtime < started

    def _told(self, project: Project, number: signal.Signals) -> None:
        if (found := self._holder(project)) is not None:
            tell(found[0], number, all_of_it=number == signal.SIGKILL)

    def _busy(self) -> bool:
        """Whether a training runs on this machine, as far as a studio can see."""
        return holder(self._machine) is not None or self.running() is not None

    def _holder(self, project: Project) -> tuple[Holder, bool] | None:
        """The process that trains a voice, and whether the command line has started it."""
        if (own := holder(project.folder / OWN_LOCK)) is not None:
            return own, False
        other = holder(project.run / LOCK)
        return None if other is None else (other, True)

    # ---- what lies on disk -------------------------------------------------------------------------------------------

    def _waiting(self) -> list[dict[str, Any]]:
        found = _read(self._home.path / _QUEUE).get("waiting")
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def _queue(self, waiting: list[dict[str, Any]], **values: Any) -> None:
        old = _read(self._home.path / _QUEUE)
        _write(self._home.path / _QUEUE, {**old, **values, "waiting": waiting})

    def _place(self, project: Project) -> int | None:
        own = {"person": project.person.name, "project": project.id}
        found = (k for k, entry in enumerate(self._waiting()) if all(entry.get(key) == own[key] for key in own))
        return next(found, None)

    def _project(self, entry: dict[str, Any]) -> Project | None:
        try:
            return self._home.person(str(entry["person"])).project(str(entry["project"]))
        except (Missing, KeyError):
            return None

    def _projects(self) -> list[Project]:
        found = []
        for person in self._home.people():
            with suppress(VoxcloneError):  # a damaged file of one person's is nobody else's trouble
                found += person.projects()
        return found

    def _note(self, project: Project) -> dict[str, Any]:
        return _read(project.folder / _NOTE)


def _read(path: Path) -> dict[str, Any]:
    """What a small file holds; of a damaged one nothing, as all it says can be asked for again.

    Raises:
        UnreadError: it cannot be read now.
    """
    return _content(path) or {}


def _is_damaged(path: Path) -> bool:
    """Whether a file holds something else than it should. Raises UnreadError."""
    return _content(path) is None


def _content(path: Path) -> dict[str, Any] | None:
    """What a small file holds; None: it is damaged."""
    try:
        return read_json(path)
    except UnreadError:
        raise
    except VoxcloneError:
        return None


def _write(path: Path, value: dict[str, Any]) -> None:
    """Write a small file; one that is damaged is moved aside first. Raises CheckpointError."""
    if _is_damaged(path):
        move_aside(path)
    write_json(path, value)


def _newer(path: Path, other: Path) -> bool:
    try:
        return path.stat().st_mtime >= other.stat().st_mtime
    except OSError:
        return True
