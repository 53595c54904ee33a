"""Groups with an optimiser of their own, terms whose weight changes, terms that only training has."""

import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from toy_task import ToyModel, ToyTask, settings

from mlx_voxclone.errors import DataError
from mlx_voxclone.train.loop.heldout import heldout_metrics
from mlx_voxclone.train.loop.optimizers import groups as optimizers
from mlx_voxclone.train.loop.optimizers.groups import Optimizers
from mlx_voxclone.train.loop.task import ParameterGroup
from mlx_voxclone.train.loop.trainer import Trainer


class Pair(nn.Module):
    """A model and its opponent: a linear that is to tell predictions from targets."""

    def __init__(self):
        super().__init__()
        self.toy = ToyModel()
        self.judge = nn.Linear(1, 4)


class PairTask(ToyTask):
    """`mse` is the toy's, `judge` trains the opponent alone; the weight of `mse` falls."""

    def __init__(self, decay: float = 1.0, rate: float = 0.02):
        super().__init__()
        mx.random.seed(4)
        self.model = Pair()
        mx.eval(self.model.parameters())
        self.model.toy.frozen.freeze()
        self.weights = {"mse": 1.0, "judge": 100.0}
        self.groups = (ParameterGroup("judge.", rate, (0.5, 0.9)),)
        self.decay = decay
        self.training_only = frozenset({"judge"})
        self.steps: dict[int, set[int]] = {}

    def weights_at(self, step):
        return {"mse": self.decay**step, "judge": 100.0}

    def item(self, epoch, index, step=0):
        self.steps.setdefault(step, set()).add(index)
        return super().item(epoch, index) | {"step": step}

    def collate(self, items):
        return super().collate(items) | {"on": True}

    def targets(self, batch):
        n = float(sum(batch["lengths"]))
        return {"mse": n, "judge": n * batch.get("on", 0)}

    def losses(self, batch):
        model, mask = self.model, batch["mask"]
        pred = model.toy(batch["x"])
        error = (pred - batch["y"]) * mask
        said = model.judge(mx.stop_gradient(pred)[..., None]) - model.judge(batch["y"][..., None])
        return {"mse": mx.sum(error * error), "judge": mx.sum(mx.square(said) * mask[..., None])}


def run(tmp_path, task, name="run", **changes):
    trainer = Trainer(task, settings(**changes), tmp_path / name, quiet=True)
    trainer.run()
    return trainer


def values(trainer):
    return {name: np.array(array) for name, array in trainer.masters.values.items()}


def test_each_group_clips_by_its_own_norm_and_moves_by_its_own_rule(monkeypatch):
    """One step against mlx's optimisers used by hand; the judge's gradient is a thousand times the model's."""
    monkeypatch.setattr(optimizers, "EPS", 1e-2)
    before = {"judge.w": mx.array([1.0, -2.0]), "a": mx.array([3.0]), "b": mx.array([[4.0]])}
    gradients = {"judge.w": mx.array([3000.0, 4000.0]), "a": mx.array([3.0]), "b": mx.array([[4.0]])}
    norms = {name: float(mx.linalg.norm(g.reshape(-1))) for name, g in gradients.items()}
    options = settings(grad_clip=1.0, warmup_steps=0, weight_decay=0.1)
    groups = (ParameterGroup("judge.", 0.02, (0.5, 0.9)),)
    ours = Optimizers(before, options, groups)
    assert (ours.norm(norms), ours.norm(norms, "judge.")) == (pytest.approx(5.0), pytest.approx(5000.0))
    after = ours.updated(dict(gradients), before, norms, 0, 10)
    for names, rate, betas, decay, norm in (
        (("a", "b"), 0.01, (0.9, 0.99), 0.1, 5.0),
        (("judge.w",), 0.02, (0.5, 0.9), 0.0, 5000.0),
    ):
        reference = optim.AdamW(rate, list(betas), 1e-2, decay, bias_correction=True)
        expected = reference.apply_gradients({n: gradients[n] / norm for n in names}, {n: before[n] for n in names})
        for name in names:
            assert np.abs(np.array(after[name]) - np.array(expected[name])).max() < 1e-6, name


