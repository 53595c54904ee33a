"""The float32 masters of what trains, and the gradient of one group of micro-batches with respect to them."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_voxclone.errors import DataError
from mlx_voxclone.process.limits import describe_memory_error
from mlx_voxclone.train.loop.distributed import ALONE, Ranks
from mlx_voxclone.train.loop.loader import Group, MicroBatch, mapped, to_device
from mlx_voxclone.train.loop.task import Padded, Task, weights_at
from mlx_voxclone.train.saved.rng import get_rng, separate_rng, set_rng
from mlx_voxclone.train.saved.state import not_finite

MAX_COMPILED = 64  # functions of a task that are compiled
_OF_THE_DEVICE = ("command buffer", "cuda error", "cudaerror", "cuda_error")


class Masters:
    """The trainable parameters of a task's model by flattened name, in float32; the model holds them between steps.

    Args:
        task: its model says what trains.
        precision: `float32`, or `bf16` to compute with rounded copies of the masters; what is frozen stays as it is.

    Raises:
        DataError: nothing is trainable, or something that cannot be (quantised weights are integers; NaN).
    """

    def __init__(self, task: Task, precision: str):
        self._model, self._bf16 = task.model, precision == "bf16"
        trainable = dict(tree_flatten(task.model.trainable_parameters()))
        if not trainable:
            raise DataError(f"{task.name}: the model has no trainable parameters, so nothing would be learnt")
        for name, array in trainable.items():
            if not mx.issubdtype(array.dtype, mx.floating):
                raise DataError(f"{task.name}: {name} is {array.dtype}, which cannot be trained: freeze it")
        self.values = {name: array.astype(mx.float32) for name, array in trainable.items()}
        mx.eval(self.values)
        if (name := not_finite(self.values)) is not None:
            raise DataError(
                f"{task.name}: {name} is not finite before any training: the weights to start from are damaged; use"
                " others"
            )
        self.restore()

    def restore(self) -> None:
        """Puts the masters into the model."""
        self._hold(self.values)

    def replace(self, values: dict[str, mx.array]) -> None:
        """New masters, into the model too. They keep the order of names: sums over parameters round alike."""
        self.values = {name: values[name] for name in self.values}
        self.restore()

    def compute_with(self, values: dict[str, mx.array]) -> None:
        """Puts `values` into the model in the precision of the computation; gradients flow back through the cast."""
        if self._bf16:
            values = {name: array.astype(mx.bfloat16) for name, array in values.items()}
        self._hold(values)

    @contextmanager
    def inference(self, seed: int) -> Iterator[None]:
        """The model as it computes in training, but without dropout and on random numbers of its own."""
        self._model.eval()
        self.compute_with(self.values)
        try:
            with separate_rng(seed):
                yield
        finally:
            self.restore()

    def _hold(self, values: dict[str, mx.array]) -> None:
        self._model.update(tree_unflatten(list(values.items())))


class Gradients:
    """The gradient of a group's objective (see `task.py`).

    Where the default device is a GPU, the loss of a micro-batch with its gradient is compiled for a task that says how
    its batches are brought to few shapes (`task.Padded`): once per shape, and per value of what is no array in a batch
    (up to `MAX_COMPILED` of these; a rarer one runs as it is). On a CPU that costs more than it brings (each
    piece goes through a C++ compiler). MLX's own `MLX_DISABLE_COMPILE=1` switches it off. Where MLX cannot do it, one
    warning says so and the training goes on without.

    Args:
        task, masters: what trains.
        ranks: of several, each computes every so many-th micro-batch, and all get the same.
        compiler: in the place of `mx.compile`; None: that, on a GPU.
    """

    def __init__(
        self, task: Task, masters: Masters, ranks: Ranks = ALONE, *, compiler: Callable[..., Callable] | None = None
    ):
        self._task, self._masters, self._ranks = task, masters, ranks
        if compiler is None and mx.default_device() == mx.gpu:
            compiler = mx.compile
        self.compiled = compiler is not None and isinstance(task, Padded)
        if self.compiled:
            self._compiler, self._functions = compiler, {}

    def __call__(self, group: Group, step: int) -> tuple[dict[str, mx.array], dict[str, float], list[str]]:
        """Of one group: the gradient (float32), loss sums per term, and the items whose loss is not finite: if there
        are any, the rest of the group is not looked at and the gradient is of no use.

        The gradients of the micro-batches add up to that of the average, as the targets of the whole group are known.
        `step`: complete steps before this one, for weights that change.
        """
        before = get_rng() if self.compiled else None
        self._task.model.train()
        try:
            return self._of_group(group, step)
        except BaseException as error:
            if before is None:
                raise
            set_rng(before)  # else the generator may hold what was being traced, and never draw again
            if not _may_be_of_compiling(error):
                raise
            self.compiled = False
            result = self._of_group(group, step)  # which fails likewise, if it was not for compiling
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"{self._task.name}: the step could not be compiled ({reason}); it runs uncompiled, which is slower. "
                "MLX_DISABLE_COMPILE=1 in the environment switches compiling off.",
                RuntimeWarning,
                stacklevel=2,
            )
            return result
        finally:
            self._masters.restore()

    def _of_group(self, group: Group, step: int) -> tuple[dict[str, mx.array], dict[str, float], list[str]]:
        return self._spread(group, step) if self._ranks.several else self._alone(group, step)

    def _objective(self, parameters: dict, batch: Any, factors: dict) -> tuple[mx.array, dict[str, mx.array]]:
        """Weighted sum and loss sums. All that changes from step to step is an argument: it may be compiled."""
        task = self._task
        self._masters.compute_with(parameters)
        sums = {term: value.astype(mx.float32) for term, value in task.losses(batch).items()}
        if sums.keys() != task.weights.keys():
            raise ValueError(f"{task.name}: losses() gave {sorted(sums)}, the weights are of {sorted(task.weights)}")
        return sum((factor * sums[term] for term, factor in factors.items()), start=mx.array(0.0)), sums

    def _function(self, group: Group, step: int) -> Callable:
        """Of (parameters, batch): ((objective, loss sums), gradients)."""
        weights = {term: w for term, w in weights_at(self._task, step).items() if w and group.targets[term]}
        factors = {term: weight / group.targets[term] for term, weight in weights.items()}
        if self.compiled:
            changing = {term: mx.array(factor) for term, factor in factors.items()}
            return lambda parameters, batch: self._compiled(parameters, batch, changing)

        def uncompiled(parameters: dict, batch: Any) -> tuple:
            arrays, rest = _split(batch)

            # Arrays are arguments: what is computed from others alone would be compiled piece by piece by MLX itself.
            def objective(parameters: dict, arrays: list) -> tuple[mx.array, dict[str, mx.array]]:
                return self._objective(parameters, _joined(arrays, rest), factors)

            # Made anew each time: one that is kept was seen to keep gradients of earlier micro-batches in memory.
            return mx.value_and_grad(objective)(parameters, arrays)

        return uncompiled

    def _compiled(self, parameters: dict, batch: Any, factors: dict) -> tuple:
        """The function's value; what is no array in the batch is part of the function."""
        arrays, rest = _split(batch)
        key = repr(rest)
        function = self._functions.get(key) or self._made(key, rest)
        return function(parameters, arrays, factors)

    def _made(self, key: str, rest: Any) -> Callable:
        """Of (parameters, a batch's arrays, factors): compiled and kept, unless there are enough of them."""

        def objective(parameters: dict, arrays: list, factors: dict) -> tuple[mx.array, dict[str, mx.array]]:
            return self._objective(parameters, _joined(arrays, rest), factors)

        function = mx.value_and_grad(objective)
        if len(self._functions) < MAX_COMPILED:
            # Random numbers that are drawn in a compiled function are the same ones for ever, but with this.
            state = [mx.random.state]
            function = self._functions[key] = self._compiler(function, inputs=state, outputs=state)
        return function

    def _arrays(self, micro: MicroBatch) -> Any:
        return to_device(self._task.padded(micro.batch) if self.compiled else micro.batch)

    def _alone(self, group: Group, step: int) -> tuple[dict[str, mx.array], dict[str, float], list[str]]:
        totals, losses = None, dict.fromkeys(self._task.weights, 0.0)
        value_and_grad = self._function(group, step)
        for micro in group.batches:
            (_, sums), gradients = value_and_grad(self._masters.values, self._arrays(micro))
            totals = gradients if totals is None else {name: totals[name] + gradients[name] for name in totals}
            del gradients  # else they live on beside their own sum through the evaluation
            mx.eval(totals, sums)  # per micro-batch: the gradients of all of them must not be alive together
            for term in losses:
                losses[term] += sums[term].item()
            if not all(map(math.isfinite, losses.values())):
                return totals, losses, micro.items
        return totals, losses, []

    def _spread(self, group: Group, step: int) -> tuple[dict[str, mx.array], dict[str, float], list[str]]:
        """Of several ranks.

        What a micro-batch draws (dropout) is what it draws in one process: the batches of other ranks are traced, which
        takes their random numbers out of the sequence, and not computed.
        """
        ranks, terms = self._ranks, self._task.weights
        totals, words = None, []
        losses_of = np.zeros((len(group.batches), len(terms)), np.float32)
        value_and_grad = self._function(group, step)
        for k, micro in enumerate(group.batches):
            (_, sums), gradients = value_and_grad(self._masters.values, self._arrays(micro))
            if k % ranks.size == ranks.rank:
                totals = gradients if totals is None else {name: totals[name] + gradients[name] for name in totals}
                mx.eval(totals, sums)
                losses_of[k] = [sums[term].item() for term in terms]
            del gradients
            words.append(get_rng())
        losses = dict.fromkeys(terms, 0.0)
        for row, micro, after in zip(ranks.sum_step(losses_of).tolist(), group.batches, words, strict=True):
            for term, value in zip(losses, row, strict=True):
                losses[term] += value
            if not all(map(math.isfinite, losses.values())):
                set_rng(after)  # as if nothing had been drawn after it
                return {}, losses, micro.items
        if totals is None:  # the last group of an epoch may be too small for all
            totals = {name: mx.zeros_like(array) for name, array in self._masters.values.items()}
        return ranks.sum_all(totals), losses, []


