"""The one training loop. Tasks say what an item, a batch and a loss are (`task.py`); all else about training is here.

Notable: master parameters are float32 and the computation may be bf16 (the cast is inside the differentiated function);
gradients of micro-batches simply add up, because the number of targets of the whole group is known before the first one
runs; one `mx.eval` per micro-batch; a step is either committed whole or not at all, so Ctrl-C anywhere leaves a state
that continues bit-identically; evaluation and samples have random numbers of their own.
"""

import math
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.errors import CheckpointError, NotFiniteError, RankLostError, TrainingError, VoxcloneError
from mlx_voxclone.files.run_log import LOG_NAME, JsonLog, Progress
from mlx_voxclone.process.limits import describe_memory_error
from mlx_voxclone.process.signals import held_back as uninterrupted
from mlx_voxclone.process.streams import check_reader
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.distributed import ALONE, Mute, Ranks, check_share, facts_of
from mlx_voxclone.train.loop.evaluation import Evaluation
from mlx_voxclone.train.loop.gradients import Gradients, Masters, gradient_norms
from mlx_voxclone.train.loop.journal import Journal, check_terms
from mlx_voxclone.train.loop.keeper import Keeper
from mlx_voxclone.train.loop.loader import Group, Loader
from mlx_voxclone.train.loop.optimizers.groups import Optimizers
from mlx_voxclone.train.loop.resume import (
    check_position,
    check_same_run,
    check_unfinished,
    ended_by,
    how_to_go_on,
    line_of,
    newest_whole,
    refuse_used,
    what_is_left,
)
from mlx_voxclone.train.loop.schedule import due
from mlx_voxclone.train.loop.task import Decides, Task, parameter_groups
from mlx_voxclone.train.saved import state as states
from mlx_voxclone.train.saved.result import RESULT_NAME, TrainResult
from mlx_voxclone.train.saved.rng import get_rng, separate_rng, set_rng
from mlx_voxclone.train.saved.state import RunState

MAX_SKIPPED = 5  # steps in a row without a finite loss and gradient: this is no single bad item any more


