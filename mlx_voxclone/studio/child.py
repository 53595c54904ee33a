"""A program in a process of its own, which ends with its task: within seconds when that is cancelled.

It has a folder for its temporary files, and holds a lock in it: where the studio is killed, the next one finds and ends
what still runs (`temporary.clear`).
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from mlx_voxclone.studio.mistakes import Cancelled
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.temporary import LOCK, TASK, system_folder
from mlx_voxclone.studio.train.process import COMMAND, holding
from mlx_voxclone.studio.train.process import environment as ours
from mlx_voxclone.studio.troubles import FromCommand

PATIENCE = 3.0  # seconds that a process has to clear up
_OFTEN = 0.1  # seconds between two looks
_MOST = 1 << 20  # bytes of its output that are read, from the end


class Failed(FromCommand):
    """A program that has failed, with the line of its mistake.

    Attributes:
        said: its standard error, the last MiB of it.
    """

    def __init__(self, line: str, said: str) -> None:
        super().__init__(line)
        self.said = said


class Stopped(Cancelled):
    """A program that was ended, for its task was cancelled.

    Attributes:
        output, said: its standard output and standard error, the last MiB of each.
    """

    def __init__(self, output: str, said: str) -> None:
        super().__init__("cancelled")
        self.output, self.said = output, said


def carry_out(
    task: Task,
    arguments: Sequence[str],
    *,
    folder: Path,
    watch: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """`run` for `voxclone ARGUMENTS`, which may clear up before it ends."""
    return run(task, [*COMMAND, *arguments], folder=folder, watch=watch, environment=environment, patience=PATIENCE)


def run(
    task: Task,
    program: Sequence[str],
    *,
    folder: Path | None = None,
    watch: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
    patience: float = 0.0,
) -> str:
    """Run a program with its arguments; returns its standard output.

    Args:
        folder: the process's working directory.
        watch: called again and again; may raise what `task.progress` does.
        environment: variables added to this process's own.
        patience: seconds that it has to clear up when the task is cancelled; 0: it is ended at once.

    Raises:
        Failed: it has failed.
        Stopped: the task was cancelled; the process has ended.
    """
    with (
        tempfile.TemporaryDirectory(prefix=TASK) as own,
        tempfile.TemporaryFile(dir=system_folder()) as output,
        tempfile.TemporaryFile(dir=system_folder()) as errors,
    ):
        process = holding(
            [Path(own, LOCK)],
            program,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=ours() | {"TMPDIR": own} | dict(environment or {}),
        )
        try:
            while process.poll() is None:
                task.check()
                watch()
                time.sleep(_OFTEN)
        except Cancelled:
            _end(process, patience)
            raise Stopped(_text(output), _text(errors)) from None
        finally:
            _end(process, patience)
        if process.returncode:
            said = _text(errors)
            raise Failed(_line(said, process.returncode), said)
        return _text(output)


def _end(process: subprocess.Popen, patience: float) -> None:
    """End a process and all that it has started, if it still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL) if patience else (signal.SIGKILL,):
        if process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience or PATIENCE)


def _text(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MOST))
    return file.read().decode("utf-8", "replace")


def _line(said: str, code: int) -> str:
    """The error line in a command's output."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    found = next((line.partition("error: ")[2] for line in reversed(lines) if "error: " in line), "")
    return found or (lines[-1] if lines else f"the command has ended with code {code}")
