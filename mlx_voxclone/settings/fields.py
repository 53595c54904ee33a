"""What the sections of a run's configuration are made of: types of values, the base of all, the keys of a training."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.hub import FORM, HubAddress, is_address
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.files.yaml_files import shown
from mlx_voxclone.text.forms import as_said

_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(inf|infinity)|nan", re.ASCII | re.I)


def _number(value: Any) -> Any:
    """PyYAML reads `2e-5` (no dot) as text; YAML 1.2, and everyone else, as the number it is."""
    number = float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"expected a finite number; got {shown(value)}")
    return number


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return value
    if "\0" in value:
        raise ValueError("expected a path; got text with a zero character in it")
    return Path(_expanded(value))


def _expanded(value: str) -> str:
    try:
        return expanded(value)
    except VoxcloneError as e:
        raise ValueError(str(e)) from None


def _model(value: Any) -> Any:
    """A directory or a hub id."""
    return _expanded(value) if isinstance(value, str) else value


def _place(value: Any) -> Any:
    """A path, or an address as text."""
    if isinstance(value, str) and "://" in value:
        return value
    found = _path(value)
    if not isinstance(found, Path):
        raise ValueError(f"expected a path; got {shown(value)}")
    return found


def _file(value: Any) -> Any:
    """A path, or an address of the hub as text."""
    if is_address(value):
        try:
            HubAddress.parse(value)
        except VoxcloneError as e:
            raise ValueError(str(e)) from None
        return value
    if isinstance(value, str) and "://" in value:
        raise ValueError(f"expected a path or {FORM}; got {shown(value)}")
    return _place(value)


def _spoken(text: str) -> str:
    """A sentence as it is spoken."""
    try:
        return as_said(text)
    except VoxcloneError as e:
        raise ValueError(str(e)) from None


def _notified(value: str) -> str:
    """`desktop`, or an address that takes a POST."""
    address = urlsplit(value)
    if value != "desktop" and not (address.scheme in ("https", "http") and address.hostname):
        raise ValueError(f"expected desktop or an address (https://...); got {shown(value)}")
    return value


def _listed(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str | Path) else value


def _automatic(value: Any, paths: Any) -> Any:
    return AUTO if value == AUTO else paths(value)


def _plain(value: Any, info: Any) -> Any:
    return value if value == AUTO or info.mode == "python" else [str(path) for path in value]


def _ordered(pair: list[float]) -> list[float]:
    if pair[0] > pair[1]:
        raise ValueError(f"expected [low, high]; got {pair}")
    return pair


def unique(values: list[str]) -> list[str]:
    """The names. Raises ValueError if one of them comes twice."""
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"expected each name once; got {', '.join(twice)} more than once")
    return values


AUTO = "auto"  # in the place of paths: what the run makes itself, or finds made
FRAME_SECONDS = 0.08  # of the codec: nothing shorter can be learnt from
MOST = 2**53  # of a whole number where nothing else bounds it: beyond, JSON and floats lose digits
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False, ge=-1e30, le=1e30)]  # of float32
PathField = Annotated[Path, BeforeValidator(_path)]
PlaceField = Annotated[Path | str, BeforeValidator(_place)]
FileField = Annotated[Path | str, BeforeValidator(_file)]  # or an address of the hub, as text
Paths = Annotated[list[PathField], BeforeValidator(_listed)]  # null: none
AutoFile = Annotated[FileField | None, WrapValidator(_automatic)]
AutoPaths = Annotated[Paths, WrapValidator(_automatic), PlainSerializer(_plain)]  # AUTO, or paths
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Ratio = Annotated[Number, Field(ge=0, le=1)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Weight = Annotated[Number, Field(ge=0, le=1e6)]  # of a loss
Seconds = Annotated[Number, Field(ge=FRAME_SECONDS, le=600)]  # of one clip: ten minutes are 7,500 positions
Count = Annotated[int, Field(ge=1, le=MOST)]
WholeNumber = Annotated[int, Field(ge=0, le=MOST)]
Steps = Annotated[int, Field(ge=0, le=100_000_000)]  # of a training, or passes; a second each takes three years
MOST_ITEMS = 16_384  # of a step, which are made ready together
StepItems = Annotated[int, Field(ge=1, le=MOST_ITEMS)]
WindowSize = Annotated[int, Field(ge=16, le=65536)]  # samples: up to 2.7 s
Name = Annotated[str, StringConstraints(min_length=1)]
ModelName = Annotated[Name, BeforeValidator(_model)]  # a directory, or a hub id
SpokenText = Annotated[Name, AfterValidator(_spoken)]
VoiceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
NotifyTarget = Annotated[str, AfterValidator(_notified)]
Target = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]


def is_automatic(field: FieldInfo) -> bool:
    """Whether a field takes AUTO in the place of paths."""
    return any(isinstance(part, WrapValidator) and part.func is _automatic for part in field.metadata)


def at_most(most: int, least: int = 1) -> Any:
    """The type of a whole number within bounds."""
    return Annotated[int, Field(ge=least, le=most)]


def pair_of(item: Any) -> Any:
    """The type of `[low, high]`."""
    return Annotated[list[item], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class Section(BaseModel):
    """Base of every section: no unknown keys, no silent conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LengthSection(Section):
    """How long a training is, what a step takes in, and how fast it learns."""

    steps: Steps = 1000  # optimiser steps; the learning-rate schedule spans them
    epochs: Steps = 0  # passes over the data
    batch_size: StepItems = 1  # items in one micro-batch: what is in memory at once
    accumulate: StepItems = 1  # micro-batches per optimiser step
    learning_rate: Positive = 1e-4  # peak, reached after the warm-up
    warmup_steps: WholeNumber = 0  # linear, from learning_rate / warmup_steps

    @model_validator(mode="before")
    @classmethod
    def _epochs_decide(cls, content: Any) -> Any:
        """The trainer takes one of the two; epochs are the choice of who writes them, steps have a default."""
        epochs = content.get("epochs") if isinstance(content, dict) else None
        return {**content, "steps": 0} if type(epochs) is int and epochs > 0 else content

    @model_validator(mode="after")
    def _end(self):
        if not (self.steps or self.epochs):
            raise ValueError("steps and epochs are both 0: there is nothing to train")
        if self.batch_size * self.accumulate > MOST_ITEMS:
            raise ValueError(
                f"batch_size ({self.batch_size}) times accumulate ({self.accumulate}) is more than {MOST_ITEMS}: the "
                "items of a step are made ready together; lower one of them"
            )
        if self.steps and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below steps ({self.steps})")
        return self


class TrainSection(LengthSection):
    """The keys of every training; the trainer's own settings are these and a few more (`settings/training.py`)."""

    min_lr_ratio: Ratio = 0.1  # the cosine ends at this fraction of the peak
    weight_decay: Annotated[Number, Field(ge=0, le=1000)] = 0.01  # decoupled (AdamW), on every trainable tensor
    eval_every: WholeNumber = 100  # 0 = at the start and at the end only
    save_every: WholeNumber = 100  # 0 = at the end (and on Ctrl-C) only
    log_every: Count = 1
    sample_every: WholeNumber = 0  # 0 = no samples
    keep: Count = 2  # newest checkpoints kept on disk
    patience: WholeNumber = 0  # stop after so many evaluations without a better held-out metric; 0 = never
