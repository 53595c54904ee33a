"""The recipes that are compared, as overrides of the product's own configuration for `voxclone train`.

Each recipe says what differs from `COMMON`, which holds everything the encoder section knows, so that a change of the
shipped defaults moves no result but that of the recipe `shipped`.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.train.encoder import terms
from mlx_voxclone.train.encoder.items import EncoderItems

LAST_RATE = 0.02  # of the highest: what is left of the learning rate at the end
CONFIG = Path(__file__).parents[2] / "configs" / "voxtral_encoder.yaml"

COMMON = {
    "encoder.weights": None,
    "encoder.start": "random",
    "encoder.gain_db": [-6.0, 6.0],
    "encoder.quantisation_noise": False,
    "encoder.sound_teaches": "all",
    "encoder.losses": {
        "sound": 1.0,
        "semantic_code": 1.0,
        "acoustic_code": 1.0,
    },
    "encoder.stft_sizes": [2048, 1024, 512, 256],
    "encoder.pairs.share": 0.5,
    "encoder.pairs.alone_steps": 0,
    "encoder.discriminators.enabled": False,
    "encoder.distillation.enabled": False,
    "encoder.prior.presets": False,  # a miniature's presets are random numbers
}
# What is no key of the product but a constant of it, by the name that a recipe has for it.
CONSTANTS = {
    "temperature": (terms, "TEMPERATURE"),
    "margin": (terms, "MARGIN"),
    "commitment": (terms, "COMMITMENT"),
    "augmented": (EncoderItems, "augmented"),
    "dispersed": (EncoderItems, "dispersed"),
}
COMMON_CONSTANTS = {"temperature": 1.0, "margin": 0.5, "commitment": 0.05, "augmented": 0.5, "dispersed": 1.0}


@dataclass(frozen=True)
class Recipe:
    """What is different from `COMMON`, by dotted key without the leading `encoder.`, and from `COMMON_CONSTANTS`."""

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)
    alone: float = 0.0  # share of a training's steps in which there are only pairs
    pairs: bool = True
    common: bool = True  # False: over the shipped configuration as it is
    taught: bool = False  # a teacher of the spoken units, standing in for the recogniser (teacher.py)
    heard: bool = False  # a real Whisper teaches what it hears in real recordings (teacher.py)
    moved: bool = False  # with copies of the pairs in voices that nobody has, as automatic pairs have them
    oracle: bool = False  # pairs of the recordings themselves and their true codes, which no user has

    def alone_steps(self, steps: int) -> int:
        """Of a training of so many steps, those in which there are only pairs."""
        return round(self.alone * steps)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The product's constants as this recipe has them; a training notes them in its checkpoints' fingerprint."""
        values = {**(COMMON_CONSTANTS if self.common else {}), **self.constants}
        with ExitStack() as stack:
            for name, value in values.items():
                stack.enter_context(patch.object(*CONSTANTS[name], value))
            yield


def _sound(weight: float) -> dict[str, float]:
    return {"losses.sound": weight}


_NO_RECONSTRUCTION = _sound(0.0)
_OPPONENTS = {"discriminators.enabled": True, "discriminators.warmup_steps": 100}
_FEW = {"discriminators.sizes": [876, 334, 126], "discriminators.channels": 4}  # a CPU has no more to spare
MAIN = ("a", "b", "c", "d")
RECIPES = {
    "a": Recipe("reconstruction only", pairs=False),
    "b": Recipe("true codes only", {**_NO_RECONSTRUCTION, "pairs.share": 1.0}),
    "c": Recipe("both"),
    "d": Recipe("both and discriminators", {**_OPPONENTS, **_FEW}),
    "d-eight": Recipe(
        "both and the paper's eight discriminators, narrow", {**_OPPONENTS, "discriminators.channels": 8}
    ),
    "shipped": Recipe("the shipped configuration", alone=0.25, common=False),
    "shipped-taught": Recipe("the shipped configuration, units taught", alone=0.25, common=False, taught=True),
    "shipped-heard": Recipe(
        "the shipped configuration, taught by a real Whisper", alone=0.25, common=False, heard=True
    ),
    "oracle": Recipe(
        "true codes of the recordings",
        {**_NO_RECONSTRUCTION, "pairs.share": 1.0},
        {"dispersed": 0.0, "augmented": 0.0},
        oracle=True,
    ),
    "a-mirror": Recipe("reconstruction only, mirrored start", {"start": "mirror"}, pairs=False),
    # One thing of (c) changed at a time.
    "c-mirror": Recipe("both, mirrored start", {"start": "mirror"}),
    "c-mirror-half": Recipe("both, mirrored start, after half of pairs alone", {"start": "mirror"}, alone=0.5),
    "c-phases": Recipe("both, phases of decoded audio left alone", constants={"dispersed": 0.0}),
    "c-phases-half": Recipe("both, half of the pairs with other phases", constants={"dispersed": 0.5}),
    "c-clean": Recipe("both, decoded audio never augmented", constants={"augmented": 0.0}),
    "c-augmented": Recipe("both, decoded audio always augmented", constants={"augmented": 1.0}),
    "c-share-25": Recipe("both, a quarter pairs", {"pairs.share": 0.25}),
    "c-share-75": Recipe("both, three quarters pairs", {"pairs.share": 0.75}),
    "c-curriculum": Recipe("both, after a quarter of pairs alone", alone=0.25),
    "c-half": Recipe("both, after half of pairs alone", alone=0.5),
    "c-codes-4": Recipe("both, true codes weighted 4", {"losses.semantic_code": 4.0, "losses.acoustic_code": 4.0}),
    "c-semantic-4": Recipe("both, true semantic codes weighted 4", {"losses.semantic_code": 4.0}),
    "c-acoustic-4": Recipe("both, true acoustic codes weighted 4", {"losses.acoustic_code": 4.0}),
    "c-temperature-025": Recipe("both, cross-entropy at temperature 1/4", constants={"temperature": 0.25}),
    "c-temperature-4": Recipe("both, cross-entropy at temperature 4", constants={"temperature": 4.0}),
    "c-margin-0": Recipe("both, acoustic levels to their centres", constants={"margin": 0.0}),
    "c-noise": Recipe("both, quantisation noise", {"quantisation_noise": True}),
    "c-acoustic": Recipe("both, the sound teaching the acoustic codes alone", {"sound_teaches": "acoustic"}),
    "c-sound-3": Recipe("both, sound weighted 3", _sound(3.0)),
    "c-no-commitment": Recipe("both, no commitment", constants={"commitment": 0.0}),
    "c-taught": Recipe("both, units taught", taught=True),
    # One thing of the shipped configuration changed at a time.
    "s-sound-1": Recipe("shipped, sound weighted 1", _sound(1.0), alone=0.25, common=False),
    "s-sound-10": Recipe("shipped, sound weighted 10", _sound(10.0), alone=0.25, common=False),
    "s-share-25": Recipe("shipped, a quarter pairs", {"pairs.share": 0.25}, alone=0.25, common=False),
    "s-share-75": Recipe("shipped, three quarters pairs", {"pairs.share": 0.75}, alone=0.25, common=False),
    "s-alone-0": Recipe("shipped, no pairs alone", {"pairs.alone_steps": 0}, common=False),
    "s-alone-10": Recipe("shipped, a tenth of pairs alone", alone=0.1, common=False),
    "s-alone-50": Recipe("shipped, half of pairs alone", alone=0.5, common=False),
    "s-random": Recipe("shipped, random start", {"start": "random"}, alone=0.25, common=False),
    "s-acoustic": Recipe(
        "shipped, the sound teaching the acoustic codes alone",
        {"sound_teaches": "acoustic"},
        alone=0.25,
        common=False,
    ),
    "s-moved": Recipe("shipped, with moved pairs", alone=0.25, common=False, moved=True),
    "s-no-commitment": Recipe("shipped, no commitment", constants={"commitment": 0.0}, alone=0.25, common=False),
}


