"""A command of ours in a process of its own, which ends with its task: within seconds when that is cancelled."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio.tasks import Task

PROGRAM = (sys.executable, "-m", "mlx_voxclone.cli")
PATIENCE = 3.0  # seconds that a process has to clear up
_OFTEN = 0.1  # seconds between two looks
_MOST = 1 << 20  # bytes of what it says that are read


def carry_out(
    task: Task,
    arguments: Sequence[str],
    *,
    folder: Path,
    watch: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run `voxclone ARGUMENTS`; returns its standard output.

    Args:
        folder: the process's working directory.
        watch: called again and again; may raise what `task.progress` does.
        environment: variables beside ours.

    Raises:
        CheckpointError: it has failed, with its line.
        Cancelled: the task was cancelled; the process has ended.
    """
    package = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"} | dict(environment or {})
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=surroundings,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                task.check()
                watch()
                time.sleep(_OFTEN)
        finally:
            _end(process)
        if process.returncode:
            raise CheckpointError(_line(_text(errors), process.returncode))
        return _text(output)


def _end(process: subprocess.Popen) -> None:
    """End it and all that it has started, if it runs still."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)


def _text(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MOST))
    return file.read().decode("utf-8", "replace")


def _line(said: str, code: int) -> str:
    """The line of a mistake in what a command says."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    found = next((line.partition("error: ")[2] for line in reversed(lines) if "error: " in line), "")
    return found or (lines[-1] if lines else f"the command has ended with code {code}")
