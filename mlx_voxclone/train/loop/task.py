"""What a task gives the trainer: how to make an item, a batch and a loss. Everything else is the trainer's.

The trainer minimises, for the group of micro-batches that makes one optimiser step,

    sum over terms of  weights[term] * sum(losses[term]) / sum(targets[term])    (sums over the micro-batches)

(with `weights_at(step)`, where a task has it, in the place of `weights`; a term without targets in the group is left
out) so that N micro-batches of one item give the gradient of one batch of N items, however the targets are spread.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.process.amounts import shortened


@runtime_checkable
class Task(Protocol):
    """A training task. Terms are the keys of `weights`; `losses` and `targets` give a value for each of them."""

    name: str
    """One word for logs and messages, e.g. `encoder`."""

    model: nn.Module
    """`model.trainable_parameters()` are what trains (float32); everything frozen is never touched."""

    weights: Mapping[str, float]
    """Weight of each loss term; 0 means the term is computed and logged only."""

    n_items: int
    """Items per epoch."""

    metric: str
    """The key of the held-out metrics that selects the best model, lower is better: `loss` (the weighted sum), a term,
    or a key of `extra_metrics`."""

    def item(self, epoch: int, index: int, step: int) -> Mapping[str, Any]:
        """Item `index` (0 <= index < n_items) of an epoch: numpy arrays and plain values only, made on a thread.

        ALL randomness of a step (noise, masks, crops, choice of reference) is drawn here, with
        `np.random.default_rng([seed, epoch, index])`: the result then depends on neither batching nor order, and a
        resumed run draws the same. `step` is the number of optimiser steps before the one this item is for: what is
        learnt from may change as training goes on. An entry `"id"`, if there is one, names the item in messages,
        an entry `"length"` (a number) lets those of a step that are alike in length share a micro-batch.
        """
        ...

    def collate(self, items: list[Mapping[str, Any]]) -> Any:
        """Pads and stacks items to a micro-batch: a dict or a dataclass of numpy arrays (later `mx.array`s) and plain
        values; on a thread."""
        ...

    def targets(self, batch: Any) -> dict[str, float]:
        """Number of targets of each term in a collated (numpy) batch; on a thread."""
        ...

    def losses(self, batch: Any) -> dict[str, mx.array]:
        """SUM over the batch's targets of each term, scalars; called with `mx.array`s, in training to differentiate.

        Dropout and its like may use `mx.random`; its state is saved and restored by the trainer.
        """
        ...

    def heldout_batches(self) -> Iterable[Any]:
        """The collated (numpy) batches of the held-out data, the same at every call."""
        ...

    def extra_metrics(self) -> dict[str, float]:
        """Further held-out metrics, e.g. of generated audio; `{}` if there are none."""
        ...

    def write_samples(self, directory: Path, step: int) -> None:
        """Writes audible or visible samples of the present model into an existing, empty directory."""
        ...

    def export(self, directory: Path, parameters: dict[str, mx.array]) -> None:
        """Writes what the user wants of the best model (encoder file, adapters) into an existing, empty directory.

        `parameters`: the trainable ones by flattened name, float32.
        """
        ...

    def fingerprint(self) -> str:
        """Identity of data and configuration: a run resumes only if it is unchanged. Best made by `fingerprint_of`,
        whose fields are then named when they differ."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """What a task may have beside `Task`: weights that change as training goes on."""

    def weights_at(self, step: int) -> Mapping[str, float]:
        """Weight of each term in the step after `step` complete ones. Logs and held-out metrics keep to `weights`, or
        their figures could not be compared over time."""
        ...


@runtime_checkable
class Padded(Protocol):
    """What a task may have beside `Task`, if its `losses` can be compiled: a function of the trainable parameters, the
    batch and `mx.random` alone, without Python state that changes, or a look at an array's value."""

    def padded(self, batch: Any) -> Any:
        """A collated (numpy) batch with the same losses, in one of few shapes: each new one is compiled anew, and so is
        each new value of an entry that is no array."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """What a task may have beside `Task`: an order of its items that its data is read well in."""

    def order(self, seed: int, epoch: int) -> Any | None:
        """The items of an epoch: a length, and slices of it as int arrays, each item once, of (seed, epoch) alone.

        None: any order will do. With a method `close`, that is called when nobody takes any more, to end what waits.
        """
        ...


@runtime_checkable
class Decides(Protocol):
    """What a task may have beside `Task`, if it computes in one of several ways that only time decides between: a run
    keeps what was decided, and computes the same when it is resumed."""

    def decisions(self) -> Mapping[str, bool]:
        """What has been decided so far."""
        ...

    def take_decisions(self, found: Mapping[str, bool]) -> None:
        """Decides likewise from here on."""
        ...


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that an AdamW of their own moves, with a gradient clipped by its own norm."""

    prefix: str
    """Of the flattened names, e.g. `discriminators.`."""

    learning_rate: float
    """Peak; follows the same warm-up and cosine as the run's."""

    betas: tuple[float, float]
    weight_decay: float = 0.0


def parameter_groups(task: Task) -> Sequence[ParameterGroup]:
    """The task's attribute `groups`; without one, all parameters are the run's own."""
    return getattr(task, "groups", ())


def training_only(task: Task) -> frozenset[str]:
    """The task's attribute `training_only`: terms that say nothing about held-out data, e.g. those of an opponent that
    is trained at the same time."""
    return getattr(task, "training_only", frozenset())


def derived_metrics(task: Task, metrics: Mapping[str, float]) -> dict[str, float]:
    """The task's method `derived_metrics`: further held-out metrics, made of all the others."""
    derive = getattr(task, "derived_metrics", None)
    return derive(metrics) if derive is not None else {}


def weights_at(task: Task, step: int) -> Mapping[str, float]:
    """Weights of the terms in the step after `step` complete ones."""
    return task.weights_at(step) if isinstance(task, Scheduled) else task.weights


# Fields of earlier versions; what they said of a training is compared in the configuration (`settings/differences.py`).
FORMER = frozenset({"refine"})
LATER = frozenset({"contents"})  # fields that earlier versions did not write: nothing is known of them then


def fingerprint_of(**fields: Any) -> str:
    """Canonical JSON of the fields, for `Task.fingerprint`: the trainer can then say which of them changed."""
    return json.dumps(fields, sort_keys=True, default=str)


def fingerprint_changes(old: str, new: str) -> list[str]:
    """What differs between two fingerprints, as `name: old -> new` (long values cut); empty if nothing does."""
    if old == new:
        return []
    try:
        before, after = parse_json(old), parse_json(new)
        names = sorted((before.keys() | after.keys()) - FORMER - (LATER - before.keys()))
    except (ValueError, AttributeError):  # free text: all that can be said is that it changed
        return [f"task: {shortened(old)} -> {shortened(new)}"]
    return [
        f"{name}: {shortened(before.get(name))} -> {shortened(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]
