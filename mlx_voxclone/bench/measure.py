"""Seconds, CPU seconds and memory of a piece of work; the machine's own limit; other programs for comparison.

Ratios are of runs that take turns, so that what else the machine does meets all of them alike.
"""

import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

import mlx.core as mx

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json

GEMM_SIZE = {"cpu": 2048, "gpu": 4096}
PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"  # in the repository; not in a wheel
# Environment variables that name interpreters which have other programs: vLLM-Omni with PyTorch, mlx-audio.
SERVING, MLX_AUDIO = "VOXCLONE_SERVING_PYTHON", "VOXCLONE_MLX_AUDIO_PYTHON"


@dataclass(frozen=True)
class Sample:
    """One run of a piece of work.

    Args:
        seconds: on the clock.
        cpu_seconds: of all threads; where other processes take the cores, the only figure that means something.
        peak: bytes of MLX's memory at the worst moment, what was alive before it included.
    """

    seconds: float
    cpu_seconds: float
    peak: int


@dataclass(frozen=True)
class Peer:
    """What a user would have used instead, in the same run.

    Args:
        name: program and version.
        seconds, cpu_seconds: for the same work.
        peak: bytes at the worst moment, 0 where it does not say.
        memory: what `peak` counts, such as "MLX's memory" or "resident".
        more: other figures by name, JSON-ready.
    """

    name: str
    seconds: float
    cpu_seconds: float = 0.0
    peak: int = 0
    memory: str = ""
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: of the work, such as "decode".
        what: sizes and precision, for a reader.
        speed: units of work per second.
        unit: of the speed, such as "frames/s" or "tokens/s".
        seconds, cpu_seconds: of one run, medians.
        peak: bytes of MLX's memory at the worst moment.
        share: of the machine's rate of matrix products that was reached; None where products are not what it does.
        peers: what others take for it.
        more: other figures by name, JSON-ready.
    """

    name: str
    what: str
    speed: float
    unit: str
    seconds: float
    cpu_seconds: float
    peak: int
    share: float | None = None
    peers: Sequence[Peer] = ()
    more: Mapping[str, object] = field(default_factory=dict)


def sample(work: Callable[[], object]) -> Sample:
    """Run `work` once, which must evaluate what it makes."""
    mx.reset_peak_memory()
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return Sample(time.perf_counter() - began, time.process_time() - began_cpu, mx.get_peak_memory())


def median(samples: Sequence[Sample]) -> Sample:
    """Medians of the times, the largest of the peaks."""
    return Sample(
        statistics.median(s.seconds for s in samples),
        statistics.median(s.cpu_seconds for s in samples),
        max(s.peak for s in samples),
    )


def taking_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Sample]:
    """Each of the works once to warm up, then `repeats` times in turn; medians by name."""
    for work in works.values():
        work()
    found: dict[str, list[Sample]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(sample(work))
    return {name: median(samples) for name, samples in found.items()}


def beside(work: Callable[[], object], peers: Sequence["PeerProcess"], repeats: int) -> tuple[list[Sample], list[Peer]]:
    """`work` once to warm up, then `repeats` times in turn with what each of the peers does, which are warm already.

    Returns:
        The samples of `work`; of each peer the medians of its times and the largest of its peaks.
    """
    work()
    samples, found = [], [[] for _ in peers]
    for _ in range(repeats):
        samples.append(sample(work))
        for peer, runs in zip(peers, found):
            runs.append(peer.run())
    return samples, [
        Peer(
            runs[0].name,
            statistics.median(run.seconds for run in runs),
            statistics.median(run.cpu_seconds for run in runs),
            max(run.peak for run in runs),
            runs[0].memory,
        )
        for runs in found
    ]


def peak_resident() -> int:
    """The most memory this process has had in RAM so far, in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # kilobytes everywhere but there


def threads() -> int:
    """Threads that products run on here, for peers to have as many: what the environment says, or one per core."""
    named = (os.environ.get(name, "") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"))
    return next((int(value) for value in named if value.isdigit() and int(value)), os.cpu_count() or 1)


def product_rate(dtype: mx.Dtype = mx.float32) -> tuple[float, float]:
    """Operations per second of large square matrix products of a type: on the clock, and per second of CPU time."""
    size = GEMM_SIZE["cpu" if mx.default_device() == mx.cpu else "gpu"]
    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(a, b, a @ b)
    found = median([sample(lambda: mx.eval(a @ b)) for _ in range(3)])
    return 2 * size**3 / found.seconds, 2 * size**3 / max(found.cpu_seconds, 1e-9)


def without_peers() -> str | None:
    """Why no other program can be run; None where they can be."""
    return None if PEERS.is_dir() else "other programs are left out: what runs them is in the repository only"


@cache
def peer_module(name: str) -> ModuleType | None:
    """A module of `benchmarks/peers/` that runs in this process; None in an installed package, which has none."""
    path = PEERS / f"{name}.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"benchmarks.peers.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def interpreter(variable: str, module: str) -> str | None:
    """The Python that an environment variable names, if it is there and has `module`; None if not, and where there are
    no scripts for it to run."""
    python = os.environ.get(variable)
    if not python or not PEERS.is_dir() or not shutil.which(python):
        return None
    has_it = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return python if subprocess.run([python, "-c", has_it], check=False).returncode == 0 else None


class PeerProcess:
    """A script of `benchmarks/peers/` in an interpreter of its own, which does its work whenever it is asked to.

    The script prints one JSON object when it is ready (its own name under "name"), and after each line that it reads
    one with `seconds`, `cpu_seconds`, `peak` (bytes), `memory` and, if it has any, `more`. So both sides take
    turns in one run.

    Args:
        preload: whether a library that this process was started with (`LD_PRELOAD`) is loaded there, too. PyTorch would
            multiply by an OpenBLAS that was meant for MLX.

    Raises DataError, in one line, when the script fails.
    """

    def __init__(self, python: str, script: str, *arguments: str, preload: bool = True):
        environment = {name: value for name, value in os.environ.items() if preload or name != "LD_PRELOAD"}
        # Not a pipe, as nobody reads it while the script runs.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, str(PEERS / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        self.about = self._answer()

    def run(self) -> Peer:
        """One run of its work."""
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return Peer(name=self.about["name"], **self._answer())

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        try:
            return parse_json(line)
        except ValueError:
            self._process.wait(timeout=30) if not line else self._process.kill()
            self._said.seek(0)
            said = (self._said.read().decode(errors="replace") or line).strip().splitlines()
            raise DataError(f"{self._process.args[1]}: {said[-1] if said else 'ended without a word'}") from None

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(self, *_) -> None:
        self.close()
