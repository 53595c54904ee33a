"""What a training has come to, read from its own files: the log of each stage, its samples, what the command says.

Nothing here needs the process that trains, so it is the same after a restart, in two tabs, and for a training that the
command line has started.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlx_voxclone.files.plain import is_number, parse_json
from mlx_voxclone.files.run_log import LOG_NAME, RESERVED, read_log

STARTED = "--- started "  # begins a line of the output that the studio writes at every start
PARTS = ("recordings", "hearing", "voice", "comparing", "writing")  # of a training, in order
BASE, ENCODER, SPEAKER = "base", "encoder", "speaker"
_BEGIN = {  # first words of a line of the command's -> the part that it belongs to
    "data:": "recordings",
    "pairs:": "hearing",
    "encoder": "hearing",
    "prior:": "hearing",
    "codes:": "hearing",
    "judge:": "hearing",
    "teacher:": "hearing",
    "speaker:": "voice",
    "delivered:": "comparing",
    "say:": "comparing",
    "bake:": "writing",
    "report:": "writing",
}
_BASE = re.compile(r"encoder: training the model's base encoder on pairs, .* in (/.+)")
_RESULT = "result.json"  # of a stage that has ended
_TAIL = 1 << 16  # bytes of the output that are looked at
_LATEST = 20  # steps whose time says how long the next ones take


@dataclass(frozen=True)
class Measurement:
    """Held-out figures at a step. `best`: better than all before."""

    step: int
    metrics: dict[str, float]
    best: bool


@dataclass(frozen=True)
class Stage:
    """One of a run's trainings.

    Attributes:
        name: `base`, `encoder`, `encoder-2`, ... or `speaker`. step, total: optimiser steps, complete and in all.
        losses: (step, training loss). measured: see `Measurement`. seconds: that a step takes; None: not known yet.
        seconds_measuring: that a measurement takes. measures_every: steps between two of them; 0: none.
    """

    name: str
    step: int
    total: int
    losses: tuple[tuple[int, float], ...]
    measured: tuple[Measurement, ...]
    seconds: float | None
    seconds_measuring: float
    measures_every: int

    @property
    def left(self) -> float | None:
        """Seconds until its last step; None: not known yet."""
        if self.seconds is None:
            return None
        still = self.total - self.step
        times = (
            0 if not self.measures_every else -(-self.total // self.measures_every) - self.step // self.measures_every
        )
        return still * self.seconds + times * self.seconds_measuring


@dataclass(frozen=True)
class Sample:
    """A sentence that a stage has said (or an encoder has passed on) after a step. `path` within the run directory."""

    stage: str
    step: int
    path: Path
    text: str


@dataclass(frozen=True)
class Look:
    """A run as it stands.

    Attributes:
        part: of PARTS, which it is at; None: it has not begun. stages: trainings that have a log, in order.
        samples: the newest step first.
        lines: last lines of the command. error: its last one, where that ended it; "" for none.
    """

    part: str | None = None
    stages: tuple[Stage, ...] = ()
    samples: tuple[Sample, ...] = ()
    lines: tuple[str, ...] = ()
    error: str = ""

    @property
    def stage(self) -> Stage | None:
        """The training that is under way, or was the last one."""
        return self.stages[-1] if self.stages else None

    @property
    def training(self) -> bool:
        """Whether steps of a training are what is being done."""
        return self.part in ("hearing", "voice") and self.stage is not None and self.stage.step < self.stage.total


def look(run: Path, output: Path) -> Look:
    """Read a run.

    Args:
        run: its directory, which need not be there. output: file with what the command has said.
    """
    lines = last_lines(output)
    places = _stages(run, lines)
    stages = tuple(stage for name, place in places if (stage := _stage(name, place / LOG_NAME)) is not None)
    return Look(
        part=_part(run, lines),
        stages=stages,
        samples=tuple(_samples(run, [name for name, _ in places if name != BASE])),
        lines=lines,
        error=error_in(lines),
    )


def last_lines(output: Path) -> tuple[str, ...]:
    """What the command has said since it was last started; of a long output its end."""
    try:
        with open(output, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    lines = text.splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith(STARTED)]
    return tuple(lines[starts[-1] + 1 :] if starts else lines)


def error_in(lines: Sequence[str]) -> str:
    """The line that told the end of a command that failed, of what it has said; "" where it did not."""
    said = [line for line in lines if line.strip()]
    if said and said[-1].startswith("error: "):
        return said[-1].removeprefix("error: ")
    if any(line.startswith("Traceback (most recent call last)") for line in said):
        return said[-1]
    return ""


def _part(run: Path, lines: Sequence[str]) -> str | None:
    found = None
    for line in lines:
        for begin, part in _BEGIN.items():
            if line.startswith(begin) and (found is None or PARTS.index(part) >= PARTS.index(found)):
                found = part
    if found == "voice" and (run / SPEAKER / _RESULT).is_file():
        return "comparing"  # the training has ended, and nothing has been chosen yet
    return found or ("recordings" if lines else None)


def _stages(run: Path, lines: Sequence[str]) -> list[tuple[str, Path]]:
    """Names and directories of the trainings, in order."""
    base = next((Path(match[1]) for line in lines if (match := _BASE.match(line))), None)
    rounds = [path for path in run.glob(f"{ENCODER}-*") if path.name.rpartition("-")[2].isdecimal()]
    again = sorted(rounds, key=lambda path: int(path.name.rpartition("-")[2]))
    found = [(BASE, base)] if base is not None else []
    return [*found, (ENCODER, run / ENCODER), *((path.name, path) for path in again), (SPEAKER, run / SPEAKER)]


def _stage(name: str, log: Path) -> Stage | None:
    try:
        status = log.stat()
    except OSError:
        return None
    return _read_stage(name, log, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _read_stage(name: str, log: Path, changed: int, size: int) -> Stage | None:
    """A stage by its log; `changed` and `size` are those of the file, which is read once for all who look."""
    try:
        records = read_log(log)
    except (OSError, ValueError):
        return None
    started = next((record for record in reversed(records) if record.get("event") == "start"), None)
    if started is None:
        return None
    settings = started.get("settings") or {}
    steps = [record for record in records if "event" not in record]
    evaluations = [record for record in records if record.get("event") == "eval"]
    measured = [Measurement(int(e["step"]), _numbers(e.get("metrics")), bool(e.get("best"))) for e in evaluations]
    taken = [float(e["eval_seconds"]) for e in evaluations if is_number(e.get("eval_seconds"))]
    total = (started.get("schedule") or {}).get("total_steps", 0)
    return Stage(
        name=name,
        step=max([int(record["step"]) for record in (*steps, *evaluations)], default=0),
        total=int(total),
        losses=tuple((int(r["step"]), float(r["loss"])) for r in steps if is_number(r.get("loss"))),
        measured=tuple(measured),
        seconds=_seconds_a_step(steps, evaluations),
        seconds_measuring=sum(taken) / len(taken) if taken else 0.0,
        measures_every=int(settings.get("eval_every") or 0),
    )


def _seconds_a_step(steps: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> float | None:
    """Of the latest steps, without the measurements between them."""
    latest = [record for record in steps[-_LATEST:] if is_number(record.get("seconds"))]
    if len(latest) < 2:
        return None
    first, last = latest[0], latest[-1]
    between = sum(
        float(e["eval_seconds"])
        for e in evaluations
        if is_number(e.get("eval_seconds")) and first["step"] <= e["step"] < last["step"]
    )
    count = last["step"] - first["step"]
    return max(0.0, last["seconds"] - first["seconds"] - between) / count if count > 0 else None


def terms(metrics: dict[str, float]) -> dict[str, float]:
    """Held-out figures that are no loss and no part of one: similarity, error rate and the like."""
    return {name: value for name, value in metrics.items() if name not in RESERVED}


def _numbers(metrics: Any) -> dict[str, float]:
    found = metrics if isinstance(metrics, dict) else {}
    return {name: float(value) for name, value in found.items() if is_number(value)}


# ---- samples ---------------------------------------------------------------------------------------------------------


def _samples(run: Path, names: Sequence[str]) -> list[Sample]:
    found, texts = [], _texts(run / "data" / "manifest.jsonl")
    for name in names:
        for folder in (run / name / "samples").glob("step-*"):
            number = folder.name.removeprefix("step-")
            for path in sorted(folder.glob("*.wav")) if number.isdecimal() else ():
                clip, _, role = path.stem.rpartition("-")
                if role == "original":
                    continue
                text = texts.get(path.stem) or texts.get(clip, "")
                found.append(Sample(name, int(number), path.relative_to(run), text))
    order = {name: k for k, name in enumerate(names)}
    return sorted(found, key=lambda one: (-order[one.stage], -one.step, one.path.name))


def _texts(manifest: Path) -> dict[str, str]:
    """Texts of the clips by their ids."""
    try:
        status = manifest.stat()
    except OSError:
        return {}
    return _read_texts(manifest, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _read_texts(manifest: Path, changed: int) -> dict[str, str]:
    found = {}
    for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line)
            found[str(entry["id"])] = str(entry.get("text") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
