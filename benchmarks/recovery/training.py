"""One run of a recipe: the product's training, what its log says of time, and its checkpoints as encoders.

Recipes are compared at equal steps and at equal time. Each trains for the longer of the two; a plan, made from short
probes, says which steps these are.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks.recovery.recipes import Recipe
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors, write_text_atomic
from mlx_voxclone.errors import DataError
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.run_config import RunConfig
from mlx_voxclone.train.log import LOG_NAME, read_log
from mlx_voxclone.train.run import CONFIG_FILE, run
from mlx_voxclone.train.state import list_checkpoints, load_checkpoint

PROBE_STEPS = 24  # half of them before and half after the end of `pairs.alone_steps`, where a recipe has that
_PROBE_WARM = 2  # steps of each half that are not timed: first allocations
_CURVE = 3  # checkpoints scored on the way, beside the two that count
_ENCODER = re.compile(r"(?:^|\.)((?:input_proj|encoder_blocks)\..+)$")


@dataclass
class Plan:
    """At which step each recipe is compared; settled once per output directory, so that resumed runs keep it.

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

    def alone(self, recipe: Recipe) -> int:
        return round(recipe.alone * self.steps)

    def seconds_at(self, name: str, recipe: Recipe, step: int) -> float:
        """Training time of the first `step` steps, by the probe."""
        alone, after = self.seconds_per_step[name]
        first = min(step, self.alone(recipe))
        return first * alone + (step - first) * after

    def step_at_time(self, name: str, recipe: Recipe) -> int:
        """The step that a recipe reaches in the compared time: an even one, at least 2."""
        alone, after = self.seconds_per_step[name]
        first = self.alone(recipe)
        left = self.seconds - first * alone
        step = first + left / after if left > 0 else self.seconds / alone
        return max(2, 2 * round(step / 2))

    def length(self, name: str, recipe: Recipe) -> int:
        return max(self.steps, self.step_at_time(name, recipe))

    def save_every(self, name: str, recipe: Recipe) -> int:
        """So that the shorter of the two compared lengths has a checkpoint; the longer one is the end."""
        return min(self.steps, self.step_at_time(name, recipe)) // 2

    def scored_steps(self, name: str, recipe: Recipe) -> list[int]:
        """The compared steps and a few on the way."""
        every, end = self.save_every(name, recipe), self.length(name, recipe)
        saved = [*range(every, end, every), end]
        wanted = np.linspace(0, end, _CURVE + 1)[1:]
        curve = {min(saved, key=lambda step: abs(step - place)) for place in wanted}
        return sorted(curve | {self.steps, self.step_at_time(name, recipe)})


def train(config: RunConfig, directory: Path) -> None:
    """`voxclone train` with this configuration in `directory`, or going on with what is there.

    Raises:
        CheckpointError: the directory holds a run of another configuration.
    """
    resume = directory if (directory / CONFIG_FILE).is_file() else None
    run(config.model_copy(update={"output": directory}).check_paths(), resume=resume, quiet=True)
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


def probe(config: RunConfig, directory: Path) -> list[float]:
    """Seconds per step of the two halves of a short run, which is removed afterwards.

    The lower quartile: what else the machine does makes steps longer, never shorter.
    """
    shutil.rmtree(directory, ignore_errors=True)
    train(config, directory)
    seconds = step_seconds(directory)
    half = len(seconds) // 2
    shutil.rmtree(directory)
    return [float(np.quantile(part[_PROBE_WARM:], 0.25)) for part in (seconds[:half], seconds[half:])]


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
