"""A stage's training: complete, continued or begun."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.run_log import LOG_NAME
from mlx_voxclone.process.progress import SILENT, Reporter
from mlx_voxclone.process.temporaries import clear_below
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import TrainSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.distributed import current
from mlx_voxclone.train.loop.task import Task, fingerprint_changes
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.result import RESULT_NAME, TrainResult
from mlx_voxclone.train.saved.state import BEST, CHECKPOINTS, SAMPLES, list_checkpoints, load_checkpoint
from mlx_voxclone.train.stages.compute import Compute


def train_settings(section: TrainSection, config: RunConfig, compute: Compute) -> TrainSettings:
    """The trainer's settings of a configuration's `train` section."""
    return TrainSettings(**section.model_dump(), seed=config.seed, precision=compute.precision)


def run_trainer(task: Task, settings: TrainSettings, directory: Path, reporter: Reporter = SILENT) -> TrainResult:
    """Train in `directory`, continue what stopped there, or return the result of what is complete.

    A training is complete if it has all the steps of the settings, or was stopped early and would be again: more steps
    or more patience continue it.

    Raises:
        CheckpointError: what is there was trained on other data, codes or weights than the task's.
    """
    ranks = current()
    plan = ranks.from_first(lambda: _plan(task, settings, directory))
    if plan["done"] is not None:
        return TrainResult(**plan["done"])
    where = {"resume": directory} if plan["begun"] else {"run_dir": directory}
    return Trainer(task, settings, **where, quiet=not reporter.bars, announce_resume=False, ranks=ranks).run()


def _plan(task: Task, settings: TrainSettings, directory: Path) -> dict[str, Any]:
    """What `run_trainer` finds: a complete result, or whether there is something to continue."""
    done, checkpoints = TrainResult.load(directory), list_checkpoints(directory)
    if done is not None and done.complete and done.total_steps == settings.total_steps(task.n_items):
        if checkpoints:
            _refuse_other_task(task, checkpoints[-1][1])
        if done.steps >= done.total_steps or not checkpoints or _has_no_patience(settings, checkpoints[-1][1]):
            return {"done": asdict(done)}
    if not checkpoints:
        _clear_unsaved(directory)
    return {"done": None, "begun": bool(checkpoints)}


def _has_no_patience(settings: TrainSettings, checkpoint: Path) -> bool:
    """Whether a training that was stopped early there ends there with these settings too."""
    return 0 < settings.patience <= load_checkpoint(checkpoint).state.stale


def _refuse_other_task(task: Task, checkpoint: Path) -> None:
    changes = fingerprint_changes(load_checkpoint(checkpoint).document["fingerprint"], task.fingerprint())
    if changes:
        raise CheckpointError(
            f"{checkpoint.parent.parent}: was trained from something else ({'; '.join(changes)}); start a new run"
        )


def _clear_unsaved(directory: Path) -> None:
    """Remove what a training left that was killed before its first checkpoint: nothing of it can be continued."""
    for name in (LOG_NAME, RESULT_NAME):
        (directory / name).unlink(missing_ok=True)
    for name in (BEST, f".{BEST}.new", f".{BEST}.old", CHECKPOINTS, SAMPLES):
        shutil.rmtree(directory / name, ignore_errors=True)
    clear_below(directory)


def trained(config: RunConfig) -> tuple[str, ...]:
    """The stages that this configuration trains: `clone` with an encoder at hand leaves out the first."""
    at_hand = config.speaker.encoder_file is not None or Release(config.model).has_encoder
    return ("speaker",) if config.task == "clone" and at_hand else config.stages


def prepare_options(config: RunConfig) -> PrepareOptions:
    """How a configuration's recordings are prepared."""
    of_shards = {"path", "cache", "cache_gb"}
    return PrepareOptions(**config.data.model_dump(exclude=of_shards), seed=config.seed)
