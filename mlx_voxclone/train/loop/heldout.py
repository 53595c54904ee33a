"""Held-out metrics of a task, and the directory of its best model."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.errors import DataError, NotFiniteError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.train.loop.loader import check_host, to_device
from mlx_voxclone.train.loop.task import Task, derived_metrics, training_only
from mlx_voxclone.train.saved.state import BEST, RunState, not_finite, read_best, replaced_directory


def spread(entries: Sequence, limit: int) -> list:
    """At most `limit` of them, evenly spaced, so that the first speaker is not the only one measured."""
    if len(entries) <= limit:
        return list(entries)
    return [entries[k * len(entries) // limit] for k in range(limit)]


def heldout_metrics(task: Task) -> dict[str, float]:
    """`loss` (weighted sum), every term (mean over all held-out targets) and the task's own metrics.

    Terms that the task calls training-only are left out. Raises DataError if there is no held-out data, or none with
    targets of another weighted term.
    """
    measured = {term: weight for term, weight in task.weights.items() if term not in training_only(task)}
    sums, targets, batches = dict.fromkeys(measured, 0.0), dict.fromkeys(measured, 0.0), 0
    for batch in task.heldout_batches():
        check_host(batch)
        counts = {term: float(n) for term, n in task.targets(batch).items() if n and term in measured}
        losses = {term: value for term, value in task.losses(to_device(batch)).items() if term in counts}
        mx.eval(losses)
        for term, count in counts.items():
            sums[term] += losses[term].item()
            targets[term] += count
        batches += 1
    if not batches:
        raise DataError(f"{task.name}: no held-out data to choose the best model by; hold some of the data out")
    if missing := [term for term, weight in measured.items() if weight and not targets[term]]:
        raise DataError(f"{task.name}: the held-out data has no targets for {', '.join(missing)}")
    terms = {term: sums[term] / count for term, count in targets.items() if count}
    loss = sum(measured[term] * value for term, value in terms.items())
    metrics = {"loss": loss, **terms}
    if (extra := _extra(task)) is None:
        return {**metrics, task.metric: metrics.get(task.metric, math.nan)}
    metrics |= extra
    metrics |= derived_metrics(task, metrics)
    if task.metric not in metrics:
        raise ValueError(f"{task.name}: metric {task.metric!r} is none of {', '.join(metrics)}")
    return metrics


def _extra(task: Task) -> dict[str, float] | None:
    """The task's own metrics; None of a model that has blown up and has nothing more to be measured."""
    try:
        return {name: float(value) for name, value in task.extra_metrics().items()}
    except (FloatingPointError, NotFiniteError):
        return None


def is_sound(task: Task, state: RunState, tensors: Mapping[str, mx.array]) -> bool:
    """Whether a state may replace earlier ones: its numbers are finite, and so are its losses on held-out data (a rate
    that is far too high leaves numbers that are finite and of no use).

    Args:
        task: its model holds the present parameters, for inference.
        state: of the run; an evaluation of this very step tells it all.
        tensors: parameters and optimiser state.
    """
    if not_finite(tensors) is not None:
        return False
    if state.evaluated == state.step:
        metrics = state.evaluations[-1]["metrics"]
        return math.isfinite(metrics["loss"]) and math.isfinite(metrics[task.metric])
    try:
        batch = next(iter(task.heldout_batches()))
    except DataError:  # a server that is gone
        return not state.skipped_in_row
    measured = [term for term, count in task.targets(batch).items() if count and term not in training_only(task)]
    losses = task.losses(to_device(batch))
    return all(math.isfinite(losses[term].item()) for term in measured)


def write_best(task: Task, run_dir: Path, parameters: dict[str, mx.array], info: dict) -> None:
    """Replaces `best/` by the task's export of `parameters` and `info.json` ({"step", "metric", "value", "metrics"}).

    After a kill and a resume, `best/` may hold a better model from the steps that are about to be repeated: it stays.
    """
    present = read_best(run_dir)
    if present is not None and present["value"] <= info["value"]:
        return
    with replaced_directory(Path(run_dir) / BEST) as directory:
        task.export(directory, parameters)
        write_text_atomic(directory / "info.json", json.dumps(info, indent=1))
