"""Speaks all requests at once: their utterances share a batch, which they join and leave between two frames.

The engine runs in one thread, which alone computes. Other threads submit jobs and calls. Voices with other adapters
have batches of their own, of which each makes a frame in turn.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

import mlx.core as mx

from mlx_voxclone.adapters.lora import AdapterSwitch
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.model.generation import join_products
from mlx_voxclone.model.running import RunningBatch, Step
from mlx_voxclone.serve.jobs import Job, Utterance, damaged
from mlx_voxclone.serve.metrics import Metrics
from mlx_voxclone.speech.speaker import Speaker

ROWS, WAITING = 8, 64
TIDY = 256  # frames, after which MLX gives back the memory that it keeps for shapes that may not come again

T = TypeVar("T")


class BusyError(Exception):
    """As many requests wait as may."""


class EndingError(Exception):
    """The engine is closed or about to be."""


class Engine:
    """Speaks.

    Args:
        speaker: a loaded checkpoint without adapters.
        switch: the adapters that jobs may name; None: none.
        rows: utterances at once; more are faster together and take more memory.
        waiting: jobs that may wait beside those for which the rows would do.
        metrics: counts.
    """

    def __init__(
        self,
        speaker: Speaker,
        switch: AdapterSwitch | None = None,
        *,
        rows: int = ROWS,
        waiting: int = WAITING,
        metrics: Metrics | None = None,
    ) -> None:
        self.speaker, self.metrics = speaker, metrics or Metrics()
        self._switch = switch or AdapterSwitch(speaker.model)
        self._most_rows, self._most_jobs = rows, rows + waiting
        self._changed = threading.Condition()
        self._closed = False
        self._new: list[Job] = []  # this and the next are shared with other threads
        self._calls: list[tuple[Future, Callable[[], Any]]] = []
        self._jobs: dict[Job, None] = {}  # in the order in which they came
        self._waiting: list[Utterance] = []
        self._batches: dict[Hashable, RunningBatch] = {}  # by adapters; keys in them are utterances

    # ---- of any thread -----------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Have a job spoken.

        Raises:
            BusyError: too many are waiting.
            EndingError: the engine ends.
        """
        with self._changed:
            if self._closed:
                raise EndingError
            if len(self._jobs) + len(self._new) >= self._most_jobs:
                self.metrics.refused.inc()
                raise BusyError
            self._new.append(job)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Have a function computed between two frames. Raises EndingError."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise EndingError
            self._calls.append((future, function))
            self._changed.notify()
        return future

    def wake(self) -> None:
        """A listener is gone, or has taken samples."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End `run`; all jobs fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    # ---- of its own thread -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Speak until `close`."""
        join_products(self.speaker.model)
        turns = 0
        try:
            while self._take():
                self._drop_gone()
                self._join()
                for adapters in list(self._batches):
                    self._frame(adapters)
                self._count()
                turns += 1
                if not self._batches or turns % TIDY == 0:
                    mx.clear_cache()
        finally:
            self.close()
            self._end_all()

    def _take(self) -> bool:
        """Begin what is new; waits while there is nothing to do. False: closed."""
        with self._changed:
            while not (self._closed or self._new or self._calls or self._batches or self._next() or self._any_gone()):
                self._changed.wait()
            if self._closed:
                return False
            calls = len(self._calls)
            new, self._new = self._new, []
            self._jobs |= dict.fromkeys(new)
        for _ in range(calls):
            with self._changed:
                future, function = self._calls.pop(0)
            _answer(future, function)
        for job in new:
            if not job.listener.gone:
                with self._failing(job):
                    self._waiting += job.begin(self.speaker)
        return True

    def _any_gone(self) -> bool:
        return any(job.listener.gone for job in self._jobs)

    def _drop_gone(self) -> None:
        for job in [job for job in self._jobs if job.listener.gone]:
            self._remove(job)

    def _next(self) -> Utterance | None:
        """Which of those waiting is to join: of the job with the fewest rows, among those the one that came first."""
        ready = [one for one in self._waiting if not one.job.listener.behind and not one.job.listener.gone]
        if not ready or self._rows() >= self._most_rows:
            return None
        rows = {job: 0 for job in self._jobs}
        for batch in self._batches.values():
            for utterance in batch:
                rows[utterance.job] += 1
        order = {job: place for place, job in enumerate(self._jobs)}
        return min(ready, key=lambda one: (rows[one.job], order[one.job]))  # of equal ones the first

    def _rows(self) -> int:
        return sum(map(len, self._batches.values()))

    def _join(self) -> None:
        """Let one more utterance join: reading its prompt keeps all others waiting."""
        utterance = self._next()
        if utterance is None:
            return
        self._waiting.remove(utterance)
        job = utterance.job
        with self._failing(job):
            self._switch.use(job.adapters)
            batch = self._batches.setdefault(job.adapters, RunningBatch(self.speaker.model))
            batch.join(utterance, utterance.prompt, utterance.seed, utterance.may_be_empty)

    def _frame(self, adapters: Hashable) -> None:
        batch = self._batches.get(adapters)
        if batch is None:  # its last utterance was of a job that has failed since
            return
        try:
            self._switch.use(adapters)
            step = batch.step()
        except Exception as error:  # of the computation, so of all that share it
            tell_once(error)
            for job in {utterance.job for utterance in batch}:
                self._fail(job, error)
            batch.clear()
            step = Step()
        self.metrics.frames.inc(len(step.frames))
        for utterance in step.damaged:
            self._fail(utterance.job, damaged())
        for utterance in step.ended:
            self._end(utterance, True)
        for utterance, codes in step.frames.items():
            if utterance.job not in self._jobs:  # another one of its utterances has failed
                continue
            with self._failing(utterance.job):
                utterance.job.frame(utterance, codes)
                if len(utterance.frames) >= utterance.limit:
                    batch.leave([utterance])
                    self._end(utterance, False)
        if not batch:
            self._batches.pop(adapters, None)

    def _end(self, utterance: Utterance, ended: bool) -> None:
        job = utterance.job
        if job not in self._jobs:
            return
        with self._failing(job):
            self._waiting += job.end(utterance, ended)
            if job.over:
                self._remove(job)
                self.metrics.spoken.inc()

    @contextlib.contextmanager
    def _failing(self, job: Job):
        """What goes wrong in here ends this job and no other."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, VoxcloneError):
                tell_once(error)
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        if job in self._jobs:
            self.metrics.failed.inc()
            self._remove(job)
            job.listener.fail(error.with_traceback(None))  # whose frames hold all jobs of this turn

    def _remove(self, job: Job) -> None:
        with self._changed:
            self._jobs.pop(job, None)
        job.drop()
        self._waiting = [one for one in self._waiting if one.job is not job]
        for batch in self._batches.values():
            batch.leave([one for one in batch if one.job is job])
        self._batches = {adapters: batch for adapters, batch in self._batches.items() if batch}

    def _count(self) -> None:
        speaking = {one.job for batch in self._batches.values() for one in batch}
        self.metrics.rows.set(self._rows())
        self.metrics.waiting.set(len(self._jobs) - len(speaking))

    def _end_all(self) -> None:
        for job in [*self._jobs, *self._new]:
            job.listener.fail(EndingError())
        for future, _ in self._calls:
            _answer(future, _ended)
        self._jobs, self._new, self._calls, self._waiting, self._batches = {}, [], [], [], {}


def _ended() -> None:
    raise EndingError


def _answer(future: Future, function: Callable[[], Any]) -> None:
    """Compute a call, unless its caller has given it up."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
    except BaseException:  # Ctrl-C
        future.set_exception(EndingError())
        raise


def tell_once(error: Exception) -> None:
    """Print the traceback of a defect of ours, where that has not been done; the server goes on."""
    if not getattr(error, "was_told", False):
        error.was_told = True
        traceback.print_exception(error)
