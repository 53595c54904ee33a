"""Long actions of the studio: queued, shown with their progress, cancelled, and noted on disk.

Two lanes, each first come first served. What computes with MLX runs on the main thread alone (lane "compute"): MLX
keeps streams and random state per thread. What waits for files, the network or another process runs beside it (lane
"files").
"""

import contextlib
import copy
import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.process.limits import describe_memory_error, describe_os_error
from mlx_voxclone.studio.home import ID, Home, Person, Project, new_id, now, private, read_json, write_json
from mlx_voxclone.studio.mistakes import Cancelled, Missing, Mistake, as_said, is_said
from mlx_voxclone.studio.troubles import CLOSED, ENDED, cause_of, cause_of_line

State = Literal["waiting", "running", "done", "failed", "cancelled"]
Lane = Literal["compute", "files"]
MOST_OPEN = 20  # tasks of a person that wait or run
_KEPT = 100  # tasks of a person that have ended
_PATIENCE = 0.2  # seconds: how often the compute lane looks whether to end, and others whether they are cancelled
_NOTED = ("id", "kind", "title", "named", "project", "lane", "created", "state", "error", "cause", "said", "result")
_Found = TypeVar("_Found")


class Task:
    """One long action; any thread may read it or cancel it.

    Attributes:
        kind: "speak", "prepare", "download", ... title: for people. project: id of the voice, or None.
        state: see `State`. done, total, what: progress; total None: unknown.
        error: one line of a failed one, as the library words it; cause: of CAUSES in `troubles`; said: what its mistake
            says in the page's texts, see `as_said`. result: of one that is done.
        named: the title in the same way, where it is one of the page's texts.
    """

    def __init__(self, person: Person, kind: str, title: str, project: str | None, lane: Lane) -> None:
        self.person, self.kind, self.title, self.project, self.lane = person, kind, title, project, lane
        self.id, self.created = new_id(), time.time()
        self.once: str | None = None  # see `Tasks.start`
        self.state: State = "waiting"
        self.done, self.total, self.what = 0, None, ""
        self.error, self.result = "", {}
        self.cause, self.said, self.named = "", None, getattr(title, "said", None)
        self.began: float | None = None
        # Total, what was done, and when it began to be measured.
        self._from: tuple[int | None, int, float] | None = None
        self._cancelled, self._change = threading.Event(), threading.Lock()

    def progress(self, done: int, total: int | None, what: str = "") -> None:
        """Say how far it is; serves as a callback. Raises Cancelled."""
        if self._from is None or self._from[0] != total or done < self.done:  # another part of it
            self._from = total, done, time.monotonic()
        self.done, self.total, self.what = done, total, what or self.what
        self.check()

    def check(self, *_: Any) -> None:
        """Raise Cancelled if it was cancelled; takes and ignores what a callback is given."""
        if self._cancelled.is_set():
            raise Cancelled("cancelled")

    def cancel(self) -> None:
        """End it as soon as it can: at once while it waits."""
        with self._change:
            self._cancelled.set()
            if self.state != "waiting":
                return
            with contextlib.suppress(VoxcloneError):  # a full disk: it is seen as long as the studio runs
                self.note("cancelled")
            self.state = "cancelled"

    def begin(self) -> bool:
        """It runs from now on; False: it was cancelled before."""
        with self._change:
            if self.state != "waiting":
                return False
            self.state, self.began = "running", time.time()
            return True

    def as_it_is(self) -> "Task":
        """A copy that does not go on: a page made of it shows one state, and asks again if that is an open one."""
        return copy.copy(self)

    @property
    def cancelling(self) -> bool:
        """Whether it was cancelled and has not ended yet."""
        return self._cancelled.is_set() and self.open

    @property
    def open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")

    @property
    def left(self) -> float | None:
        """Seconds that are left, by what was done since this total was first reported; None: unknown."""
        if self._from is None or not self.total or (since := self.done - self._from[1]) <= 0:
            return None
        return (time.monotonic() - self._from[2]) / since * (self.total - self.done)

    def note(self, state: State | None = None) -> None:
        """Write what it has come to into the person's folder; `state`: the one that it will be in after that."""
        folder = private(self.person.folder / "tasks")
        write_json(folder / f"{self.id}.json", self._values() | ({"state": state} if state else {}))

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _NOTED}

    @classmethod
    def noted(cls, person: Person, values: dict[str, Any]) -> "Task":
        """A task as `note` wrote it; what was open then has ended with the studio."""
        task = cls(person, values["kind"], values["title"], values["project"], values["lane"])
        task.id, task.created, task.state = values["id"], values["created"], values["state"]
        task.error, task.result = values["error"], values["result"]
        task.cause = values.get("cause") or (cause_of_line(task.error) if task.error else "")
        task.said = found if is_said(found := values.get("said")) else None
        task.named = found if is_said(found := values.get("named")) else None
        if task.open:
            task.state, task.error, task.cause = "failed", ENDED, CLOSED
        return task


