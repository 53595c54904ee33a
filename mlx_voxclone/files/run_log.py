"""The run's log (`log.jsonl`) and its progress bar.

One JSON object per line. A step line has no `event`; others say what they are: `start`, `eval`, `skip`, `checkpoint`,
`resume`, `end`. The file is only ever appended to. A run that was killed and resumed from step k may therefore hold
lines of steps after k twice: the line `{"event": "resume", "step": k}` declares all earlier lines with a step
beyond k void, and `read_log` leaves them out.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mlx_voxclone.files.plain import open_own, parse_json
from mlx_voxclone.process.progress import listener

LOG_NAME = "log.jsonl"
BOARDS_FOLDER = "boards"  # folder of a run directory: what boards of the user's own keep there (`tracking/boards.py`)
# Keys of a step line that no loss term may be called.
RESERVED = frozenset(
    {"event", "step", "epoch", "lr", "loss", "grad_norm", "items_per_s", "targets_per_s", "seconds"}
    | {"peak_memory_gb", "skipped"}
)


_watcher: ContextVar[Callable[[Path, dict], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def records_to(watcher: Callable[[Path, dict], None]) -> Iterator[None]:
    """In this block `watcher` is called with a log's path and each record that has been written to it."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class JsonLog:
    """Appends records to a JSON Lines file, one write per line.

    A half line at the end (the machine stopped while writing it) is cut off on opening, so that every line parses.
    Numbers that are not finite, which JSON cannot hold, are written as the texts "nan", "inf", "-inf".
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = open(self.path, "a+b", buffering=0, opener=open_own)  # noqa: SIM115 (lives as long as the run)
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file.fileno(), whole)

    def write(self, record: dict) -> None:
        line = (json.dumps(_finite(record), allow_nan=False, ensure_ascii=False) + "\n").encode()
        try:
            self._file.write(line)
        except OSError as e:  # of an open file the system does not say which
            raise OSError(e.errno, e.strerror, str(self.path)) from e
        if (watcher := _watcher.get()) is not None:
            watcher(self.path, record)

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[dict]:
    """The valid records of a log, in order: what a resume superseded is left out, and so is a half line at the end."""
    records: list[dict] = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        if record.get("event") == "resume":
            records = [old for old in records if old.get("step", 0) <= record["step"]]
        records.append(record)
    return records


def add_to_window(window: dict, /, **figures) -> None:
    """Adds numbers, or dicts of numbers, to the sums of the steps since the last logged one."""
    for name, figure in figures.items():
        if isinstance(figure, dict):
            add_to_window(window.setdefault(name, {}), **figure)
        else:
            window[name] = window.get(name, 0) + figure


def window_record(window: dict, weights: Mapping[str, float]) -> dict:
    """Loss and terms (means over the targets), gradient norm (mean over the steps) and speed of a window."""
    terms = {term: window["sums"][term] / count for term, count in window["targets"].items() if count}
    return {
        "loss": sum(weights[term] * value for term, value in terms.items()),
        **terms,
        "grad_norm": window["norm"] / window["steps"],
        "items_per_s": window["items"] / window["seconds"],
        "targets_per_s": sum(window["targets"].values()) / window["seconds"],
    }


def _finite(value):
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


class Progress:
    """Progress on stderr: a bar with loss, speed and time left on a terminal, else a line every tenth of the way.

    Where a caller listens (`progress.told_to`) nothing is shown: it receives every step and line.
    """

    def __init__(self, name: str, total: int, start: int = 0, *, quiet: bool = False):
        self.name, self.total, self.quiet = name, total, quiet
        self._began, self._start, self._tenth = time.monotonic(), start, start * 10 // total
        self._bar, self._listener = None, listener()
        if self._listener is None and sys.stderr.isatty() and not quiet:
            from tqdm import tqdm  # here: it is not needed for --help

            self._bar = tqdm(total=total, initial=start, desc=name, unit="step", dynamic_ncols=True, file=sys.stderr)

    def step(self, step: int, loss: float, items_per_second: float) -> None:
        """Step `step` (1-based) is complete."""
        if self._listener is not None:
            self._listener.progress(step, self.total, self.name)
            return
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}, {items_per_second:.3g} items/s", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        tenth = step * 10 // self.total
        if tenth > self._tenth:
            self._tenth = tenth
            left = (time.monotonic() - self._began) / (step - self._start) * (self.total - step)
            self.note(
                f"{self.name}: step {step}/{self.total}, loss {loss:.4g}, {items_per_second:.3g} items/s, "
                f"{_clock(left)} left"
            )

    def note(self, line: str) -> None:
        """A line beside the bar; nothing when quiet."""
        if not self.quiet:
            self.say(line)

    def say(self, line: str) -> None:
        """A line that the user must see: warnings, how to resume."""
        if self._listener is not None:
            self._listener.message(line)
        elif self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
