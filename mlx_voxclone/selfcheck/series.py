"""The checks in their order, each in a process of its own: a crash of one ends only that one."""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.process.machine import Machine
from mlx_voxclone.selfcheck import numbers, work
from mlx_voxclone.selfcheck.outcome import CRASHED, SHORT, VERDICTS, Outcome, not_here
from mlx_voxclone.selfcheck.place import Place
from mlx_voxclone.version import __version__

FORMAT = 1
_RESULT = "outcome.json"


@dataclass(frozen=True)
class Check:
    """Attributes: name; what is looked at; the function that does it; seconds until it is given up, at the sizes of
    the miniature and of the release."""

    name: str
    what: str
    function: Callable[[Place], Outcome]
    patience: tuple[int, int] = (600, 600)

    @property
    def sized(self) -> bool:
        """Whether it computes at the release's sizes with `--full`."""
        return self.patience[0] != self.patience[1]


_SIZED = (600, 1200)
CHECKS = [
    Check("spectra", "spectra against numpy in float64", numbers.spectra),
    Check("kernels", "Metal kernels against MLX's operations", numbers.kernels),
    Check("precision", "BF16 against float32", numbers.precision),
    Check("quantised", "quantised layers against their own weights", numbers.quantised),
    Check("compiled", "compiled steps against plain ones", numbers.compiled),
    Check("alternatives", "what MLX offers beside what is used", numbers.alternatives),
    Check("streaming", "speech in pieces against speech at once", work.streaming),
    Check("resume", "a resumed training against an uninterrupted one", work.resume),
    Check("ranks", "two ranks against one process", work.ranks),
    Check("encoder-step", "a step of the encoder, and its memory", work.encoder_step, _SIZED),
    Check("lora-step", "a step of the adapters, and its memory", work.lora_step, _SIZED),
    *(
        Check(f"say-{bits}", f"load and speak at {bits} bits", partial(work.speaking, bits=bits), _SIZED)
        for bits in (16, 8, 4)
    ),
]
NAMES = [check.name for check in CHECKS]


@dataclass(frozen=True)
class Found:
    """A check, what came of it, and the seconds it took."""

    check: Check
    outcome: Outcome
    seconds: float


def run_series(
    device: str, *, full: bool, only: Sequence[str] = (), begin: Callable[[int, int, Check], object] = lambda *_: None
) -> Iterator[Found]:
    """Run the checks one after the other; each result comes as soon as it is there.

    Args:
        device: `gpu` or `cpu`.
        full: at the release's sizes, where a check has any.
        only: names of checks; none: all.
        begin: called before each with its number from 1, their count, and the check.
    """
    chosen = [check for check in CHECKS if not only or check.name in only]
    with tempfile.TemporaryDirectory(prefix="voxclone-selfcheck-") as folder:
        for k, check in enumerate(chosen, 1):
            begin(k, len(chosen), check)
            began = time.perf_counter()
            outcome = in_own_process(check, device, Place(Path(folder), full))
            yield Found(check, outcome, time.perf_counter() - began)


def in_own_process(check: Check, device: str, place: Place) -> Outcome:
    """What a check says; `crashed` if its process ended without a word, or had to be ended. A CPU that is too slow for
    the release's sizes is no fault."""
    result = place.folder / _RESULT
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "mlx_voxclone.selfcheck.child", check.name, device, str(place.folder)]
    patience = check.patience[place.full]
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        code = subprocess.run([*command, *(["full"] if place.full else [])], timeout=patience, **quiet).returncode
    except subprocess.TimeoutExpired:
        if device == "cpu" and place.full and check.sized:
            return not_here(
                f"not over within {patience} s: too slow a CPU for these sizes, or one with much other work"
            )
        return Outcome(CRASHED, f"it did not end within {patience} s")
    if not result.is_file():
        return Outcome(CRASHED, f"its process ended {_by(code)}")
    return Outcome(**parse_json(result.read_text(encoding="utf-8")))


def _by(code: int) -> str:
    import signal

    if code == -signal.SIGKILL:
        return "by SIGKILL: systems that run out of memory do that; close other programs and try again"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Where `in_own_process` finds it."""
    (folder / _RESULT).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def good(found: Sequence[Found]) -> bool:
    """Whether nothing fell short."""
    return not any(one.outcome.verdict in (SHORT, CRASHED) for one in found)


def table(found: Sequence[Found]) -> str:
    """A line per check, and the sum."""
    width = max(len(one.check.what) for one in found)
    columns = max(map(len, VERDICTS))
    lines = [
        f"{one.outcome.verdict:<{columns}}  {one.check.what:<{width}}  {one.seconds:5.0f} s  {one.outcome.told}"
        for one in found
    ]
    counts = {name: sum(one.outcome.verdict == name for one in found) for name in VERDICTS}
    return "\n".join([*lines, "", ", ".join(f"{count} {name}" for name, count in counts.items() if count)])


def as_json(found: Sequence[Found], machine: Machine, *, full: bool) -> dict[str, Any]:
    """All of it, without a path and without a name of a user or a machine."""
    checks = [{"name": one.check.name, "seconds": round(one.seconds, 1), **asdict(one.outcome)} for one in found]
    versions = {"voxclone": __version__, "mlx": mx.__version__, "python": platform.python_version()}
    return {"format": FORMAT, "full": full, "versions": versions, "machine": asdict(machine), "checks": checks}
