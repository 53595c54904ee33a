"""Measuring a run as it goes: held-out metrics, the best model so far, samples."""

import math
import time
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.errors import DataError, NotFiniteError
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop import heldout
from mlx_voxclone.train.loop.distributed import Ranks
from mlx_voxclone.train.loop.gradients import Masters
from mlx_voxclone.train.loop.journal import Journal
from mlx_voxclone.train.loop.schedule import due
from mlx_voxclone.train.loop.task import Task
from mlx_voxclone.train.saved import state as states
from mlx_voxclone.train.saved.state import RunState, uninterrupted


class Evaluation:
    """Measures the present parameters, keeps `best/`, and writes samples; all with random numbers of their own.

    Args:
        task, settings, masters, ranks, run_dir, journal: of the run. Rank 0 measures, and tells the others.
    """

    def __init__(
        self, task: Task, settings: TrainSettings, masters: Masters, ranks: Ranks, run_dir: Path, journal: Journal
    ):
        self._task, self._settings, self._masters = task, settings, masters
        self._ranks, self._run_dir, self._journal = ranks, run_dir, journal

    def measure(self, state: RunState, total: int) -> None:
        """Held-out metrics, into the state; `best/` is rewritten if they are better than all before.

        Args:
            state: of the run, with no step under way.
            total: steps of the whole run.

        Raises:
            DataError: no finite figure even before the first step.
        """
        began = time.perf_counter()
        metrics = self._ranks.from_first(self._heldout_metrics)
        value = metrics[self._task.metric]
        if not math.isfinite(value) and not state.evaluations:
            raise DataError(
                f"{self._task.name}: held-out {self._task.metric} is {value} before any training: check the held-out"
                " data and the weights of the model"
            )
        better = math.isfinite(value) and (state.best is None or value < state.best["value"])
        best = {"step": state.step, "metric": self._task.metric, "value": value, "metrics": metrics}
        if better and self._ranks.first:
            heldout.write_best(self._task, self._run_dir, self._masters.values, best)
        with uninterrupted():
            if better:
                state.best = best
            scheduled = due(state.step, self._settings.eval_every) or state.step == total
            state.stale = 0 if better else state.stale + scheduled  # one more at `stop_after` does not shorten patience
            state.evaluated = state.step
            state.evaluations.append({"step": state.step, "metrics": metrics})
            self._journal.measured(metrics, better, time.perf_counter() - began)
        mx.clear_cache()  # evaluation shapes are not training shapes

    def write_samples(self, state: RunState) -> None:
        """Samples of the present model into `samples/step-N`; a warning where it gives nothing finite."""
        self._ranks.from_first(lambda: self._write_samples(state.step))
        state.sampled = state.step
        mx.clear_cache()

    def _heldout_metrics(self) -> dict[str, float]:
        with self._masters.inference(self._settings.seed):
            return heldout.heldout_metrics(self._task)

    def _write_samples(self, step: int) -> None:
        directory = self._run_dir / states.SAMPLES / f"step-{step}"
        try:
            with self._masters.inference(self._settings.seed), states.replaced_directory(directory) as building:
                self._task.write_samples(building, step)
        except (FloatingPointError, NotFiniteError) as error:
            self._journal.warn(f"no samples of step {step}: {error}")
