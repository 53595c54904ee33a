"""What the recordings of a run are in codes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.train.judge.codes import JudgedCodes
from mlx_voxclone.train.saved.result import TrainResult


@dataclass(frozen=True)
class Recovered:
    """What the recordings are in codes.

    Attributes:
        encoder: the weights; None: the model's own.
        codes: the encoder's codes of every clip, int32 `[37, T]` by clip id.
        judged: codes of transcribed clips, judged by the language model.
        results: of the trainings, by the name of their directory.
        rounds: figures of each encoder that was tried, in order.
    """

    encoder: Path | None
    codes: dict[str, np.ndarray]
    judged: JudgedCodes
    results: dict[str, TrainResult] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
