"""One training spread over several processes ("ranks") by `mlx.launch`: what they exchange.

Every rank holds the same masters and draws the same groups; of a group's micro-batches each rank computes its share and
the gradients are added up (`gradients.py`). Rank 0 alone measures, decides and writes, and sends the others what came
of it. A process that no launcher started is the one rank of `ALONE`, for which all of this does nothing.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.errors import ConfigError, RankLostError, VoxcloneError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.process.amounts import shortened

BUCKET = 8 << 20  # float32 numbers that are added up at once: 32 MB
WAIT_VARIABLE, WAIT_MINUTES = "VOXCLONE_RANK_WAIT_MINUTES", 30.0
_LOST = "another rank has ended or cannot be reached (its last line may say why)"


class Ranks:
    """The ranks of a run and this process's place among them; without a group, one that is alone."""

    def __init__(self, group: mx.distributed.Group | None = None):
        self._group = group
        self.rank, self.size = (0, 1) if group is None else (group.rank(), group.size())
        self.stopping = False  # Ctrl-C reached some rank: all know of it, after the same step
        self.last_words: Callable[[], str] = lambda: ""  # what to add when this process gives up waiting
        self._interrupted = self._interruptible = self._together = self._ending = False

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    # ---- exchanges --------------------------------------------------------------------------------------------------

    def sum(self, array: mx.array, *, patient: bool = False) -> mx.array:
        """Sum over all ranks, evaluated.

        `patient` waits as long as it takes; else, after `VOXCLONE_RANK_WAIT_MINUTES`, the process ends with a line.

        Raises:
            RankLostError: a rank is gone.
        """
        mx.eval(array)  # what fails here is no other rank's doing
        timer = None if patient else threading.Timer(60 * wait_minutes(), self._give_up)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            total = mx.distributed.all_sum(array, group=self._group)
            mx.eval(total)
            return total
        except RuntimeError as error:
            raise RankLostError(f"rank {self.rank} of {self.size}: {_LOST}") from error
        finally:
            if timer is not None:
                timer.cancel()

    def sum_all(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Sums of many float32 arrays, in buckets of at most 32 MB (or one array)."""
        result: dict[str, mx.array] = {}
        for names in _buckets(arrays):
            total = self.sum(mx.concatenate([arrays[name].reshape(-1) for name in names]))
            ends = np.cumsum([arrays[name].size for name in names])[:-1].tolist()
            for name, part in zip(names, mx.split(total, ends), strict=True):
                result[name] = part.reshape(arrays[name].shape)
        return result

    def sum_step(self, figures: np.ndarray) -> np.ndarray:
        """Sum of a step's float32 figures; notes in `stopping` whether some rank was interrupted meanwhile."""
        total = np.array(self.sum(mx.array(np.append(figures.ravel(), float(self._interrupted)).astype(np.float32))))
        self.stopping = self.stopping or bool(total[-1])
        return total[:-1].reshape(figures.shape)

    def texts(self, text: str) -> list[str]:
        """The text of every rank, in their order."""
        content = text.encode()
        lengths = np.zeros(self.size, np.int32)
        lengths[self.rank] = len(content)
        lengths = np.array(self.sum(mx.array(lengths)))
        table = np.zeros((self.size, int(lengths.max())), np.int32)
        table[self.rank, : len(content)] = np.frombuffer(content, np.uint8)
        table = np.array(self.sum(mx.array(table)))
        return [row[:length].astype(np.uint8).tobytes().decode() for row, length in zip(table, lengths)]

    def share(self, tensors: dict[str, mx.array]) -> dict[str, mx.array]:
        """Rank 0's tensors, bit for bit, in the place of this rank's. Names, shapes and types must agree."""
        if len(set(self.texts(_digest(tensors)))) == 1:
            return tensors
        result = {}
        for name, array in tensors.items():
            bits = array.reshape(-1).view(mx.uint32)
            bits = self.sum(bits if self.first else mx.zeros_like(bits))  # as integers: a sum would lose the sign of -0
            result[name] = bits.view(array.dtype).reshape(array.shape)
        return result

    # ---- what rank 0 does for all -----------------------------------------------------------------------------------

    def from_first(self, function: Callable[[], Any]) -> Any:
        """Calls `function` on rank 0 and returns what it gave (anything that JSON holds) on every rank.

        What it refuses, and Ctrl-C in it, is raised on every rank.
        """
        if not self.several:
            return function()
        answer, raised = {}, None
        if self.first:
            self._interruptible = True
            try:
                if self._interrupted:
                    raise KeyboardInterrupt
                answer = {"value": function()}
            except (VoxcloneError, KeyboardInterrupt) as error:
                raised = error
                answer = {"stopped": True} if isinstance(error, KeyboardInterrupt) else {"refused": str(error)}
            finally:
                self._interruptible = False
        answer = parse_json(self._broadcast(json.dumps(answer, default=float)))
        self.stopping = self.stopping or "stopped" in answer
        if raised is not None:
            raise raised
        if "stopped" in answer:
            raise KeyboardInterrupt
        if "refused" in answer:
            raise VoxcloneError(answer["refused"])
        return answer["value"]

    def in_turn(self, function: Callable[[], Any]) -> Any:
        """Rank 0 calls a function that makes files; then the others call it, and the files are there."""
        made = []
        self.from_first(lambda: made.append(function()))
        return made[0] if made else function()

    def _broadcast(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        content = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        length = self.sum(mx.array([len(content) if self.first else 0]), patient=True).item()
        received = self.sum(mx.array(content if self.first else np.zeros(length, np.int32)))
        return np.array(received).astype(np.uint8).tobytes().decode()

    # ---- agreement --------------------------------------------------------------------------------------------------

    def check_alike(self, what: str, facts: Mapping[str, Any]) -> None:
        """Raises ConfigError on every rank, naming rank and facts, if some rank has others than rank 0."""
        if not self.several:
            return
        every = [parse_json(text) for text in self.texts(json.dumps(facts, default=str))]
        for rank, other in enumerate(every):
            keys = [key for key in {**every[0], **other} if every[0].get(key) != other.get(key)]
            if keys:
                differing = [f"{key}: {shortened(every[0].get(key))} -> {shortened(other.get(key))}" for key in keys]
                shown = "; ".join(differing[:5]) + ("; ..." if len(differing) > 5 else "")
                raise ConfigError(f"rank {rank} has another {what} than rank 0 ({shown}): start all ranks alike")

    # ---- Ctrl-C -----------------------------------------------------------------------------------------------------

    @contextmanager
    def stopping_together(self) -> Iterator[None]:
        """Ctrl-C is noted, so that all ranks stop after the same step; a second one, and any while rank 0 works alone,
        is raised at once."""
        if not self.several or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_: object) -> None:
            if self._interruptible or self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        previous = signal.signal(signal.SIGINT, note)
        self._together = True
        try:
            yield
        except BaseException:
            self._ending = True
            raise
        finally:
            self._interrupted = self.stopping = self._together = False
            signal.signal(signal.SIGINT, signal.SIG_DFL if previous is None else previous)

    def at_the_end(self, function: Callable[[], None]) -> None:
        """Calls `function` on rank 0 when a run is interrupted. The others wait for it if they know: a launcher ends
        all as soon as one has ended."""
        if not self.stopping:
            if self.first:
                function()
            return
        self._interrupted = False
        with suppress(RankLostError):
            self.from_first(function)

    def listen(self) -> None:
        """Takes what launchers send when a rank or a terminal is gone: a training stops as it does on Ctrl-C, anything
        else ends in a line, and what is about to end is left alone."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self._on_end_signal)

    def _on_end_signal(self, number: int, _: object) -> None:
        if self._together:
            self._interrupted = True
        elif not self._ending:
            self._ending = True
            name = signal.Signals(number).name
            raise RankLostError(
                f"rank {self.rank} of {self.size}: ended by {name}, which launchers send when another rank has ended"
            )

    def _give_up(self) -> None:
        """The main thread waits within a collective: nothing but the end of the process frees it."""
        words = self.last_words()
        print(
            f"error: rank {self.rank} of {self.size}: no answer from the other ranks for {wait_minutes():g} minutes"
            f"{'; ' + words if words else ''}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The ranks that `join` found; `ALONE` without."""
    return _current


def join() -> Ranks:
    """Finds the other ranks, if a launcher started this process as one of several.

    Raises:
        ConfigError: they cannot be reached, or this MLX lacks the backend.
    """
    global _current
    backend = launched(os.environ)
    if backend is None or _current.several:
        return _current
    wait_minutes()
    try:
        _current = Ranks(mx.distributed.init(strict=True, backend=backend))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the other ranks cannot be reached with MLX's backend {backend}: {reason}") from error
    _current.listen()
    return _current


def launched(environment: Mapping[str, str]) -> str | None:
    """The backend that a launcher's environment asks for; None for one process alone."""
    ranked = "MLX_RANK" in environment
    if ranked and environment.get("MLX_HOSTFILE"):
        return "ring" if _hosts(Path(environment["MLX_HOSTFILE"])) > 1 else None
    if ranked and environment.get("MLX_JACCL_COORDINATOR"):
        return "jaccl"
    if ranked and environment.get("NCCL_HOST_IP"):
        return "nccl" if environment.get("MLX_WORLD_SIZE", "1") != "1" else None
    return "mpi" if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1" else None


def _hosts(path: Path) -> int:
    """Ranks in a hostfile; `mlx.launch` leaves it empty for one."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        return len(parse_json(text)) if text else 0
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"MLX_HOSTFILE {path} cannot be read: {error}") from error


def wait_minutes() -> float:
    """How long a rank waits for the others. Raises ConfigError for a value that is no time."""
    text = os.environ.get(WAIT_VARIABLE, str(WAIT_MINUTES))
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e6:
        raise ConfigError(f"{WAIT_VARIABLE} must be a number of minutes above 0, not {text!r}")
    return minutes


class Mute:
    """Stands for log and progress bar on the ranks that write nothing."""

    def write(self, record: dict) -> None:
        """See `JsonLog`."""

    def step(self, step: int, loss: float, items_per_second: float) -> None:
        """See `Progress`."""

    def note(self, line: str) -> None:
        """See `Progress`."""

    def say(self, line: str) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


def check_share(accumulate: int, ranks: Ranks, section: str = "") -> None:
    """Raises ConfigError if the micro-batches of a step cannot be dealt out evenly."""
    if accumulate % ranks.size:
        raise ConfigError(
            f"{section}accumulate {accumulate} cannot be shared by {ranks.size} ranks: set it to a multiple of "
            f"{ranks.size} (a step has batch_size * accumulate items; lower batch_size to keep it as it is)"
        )


def facts_of(identity: Mapping[str, Any], masters: Mapping[str, mx.array]) -> dict[str, Any]:
    """What must be the same on all ranks of a training, by names to tell a user."""
    shapes = zlib.crc32(repr([(name, array.shape) for name, array in masters.items()]).encode())
    try:
        fields = dict(parse_json(identity["fingerprint"]))
    except ValueError:
        fields = {"fingerprint": identity["fingerprint"]}
    rest = {key: value for key, value in identity.items() if key not in ("settings", "fingerprint")}
    return {**identity["settings"], **rest, **fields, "trained tensors": shapes}


def code_digest() -> str:
    """SHA-256 (hex, shortened) of this package's source and MLX's version."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256(mx.__version__.encode())
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _buckets(arrays: Mapping[str, mx.array]) -> Iterator[list[str]]:
    names, size = [], 0
    for name, array in arrays.items():
        if names and size + array.size > BUCKET:
            yield names
            names, size = [], 0
        names.append(name)
        size += array.size
    if names:
        yield names


def _digest(tensors: Mapping[str, mx.array]) -> str:
    value = 0
    for array in tensors.values():
        value = zlib.crc32(np.array(array.reshape(-1).view(mx.uint8)).data, value)
    return str(value)
