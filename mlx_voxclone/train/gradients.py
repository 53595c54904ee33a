"""The float32 masters of what trains, and the gradient of one group of micro-batches with respect to them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_voxclone.errors import DataError
from mlx_voxclone.train.distributed import ALONE, Ranks
from mlx_voxclone.train.loader import Group, to_device
from mlx_voxclone.train.state import get_rng, separate_rng, set_rng
from mlx_voxclone.train.task import Task, weights_at


class Masters:
    """The trainable parameters of a task's model by flattened name, in float32; the model holds them between steps.

    Args:
        task: its model says what trains.
        precision: `float32`, or `bf16` to compute with rounded copies of the masters; what is frozen stays as it is.

    Raises:
        DataError: nothing is trainable, or something that cannot be (quantised weights are integers).
    """

    def __init__(self, task: Task, precision: str):
        self._model, self._bf16 = task.model, precision == "bf16"
        found = dict(tree_flatten(task.model.trainable_parameters()))
        if not found:
            raise DataError(f"{task.name}: the model has no trainable parameters: nothing would be learnt")
        for name, array in found.items():
            if not mx.issubdtype(array.dtype, mx.floating):
                raise DataError(f"{task.name}: {name} is {array.dtype}, which cannot be trained: freeze it")
        self.values = {name: array.astype(mx.float32) for name, array in found.items()}
        mx.eval(self.values)
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


def group_gradients(
    task: Task, masters: Masters, group: Group, step: int, ranks: Ranks = ALONE
) -> tuple[dict[str, mx.array], dict[str, float], list[str]]:
    """Gradient of the group's objective (see `task.py`; float32), loss sums per term, and the items whose loss is not
    finite: if there are any, the rest of the group is not looked at and the gradient is of no use.

    The gradients of the micro-batches add up to that of the average, as the targets of the whole group are known.
    `step`: complete steps before this one, for weights that change. Of several `ranks` each computes every so many-th
    micro-batch, and all return the same.
    """
    value_and_grad = _differentiated(task, masters, group, step)
    if ranks.several:
        return _spread_gradients(task, masters, group, value_and_grad, ranks)
    totals, losses = None, dict.fromkeys(task.weights, 0.0)
    task.model.train()
    try:
        for micro in group.batches:
            (_, sums), gradients = value_and_grad(masters.values, to_device(micro.batch))
            totals = gradients if totals is None else {name: totals[name] + gradients[name] for name in totals}
            del gradients  # else they live on beside their own sum through the evaluation
            mx.eval(totals, sums)  # per micro-batch: the gradients of all of them must not be alive together
            for term in losses:
                losses[term] += sums[term].item()
            if not all(map(math.isfinite, losses.values())):
                return totals, losses, micro.items
    finally:
        masters.restore()
    return totals, losses, []


def _differentiated(task: Task, masters: Masters, group: Group, step: int) -> Callable:
    """Of (parameters, batch): ((objective, loss sums), gradients)."""
    weights = {term: weight for term, weight in weights_at(task, step).items() if weight and group.targets[term]}
    scale = {term: weight / group.targets[term] for term, weight in weights.items()}

    def objective(parameters, batch):
        masters.compute_with(parameters)
        sums = {term: value.astype(mx.float32) for term, value in task.losses(batch).items()}
        if sums.keys() != task.weights.keys():
            raise ValueError(f"{task.name}: losses() gave {sorted(sums)}, the weights are of {sorted(task.weights)}")
        return sum((factor * sums[term] for term, factor in scale.items()), start=mx.array(0.0)), sums

    return mx.value_and_grad(objective)


def _spread_gradients(
    task: Task, masters: Masters, group: Group, value_and_grad: Callable, ranks: Ranks
) -> tuple[dict[str, mx.array], dict[str, float], list[str]]:
    """`group_gradients` of several ranks.

    What a micro-batch draws (dropout) is what it draws in one process: the batches of other ranks are traced, which
    takes their random numbers out of the sequence, and not computed.
    """
    totals, words = None, []
    sums = np.zeros((len(group.batches), len(task.weights)), np.float32)
    task.model.train()
    try:
        for k, micro in enumerate(group.batches):
            (_, found), gradients = value_and_grad(masters.values, to_device(micro.batch))
            if k % ranks.size == ranks.rank:
                totals = gradients if totals is None else {name: totals[name] + gradients[name] for name in totals}
                mx.eval(totals, found)
                sums[k] = [found[term].item() for term in task.weights]
            del gradients
            words.append(get_rng())
    finally:
        masters.restore()
    losses = dict.fromkeys(task.weights, 0.0)
    for row, micro, after in zip(ranks.sum_step(sums).tolist(), group.batches, words, strict=True):
        for term, value in zip(losses, row, strict=True):
            losses[term] += value
        if not all(map(math.isfinite, losses.values())):
            set_rng(after)  # as if nothing had been drawn after it
            return {}, losses, micro.items
    if totals is None:  # the last group of an epoch may be too small for all
        totals = {name: mx.zeros_like(array) for name, array in masters.values.items()}
    return ranks.sum_all(totals), losses, []


def gradient_norms(gradients: dict[str, mx.array]) -> dict[str, float]:
    """Euclidean norm of each gradient, in one evaluation."""
    squares = mx.stack([mx.sum(mx.square(gradient)) for gradient in gradients.values()])
    return dict(zip(gradients, mx.sqrt(squares).tolist(), strict=True))
