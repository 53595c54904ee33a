"""What a training run may be told: plain numbers, checked once, before anything is read or written."""

import math
from dataclasses import asdict, dataclass, fields

from mlx_voxclone.errors import ConfigError

_MOST = 1e30  # of any number: NaN and infinity are above it, and so is what no run can mean
PRECISIONS = ("float32", "bf16")

# These may differ between a run and its continuation: they decide what is written and when, not how the weights move.
FREE_ON_RESUME = frozenset({"eval_every", "save_every", "log_every", "sample_every", "keep", "patience", "stop_after"})


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one run. A "step" is one optimiser step over `batch_size * accumulate` items; `*_every` count steps.

    Exactly one of `steps` and `epochs` is given. Raises ConfigError (one line) for any value that cannot be used.
    """

    steps: int = 0  # optimiser steps; the learning-rate schedule spans them
    epochs: int = 0  # passes over the data, instead of `steps`
    batch_size: int = 1  # items in one micro-batch: what is in memory at once
    accumulate: int = 1  # micro-batches per optimiser step
    learning_rate: float = 1e-4  # peak, reached after the warm-up
    min_lr_ratio: float = 0.1  # the cosine ends at this fraction of the peak
    warmup_steps: int = 0  # linear, from learning_rate / warmup_steps
    weight_decay: float = 0.01  # decoupled (AdamW), on every trainable tensor
    grad_clip: float = 1.0  # largest global norm of the averaged gradient; 0 = no clipping
    precision: str = "float32"  # of the computation; the trained master weights are float32 always
    eval_every: int = 100  # 0 = at the start and at the end only
    save_every: int = 100  # 0 = at the end (and on Ctrl-C) only
    log_every: int = 1
    sample_every: int = 0  # 0 = no samples
    keep: int = 2  # newest checkpoints kept on disk
    patience: int = 0  # stop after so many evaluations without a better held-out metric; 0 = never
    seed: int = 0
    stop_after: int = 0  # stop (evaluated, saved, to be resumed) at this step; the schedule still spans `steps`

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), field.type))
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if (self.steps > 0) == (self.epochs > 0):
            raise ConfigError(
                f"nothing to train or unclear how long: give either steps or epochs, at least 1 "
                f"(steps is {self.steps}, epochs is {self.epochs})"
            )
        for name in ("batch_size", "accumulate", "log_every", "keep"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _require("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        _require("min_lr_ratio", self.min_lr_ratio, 0 <= self.min_lr_ratio <= 1, "from 0 to 1")

    def as_dict(self) -> dict:
        """JSON-ready copy."""
        return asdict(self)

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
    skip = FREE_ON_RESUME | {"steps", "epochs"}
    names = sorted((old.keys() | new.keys()) - skip)
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _typed(name: str, value, kind):
    """`value` as the field's type; a number written as text (YAML reads 2e-5 so) is refused, not guessed at."""
    if kind is str:
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be text, not {_shown(value)}")
        return value
    if isinstance(value, str):
        raise ConfigError(
            f"{name} must be a number, not the text {_shown(value)} (YAML needs a point: 2.0e-5, not 2e-5)"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _MOST:
        raise ConfigError(f"{name} must be a finite number, not {_shown(value)}")
    if kind is int and value != int(value):
        raise ConfigError(f"{name} must be a whole number, not {_shown(value)}")
    _require(name, value, value >= 0, "0 or more")
    return kind(value)


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _require(name: str, value, good: bool, wanted: str) -> None:
    if not good:
        raise ConfigError(f"{name} must be {wanted}, not {value}")
