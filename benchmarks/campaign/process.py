"""A command as a process of its own: what it said, how it ended, how long it took, and what it left behind."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRACEBACK = "Traceback (most recent call last)"
HANG_SECONDS = 30.0  # after a signal, or for an input that is refused
RUN = "import sys; from mlx_voxclone.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code; negative: killed by that signal.
        errors: what it wrote to stderr.
        seconds: from start to end; of a signalled process, from the signal on.
        hung: it had to be killed.
    """

    code: int
    errors: str
    seconds: float
    hung: bool = False

    @property
    def faults(self) -> list[str]:
        """What must never happen, whatever the input."""
        found = ["hung"] if self.hung else []
        if TRACEBACK in self.errors:
            found.append("traceback: " + self.errors.strip().splitlines()[-1][:200])
        if self.code < 0 and not self.hung:
            found.append(f"died of signal {-self.code}")
        return found


def start(
    argv: Sequence[str], cwd: Path, *, file_bytes: int | None = None, stdout=subprocess.DEVNULL
) -> subprocess.Popen:
    """Start `voxclone` with arguments; its stderr goes to `cwd/stderr.txt`.

    Args:
        file_bytes: the largest file that it may write; None: no limit.
        stdout: as `subprocess.Popen` takes it.
    """

    def limited() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):  # which nohup and a shell's background jobs ignore
            signal.signal(number, signal.SIG_DFL)
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    with (cwd / "stderr.txt").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", RUN, *argv],
            cwd=cwd,
            stdout=stdout,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "VOXCLONE_CACHE": str(cwd / "cache")},
            preexec_fn=limited,
        )


def ended(process: subprocess.Popen, cwd: Path, timeout: float) -> Ended:
    """Wait for a process; beyond `timeout` seconds it is killed, and hung."""
    began, hung = time.perf_counter(), False
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        hung = True
    said = (cwd / "stderr.txt").read_text(encoding="utf-8", errors="replace")
    return Ended(process.returncode, said, time.perf_counter() - began, hung)


def run(argv: Sequence[str], cwd: Path, timeout: float = 600.0, **options) -> Ended:
    """Start and wait."""
    return ended(start(argv, cwd, **options), cwd, timeout)
