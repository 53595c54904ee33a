"""The result of a training (`summary.json` of its run directory), and the number of a training, for all steps."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.checkpoint.voices import is_voice_name
from mlx_voxclone.files.plain import is_number, read_json, read_plain
from mlx_voxclone.publish.run_directory import SUMMARY
from mlx_voxclone.studio.home import now

ADAPTED, ZERO_SHOT = "adapted", "zero-shot"  # what a run delivers
EARLIER = "earlier"  # folder of a voice: its earlier trainings, by their numbers
NUMBER = "training-number"  # file of a run that was put back: which training it is
_MOST = 64 << 20  # bytes of a summary


@dataclass(frozen=True)
class Result:
    """A run that has ended. What is missing or malformed in its summary is left out.

    Attributes:
        run: its directory.
        delivered: `adapted` or `zero-shot`; None where nothing was delivered. why: the command's sentence.
        measured: figures of what could have been delivered, by name.
        voice: name of the voice in the new checkpoint; None: there is no checkpoint. baked: where it was written.
        speech: what was said before and after.
        seconds: of all sittings. hours: of speech it was trained on. memory: GB at the peak.
    """

    run: Path
    delivered: str | None
    why: str
    measured: dict[str, dict[str, Any]]
    voice: str | None
    baked: Path | None
    speech: tuple[dict[str, Any], ...]
    seconds: float
    hours: float
    memory: float


def result_of(run: Path) -> Result | None:
    """Of a run directory; None: it has not ended, is none, or its summary cannot be read."""
    try:
        summary = read_json(run / SUMMARY, _MOST)
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict):
        return None
    delivered, baked, data = (_object(summary.get(key)) for key in ("delivered", "baked", "data"))
    voice, place = baked.get("voice"), baked.get("path")
    return Result(
        run=run,
        delivered=str(delivered.get("name", "")) if isinstance(summary.get("delivered"), dict) else None,
        why=str(delivered.get("why", "")),
        measured={str(one.get("name")): one for one in _objects(delivered.get("measured"))},
        voice=voice if isinstance(voice, str) and is_voice_name(voice) else None,
        baked=Path(place) if isinstance(place, str) and place else None,
        speech=tuple(_objects(summary.get("speech"))),
        seconds=number(summary.get("seconds")) or 0.0,
        hours=number(data.get("hours")) or 0.0,
        memory=number(summary.get("peak_memory_gb")) or 0.0,
    )


def training_number(run: Path) -> int:
    """Which training of its voice a run is, from 1: those before it were put aside under their numbers."""
    return own_number(run) or 1 + max((number for number, _ in earlier_runs(run)), default=0)


def own_number(run: Path) -> int | None:
    """The number that a run has kept: of one that was put back, whatever came after it. None: it is the latest."""
    try:
        found = read_plain(run / NUMBER, 16).decode("ascii", "replace")
    except (OSError, ValueError):
        return None
    return int(found) if found.isdecimal() and 0 < len(found) < 6 else None


def earlier_runs(run: Path) -> list[tuple[int, Path]]:
    """Numbers and directories of the trainings before a run, the last one first."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(run.parent / EARLIER):
            if entry.name.isascii() and entry.name.isdecimal() and len(entry.name) < 6 and entry.is_dir():
                found.append((int(entry.name), Path(entry.path)))
    return sorted(found, reverse=True)


def is_of(run: Path, training: object, created: float) -> bool:
    """Whether something was made from the present run of a voice, not from an earlier one.

    Args:
        training: its number, as it was noted; None: it was not.
        created: Unix seconds.
    """
    ended = _ended(run)  # None: put aside, or not at its end yet
    return ended is not None and created >= ended and training in (None, training_number(run))


def made_now(run: Path | None, others: Iterable[float]) -> float:
    """The time of something that is made of a run now: see `home.now`, and not before the run's end."""
    ended = None if run is None else _ended(run)
    return max(now(others), ended or 0.0)


def _ended(run: Path) -> float | None:
    """When a run came to its end, Unix seconds; None: it has not, or is not there."""
    try:
        return (run / SUMMARY).stat().st_mtime
    except OSError:
        return None


def number(value: Any) -> float | None:
    """A value of JSON as a number; None if it is no finite number."""
    return float(value) if is_number(value) else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(values: Any) -> list[dict[str, Any]]:
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []
