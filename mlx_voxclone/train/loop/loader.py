"""Items in seeded order, made ready on a thread (numpy only) while the device computes.

The order of an epoch is one permutation of all items, `default_rng([seed, epoch])`, or the task's own (`Ordered`); it
is cut into groups of `batch_size * accumulate` items (one optimiser step) and these into micro-batches, by length where
items tell their `length`. The last group of an epoch, and the last batch in it, hold what is left: nothing is dropped,
and no group spans two epochs. (epoch, items of it used) is the whole position, so a resumed run meets the same groups.
Every group is one optimiser step, whose number is passed to its items.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.errors import DataError
from mlx_voxclone.train.loop.task import Ordered, Task


@dataclass
class MicroBatch:
    """A collated batch (numpy; a dict or a dataclass) and the names of its items, for messages."""

    batch: Any
    items: list[str]


@dataclass
class Group:
    """The micro-batches of one optimiser step, the targets per term of them all, and the position after them."""

    epoch: int
    batches: list[MicroBatch]
    targets: dict[str, float]
    n_items: int
    next_position: tuple[int, int]

    def items(self) -> list[str]:
        """Names of all its items."""
        return [name for batch in self.batches for name in batch.items]


class Loader:
    """Yields `Group`s without end, from a position on; use as a context manager, which joins the thread.

    An exception raised while an item is made is raised again by `next()`, with a note that says which item it was.
    """

    def __init__(
        self,
        task: Task,
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        position: tuple[int, int] = (0, 0),
        step: int = 0,
        depth: int = 2,
    ):
        self._task, self._batch_size, self._accumulate, self._seed = task, batch_size, accumulate, seed
        self._position, self._step = position, step  # of the next group
        self._queue: queue.Queue = queue.Queue(maxsize=depth)  # bounded: prepared audio must not fill the memory
        self._stop, self._order = threading.Event(), None
        self._thread = threading.Thread(target=self._produce, name="data", daemon=True)

    def __enter__(self) -> "Loader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # an item may be waiting for a server
            getattr(self._order, "close", lambda: None)()
            self._thread.join(0.2)

    def next(self) -> Group:
        """The next group, waiting for it if need be. Raises what the producer raised."""
        made = self._queue.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def _produce(self) -> None:
        try:
            epoch, index = self._position
            while not self._stop.is_set():
                order = self._order = self._epoch_order(epoch)
                size = self._batch_size * self._accumulate
                while index < len(order):
                    group = self._group(epoch, order[index : index + size])
                    self._step += 1
                    index += group.n_items
                    group.next_position = (epoch, index) if index < len(order) else (epoch + 1, 0)
                    if not self._put(group):
                        return
                epoch, index = epoch + 1, 0
        except _Stopped:
            return
        except BaseException as error:  # whatever it is, it belongs to the main thread
            self._put(error)

    def _epoch_order(self, epoch: int) -> Any:
        own = self._task.order(self._seed, epoch) if isinstance(self._task, Ordered) else None
        return epoch_order(self._task.n_items, self._seed, epoch) if own is None else own

    def _group(self, epoch: int, order: np.ndarray) -> Group:
        batches, targets, made = [], dict.fromkeys(self._task.weights, 0.0), []
        for index in order:
            if self._stop.is_set():  # an epoch of slow items must not hold up Ctrl-C
                raise _Stopped
            item = self._item(epoch, int(index))
            made.append((item, str(item.get("id", f"item {index}"))))
        # Alike in length go together: less is padded, and the step is the same whatever the micro-batches.
        made.sort(key=lambda one: one[0].get("length", 0))
        for start in range(0, len(made), self._batch_size):
            items, names = (list(column) for column in zip(*made[start : start + self._batch_size]))
            batch = self._task.collate(items)
            check_host(batch)
            for term, count in self._task.targets(batch).items():
                targets[term] += float(count)
            batches.append(MicroBatch(batch, names))
        group = Group(epoch, batches, targets, len(order), (epoch, 0))
        if not any(targets.values()):
            names = ", ".join(group.items())
            raise DataError(
                f"{names} (epoch {epoch}): no loss term has a target in them, so there is nothing to learn; remove them"
            )
        return group

    def _item(self, epoch: int, index: int):
        try:
            return self._task.item(epoch, index, self._step)
        except Exception as error:
            error.add_note(f"while preparing item {index} of epoch {epoch} ({self._task.name})")
            raise

    def _put(self, made: Group | BaseException) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(made, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


class _Stopped(Exception):
    """The loader was closed while a group was being made."""


def epoch_order(n_items: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0 ... n_items - 1 that depends on seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(n_items)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A batch with `function` of everything in it, inside dicts (by sorted keys), dataclasses, lists and tuples too."""
    if isinstance(value, dict):
        return {key: mapped(value[key], function) for key in sorted(value)}
    if is_dataclass(value):
        return replace(value, **{f.name: mapped(getattr(value, f.name), function) for f in fields(value)})
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(entry, function) for entry in value)
    return function(value)


def check_host(batch: Any) -> None:
    """Raises TypeError if a batch holds an `mx.array`: MLX arrays made on a thread belong to that thread's streams."""

    def check(key: str, value: Any) -> None:
        if isinstance(value, mx.array):
            raise TypeError(
                f"collate() returned an mx.array for {key!r}: batches are numpy until the trainer takes them"
            )

    for key, entry in (batch if isinstance(batch, dict) else vars(batch)).items():
        mapped(entry, lambda value, key=key: check(key, value))


def to_device(batch: Any) -> Any:
    """A collated batch with its numpy arrays, at any depth, as `mx.array`s; main thread only."""
    return mapped(batch, lambda value: mx.array(value) if isinstance(value, np.ndarray) else value)
