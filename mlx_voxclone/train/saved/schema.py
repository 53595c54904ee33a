"""What `state.json` of a checkpoint may hold: types and bounds of every field, checked whenever it is read.

A wrong value would not end a resumed run, it would train otherwise without a word; so nothing is converted or ignored.
"""

import hashlib
import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.yaml_files import shown
from mlx_voxclone.settings.training import TrainSettings

CHECKSUM = "sha256"  # of the rest of the document; files of earlier versions have none

_MOST = 2**53
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_NonNegative = Annotated[_Finite, Field(ge=0)]
_Natural = Annotated[int, Field(ge=0, lt=_MOST)]
_Count = Annotated[int, Field(ge=1, lt=_MOST)]
_Last = Annotated[int, Field(ge=-1, lt=_MOST)]
_Word = Annotated[int, Field(ge=0, lt=2**32)]
_PairOfWords = Annotated[list[_Word], Field(min_length=2, max_length=2)]
_PairOfNaturals = Annotated[list[_Natural], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Loss(_Part):
    loss: _Finite
    terms: Annotated[dict[str, _Finite], Field(min_length=1)]


class _Window(_Part):
    """The steps since the last logged one."""

    sums: dict[str, _Finite]
    targets: Annotated[dict[str, _NonNegative], Field(min_length=1)]
    norm: _NonNegative
    steps: _Count
    items: _Count
    seconds: Annotated[_Finite, Field(gt=0)]

    @model_validator(mode="after")
    def _agree(self):
        if missing := sorted(self.targets.keys() - self.sums.keys()):
            raise ValueError(f"targets name {missing[0]}, sums do not")
        return self


def _none_yet(window: Any) -> Any:
    if window is None:
        raise ValueError("expected an object")
    return None if window == {} else window


class _Evaluation(_Part):
    step: _Natural
    metrics: dict[str, float]  # a metric that was not finite chose nothing, and was kept


class Best(_Evaluation):
    """The best evaluation, as a state and `best/info.json` hold it."""

    metric: str
    value: _Finite

    @model_validator(mode="after")
    def _agree(self):
        if self.metrics.get(self.metric) != self.value:
            raise ValueError(f"value is {self.value}, {self.metric} among metrics is {self.metrics.get(self.metric)}")
        return self


class _State(_Part):
    """`RunState`, as it is written."""

    step: _Natural
    position: _PairOfNaturals
    rng: _PairOfWords
    seconds: _NonNegative
    peak_memory_gb: _NonNegative
    first: _Loss | None
    last: _Loss | None
    recent: list[_Finite]
    skipped: _Natural
    skipped_in_row: _Natural
    window: Annotated[_Window | None, BeforeValidator(_none_yet)]
    silent: list[str] | None
    best: Best | None
    stale: _Natural
    evaluations: list[_Evaluation]
    evaluated: _Last
    sampled: _Last
    decided: dict[str, bool] = {}  # states of earlier versions have none

    @model_validator(mode="after")
    def _agree(self):
        done = {"skipped": self.skipped, "evaluated": self.evaluated, "sampled": self.sampled}
        done |= {} if self.best is None else {"best": self.best.step}
        done |= {} if self.window is None else {"steps of the window": self.window.steps}
        if late := [name for name, step in done.items() if step > self.step]:
            raise ValueError(f"{late[0]} is {done[late[0]]} at step {self.step}")
        if self.skipped_in_row > self.skipped:
            raise ValueError(f"skipped_in_row is {self.skipped_in_row} of {self.skipped} skipped")
        steps = [evaluation.step for evaluation in self.evaluations]
        if steps != sorted(set(steps)) or steps[:1] not in ([], [0]) or (steps[-1] if steps else -1) != self.evaluated:
            raise ValueError(f"evaluations are of the steps {shown(steps)}, not from 0 to {self.evaluated} in order")
        if self.stale > len(steps):
            raise ValueError(f"stale is {self.stale} after {len(steps)} evaluations")
        good = self.step - self.skipped
        if (self.first is None) != (good == 0) or (self.last is None) != (good == 0):
            raise ValueError(f"first and last do not go with {good} good steps")
        if not min(good, 1) <= len(self.recent) <= good:
            raise ValueError(f"recent holds {len(self.recent)} losses of {good} good steps")
        return self


class _File(_Part):
    bytes: _Natural
    crc32: _Word


class _Files(_Part):
    model: Annotated[_File, Field(alias="model.safetensors")]
    optimizer: Annotated[_File, Field(alias="optimizer.safetensors")]


class _Schedule(_Part):
    kind: str
    total_steps: _Count


class _Document(_Part):
    format: _Natural
    task: str
    metric: str
    settings: dict[str, Any]
    schedule: _Schedule
    fingerprint: str
    state: _State
    files: _Files

    @model_validator(mode="after")
    def _chosen(self):
        """The best is the first of the evaluations with the least value of the metric."""
        if missing := [found.step for found in self.state.evaluations if self.metric not in found.metrics]:
            raise ValueError(f"the evaluation of step {missing[0]} lacks the metric {self.metric}")
        values = {found.step: found.metrics[self.metric] for found in self.state.evaluations}
        finite = {step: value for step, value in values.items() if math.isfinite(value)}
        least = min(finite, key=lambda step: (finite[step], step), default=None)
        best = self.state.best
        chosen = (None, None, None) if best is None else (best.step, best.metric, best.value)
        if chosen != ((None, None, None) if least is None else (least, self.metric, finite[least])):
            raise ValueError(f"best is of step {chosen[0]}, the least {self.metric} of step {least}")
        return self


def checksum(document: dict[str, Any]) -> str:
    """SHA-256 (hex) of a document without its checksum."""
    rest = {key: value for key, value in document.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_document(document: Any) -> dict[str, Any]:
    """The content of a `state.json`, if it is whole.

    Raises:
        ValueError: a checksum that does not match, or the first field that cannot be, in one line.
    """
    if not isinstance(document, dict):
        raise ValueError(f"it holds {shown(document)}")
    if CHECKSUM in document and document[CHECKSUM] != checksum(document):
        raise ValueError("its checksum does not match, it was changed after it had been written")
    try:
        _Document.model_validate({key: value for key, value in document.items() if key != CHECKSUM})
        if differing := sorted(document["settings"].keys() ^ TrainSettings.model_fields.keys()):
            missing = differing[0] not in document["settings"]
            raise ConfigError(f"{differing[0]} is {'missing' if missing else 'no setting'}")
        TrainSettings(**document["settings"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        got = "" if first["type"] in ("missing", "value_error") else f"; got {shown(first['input'])}"
        raise ValueError(f"{place}: {first['msg']}{got}") from None
    except ConfigError as error:
        raise ValueError(f"settings: {error}") from None
    return document
