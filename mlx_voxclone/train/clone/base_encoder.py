"""The base encoder of a model: trained once on the automatic pairs alone, kept in the cache, refined for every voice.

It depends on the model, the pairs and the recipe, never on a recording: no one's voice is in it. Training on pairs
decodes nothing, so its steps are cheap. What it lacks is the sound of recordings, to which the run's own encoder is
trained from here in a few hundred steps (`encoder.refine`).
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.digests import codec_digest
from mlx_voxclone.checkpoint.release import Release, file_sha256, open_encoder
from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.files.atomic import atomic_file
from mlx_voxclone.files.cache import NO_SPACE, Entry, unwritable
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.process.temporaries import PARTIAL
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.encoder.stage import best_encoder, encoder_codec
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.encoder.terms import code_constants
from mlx_voxclone.train.judge.auto_pairs import SEED, AutomaticPairs
from mlx_voxclone.train.loop.distributed import current
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import CHECKPOINTS
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.stages.stage import run_trainer, train_settings

ENTRY = "encoder"  # kind of the cache's entry
BASE = "base-encoder.safetensors"  # in the run directory
SHA256 = "sha256"  # fact of a complete entry: the digest of its weights
# Keys of the section `encoder` that decide nothing about the base encoder, or through the pairs alone.
_NO_RECIPE = {
    "weights": True,
    "refine": True,
    "prior": True,
    "sound_teaches": True,
    "pairs": {"path", "texts", "per_voice", "moves", "max_seconds", "batch"},
    "train": {"save_every", "log_every", "sample_every", "keep"},
}


@dataclass(frozen=True)
class PairSound:
    """A pair as a clip: its decoded audio alone."""

    pair: Pair

    @property
    def id(self) -> str:
        return self.pair.name.replace("/", "-")  # samples are named after it

    @property
    def samples(self) -> int:
        return self.pair.frames * self.pair.frame_size

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.pair.read(start=start, stop=stop)


@dataclass(frozen=True)
class PairSounds:
    """The audio of pairs instead of prepared recordings."""

    pairs: PairData

    @cached_property
    def train(self) -> Sequence[PairSound]:
        return [PairSound(pair) for pair in self.pairs.train]

    @cached_property
    def heldout(self) -> Sequence[PairSound]:
        return [PairSound(pair) for pair in self.pairs.heldout]

    def fingerprint(self) -> str:
        return self.pairs.fingerprint()


def uses_base(config: RunConfig) -> bool:
    """Whether task `clone` starts from a base encoder, unless the model has an encoder of its own."""
    pairs, weights = config.encoder.pairs.path, config.encoder.weights
    return pairs == AUTO and weights is None and config.speaker.encoder == AUTO


def starts_from_base(config: RunConfig) -> bool:
    """Whether this run's encoder is refined from a base encoder; `encoder.train` is then the base encoder's training.

    Several processes train one encoder together, from the start.
    """
    return config.task == "clone" and uses_base(config) and not current().several


def base_entry(config: RunConfig, release: Release) -> Entry:
    """The cache's entry of the base encoder that a configuration asks for, made or not."""
    return Entry(release.fingerprint(), ENTRY, _made_from(config, release))


def _made_from(config: RunConfig, release: Release) -> dict[str, Any]:
    pairs, section = AutomaticPairs.of(config, release), _base_section(config)
    recipe = section.model_dump(mode="json", exclude=_NO_RECIPE) | {"codes": code_constants()}
    return {"pairs": pairs.moved_from, "recipe": recipe, "precision": Compute.of(config).precision, "seed": SEED}


def _base_section(config: RunConfig):
    """The `encoder` section as it is for pairs alone: nothing is decoded, and codes alone select the best."""
    defaults = type(config.encoder)()
    pairs = config.encoder.pairs.model_copy(update={"share": 1.0, "alone_steps": 0, "path": []})
    fixed = {"distillation": defaults.distillation, "discriminators": defaults.discriminators}
    fixed |= {"losses": config.encoder.losses.model_copy(update={"sound": 0.0})}
    fixed |= {"weights": None, "gain_db": [0.0, 0.0], "quantisation_noise": False}
    return config.encoder.model_copy(update={"pairs": pairs, **fixed})