def test_the_model_learns_as_if_the_other_group_were_not_there(tmp_path):
    """The judge's loss, gradient and optimiser leave no trace in the model."""
    with_judge = run(tmp_path, PairTask(rate=0.02), "with")
    other = run(tmp_path, PairTask(rate=0.5), "other")
    a, b = values(with_judge), values(other)
    assert all((a[name] == b[name]).all() for name in a if name.startswith("toy."))
    assert any((a[name] != b[name]).any() for name in a if name.startswith("judge."))


def test_resumed_equals_uninterrupted_in_every_group(tmp_path):
    whole = run(tmp_path, PairTask(decay=0.9), "whole")
    run(tmp_path, PairTask(decay=0.9), "parts", stop_after=5)
    rest = Trainer(PairTask(decay=0.9), settings(), resume=tmp_path / "parts", quiet=True)
    rest.run()
    a, b = values(whole), values(rest)
    assert all((a[name] == b[name]).all() for name in a)
    one, two = whole.optimizers.slots(), rest.optimizers.slots()
    assert one.keys() == two.keys()
    assert all(mx.array_equal(one[k], two[k]).item() for k in one)


def test_items_are_told_their_step_also_after_a_resume(tmp_path):
    whole = PairTask()
    run(tmp_path, whole, "whole")
    run(tmp_path, PairTask(), "parts", stop_after=5)
    rest = PairTask()
    Trainer(rest, settings(), resume=tmp_path / "parts", quiet=True).run()
    assert all(whole.steps[step] == rest.steps[step] for step in range(5, 10))
    assert 4 not in rest.steps


def test_weights_that_change_are_those_of_the_step(tmp_path, monkeypatch):
    """With a weight that falls to nothing after the first step the model stays where that step left it."""
    monkeypatch.setattr(optimizers, "EPS", 1e-3)
    first = run(tmp_path, PairTask(), "first", stop_after=1, weight_decay=0.0)
    monkeypatch.setattr(optimizers, "BETAS", (0.0, 0.999))
    rest = run(tmp_path, PairTask(decay=1e-30), "rest", weight_decay=0.0)
    start = run(tmp_path, PairTask(decay=1e-30), "start", weight_decay=0.0, stop_after=1)
    a, b, c = values(first), values(rest), values(start)
    assert any(np.abs(a[name]).max() > 0 for name in a)
    assert all(np.abs(b[name] - c[name]).max() < 1e-6 for name in b if name.startswith("toy."))


def test_held_out_figures_leave_out_what_only_training_has():
    metrics = heldout_metrics(PairTask())
    assert "judge" not in metrics
    assert metrics["loss"] == pytest.approx(metrics["mse"])
    task = PairTask()
    task.training_only = frozenset()
    with pytest.raises(DataError, match="judge"):
        heldout_metrics(task)


def test_a_group_without_parameters_is_refused():
    held = {"a": mx.zeros((1,))}
    with pytest.raises(DataError, match="begins with judge."):
        Optimizers(held, settings(), (ParameterGroup("judge.", 0.1, (0.5, 0.9)),))
    with pytest.raises(DataError, match="left to train"):
        Optimizers({"judge.a": mx.zeros((1,))}, settings(), (ParameterGroup("judge.", 0.1, (0.5, 0.9)),))


def test_the_rate_of_a_group_has_the_schedule_of_the_run():
    ours = Optimizers(
        {"judge.w": mx.zeros((1,)), "a": mx.zeros((1,))}, settings(), (ParameterGroup("judge.", 0.5, (0.5, 0.9)),)
    )
    for step in range(10):
        assert ours.rate(step, 10, "judge.") == pytest.approx(50 * ours.rate(step, 10))
    assert math.isclose(ours.rate(2, 10), 0.01)
