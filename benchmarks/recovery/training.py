"""One training of a recipe: the product's own, what its log says of time, and its checkpoints as encoders.

Recipes are compared at equal steps and at equal time, by two trainings, each with a learning rate that falls until its
end, as a user's does. A plan, made from short probes, says how many steps the second one takes.
"""

import json
import re
import shutil
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks.recovery.recipes import Recipe
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.run_log import LOG_NAME, read_log
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.process.progress import SILENT
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.differences import CONFIG_FILE
from mlx_voxclone.train.run import run
from mlx_voxclone.train.saved.state import list_checkpoints, load_checkpoint

STEPS, TIME = "steps", "time"  # what is equal in a comparison
PROBE_STEPS = 32  # half of them before and half after the end of `pairs.alone_steps`, where a recipe has that
_PROBE_WARM = 2  # steps of each half that are not timed: first allocations
_CURVE = 3  # checkpoints scored of a training that is compared at equal time, the last one among them
_ENCODER = re.compile(r"(?:^|\.)((?:input_proj|encoder_blocks)\..+)$")


@dataclass
class Plan:
    """How long each recipe trains; settled once per output directory, so that resumed runs keep it.

    `seconds_per_step[recipe]`: while there are pairs alone, and afterwards (equal for recipes without such a phase).
    """

    steps: int
    seconds: float = 0.0  # of training that are compared; 0: not settled yet
    seconds_per_step: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, steps: int) -> "Plan":
        """What was settled before, else an empty plan.

        Raises:
            DataError: settled for another number of steps.
        """
        if not path.is_file():
            return cls(steps)
        plan = cls(**json.loads(path.read_text(encoding="utf-8")))
        if plan.steps != steps:
            raise DataError(f"{path}: made for {plan.steps} steps, not {steps}; choose another output directory")
        return plan

    def save(self, path: Path) -> None:
        write_text_atomic(path, json.dumps(asdict(self), indent=1) + "\n")

    def settle(self, recipes: Mapping[str, Recipe]) -> None:
        """Fix the time that is compared, once: what the slowest of these recipes needs for `steps`."""
        if not self.seconds:
            self.seconds = max(self.seconds_at(name, recipe, self.steps) for name, recipe in recipes.items())

    def seconds_at(self, name: str, recipe: Recipe, length: int, step: int | None = None) -> float:
        """Time that a training of `length` steps takes up to a step (None: the last), by the probe."""
        alone, after = self.seconds_per_step[name]
        step = length if step is None else step
        first = min(step, recipe.alone_steps(length))
        return first * alone + (step - first) * after

    def length(self, name: str, recipe: Recipe, what: str) -> int:
        """Steps of the training that is compared at equal `STEPS` or `TIME`."""
        if what == STEPS:
            return self.steps

        def seconds(length: int) -> float:
            return self.seconds_at(name, recipe, length)

        # A longer training takes longer, however its steps with pairs alone are rounded.
        most = int(self.seconds / min(self.seconds_per_step[name])) + 2
        found = bisect_left(range(most), self.seconds, key=seconds)
        return max(2, min((found - 1, found), key=lambda length: abs(seconds(length) - self.seconds)))


def save_every(length: int, what: str) -> int:
    """Steps between a training's checkpoints; 0: the last one is enough."""
    return max(1, length // _CURVE) if what == TIME else 0


def scored_steps(length: int, what: str) -> list[int]:
    """Steps of the checkpoints that are scored; the last one is `length`."""
    every = save_every(length, what)
    return [*range(every, min(length, every * _CURVE), every), length] if every else [length]


def train(config: RunConfig, directory: Path) -> None:
    """`voxclone train` with this configuration in `directory`, or going on with what is there.

    Raises:
        CheckpointError: the directory holds a run of another configuration.
    """
    resume = directory if (directory / CONFIG_FILE).is_file() else None
    run(config.model_copy(update={"output": directory}).check_paths(), resume=resume, reporter=SILENT)
    mx.clear_cache()


def step_seconds(directory: Path) -> np.ndarray:
    """Seconds that each step of a run took, by its log, waiting for data included: `[steps]`.

    A step that follows an evaluation, a checkpoint or a resume is taken to be as long as an ordinary one (the median),
    and so is one that was skipped.
    """
    durations: dict[int, float] = {}
    before, disturbed, last = 0.0, True, 0
    for record in read_log(directory / LOG_NAME):
        if "event" in record:
            disturbed = True
            continue
        if not disturbed and record["step"] == last + 1:
            durations[record["step"]] = record["seconds"] - before
        before, disturbed, last = record["seconds"], False, record["step"]
    if not durations:
        raise DataError(f"{directory}: its log times no step")
    ordinary = float(np.median(list(durations.values())))
    return np.array([durations.get(step, ordinary) for step in range(1, last + 1)])


def probe(config: RunConfig, directory: Path, *, halves: bool) -> list[float]:
    """Seconds per step of a short run, which is removed afterwards: while there are pairs alone, and then.

    Medians over the steps, the smaller ones of two runs: what else the machine does makes steps longer, never shorter.
    `halves`: the first half of the run has pairs alone. Otherwise both figures are of the whole.
    """
    found = []
    for _ in range(2):
        shutil.rmtree(directory, ignore_errors=True)
        train(config, directory)
        seconds = step_seconds(directory)
        middle = len(seconds) // 2 if halves else 0
        parts = (seconds[:middle], seconds[middle:]) if halves else (seconds, seconds)
        found.append([float(np.median(part[_PROBE_WARM:])) for part in parts])
        shutil.rmtree(directory)
    return [min(pair) for pair in zip(*found)]


def checkpoint_codec(stock: Release, directory: Path, step: int) -> Codec:
    """The codec with the encoder of a run at a step, as it would be baked; also kept as `encoder-STEP.safetensors`.

    Raises:
        DataError: no checkpoint of that step.
    """
    file = directory / f"encoder-{step}.safetensors"
    if not file.is_file():
        paths = dict(list_checkpoints(directory))
        if step not in paths:
            raise DataError(
                f"{directory}: no checkpoint of step {step}; there are {', '.join(map(str, paths)) or 'none'}"
            )
        parameters = load_checkpoint(paths[step]).parameters
        tensors = {CODEC_PREFIX + m[1]: value for name, value in parameters.items() if (m := _ENCODER.search(name))}
        save_tensors(file, tensors)
    return load_model(stock, parts=["codec"], encoder_file=file).audio_tokenizer


def forget_checkpoints(directory: Path) -> None:
    """Remove all checkpoints but the last, which a longer run would go on from."""
    for _, path in list_checkpoints(directory)[:-1]:
        shutil.rmtree(path)
