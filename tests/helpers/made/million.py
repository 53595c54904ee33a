"""A million rows, and the memory that reading them takes."""

import subprocess
import sys
from pathlib import Path

ROWS = 1_000_000


TEXT = "The old man went down to the river in the morning, and so did"


def growth(program: str, *arguments: object, imports: str = "") -> tuple[float, float, float]:
    """Bytes per row that `made = ...` keeps, the same at the peak, and CPU seconds; in a process of its own."""
    code = f"""
{imports}
import gc, resource, sys, time
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.listings.manifest import read_source
def kilobytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
gc.collect()
before, top, start = kilobytes("RssAnon"), kilobytes("VmHWM"), time.process_time()
made = {program}
seconds = time.process_time() - start
gc.collect()
print(kilobytes("RssAnon") - before, kilobytes("VmHWM") - top, seconds)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    kept, peak, seconds = map(float, run.stdout.split())
    return kept * 1024 / ROWS, peak * 1024 / ROWS, seconds
