"""The encoder trainings of a run, before it starts: how many, how long, and what of them the cache holds already.

Task `clone` with automatic pairs trains the model's base encoder, unless the cache has it, and refines it on the
recordings, then again in each round of the judge (`clone/recover.py`). Otherwise it trains one from the start in the
place of both. Task `encoder` is one training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_voxclone.checkpoint.release import WEIGHTS, Release
from mlx_voxclone.doctor.forecast import Forecast, encoder_size, planned_steps, share_cost
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import TrainSection
from mlx_voxclone.train.clone.base_encoder import base_entry, uses_base

ENCODER, BASE, AGAIN = "encoder", "base encoder", "encoder, on judged codes"
TRAIN, REFINE = "encoder.train", "encoder.refine"
TENSORS_PER_CHECKPOINT = 3  # value and two moments


@dataclass(frozen=True)
class EncoderTraining:
    """Trainings of one kind, one after the other.

    Attributes:
        name: of the stage.
        settings: dotted key of the section that says how long each is.
        count: how many.
    """

    name: str
    settings: str
    count: int = 1

    def section(self, config: RunConfig) -> TrainSection:
        return config.encoder.refining if self.settings == REFINE else config.encoder.train

    def configured(self, config: RunConfig) -> RunConfig:
        """A configuration whose `encoder` section is that of these trainings."""
        changes = {"train": self.section(config)}
        if self.name == BASE:
            changes["pairs"] = config.encoder.pairs.model_copy(update={"share": 1.0})
            changes |= {name: type(getattr(config.encoder, name))() for name in ("discriminators", "distillation")}
        return config.model_copy(update={"encoder": config.encoder.model_copy(update=changes)})

    def note(self, config: RunConfig) -> str:
        """What is to be said of them."""
        steps, refined = planned_steps(self.section(config)), self.settings == REFINE
        each = f", {steps} steps each" if steps else ""
        times = f"up to {self.count} trainings{each}; " if refined and self.count > 1 else ""
        return ("once per model, on pairs alone; " if self.name == BASE else "") + times


@dataclass(frozen=True)
class EncoderPlan:
    """What a run trains of encoders.

    Attributes:
        trainings: in order; none where an encoder is at hand.
        cached: the base encoder's entry of the cache, where it is complete and will be used.
    """

    trainings: tuple[EncoderTraining, ...]
    cached: Path | None = None

    def forecasts(self, config: RunConfig, forecast: Callable[[RunConfig, str], Forecast]) -> list[Forecast]:
        """One per kind of training.

        Args:
            forecast: `doctor.forecast.forecast`; called once for all trainings with the same batches. A base encoder's
                memory is that of a training that decodes too, and so the most that it may need.
        """
        tried: dict[tuple, tuple[Forecast, float]] = {}
        found = []
        for training in self.trainings:
            asked = training.configured(config)
            section = asked.encoder
            extras = section.discriminators.enabled, section.distillation.enabled
            alike = section.train.batch_size, section.train.accumulate, *extras
            if alike not in tried:
                tried[alike] = forecast(asked, ENCODER), share_cost(section)
            trial, cost = tried[alike]
            found.append(
                replace(
                    trial,
                    stage=training.name,
                    settings=training.settings,
                    step_seconds=trial.step_seconds * share_cost(section) / cost,
                    steps=training.count * planned_steps(section.train),
                    note=training.note(config) + trial.note,
                )
            )
        return found

    def run_bytes(self, config: RunConfig) -> float:
        """On the disk, in the run directory: the checkpoints of all trainings there.

        Each training keeps its newest checkpoints and its best weights; the last one also writes one more of both
        before it removes the old ones.
        """
        weights, kept = 4.0 * encoder_size(config.model), 0
        own = [training for training in self.trainings if training.name != BASE]
        for training in own:
            kept += training.count * _kept(training.section(config))
        return weights * (kept + TENSORS_PER_CHECKPOINT + 1) if own else 0.0

    def cache_bytes(self, config: RunConfig, *, shared: bool) -> dict[str, float]:
        """On the disk of the cache, by what they are for.

        Args:
            shared: whether the run writes to the same disk: the base encoder's checkpoints are gone before those of
                the run come, which take more.
        """
        base = next((training for training in self.trainings if training.name == BASE), None)
        if base is None:
            return {}
        weights = 4.0 * encoder_size(config.model)
        passing = weights * (_kept(base.section(config)) + TENSORS_PER_CHECKPOINT)  # best/ twice while it is replaced
        return {"base encoder": weights} | ({} if shared else {"its checkpoints, while it trains": passing})

    def copy_bytes(self, config: RunConfig) -> dict[str, float]:
        """In the run directory, where it is on another disk than the cache: its own copy of the base encoder."""
        uses = self.cached is not None or any(training.name == BASE for training in self.trainings)
        return {"copy of the base encoder": 4.0 * encoder_size(config.model)} if uses else {}


def _kept(section: TrainSection) -> int:
    """Copies of an encoder that a training leaves: of its checkpoints and its best weights."""
    return TENSORS_PER_CHECKPOINT * section.keep + 1


def plan_encoders(config: RunConfig) -> EncoderPlan:
    """What a run will train; a model that is not fetched yet has nothing in the cache.

    Raises:
        DataError: automatic pairs of a model that has no voice of its own, or of sentences that cannot be read.
    """
    if ENCODER not in config.stages:
        return EncoderPlan(())
    if config.task != "clone":
        return EncoderPlan((EncoderTraining(ENCODER, TRAIN),))
    path = Path(config.model)
    release = Release(path) if (path / WEIGHTS).is_file() else None
    if config.speaker.encoder_file is not None or (release is not None and release.has_encoder):
        return EncoderPlan(())
    rounds = config.judge.rounds if config.judge.enabled else 0
    if not uses_base(config):
        again = (EncoderTraining(AGAIN, REFINE, rounds),) if rounds else ()
        return EncoderPlan((EncoderTraining(ENCODER, TRAIN), *again))
    own = EncoderTraining(ENCODER, REFINE, 1 + rounds)
    entry = None if release is None else base_entry(config, release)
    if entry is not None and entry.facts() is not None:
        return EncoderPlan((own,), entry.path)
    return EncoderPlan((EncoderTraining(BASE, TRAIN), own))