class Trainer:
    """Trains `task.model` in a run directory.

    Args:
        task: what to train.
        settings: how.
        run_dir: new or empty directory for log, checkpoints, samples and `best/`. Not used with `resume`.
        resume: a run directory (its newest complete checkpoint) or one checkpoint; the run goes on where it is.
        quiet: no progress, only warnings.
        ranks: the processes that share the training; only rank 0's `run_dir` and `resume` are read and written.
        announce_resume: on Ctrl-C say how to go on; False for a part of a larger run, which says it.

    Raises (all with one line): ConfigError for settings that do not fit the data; CheckpointError for a run directory
    that is not empty, or a resume that is impossible or of another run; DataError for a task without anything to train.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        run_dir: str | Path | None = None,
        *,
        resume: str | Path | None = None,
        quiet: bool = False,
        announce_resume: bool = True,
        ranks: Ranks = ALONE,
    ):
        self.task, self.settings, self.quiet, self._announce_resume = task, settings, quiet, announce_resume
        self.ranks = ranks
        check_share(settings.accumulate, ranks)
        self.total = settings.total_steps(task.n_items)
        self.stop = min(self.total, settings.stop_after or self.total)
        self.warnings: list[str] = []
        check_terms(task)
        self.masters = Masters(task, settings.precision)
        self._gradients = Gradients(task, self.masters, ranks)
        self.optimizers = Optimizers(self.masters.values, settings, parameter_groups(task))
        self.identity = {
            "task": task.name,
            "metric": task.metric,
            "settings": settings.as_dict(),
            "schedule": {"kind": "linear warm-up, cosine", "total_steps": self.total},
            "fingerprint": task.fingerprint(),
        }
        if ranks.several:
            ranks.check_alike("training", facts_of(self.identity, self.masters.values))
        if resume is not None:
            self._resume(Path(resume))
        elif run_dir is None:
            raise ValueError("Trainer needs a run directory or a checkpoint to resume from")
        else:
            self.run_dir = Path(run_dir)
            ranks.from_first(lambda: refuse_used(self.run_dir))
            with separate_rng(settings.seed):
                silent = sorted(self.masters.values.keys() - self.optimizers.late())
                self.state = RunState(rng=get_rng(), silent=silent)
        self.keeper = Keeper(task, settings, self.masters, self.optimizers, self.identity, self.run_dir)
        self.keeper.saved = self.state.step if resume is not None else -1
        self._share()
        self.resumed = resume is not None

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Trains to the last step (or `stop_after`, or early stopping) and returns the figures of the whole run.

        On Ctrl-C the last complete step is saved, and KeyboardInterrupt is raised again. Its message says where the run
        stands and how to go on, unless that has been shown already (`announce_resume`).
        Raises TrainingError when `MAX_SKIPPED` consecutive steps, or all steps, were not finite.
        """
        self._began = time.perf_counter() - self.state.seconds
        if self.ranks.first:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self.log = JsonLog(self.run_dir / LOG_NAME)
            self.progress = Progress(self.task.name, self.stop, self.state.step, quiet=self.quiet)
        else:
            self.log = self.progress = Mute()
        self.journal = Journal(self.task, self.state, self.total, self.log, self.progress)
        self.evaluation = Evaluation(self.task, self.settings, self.masters, self.ranks, self.run_dir, self.journal)
        self.ranks.last_words = self._last_words
        mx.reset_peak_memory()
        try:
            with self.ranks.stopping_together():
                try:
                    self._announce()
                    self._loop()
                    return self._finish()
                except KeyboardInterrupt:
                    where = []
                    self.ranks.at_the_end(lambda: where.append(self._save_after_interrupt()))
                    if self._announce_resume:
                        raise
                    raise KeyboardInterrupt(*where) from None
                except Exception as error:  # a server or a disk that is gone: the steps so far are not lost
                    if (explained := self._rescued(error)) is error:
                        raise
                    raise explained from error
        finally:
            self.ranks.last_words = lambda: ""
            self.task.model.eval()
            self.progress.close()
            self.log.close()

    def _loop(self) -> None:
        settings, state = self.settings, self.state
        set_rng(state.rng)
        position = {"seed": settings.seed, "position": state.position, "step": state.step}
        with Loader(self.task, batch_size=settings.batch_size, accumulate=settings.accumulate, **position) as loader:
            while True:
                last = state.step >= self.stop
                if state.evaluated != state.step and (last or due(state.step, settings.eval_every)):
                    self.evaluation.measure(state, self.total)
                    self.keeper.saved = -1  # a checkpoint that Ctrl-C left of this step lacks the evaluation
                ended = last or self._patience_is_out()
                sampling = settings.sample_every and (ended or due(state.step, settings.sample_every))
                if sampling and state.sampled != state.step:
                    self.evaluation.write_samples(state)
                saving = ended or (state.step > 0 and due(state.step, settings.save_every))
                if self.keeper.wants(state, saving) and (ended or not state.skipped_in_row):
                    self._checkpoint(ended)
                if ended:
                    return
                self._step(loader.next())
                check_reader()
                if self.ranks.stopping:
                    raise KeyboardInterrupt

    def _step(self, group: Group) -> None:
        """One optimiser step, committed whole or, if anything in it is not finite, counted as skipped."""
        began = time.perf_counter()
        rate = self.optimizers.rate(self.state.step, self.total)
        gradients, sums, culprits = self._gradients(group, self.state.step)
        norms = {} if culprits else gradient_norms(gradients)
        norm = math.nan if culprits else self.optimizers.norm(norms)
        if not culprits and not all(map(math.isfinite, norms.values())):
            culprits = group.items()
        with uninterrupted():
            if culprits:
                self._skip(group, culprits, sums, norm)
            else:
                self._update(gradients, norms)
                self.journal.note_silent(norms)
                self._record(group, sums, norm, time.perf_counter() - began)
            if due(self.state.step, self.settings.log_every) or self.state.step == self.stop:
                self.journal.line(group.epoch, rate, self._seconds(), self._peak())
            _trim_cache()
        if self.state.skipped_in_row >= MAX_SKIPPED:
            raise TrainingError(
                f"{self.task.name}: loss or gradient not finite in {self.state.skipped_in_row} consecutive steps, the "
                f"last at step {self.state.step} with {', '.join(culprits)}: check these items, or lower the learning "
                f"rate and start again{self._left()}"
            )

    def _update(self, gradients: dict[str, mx.array], norms: dict[str, float]) -> None:
        """AdamW on the averaged gradient, clipped."""
        self.masters.replace(
            self.optimizers.updated(gradients, self.masters.values, norms, self.state.step, self.total)
        )
        mx.eval(self.masters.values, self.optimizers.state)

    # ---- what a step leaves behind ----------------------------------------------------------------------------------

    def _record(self, group: Group, sums: dict[str, float], norm: float, seconds: float) -> None:
        loss = self.journal.add(group, sums, norm, seconds)
        self.state.skipped_in_row = 0
        self._advance(group)
        self.progress.step(self.state.step, loss, group.n_items / seconds)

    def _skip(self, group: Group, items: list[str], sums: dict[str, float], norm: float) -> None:
        """The step counts, its batch is used up, parameters and optimiser stay as they are."""
        self.state.skipped += 1
        self.state.skipped_in_row += 1
        self._advance(group)
        self.journal.skipped(group.epoch, items, sums, norm)

    def _advance(self, group: Group) -> None:
        self.state.step += 1
        self.state.position = group.next_position
        self.state.rng = get_rng()

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint(self, ended: bool) -> None:
        """Saves a sound state. An unsound one waits for a sound step, so it never replaces a good checkpoint."""
        self._share()  # other processors round differently: from here on all are what is saved
        if self.ranks.from_first(lambda: self.keeper.sound(self.state)):
            if self.ranks.first:
                self._save()
            self.keeper.done(self.state)
        elif ended:
            raise TrainingError(
                f"{self.task.name}: the training has diverged: after step {self.state.step} the model's numbers are not"
                f" finite, so it was not saved; lower the learning rate and start again{self._left()}"
            )
        else:
            what = "its losses on held-out data are not finite"
            self.journal.warn(f"step {self.state.step} is not saved: {what}")

    def _left(self) -> str:
        """What a training that has come to nothing leaves, as the end of a message."""
        return f"; {what_is_left(self.run_dir)}" if self.ranks.first else ""

    def _save(self, prune: bool = True) -> None:
        vanished = not self.run_dir.is_dir()
        self.state.seconds = self._seconds()
        self.state.peak_memory_gb = self._peak()
        if isinstance(self.task, Decides):
            self.state.decided = dict(self.task.decisions())
        self.keeper.save(self.state, self.log, prune)
        if vanished:
            raise CheckpointError(
                f"{self.run_dir}: the run directory was deleted during the training and has been made again"
            )

    def _save_before_the_end(self) -> bool:
        """Saves the last complete step of a run that something ends, unless it is saved or ruined; whether it is now.

        While steps are being skipped, older checkpoints are kept as well.
        """
        if self.keeper.saved != self.state.step:
            if not self.keeper.sound(self.state):
                return False
            self._save(prune=not self.state.skipped_in_row)
        return True

    def _save_after_interrupt(self) -> str:
        """Saves the last complete step, unless it is saved already; returns where the run stands."""
        if self.keeper.saved != self.state.step:
            with suppress(OSError):  # the terminal may be gone
                self.progress.say(f"saving step {self.state.step} (Ctrl-C again to quit without saving)")
        where = f"after step {self.state.step} of {self.total}"
        if self._save_before_the_end():
            where += f"; continue with --resume {self.run_dir}" if self._announce_resume else ""
        else:
            words = how_to_go_on(self.run_dir, self._announce_resume)
            where += f"; that step is not saved, as the model's numbers are not finite: {words}"
        if self._announce_resume:
            self.progress.say(f"interrupted {where}")
        return where

    def _rescued(self, error: Exception) -> Exception:
        """What to raise for an error that is not the training's own: the steps before it are saved, if that can be."""
        if isinstance(error, NotFiniteError) or not (isinstance(error, RankLostError) or self.state.step):
            return error
        line = line_of(error)
        if line is not None and self.ranks.first:
            with suppress(VoxcloneError, OSError):  # it may be the very disk that refused
                self._save_before_the_end()
        if line is None:  # without memory a step may be half done: what is saved is what there is
            line = describe_memory_error(error)
        return error if line is None else ended_by(error, line, self._last_words())

    def _restore(self, path: Path) -> None:
        """Takes over the newest checkpoint that is whole. Raises CheckpointError if none is, or it is another run's."""
        self.run_dir, candidates = states.find_resume(path)
        checkpoint, self.warnings = newest_whole(self.run_dir, candidates)
        self.warnings += check_same_run(checkpoint, self.identity, self.masters.values, self.optimizers.slots())
        check_position(checkpoint, self.settings, self.task)
        if TrainResult.load(self.run_dir) is not None:  # else it was stopped after its last step, before its end
            check_unfinished(checkpoint, self.run_dir, self.stop, self.settings)
        self.masters.replace(checkpoint.parameters)
        self.optimizers.restore(checkpoint.optimizer)
        mx.eval(self.masters.values)
        self.state = checkpoint.state

    # ---- several ranks ----------------------------------------------------------------------------------------------

    def _resume(self, path: Path) -> None:
        """Rank 0 reads the checkpoint; the others receive its state here and its tensors by `_share`."""

        def restore() -> dict:
            self._restore(path)
            return asdict(self.state)

        state = self.ranks.from_first(restore)
        if not self.ranks.first:
            self.run_dir, self.state = path, RunState.of(state)
        if isinstance(self.task, Decides):
            self.task.take_decisions(self.state.decided)

    def _share(self) -> None:
        """Every rank takes over what rank 0 trains, unless it has just that."""
        if not self.ranks.several:
            return
        self.masters.replace(self.ranks.share(self.masters.values))
        self.optimizers.restore(self.ranks.share(self.optimizers.slots()))
        mx.eval(self.masters.values)

    def _last_words(self) -> str:
        """For a run that another rank has ended."""
        return how_to_go_on(self.run_dir, self._announce_resume) if self.ranks.first else ""

    # ---- small things -----------------------------------------------------------------------------------------------

    def _finish(self) -> TrainResult:
        state = self.state
        if state.first is None:
            raise TrainingError(
                f"{self.task.name}: no loss or gradient of its {state.step} steps was finite, so nothing was trained"
            )
        return TrainResult(**self.ranks.from_first(lambda: asdict(self._end())))

    def _end(self) -> TrainResult:
        state = self.state
        best = states.read_best(self.run_dir) or state.best
        result = TrainResult.of(
            state,
            best,
            self.task.metric,
            total_steps=self.total,
            seconds=self._seconds(),
            peak_memory_gb=self._peak(),
            stopped_early=state.step < self.stop,
        )
        if result.best_step == 0:
            metric = self.task.metric
            self.journal.warn(f"held-out {metric} never improved on its value before training; best/ holds step 0")
        self.log.write(
            {"event": "end", "step": state.step, "stopped_early": result.stopped_early, "best": best["step"]}
        )
        result.save(self.run_dir)
        return result

    def _announce(self) -> None:
        if self.ranks.first:
            (self.run_dir / RESULT_NAME).unlink(missing_ok=True)
        if self.resumed:
            self.journal.resumed(self.run_dir, self.warnings)
        else:
            self.journal.begun(self.identity, sum(array.size for array in self.masters.values.values()))

    def _patience_is_out(self) -> bool:
        return bool(self.settings.patience) and self.state.stale >= self.settings.patience

    def _seconds(self) -> float:
        return time.perf_counter() - self._began

    def _peak(self) -> float:
        return max(self.state.peak_memory_gb, mx.get_peak_memory() / 1e9)


def _trim_cache() -> None:
    """MLX keeps freed buffers by size; with ever new lengths they pile up. More than what is in use is too much."""
    if mx.get_cache_memory() > max(1 << 30, mx.get_active_memory()):
        mx.clear_cache()
