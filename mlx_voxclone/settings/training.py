"""The trainer's settings: the keys of a training (`TrainSection`), and what the run as a whole decides."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.settings.fields import NonNegative, TrainSection, WholeNumber
from mlx_voxclone.settings.findings import describe

LENGTHS = frozenset({"steps", "epochs"})  # of a run; judged by the number of steps that they come to
# These may differ between a run and its continuation: they decide what is written and when, not how the weights move.
# The one list of them: a run's configuration is compared by it, too (`differences.py`).
FREE_ON_RESUME = frozenset({"eval_every", "save_every", "log_every", "sample_every", "keep", "patience", "stop_after"})


class TrainSettings(TrainSection):
    """Settings of one training. A "step" is one optimiser step over `batch_size * accumulate` items; `*_every` count
    steps. `epochs`, where they are above 0, decide instead of `steps`.

    Raises ConfigError (one line) for any value that cannot be used.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    grad_clip: NonNegative = 1.0  # largest global norm of the averaged gradient; 0 = no clipping
    precision: Literal["float32", "bf16"] = "float32"  # of the computation; trained master weights are float32 always
    stop_after: WholeNumber = 0  # stop (evaluated, saved, to be resumed) at this step; the schedule still spans `steps`

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise ConfigError(describe(e)[1]) from None

    def as_dict(self) -> dict:
        """JSON-ready copy."""
        return self.model_dump()

    def steps_per_epoch(self, n_items: int) -> int:
        """Optimiser steps of one pass; the last group and the last batch in it may be smaller, never dropped."""
        return math.ceil(math.ceil(n_items / self.batch_size) / self.accumulate)

    def total_steps(self, n_items: int) -> int:
        """Steps of the whole run over `n_items` items per epoch. Raises ConfigError if data and settings do not fit."""
        if n_items < 1:
            raise ConfigError("there is nothing to train on: the training data holds 0 items")
        if self.batch_size > n_items:
            raise ConfigError(
                f"batch_size {self.batch_size} is larger than the training data ({n_items} items): "
                f"use at most {n_items}, or more data"
            )
        total = self.steps or self.epochs * self.steps_per_epoch(n_items)
        if self.warmup_steps >= total:
            raise ConfigError(f"warmup_steps {self.warmup_steps} must be less than the {total} steps of the run")
        return total


def changed(old: dict, new: dict) -> list[str]:
    """Names of the settings that differ in a way that breaks "resume equals uninterrupted", as `name: old -> new`.

    The length of the run is judged by the caller, who knows the number of items.
    """
    skip = FREE_ON_RESUME | LENGTHS
    names = sorted((old.keys() | new.keys()) - skip)
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]
