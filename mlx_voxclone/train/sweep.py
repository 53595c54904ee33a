"""Which learning rate: a short training with each of several, on the same data, side by side."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_voxclone.errors import CheckpointError, ConfigError, TrainingError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.locks import LOCK, held
from mlx_voxclone.process.progress import BARS, Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.clone.recover import CODES
from mlx_voxclone.train.run import DATA, run
from mlx_voxclone.train.saved.result import TrainResult

RATES = (1e-7, 4e-7, 1.5e-6, 5e-6, 2e-5)  # from what changes next to nothing to what others' runs broke at
STEPS, MEASUREMENTS = 60, 3
RESULT = "sweep.json"


@dataclass(frozen=True)
class Point:
    """One rate. `metrics`: held-out, of the last measurement; None where the training blew up, for `fault`."""

    rate: float
    first: dict[str, float] | None
    metrics: dict[str, float] | None
    metric: str
    fault: str | None = None

    @property
    def value(self) -> float:
        """What is compared, lower is better."""
        value = self.metrics[self.metric] if self.metrics is not None else math.inf
        return value if math.isfinite(value) else math.inf


def sweep(
    config: RunConfig,
    rates: Sequence[float],
    *,
    reporter: Reporter = BARS,
) -> list[Point]:
    """Train with each rate from the same start, in `RUN_DIR-sweep/lr-RATE`; data and codes are made once.

    Args:
        config: of a task with one training, with the number of steps that each is to have.
        rates: peaks of the schedule, above 0.
        reporter: shows a line per stage, warnings and progress; by default the progress alone.

    Raises:
        ConfigError: task `clone`, or a rate that is none.
        CheckpointError: the directory is there already, or another process is at work in it.
    """
    if len(config.stages) != 1:
        raise ConfigError("a sweep is for a single training: use task encoder, distill, language or speaker")
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates) or len(set(rates)) < len(rates):
        raise ConfigError("learning rates of a sweep must be different finite numbers above 0")
    home = config.run_dir.with_name(config.run_dir.name + "-sweep")
    with held(home, reporter.say):
        if any(entry.name != LOCK for entry in home.iterdir()):
            raise CheckpointError(f"{home}: exists already; move it away, or choose another output")
        points = _trained(config, rates, home, reporter)
        chosen = best(points)
        table = [{**vars(point), "value": point.value if math.isfinite(point.value) else None} for point in points]
        text = json.dumps({"task": config.task, "points": table, "best": chosen.rate if chosen else None}, indent=1)
        write_text_atomic(home / RESULT, text + "\n")
    return points


def _trained(config: RunConfig, rates: Sequence[float], home: Path, reporter: Reporter) -> list[Point]:
    """A training with each rate."""
    stage, points, first = config.stages[0], [], None
    for rate in rates:
        place = home / f"lr-{rate:g}"
        here = with_rate(config, stage, rate, place)
        if first is not None:
            here = _from(here, first)
        reporter.say(f"sweep: learning rate {rate:g}")
        try:
            results = run(here, reporter=reporter).results
        except TrainingError as e:
            points.append(Point(rate, None, None, "loss", str(e)))
        else:
            points.append(_point(rate, next(iter(results.values()))))
        first = first or place
    return points


def with_rate(config: RunConfig, stage: str, rate: float, place: Path) -> RunConfig:
    """The configuration with a rate, measured `MEASUREMENTS` times, never stopped early."""
    section = getattr(config, stage)
    every = max(1, section.train.steps // MEASUREMENTS) if section.train.steps else section.train.eval_every
    train = section.train.model_copy(
        update={"learning_rate": rate, "eval_every": every, "save_every": 0, "sample_every": 0, "patience": 0}
    )
    return config.model_copy(update={stage: section.model_copy(update={"train": train}), "output": place})


def best(points: Sequence[Point]) -> Point | None:
    """The rate whose training ended best; None if none became better than it was before the first step."""
    useful = [p for p in points if p.first is not None and p.value < p.first[p.metric]]
    return min(useful, key=lambda p: p.value, default=None)


def lines(points: Sequence[Point]) -> list[str]:
    """A table to print, and what it comes to."""
    names = list(dict.fromkeys(name for p in points for name in (p.metrics or {})))
    head = ["learning rate", *names]
    before = next((p.first for p in points if p.first is not None), {})
    rows = [["before", *(_shown(before.get(name)) for name in names)]]
    rows += [[f"{p.rate:g}", *(_shown((p.metrics or {}).get(name)) for name in names)] for p in points]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    told = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in [head, *rows]]
    told += [f"{p.rate:g}: {p.fault}" for p in points if p.fault]
    chosen = best(points)
    if chosen is None:
        return [*told, "no rate improved on the start: try more steps, other rates or more data"]
    told.append(f"best: {chosen.rate:g} (held-out {chosen.metric} {chosen.value:.4g})")
    usable = [p for p in points if p.fault is None]
    if len(usable) > 1 and chosen is max(usable, key=lambda p: p.rate):
        told.append("it is the highest of those tried; a higher one may be better still")
    return told


def _from(config: RunConfig, first: Path) -> RunConfig:
    """Take over what the first training of the sweep made of the data."""
    if (first / CODES).is_dir():
        shutil.copytree(first / CODES, config.run_dir / CODES)
    if not (first / DATA).is_dir():
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": first / DATA})})


def _point(rate: float, result: TrainResult) -> Point:
    first, last = (result.evaluations[k]["metrics"] for k in (0, -1))
    return Point(rate, first, last, result.metric)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
