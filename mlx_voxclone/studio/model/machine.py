"""What this machine can train, and in what time: the profile that fits it at once, `doctor`'s trials on demand.

The trials run in a process of their own: they end at once when they are cancelled, and leave no memory behind.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlx_voxclone.files.atomic import free_bytes
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.process.machine import Machine
from mlx_voxclone.studio.child import run
from mlx_voxclone.studio.model.choice import Chosen
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.train.plan import FEWEST, profile, settings
from mlx_voxclone.studio.train.process import COMMAND

KIND = "forecast"  # of the task
LEAST = 15e9  # bytes of memory with which the smallest profile may fit
FITS, TIGHT, TOO_SMALL = "fits", "tight", "too_small"
PARTS = ("pairs", "base_encoder", "encoder", "again", "codes", "judging", "speaker", "voice", "delivery")
_TIGHT = 0.9  # of what is usable
_NAMES = {"base encoder": "base_encoder", "encoder, on judged codes": "again"}
_ONCE = ("pairs", "base_encoder")  # made at the first training, for all later ones
_ASSUMED = 200  # recordings: 20 minutes of them, as doctor assumes where there are none yet


def verdict(needed: float, there: float) -> str:
    """Whether so many bytes fit into those that are there."""
    share = needed / there if there > 0 else float("inf")
    return FITS if share <= _TIGHT else TIGHT if share <= 1 else TOO_SMALL


def forecast(task: Task, chosen: Chosen, machine: Machine, folder: Path, command=COMMAND) -> dict[str, Any]:
    """The work of a task: try small steps of a real training; what they say, see `summary`.

    Args:
        folder: where trainings write, whose disk is asked.

    Raises:
        Cancelled: it was cancelled. CheckpointError: the trials failed.
    """
    task.progress(0, None, "")
    content = settings(chosen, machine, recordings=max(FEWEST, _ASSUMED), judged=False)
    content = {"task": "clone", "model": chosen.model, "output": str(folder / "forecast"), "voice": "voice"} | content
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "forecast.yaml")
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        said = run(task, [*command, "doctor", "--config", str(file), "--json", "--quiet"], folder=Path(place))
    found = parse_json(said)
    return {"model": chosen.model, "profile": profile(machine), **summary(found)}


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `doctor --json` found, as the page tells it.

    Returns:
        `memory` and `usable` (bytes), `memory_verdict`; `seconds` in all, `once` of them for what later trainings use
        again; `disk` needed and `free` (bytes), `disk_verdict`; `parts`, a list of [key of PARTS, seconds].
    """
    stages = found["stages"]
    parts = [[_NAMES.get(stage["stage"], stage["stage"]), float(stage["seconds"])] for stage in stages]
    memory = max((float(stage["peak"]) for stage in stages), default=0.0)
    usable = float(found["machine"]["usable"])
    disks = [(sum(found["disk"].values()), float(found["free"]))]
    if other := found.get("cache_disk"):
        disks.append((sum(other["needed"].values()), float(other["free"])))
    needed, free = max(disks, key=lambda disk: disk[0] - disk[1])  # the one that is filled first
    return {
        "memory": memory,
        "usable": usable,
        "memory_verdict": verdict(memory, usable),
        "seconds": sum(seconds for _, seconds in parts),
        "once": sum(seconds for name, seconds in parts if name in _ONCE),
        "disk": needed,
        "free": free,
        "disk_verdict": verdict(needed, free),
        "parts": [part for part in parts if part[0] in PARTS and part[1] > 0],
    }


def free_space(folder: Path) -> int:
    """Bytes free where the studio keeps its voices."""
    return free_bytes(folder)