def base_encoder(config: RunConfig, pairs: Sequence[Path], run: Run) -> Path:
    """The base encoder's weights, found in the cache or trained there now from the directories of pairs.

    Interrupted, the training goes on at its last checkpoint when it is called again.

    Raises:
        CheckpointError: the cache cannot be written, or is full.
    """
    release, say = run.release, run.say
    entry = base_entry(config, release)
    weights = best_encoder(entry.path)
    if _is_whole(entry, weights):
        say(f"encoder: from the model's base encoder, in the cache {entry.path}")
        return weights
    with entry.locked(say):
        if _is_whole(entry, weights):
            return weights
        _clear_damaged(entry, release, say)
        say(f"encoder: training the model's base encoder on pairs, for this run and the next ones, in {entry.path}")
        with _explained(entry, pairs):
            entry.path.mkdir(parents=True, exist_ok=True)
            result = _trained(config, pairs, replace(run, directory=entry.path))
            shutil.rmtree(entry.path / CHECKPOINTS, ignore_errors=True)  # three times as large as the encoder itself
            shutil.rmtree(entry.path / "samples", ignore_errors=True)
            facts = {"steps": result.steps, "metric": result.best_metric, SHA256: file_sha256(weights)}
            entry.complete(facts)
    mx.clear_cache()
    return weights


def _trained(config: RunConfig, pairs: Sequence[Path], run: Run) -> TrainResult:
    """Train it in the run's directory, or go on there."""
    release, compute = run.release, run.compute
    section = _base_section(config)
    data = PairData.of_model(pairs, release, seed=SEED)
    sounds = PairSounds(data)
    codec = encoder_codec(release, section, sounds, SEED, compute.dtype)
    identity = {"codec": codec_digest(release)}
    task = EncoderTask(codec, sounds, section, SEED, compute.dtype, identity=identity, pairs=data)
    settings = train_settings(section.train, config.model_copy(update={"seed": SEED}), compute)
    return run_trainer(task, settings, run.directory, run.reporter)


def _is_whole(entry: Entry, weights: Path) -> bool:
    """Whether the entry is complete and its weights are those that were trained; nothing else in it is needed."""
    facts = entry.recorded()
    return facts is not None and weights.is_file() and facts.get(SHA256) == file_sha256(weights)


def _clear_damaged(entry: Entry, release: Release, say: Callable[[str], None]) -> None:
    """Delete an entry whose training ended and whose weights are damaged or gone: there is nothing to go on with.

    Weights whose training ended without the entry being declared complete (killed in between) stay if they can be read.
    """
    declared = entry.recorded() is not None
    entry.reopen()
    if not declared and _can_be_continued(entry, release):
        return
    say(f"encoder: the base encoder in {entry.path} is damaged, and is trained again")
    shutil.rmtree(entry.path, ignore_errors=True)


def _can_be_continued(entry: Entry, release: Release) -> bool:
    """Whether the training has not ended, or its weights can be read."""
    try:
        done = TrainResult.load(entry.path)
        if done is not None and done.complete:
            open_encoder(best_encoder(entry.path), release.config)
    except VoxcloneError:
        return False
    return True


@contextmanager
def _explained(entry: Entry, pairs: Sequence[Path]) -> Iterator[None]:
    """A fault of the cache's disk, or its deletion in the meantime, as one line that says what to do."""
    try:
        yield
    except (OSError, VoxcloneError) as e:
        cause = e if isinstance(e, OSError) else e.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            raise unwritable(entry.path, cause) from e
        gone = [path for path in (*pairs, entry.path) if not path.is_dir()]
        if gone:
            raise CheckpointError(
                f"{gone[0]}: was deleted while the base encoder was being trained; run again to make it again"
            ) from e
        raise


def keep_base(base: Path, run_dir: Path) -> Path:
    """The run's own copy of the base encoder: the run goes on from it even when the cache is deleted."""
    kept = run_dir / BASE
    return kept if kept.exists() else linked(base, kept)


def linked(source: Path, target: Path) -> Path:
    """Make `target` the same file as `source`, by a hard link where the disk allows it, else by a copy; returns it.

    An older target is replaced.

    Raises:
        CheckpointError: the copy cannot be written.
    """
    if target.exists() and target.samefile(source):
        return target  # renaming a link to the same file would do nothing and leave both
    partial = target.with_name(f".{target.name}{PARTIAL}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # another disk, or one without links
        with source.open("rb") as content, atomic_file(target, overwrite=True) as file:
            shutil.copyfileobj(content, file)
        return target
    partial.replace(target)
    return target
