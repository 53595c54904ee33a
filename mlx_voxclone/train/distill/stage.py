"""The stage of task `distill`: from pairs and presets to adapters."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.checkpoint.release import Release, file_sha256, load_model
from mlx_voxclone.data.text_checks import check_said
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.widths import GROUP_SIZE
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.distill.data import (
    TwiceCoded,
    make_items,
    pair_voices,
    preset_voices,
    refuse_identical,
    refuse_without_frames,
)
from mlx_voxclone.train.distill.task import DistillTask
from mlx_voxclone.train.encoder.inputs import TEACHER
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.speaker.stage import adapted_model
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.stages.stage import run_trainer, train_settings

HELDOUT_ITEMS = 32
KEPT = 0.25  # share of the items behind true codes, by which what the model does with its own voices stays


def load_distill_pairs(config: RunConfig, release: Release) -> PairData:
    """The pairs of `distill.pairs`.

    Raises:
        ConfigError: none are named. DataError, CheckpointError: unreadable, of another codec, or all of one text.
    """
    section = config.distill
    if not section.pairs:
        raise ConfigError("distill.pairs: missing; make pairs with `voxclone pairs` and name their directory")
    pairs = PairData.of_model(section.pairs, release, seed=config.seed)
    pairs.check_heldout()
    for pair in pairs.pairs:
        check_said(f"distill: pair {pair.name}", pair.text, pair.frames / release.config.codec.frame_rate)
    return pairs


def train_distill(config: RunConfig, encoder: Path | None, run: Run) -> TrainResult:
    """Task `distill` in the run's directory; `best/` holds the adapters, `teacher/` what the teacher made of each."""
    compute, section, release = run.compute, config.speaker, run.release
    pairs = load_distill_pairs(config, release)
    codec = load_model(release, parts=["codec"], encoder_file=encoder).audio_tokenizer
    voices = {name: _voices(config, codec, pairs, name, run) for name in ("train", "heldout")}
    del codec
    mx.clear_cache()
    rate = release.config.codec.frame_rate
    lengths = tuple(max(1, round(seconds * rate)) for seconds in section.reference_seconds)
    limits = {"reference_frames": lengths, "most_frames": int(section.max_seconds * rate), "kept": KEPT}
    counts = {"train": config.distill.items, "heldout": min(HELDOUT_ITEMS, max(4, config.distill.items // 8))}
    items = {}
    for k, name in enumerate(("train", "heldout")):
        items[name] = make_items(voices[name], getattr(pairs, name), counts[name], seed=2 * config.seed + k, **limits)
    refuse_without_frames(items["train"], pairs)
    shares = {name: sum(v.true.shape[1] for v in voices[name]) for name in voices}
    run.say(
        f"distill: {len(voices['train'])} voices ({shares['train']} frames) to learn from, {len(voices['heldout'])}"
        f" held out; {counts['train']} items"
    )
    adapted = adapted_model(config, release, compute)
    of_encoder = {"encoder": None if encoder is None else file_sha256(encoder)}
    quantised = {"bits": section.quantise.bits, "group_size": GROUP_SIZE}
    identity = {**adapted.identity, **of_encoder, "quantised": quantised}
    task = DistillTask(
        replace(adapted, identity=identity),
        items["train"],
        items["heldout"],
        cache=run.directory / TEACHER,
        batch_size=section.train.batch_size,
        seed=config.seed,
    )
    with run.reporter.bar(total=sum(counts.values()), unit="item", desc="teacher") as bar:
        run.ranks.in_turn(lambda: task.teach(bar.update))
    mx.clear_cache()
    return run_trainer(task, train_settings(section.train, config, compute), run.directory, run.reporter)


def _voices(config: RunConfig, codec: Codec, pairs: PairData, split: str, run: Run) -> list[TwiceCoded]:
    """Those of a split that the encoder codes otherwise; presets are learnt from and not measured by."""
    chosen = getattr(pairs, split)
    presets = config.distill.presets and split == "train"
    total = len(chosen) + (len(run.release.voices()) if presets else 0)
    with run.reporter.bar(total=total, unit="voice", desc=f"encoding ({split})") as bar:
        found = pair_voices(chosen, codec, bar.update)
        found += preset_voices(run.release, codec, bar.update) if presets else []
    return refuse_identical(found)
