"""A model with adapters, as tasks `speaker`, `language` and `distill` train it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.model.voxtral import Voxtral


def save_nothing(directory: Path, tensors: dict[str, mx.array]) -> None:
    """For trainings of which no adapters are wanted: trials and measurements."""


@dataclass(frozen=True, eq=False)
class AdaptedModel:
    """A model in LoRA, and what belongs to it.

    Attributes:
        model: quantised (or not) and wrapped in LoRA; A and B train.
        prompt: text and a number of voice rows -> the prompt's ids (`SpeechTokenizer.prompt`).
        save: writes the adapters, `(directory, tensors) -> None`.
        identity: what must be unchanged on resume, e.g. the base's fingerprint.
    """

    model: Voxtral
    prompt: Callable[[str, int], list[int]]
    save: Callable[[Path, dict[str, mx.array]], None] = save_nothing
    identity: Mapping[str, Any] = field(default_factory=dict)