Work = Callable[[Task], dict[str, Any] | None]


def beside(task: Task, work: Callable[[], _Found]) -> _Found:
    """What cannot be stopped half way (an import, an answer from the network), on a thread of its own, so that a task
    which is cancelled does not wait for it. Nothing that MLX computes; what `work` raises is raised.

    Raises:
        Cancelled: the work goes on by itself, and what it finds is of no use.
    """
    found: Future[_Found] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as e:
            found.set_exception(e)

    threading.Thread(target=run, name="beside", daemon=True).start()
    while True:
        task.check()
        with contextlib.suppress(TimeoutError):
            found.exception(_PATIENCE)
        if found.done():
            return found.result()


class Tasks:
    """All tasks of a studio.

    Args:
        home: whose people's tasks are read.
    """

    def __init__(self, home: Home) -> None:
        self._lanes: dict[Lane, queue.SimpleQueue[tuple[Task, Work] | None]] = {
            "compute": queue.SimpleQueue(),
            "files": queue.SimpleQueue(),
        }
        self._steps: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._tasks: dict[str, Task] = {}
        for person in home.people():
            self._read(person)
        self._files = threading.Thread(target=self._run_files, name="files", daemon=True)
        self._files.start()

    def start(
        self,
        person: Person,
        kind: str,
        title: str,
        work: Work,
        *,
        project: Project | None = None,
        lane: Lane = "compute",
        once: str | None = None,
        limited: bool = True,
    ) -> Task:
        """Queue `work(task)`, which returns the task's result; it ends at the next `task.check()` when cancelled.

        Args:
            once: what is asked for, as against other tasks of this kind and voice. While one that was asked for the
                same is open, that one is returned and nothing is queued: two clicks, two tabs. None: every call counts.
            limited: whether the person's open tasks are counted; not where a task begins the next one.

        Raises:
            Mistake: the person has `MOST_OPEN` open. CheckpointError: it cannot be noted.
        """
        task = Task(person, kind, title, project.id if project else None, lane)
        task.once = once
        with self._lock:
            if (same := self._same(person, kind, project, once)) is not None:
                return same
            still = sum(one.open and one.person.name == person.name for one in self._tasks.values())
            if limited and still >= MOST_OPEN:
                raise Mistake("", "tasks.too_many", most=MOST_OPEN)
            task.created = now(one.created for one in self._tasks.values())
            task.note()
            self._tasks[task.id] = task
            self._forget(person)
        self._lanes[lane].put((task, work))
        return task

    def same(self, person: Person, kind: str, once: str, project: Project | None = None) -> Task | None:
        """The open task that `start` would return in the place of a new one."""
        with self._lock:
            return self._same(person, kind, project, once)

    def get(self, person: Person, id: str) -> Task:
        """A person's task. Raises Missing."""
        task = self._tasks.get(id)
        if task is None or task.person.name != person.name:
            raise Missing("there is no such task")
        return task

    def shown(self, person: Person, kind: str | None = None, project: Project | None = None) -> list[Task]:
        """`list` as it is now, for a page: see `Task.as_it_is`."""
        return [task.as_it_is() for task in self.list(person, kind, project)]

    def list(self, person: Person, kind: str | None = None, project: Project | None = None) -> list[Task]:
        """A person's tasks, the newest first."""
        with self._lock:
            tasks = [task for task in self._tasks.values() if task.person.name == person.name]
        chosen = [
            task for task in tasks if kind in (None, task.kind) and (project is None or task.project == project.id)
        ]
        return sorted(chosen, key=lambda task: -task.created)

    def forget(self, project: Project) -> None:
        """Drop what is noted of a voice that was deleted; what is open stays."""
        with self._lock:
            for task in list(self._tasks.values()):
                if task.project == project.id and task.person.name == project.person.name and not task.open:
                    del self._tasks[task.id]
                    (task.person.folder / "tasks" / f"{task.id}.json").unlink(missing_ok=True)

    def ahead_of(self, task: Task) -> int:
        """How many tasks of anybody's come before one that waits."""
        with self._lock:
            return sum(
                other.open and other.lane == task.lane and other.created < task.created
                for other in self._tasks.values()
            )

    def between(self, step: Callable[[], object]) -> None:
        """Have the thread that computes do something short before its next task; called in any thread. Nobody sees it,
        and what it raises is printed."""
        self._steps.put(step)

    def run(self) -> None:
        """Do what computes until `close`; on the main thread."""
        while not self._ended.is_set():
            self._take_steps()
            try:
                job = self._lanes["compute"].get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            if job is not None:
                self._take_steps()
                self._carry_out(*job)

    def close(self) -> None:
        """End `run` and the other lane; what is open is cancelled."""
        with self._lock:
            still = [task for task in self._tasks.values() if task.open]
        for task in still:
            task.cancel()
        self._ended.set()
        for lane in self._lanes.values():
            lane.put(None)
        if self._files is not threading.current_thread():
            self._files.join(5)
        for task in still:
            if task.open:
                self._end(task, "failed", ENDED, CLOSED)

    def _take_steps(self) -> None:
        while True:
            try:
                step = self._steps.get_nowait()
            except queue.Empty:
                return
            try:
                step()
            except Exception as e:
                traceback.print_exception(e)

    def _run_files(self) -> None:
        while (job := self._lanes["files"].get()) is not None and not self._ended.is_set():
            self._carry_out(*job)

    def _carry_out(self, task: Task, work: Work) -> None:
        if not task.begin():
            return
        try:
            task.result = work(task) or {}
            self._end(task, "done")
        except Cancelled:
            self._end(task, "cancelled")
        except Exception as e:
            task.said = as_said(e.key, e.values) if isinstance(e, Mistake) else None
            self._end(task, "failed", _line(e), cause_of(e))
        except BaseException:  # Ctrl-C
            self._end(task, "failed", ENDED, CLOSED)
            raise

    def _end(self, task: Task, state: State, error: str = "", cause: str = "") -> None:
        """Note it first: who sees that a task has ended finds it on the disk, too."""
        task.error, task.cause = error, cause
        try:
            task.note(state)
        except Exception as e:  # a full disk, say: it is seen as long as the studio runs, and the next task begins
            task.error = task.error or _line(e)
        task.state = state

    def _read(self, person: Person) -> None:
        for path in sorted((person.folder / "tasks").glob("*.json")):
            if not ID.fullmatch(path.stem):
                continue
            try:
                task = Task.noted(person, read_json(path))
                if task.project is not None:
                    person.project(str(task.project))
            except (VoxcloneError, KeyError):  # damaged, or of a voice that was deleted: nothing depends on it
                path.unlink(missing_ok=True)
                continue
            self._tasks[task.id] = task

    def _same(self, person: Person, kind: str, project: Project | None, once: str | None) -> Task | None:
        if once is None:
            return None
        asked = person.name, kind, project.id if project else None, once
        return next(
            (
                task
                for task in self._tasks.values()
                if task.open and not task.cancelling and (task.person.name, task.kind, task.project, task.once) == asked
            ),
            None,
        )

    def _forget(self, person: Person) -> None:
        """Drop the oldest ones that have ended."""
        ended = [task for task in self._tasks.values() if task.person.name == person.name and not task.open]
        for task in sorted(ended, key=lambda task: -task.created)[_KEPT:]:
            del self._tasks[task.id]
            (person.folder / "tasks" / f"{task.id}.json").unlink(missing_ok=True)


def _line(error: Exception) -> str:
    """What to tell of an error, in one line."""
    if isinstance(error, Mistake):
        return error.line
    if isinstance(error, VoxcloneError):
        return str(error)
    line = describe_os_error(error) if isinstance(error, OSError) else describe_memory_error(error)
    if line is None:
        traceback.print_exception(error)  # a defect of ours
        return f"something went wrong ({type(error).__name__}: {error}); the terminal shows where"
    return line