@dataclass(frozen=True)
class Scale:
    """How large a benchmark is; `corpus` and `codec` have sizes of the same names."""

    steps: int  # optimiser steps at which recipes are compared
    seeds: int
    batch_size: int
    crop_seconds: float
    learning_rate: float
    warmup_steps: int
    pair_speakers: float  # share of the training speakers whose codes are given
    score_seconds: float  # of held-out audio per kind
    baseline_clips: int  # clips whose codes are also found by optimisation through the decoder
    seconds: float = 0.0  # of training at which recipes are compared too; 0: what the slowest needs for `steps`


SCALES = {
    "quick": Scale(200, 1, 8, 1.28, 2e-3, 20, 0.5, 20.0, 1),
    # With opponents a step takes several times as long: at equal time, the others get well beyond `steps`.
    "full": Scale(300, 3, 8, 1.28, 2e-3, 50, 0.5, 40.0, 3, seconds=180.0),
}


@dataclass(frozen=True)
class Materials:
    """What the trainer gets."""

    stock: Path  # the release without an encoder
    speech: Path  # prepared recordings of the training speakers
    pairs: Path  # directory of pairs
    oracle: Path | None = None  # directory of pairs for a recipe that has the true codes of recordings
    moved: Path | None = None  # directory of copies of the pairs for a recipe that has them

    def pairs_of(self, recipe: Recipe) -> str | list[str] | None:
        """Where a recipe's pairs are; None: it has none."""
        if not recipe.pairs:
            return None
        if recipe.moved:
            return [str(self.pairs), str(self.moved)]
        return str(self.oracle if recipe.oracle else self.pairs)


def recipe_config(
    recipe: Recipe,
    scale: Scale,
    materials: Materials,
    *,
    seed: int,
    steps: int,
    save_every: int = 0,
) -> RunConfig:
    """The configuration of a run of task `encoder`.

    Args:
        recipe: what is special.
        scale: sizes and learning rate, equal for all.
        materials: what the trainer gets; the pairs are not named in the configuration of a recipe without.
        seed: of initialisation, order and crops.
        steps: length. The learning rate falls until the last of them.
        save_every: steps between checkpoints; 0: none before the end.
    """
    overrides: dict[str, Any] = copy.deepcopy(COMMON) if recipe.common else {}  # what is loaded is written to
    overrides |= {
        "model": str(materials.stock),
        "data.path": str(materials.speech),
        "seed": seed,
        "precision": "float32",
        "encoder.crop_seconds": scale.crop_seconds,
        "encoder.pairs.path": materials.pairs_of(recipe),
        "encoder.train": {
            "steps": steps,
            "batch_size": scale.batch_size,
            "accumulate": 1,
            "learning_rate": scale.learning_rate,
            "min_lr_ratio": LAST_RATE,
            "warmup_steps": min(scale.warmup_steps, steps // 2),
            "eval_every": 0,
            "sample_every": 0,
            "save_every": save_every,
            "log_every": 1,
            "keep": steps // save_every + 2 if save_every else 1,
        },
    }
    if recipe.alone:
        overrides["encoder.pairs.alone_steps"] = recipe.alone_steps(steps)
    overrides |= {f"encoder.{key}": value for key, value in recipe.changes.items()}
    return load_run_config(CONFIG, overrides)