def _may_be_of_compiling(error: BaseException) -> bool:
    """Whether the same step may succeed uncompiled. One that lacks memory needs no less of it then, and one that the
    device gave up (a command buffer) has been compiled already."""
    if not isinstance(error, RuntimeError | ValueError) or describe_memory_error(error) is not None:
        return False
    return not any(words in str(error).lower() for words in _OF_THE_DEVICE)


class _Slot:
    """Where the array of this number was."""

    def __init__(self, number: int):
        self.number = number

    def __repr__(self) -> str:
        return f"<array {self.number}>"


def _split(batch: Any) -> tuple[list[mx.array], Any]:
    """A batch's arrays, and the batch with a slot in the place of each."""
    arrays: list[mx.array] = []

    def slot(value: Any) -> Any:
        if not isinstance(value, mx.array):
            return value
        arrays.append(value)
        return _Slot(len(arrays) - 1)

    rest = mapped(batch, slot)
    return arrays, rest


def _joined(arrays: list[mx.array], rest: Any) -> Any:
    """The batch of `_split`."""
    return mapped(rest, lambda value: arrays[value.number] if isinstance(value, _Slot) else value)


def gradient_norms(gradients: dict[str, mx.array]) -> dict[str, float]:
    """Euclidean norm of each gradient, in one evaluation."""
    squares = mx.stack([mx.sum(mx.square(gradient)) for gradient in gradients.values()])
    return dict(zip(gradients, mx.sqrt(squares).tolist(), strict=True))
