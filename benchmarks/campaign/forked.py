"""Commands as processes that start at once: forked from one that has imported what they need, and computed nothing.

A child is what `voxclone NAME ...` is after its imports: its own streams, signals, environment and working directory.
`python -m benchmarks.campaign.forked` reads requests as lines of JSON and answers with a process id, and at its end
with its exit code and the most memory that it took.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from mlx_voxclone.cli import COMMANDS, main, module_of

_LIBRARIES = ("numpy", "scipy.signal", "soundfile", "soxr", "yaml", "pydantic", "mlx.core", "mlx.nn", "tqdm")
_MODULES = (
    *map(module_of, COMMANDS),
    *(
        "mlx_voxclone.speech.speaker",
        "mlx_voxclone.data.prepare",
        "mlx_voxclone.settings.config",
        "mlx_voxclone.bake.bake",
    ),
)


class Forked:
    """The process that forks, for as long as the block lasts."""

    def __enter__(self) -> "Forked":
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(self, argv: list[str], cwd: Path, environment: dict[str, str], output: Path, errors: Path) -> int:
        """Process id of a command; its streams go to these files."""
        request = [argv, str(cwd), environment, str(output), str(errors)]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def ended(self) -> tuple[int, int]:
        """Wait for it: exit code, and the most memory as the system tells it (bytes on macOS, else KB)."""
        return self._answer(), self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def _serve() -> None:
    for name in (*_LIBRARIES, *_MODULES):
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(*json.loads(line))
        print(pid, file=answers, flush=True)
        _, status, usage = os.wait4(pid, 0)
        print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, sep="\n", file=answers, flush=True)


def _become(argv: list[str], cwd: str, environment: dict[str, str], output: str, errors: str) -> None:
    """Run a command in this process and end it."""
    code = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY), (2, errors, os.O_WRONLY)):
            descriptor = os.open(path, flags)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (lives as long as the process)
        sys.argv = ["voxclone", *argv]
        code = main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
