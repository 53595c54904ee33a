"""A small regression task for the tests of the trainer: items of different lengths, two terms, noise from item()."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.task import fingerprint_of

DIM = 6


class ToyModel(nn.Module):
    """frozen linear -> hidden linear -> (dropout) -> out; `frozen` is not trained."""

    def __init__(self, dropout: float = 0.0, hidden: int = 16):
        super().__init__()
        self.frozen = nn.Linear(DIM, DIM)
        self.hidden = [nn.Linear(DIM, hidden), nn.Linear(hidden, hidden)]
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.out = nn.Linear(hidden, 1)
        self.frozen.freeze()

    def __call__(self, x: mx.array) -> mx.array:
        x = self.frozen(x)
        for layer in self.hidden:
            x = nn.tanh(layer(x))
        if self.dropout is not None:
            x = self.dropout(x)
        return self.out(x)[..., 0]


class ToyTask:
    """Fits a fixed linear function of noisy inputs. Terms `mse` (every row) and `l1` (every second row)."""

    name = "toy"
    metric = "loss"

    def __init__(self, n_items: int = 7, *, dropout: float = 0.0, hidden: int = 16, data_seed: int = 3):
        mx.random.seed(11)
        self.model = ToyModel(dropout, hidden)
        mx.eval(self.model.parameters())
        self.weights = {"mse": 1.0, "l1": 0.3}
        self.n_items = n_items
        self.data_seed = data_seed
        self.items_made: list[tuple[int, int]] = []
        self.poisoned: set[int] = set()  # items whose target is NaN

    def item(self, epoch, index, step=0):
        self.items_made.append((epoch, index))
        rng = np.random.default_rng([self.data_seed, epoch, index])
        rows = int(rng.integers(1, 9))
        x = rng.standard_normal((rows, DIM)).astype(np.float32)
        y = x @ np.linspace(-1, 1, DIM, dtype=np.float32) + 0.01 * rng.standard_normal(rows).astype(np.float32)
        if index in self.poisoned:
            y[0] = np.nan
        return {"id": f"clip{index}", "x": x, "y": y}

    def collate(self, items):
        rows = max(len(item["y"]) for item in items)
        x = np.zeros((len(items), rows, DIM), np.float32)
        y, mask = np.zeros((2, len(items), rows), np.float32)
        for row, item in enumerate(items):
            n = len(item["y"])
            x[row, :n], y[row, :n], mask[row, :n] = item["x"], item["y"], 1
        return {"x": x, "y": y, "mask": mask, "lengths": [len(item["y"]) for item in items]}

    def targets(self, batch):
        return {"mse": float(sum(batch["lengths"])), "l1": float(sum((n + 1) // 2 for n in batch["lengths"]))}

    def losses(self, batch):
        error = (self.model(batch["x"]) - batch["y"]) * batch["mask"]
        return {"mse": mx.sum(error * error), "l1": mx.sum(mx.abs(error[:, ::2]))}

    def heldout_batches(self):
        heldout = np.random.default_rng(99)
        for _ in range(2):
            x = heldout.standard_normal((4, 5, DIM)).astype(np.float32)
            y = x @ np.linspace(-1, 1, DIM, dtype=np.float32)
            yield {"x": x, "y": y, "mask": np.ones_like(y), "lengths": [5] * 4}

    def extra_metrics(self):
        return {"draw": float(mx.random.uniform().item())}  # uses random numbers: training must not notice

    def write_samples(self, directory: Path, step: int):
        (directory / "sample.txt").write_text(str(step))

    def export(self, directory: Path, parameters):
        summary = {name: array.tolist() for name, array in parameters.items()}
        (directory / "export.json").write_text(json.dumps(summary))

    def fingerprint(self):
        return fingerprint_of(data_seed=self.data_seed, n_items=self.n_items, weights=self.weights)


def settings(**changes) -> TrainSettings:
    """Ten steps of batch 2, two micro-batches each."""
    usual = dict(
        steps=10, batch_size=2, accumulate=2, learning_rate=0.01, warmup_steps=2, eval_every=0, save_every=0, seed=5
    )
    return TrainSettings(**(usual | changes))
