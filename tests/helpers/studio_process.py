"""`voxclone studio` as a process of its own, and `voxclone` commands beside it."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.train.trainings import Trainings

VOXCLONE = (sys.executable, "-m", "mlx_voxclone.cli")
PATIENCE = 120.0  # seconds for a start or an end, on a busy machine
_ADDRESS = re.compile(r"open (http://127\.0\.0\.1:\d+)/ ")


class StudioProcess:
    """A studio on a free port.

    Args:
        folder: its folder. said: a file that keeps what it says.

    Attributes:
        address: without the last slash.
    """

    def __init__(self, folder: Path, said: Path) -> None:
        self.folder, self._said = folder, said
        arguments = ("studio", "--folder", str(folder), "--port", "0", "--no-open")
        with said.open("wb") as output:
            self._process = subprocess.Popen((*VOXCLONE, *arguments), stdout=output, stderr=output)
        self.address = self._wait_for_address()

    def close(self) -> int:
        """Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it and every training that it has begun, if a test did not."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        home = Home(self.folder)
        trainings = Trainings(home)
        for person in home.people():
            for project in person.projects():
                if trainings.state(project).open:
                    trainings.leave(project)

    def said(self) -> str:
        return self._said.read_text(encoding="utf-8")

    def _wait_for_address(self) -> str:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            if found := _ADDRESS.search(self.said()):
                return found[1]
            time.sleep(0.05)
        self._process.kill()
        raise AssertionError(f"no address: {self.said()}")


def voxclone(*arguments: str | Path) -> subprocess.CompletedProcess:
    """A command of ours, to its end."""
    return subprocess.run([*VOXCLONE, *map(str, arguments)], capture_output=True, text=True, timeout=5 * PATIENCE)
