"""A long training: memory and open files must stay where they were."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.campaign.interruptions import Tried
from benchmarks.campaign.place import copy_of
from benchmarks.campaign.process import ended, start

GROWTH, LEAST = 1.05, 20_000  # of resident memory, from a third of the time on; kB below which nothing is said
EVERY = 0.5  # seconds between two looks


def resident(pid: int) -> int:
    """Resident memory of a process in kB, 0 if it has ended."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return int(said.strip() or 0)


def open_files(pid: int) -> int:
    """Open files of a process, 0 where the system does not tell."""
    place = Path("/proc", str(pid), "fd")
    try:
        return len(list(place.iterdir()))
    except OSError:
        return 0


def endurance(good: Path, home: Path, steps: int) -> Iterator[Tried]:
    """`steps` steps of either training, with measurements, samples and checkpoints on the way."""
    for task in ("encoder", "speaker"):
        place = copy_of(good, home / "place")
        every = max(1, steps // 30)
        argv = ["train", "--config", "train.yaml", "--quiet", "--set", f"task={task}", "--set", "output=run"]
        lengths = {"steps": steps, "eval_every": every, "save_every": every, "sample_every": every}
        argv += [part for key, value in lengths.items() for part in ("--set", f"{task}.train.{key}={value}")]
        process, seen = start(argv, place), []
        while process.poll() is None:
            seen.append((resident(process.pid), open_files(process.pid)))
            time.sleep(EVERY)
        done = ended(process, place, 1.0)
        faults = [*done.faults, *([f"exit code {done.code}: {done.errors[-200:]}"] if done.code else [])]
        memory, files = np.array([one for one in seen if one[0]]).T
        third = len(memory) // 3
        early, late = np.median(memory[third : third + third // 2 + 1]), np.median(memory[-third // 2 :])
        if late > max(early * GROWTH, early + LEAST):
            faults.append(f"memory grew from {early / 1000:.0f} to {late / 1000:.0f} MB")
        if files[-third // 2 :].max() > files[third : 2 * third].max() + 2:
            faults.append(f"open files grew from {files[third : 2 * third].max()} to {files[-third // 2 :].max()}")
        figures = f"{early / 1000:.0f} -> {late / 1000:.0f} MB, {files.max()} files"
        yield Tried("endurance", f"{task}, {steps} steps: {figures}", tuple(faults))
