"""What a training reports of its steps: lines of its log, and warnings."""

from pathlib import Path

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.run_log import RESERVED, JsonLog, Progress, add_to_window, window_record
from mlx_voxclone.train.loop.distributed import Mute
from mlx_voxclone.train.loop.loader import Group
from mlx_voxclone.train.loop.task import Task
from mlx_voxclone.train.saved.state import RunState

_JUDGE_GRADIENTS_AFTER = 5  # steps: LoRA's A has a zero gradient in the first step by design, later none should
_RECENT = 8  # losses in the smoothed one


def check_terms(task: Task) -> None:
    """Refuse loss terms that teach nothing, or that a log cannot hold.

    Raises:
        DataError: all weights are 0. ValueError: a term that is called as something else in the log.
    """
    if not any(task.weights.values()):
        raise DataError(f"{task.name}: every loss weight is 0, so nothing would be learnt")
    if clash := sorted(RESERVED & set(task.weights)):
        raise ValueError(f"loss terms may not be called {clash}: log.jsonl uses these names")


class Journal:
    """Keeps a run's figures in its state and writes them down.

    Args:
        task: what is trained.
        state: of the run. The figures since the last logged step are part of it, so a resumed run continues them.
        total: steps of the whole run.
        log, progress: where to.
    """

    def __init__(self, task: Task, state: RunState, total: int, log: JsonLog | Mute, progress: Progress | Mute):
        self._task, self._state, self._total, self._log, self._progress = task, state, total, log, progress

    def begun(self, identity: dict, trainable: int) -> None:
        """Log the start. `trainable`: how many numbers train."""
        size = {"n_items": self._task.n_items, "trainable": trainable}
        self._log.write({"event": "start", "step": 0, **identity, **size})

    def resumed(self, run_dir: Path, warnings: list[str]) -> None:
        """Log and say that a run goes on, and what is odd about that."""
        for line in warnings:
            self._progress.say(f"warning: {line}")
        step = self._state.step
        self._log.write({"event": "resume", "step": step, "warnings": warnings})
        self._progress.note(f"{self._task.name}: resumed {run_dir} at step {step} of {self._total}")

    def add(self, group: Group, sums: dict[str, float], norm: float, seconds: float) -> float:
        """Add the figures of a step to those since the last logged one; its loss."""
        state, weights = self._state, self._task.weights
        terms = {term: sums[term] / count for term, count in group.targets.items() if count}
        loss = sum(weights[term] * value for term, value in terms.items())
        state.last = {"loss": loss, "terms": terms}
        state.first = state.first or state.last
        state.recent = [*state.recent, loss][-_RECENT:]
        figures = {"norm": norm, "steps": 1, "items": group.n_items, "seconds": seconds}
        add_to_window(state.window, sums=sums, targets=group.targets, **figures)
        return loss

    def line(self, epoch: int, rate: float, seconds: float, peak: float) -> None:
        """Log the means over the steps since the last logged one; nothing if all of these were skipped."""
        state = self._state
        if not state.window:
            return
        head = {"step": state.step, "epoch": epoch, "lr": rate}
        tail = {"seconds": seconds, "peak_memory_gb": peak, "skipped": state.skipped}
        self._log.write({**head, **window_record(state.window, self._task.weights), **tail})
        state.window = {}

    def measured(self, metrics: dict[str, float], better: bool, seconds: float) -> None:
        """Log and say what a measurement gave. `better`: than all before."""
        step = self._state.step
        self._log.write({"event": "eval", "step": step, "metrics": metrics, "best": better, "eval_seconds": seconds})
        figures = ", ".join(f"{name} {number:.4g}" for name, number in metrics.items())
        self._progress.note(f"{self._task.name}: step {step}, held-out {figures}{' (best)' if better else ''}")

    def skipped(self, epoch: int, items: list[str], sums: dict[str, float], norm: float) -> None:
        """Log a step that was not taken, and warn of it."""
        step = self._state.step
        self._log.write(
            {"event": "skip", "step": step, "epoch": epoch, "items": items, "sums": sums, "grad_norm": norm}
        )
        self.warn(f"step {step} skipped, loss or gradient not finite: {', '.join(items)}")

    def note_silent(self, norms: dict[str, float]) -> None:
        """Warn, once and early, of trainable parameters that no loss reaches: they would only decay."""
        state = self._state
        if state.silent is None:
            return
        state.silent = [name for name in state.silent if not norms[name]]
        if state.step + 1 >= min(_JUDGE_GRADIENTS_AFTER, self._total):
            if names := state.silent:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                self.warn(f"{len(names)} of {len(norms)} trainable parameters have had a zero gradient so far: {shown}")
            state.silent = None

    def warn(self, line: str) -> None:
        self._progress.say(f"warning: {self._task.name}: {line}")
