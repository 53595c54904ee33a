"""A whole run: what `voxclone train` does with a configuration.

Tasks `encoder`, `distill`, `language` and `speaker` are one training each; task `clone` goes from recordings to a baked
checkpoint: prepare -> encoder (or a given one) -> codes -> speaker -> bake -> speak before and after -> report.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.shards.data import ShardData, is_sharded
from mlx_voxclone.data.text_checks import doubtful
from mlx_voxclone.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RankLostError,
    StoppedError,
    TranscriptError,
    VoxcloneError,
)
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.locks import LOCK, held
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.process.progress import BARS, Reporter
from mlx_voxclone.process.temporaries import clear_below
from mlx_voxclone.report.run_report import write_report
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.differences import CONFIG_FILE, config_differences, flat
from mlx_voxclone.tracking.boards import shown
from mlx_voxclone.tracking.notify import told_at_end
from mlx_voxclone.train.checks import check_data, check_inputs
from mlx_voxclone.train.clone.base_encoder import BASE
from mlx_voxclone.train.clone.finish import finish, is_delivered
from mlx_voxclone.train.clone.recover import CODES, ENCODER, recover
from mlx_voxclone.train.distill import stage as distillation
from mlx_voxclone.train.encoder.inputs import PRIOR, TEACHER, WITHOUT_PAIRS, encoder_inputs
from mlx_voxclone.train.encoder.stage import train_encoder
from mlx_voxclone.train.hub_files import fetched
from mlx_voxclone.train.loop.distributed import Ranks, check_share, code_digest, current
from mlx_voxclone.train.loop.resume import SPENT_FILE, refuse_used
from mlx_voxclone.train.open_data import open_data, open_shards
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import list_checkpoints
from mlx_voxclone.train.speaker import stage as adaptation
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.stages.stage import prepare_options, trained

SUMMARY_FILE = "summary.json"
DATA, SPEAKER = "data", "speaker"
LITTLE = 60.0  # seconds of speech to learn from
_MADE_AGAIN = frozenset({DATA, CODES, TEACHER, PRIOR})  # made for a training, and used by the next start as they are


@dataclass
class RunSummary:
    """What a run did; kept as `summary.json` in the run directory and shown by the report."""

    task: str
    run_dir: str
    data: dict[str, Any] = field(default_factory=dict)
    results: dict[str, TrainResult] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    delivered: dict[str, Any] | None = None
    baked: dict[str, Any] | None = None
    speech: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_gb: float = 0.0

    def save(self, run_dir: Path) -> None:
        write_text_atomic(run_dir / SUMMARY_FILE, json.dumps(asdict(self), indent=1, default=str))


def run(
    config: RunConfig,
    *,
    resume: Path | None = None,
    reporter: Reporter = BARS,
) -> RunSummary:
    """Carry out a configuration.

    Args:
        config: resolved and with existing paths (`RunConfig.check_paths`).
        resume: a run directory to go on with; its configuration must be this one but for lengths and intervals.
        reporter: shows a line per stage, warnings and progress; by default the progress alone.

    Raises:
        ConfigError: a clone without `voice`.
        CheckpointError: the run directory is in use or used up, or `resume` is of another configuration.
        VoxcloneError: whatever a stage refuses.
    """
    config.check_voice()
    run_dir, ranks = resume or config.run_dir, current()
    if ranks.several:
        reporter = replace(reporter, bars=reporter.bars and ranks.first)
        facts = flat(config.model_dump(mode="json", exclude={"device"}))
        ranks.check_alike("configuration", {**facts, "code": code_digest(), "--resume": resume})
        for stage in trained(config):
            check_share(getattr(config, stage).train.accumulate, ranks, f"{stage}.train.")
        if config.task == "clone" and ENCODER in trained(config) and config.judge.enabled and config.judge.rounds:
            check_share(config.encoder.refine.accumulate, ranks, "encoder.refine.")
    config = config.model_copy(update={"output": run_dir})  # a resumed run stays where it is, also if it was moved
    with ExitStack() as stack:
        if ranks.first:
            stack.enter_context(told_at_end(config.notify, config.task, run_dir, reporter.say))
            if resume is not None:  # a directory that is not there must not be made
                _check_directory(run_dir, config, resuming=True)
            stack.enter_context(held(run_dir, reporter.say))
            clear_below(run_dir)
            if resume is None:
                _check_directory(run_dir, config, resuming=False)
        data = open_data(config, reporter.say)
        if ranks.first:
            stack.enter_context(_opened(run_dir, config, resuming=resume is not None))
            settings = config.model_dump(mode="json", exclude={"notify"})
            stack.enter_context(shown(config.report_to, run_dir, settings, reporter.say))
        if ranks.several:
            _check_seen(run_dir, ranks)
        with _Sitting(run_dir, ranks.first) as sitting:
            config = fetched(config)
            summary = _carry_out(config, data, Run.of(config, run_dir, reporter))
            summary.seconds = sitting.seconds()
            summary.peak_memory_gb = max(summary.peak_memory_gb, sitting.peak_memory_gb)
            if ranks.first:
                summary.save(run_dir)
        if ranks.first:
            reporter.say(f"report: {write_report(run_dir)}")
    return summary


class _Sitting:
    """Adds up the time of all sittings of a run. What it has taken so far lies in `spent.json` as long as it is not
    finished, and in its summary then.

    Attributes:
        peak_memory_gb: the most of the earlier ones.
    """

    def __init__(self, run_dir: Path, keeps: bool):
        self._file, self._keeps, self._began = run_dir / SPENT_FILE, keeps, time.perf_counter()
        earlier = _figures(self._file) or _figures(run_dir / SUMMARY_FILE)  # runs of earlier versions have that alone
        self._before, self.peak_memory_gb = earlier or (0.0, 0.0)

    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._began

    def __enter__(self) -> "_Sitting":
        return self

    def __exit__(self, *error: object) -> None:
        if self._keeps and error[0] is None:
            self._file.unlink(missing_ok=True)
        elif self._keeps and self._file.parent.is_dir():
            peak = max(self.peak_memory_gb, mx.get_peak_memory() / 1e9)
            content = {"seconds": self.seconds(), "peak_memory_gb": peak}
            with suppress(OSError):  # what ended the sitting is what is to be told
                write_text_atomic(self._file, json.dumps(content))


def _figures(path: Path) -> tuple[float, float] | None:
    """Seconds and peak memory (GB) that a file of a run tells of; None where it does not."""
    try:
        content = read_json(path)
        found = float(content["seconds"]), float(content["peak_memory_gb"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if all(0 <= number < math.inf for number in found) else None


def _check_seen(run_dir: Path, ranks: Ranks) -> None:
    """Refuse ranks that do not see the directory that rank 0 has opened: they read there what it prepares."""
    ranks.from_first(lambda: None)
    file = run_dir / CONFIG_FILE
    seen = ranks.texts(file.read_text(encoding="utf-8") if file.is_file() else "")
    blind = [rank for rank, text in enumerate(seen) if text != seen[0]]
    if blind:
        raise ConfigError(
            f"rank {blind[0]} does not see the run directory {run_dir} of rank 0: put output into a directory that all "
            "machines share under the same path"
        )


def _carry_out(config: RunConfig, data: PreparedData | ShardData | None, run: Run) -> RunSummary:
    """All stages, in order. `data`: what is prepared already."""
    summary, peak = RunSummary(config.task, str(run.directory)), 0.0
    if config.task == "distill":
        run.say("distill: teaching the language model the encoder's codes")
        result = distillation.train_distill(config, config.speaker.encoder_file, run)
        summary.results[config.task] = result
        summary.peak_memory_gb = max(mx.get_peak_memory() / 1e9, result.peak_memory_gb)
        return summary
    if data is None:
        data = prepared_data(config, run)
    check_data(config, data)
    if SPEAKER in config.stages:
        if (seconds := sum(clip.seconds for clip in data.train)) < LITTLE:
            run.say(f"warning: {seconds:.0f} s of speech to learn from; 5 to 30 minutes are usual")
        for line in doubtful([*data.train, *data.heldout]):
            run.say(f"warning: {line}")
    if ENCODER in trained(config) and not config.encoder.pairs.path:
        run.say(WITHOUT_PAIRS)
    summary.data = {
        "hours": data.hours,
        "train_clips": len(data.train),
        "heldout_clips": len(data.heldout),
        "speakers": data.speakers,
    }
    if config.task == "encoder":
        _train_encoder(config, data, summary, run)
    else:
        found = recover(config, data, run)
        summary.results |= found.results
        summary.rounds = found.rounds
        peak = max(peak, mx.get_peak_memory() / 1e9)
        run.say(f"{config.adapts}: adapting the language model")
        stage = replace(run, directory=_stage_dir(config, run.directory, SPEAKER))
        summary.results[SPEAKER] = adaptation.train_speaker(config, data, found, stage)
        if config.task == "clone" and run.ranks.first:
            peak = max(peak, mx.get_peak_memory() / 1e9)
            finish(config, data, found, summary, run)
    results = summary.results.values()
    summary.peak_memory_gb = max(peak, mx.get_peak_memory() / 1e9, *(r.peak_memory_gb for r in results))
    return summary


def prepared_data(config: RunConfig, run: Run) -> PreparedData | ShardData:
    """The recordings of `data.path` as clips, prepared into the run directory."""
    options, made = prepare_options(config), run.directory / DATA
    report = run.ranks.in_turn(lambda: prepare(config.data.path, made, options, progress=run.reporter.over))
    for line in report.lines():
        run.say(f"data: {line}")
    return open_shards(config, made, run.say) if is_sharded(made) else PreparedData.load(made)


def _check_directory(run_dir: Path, config: RunConfig, *, resuming: bool) -> None:
    """Refuse places that this run may not write to, all of them at once.

    Raises:
        CheckpointError: a run directory that is in use or of another run, a baked checkpoint that is not this run's.
    """
    if resuming:
        _check_resumed(run_dir, config)
    mine = config.task != "clone" or is_delivered(run_dir)  # only what is delivered has been baked
    taken = not mine and config.baked_dir.exists() and any(config.baked_dir.iterdir())
    try:
        if not resuming:
            refuse_used(run_dir, inputs=_MADE_AGAIN)  # what a start that was refused has made is used again
    except CheckpointError as e:
        both = taken and config.bake.output is not None
        raise CheckpointError(f"{e} and another bake.output, as {config.baked_dir} exists too" if both else e) from None
    if taken:
        raise CheckpointError(f"{config.baked_dir}: exists already; set bake.output to another directory")
    if config.task == "clone":
        above = next(place for place in config.baked_dir.absolute().parents if place.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            why = "may not be written to" if above.is_dir() else "is no directory"
            key = "output" if config.bake.output is None else "bake.output"
            raise CheckpointError(f"{config.baked_dir}: {above} {why}; set {key} to another place")


@contextmanager
def _opened(run_dir: Path, config: RunConfig, *, resuming: bool) -> Iterator[None]:
    """Fill the run directory, which is locked, once all inputs are checked; a new run that fails before it has written
    anything empties it again (without the lock it is gone then), so that the corrected command can be given as it is.

    Ctrl-C is raised again with a line that says how to go on.
    """
    check_inputs(fetched(config))
    try:
        if not resuming:
            write_text_atomic(run_dir / CONFIG_FILE, config.dump())
        yield
    except BaseException as e:
        written = {path.name for path in run_dir.glob("*")} - {LOCK, SPENT_FILE}
        refused = isinstance(e, VoxcloneError) and written <= {CONFIG_FILE, BASE, *_MADE_AGAIN}
        if not resuming and (refused or written <= {CONFIG_FILE}):
            for name in (CONFIG_FILE, SPENT_FILE, BASE):  # the base encoder's copy: its original is in the cache
                (run_dir / name).unlink(missing_ok=True)
            raise
        begun = _begun(config, run_dir)
        if begun and not (run_dir / CONFIG_FILE).exists():  # deleted during the run; what was trained is not lost
            write_text_atomic(run_dir / CONFIG_FILE, config.dump())
        if isinstance(e, KeyboardInterrupt):
            raise KeyboardInterrupt("; ".join([*map(str, e.args), f"continue with --resume {run_dir}"])) from None
        elif isinstance(e, RankLostError):
            raise RankLostError(f"{e}; continue with --resume {run_dir}") from None
        elif isinstance(e, TranscriptError) and begun:
            raise TranscriptError(f"{e} (with --resume {run_dir})") from None
        elif isinstance(e, DataError | StoppedError) and begun:
            kind = StoppedError if isinstance(e, StoppedError) else DataError
            raise kind(f"{e}; fix this, then continue with --resume {run_dir}") from None
        raise


def _check_resumed(run_dir: Path, config: RunConfig) -> None:
    saved = run_dir / CONFIG_FILE
    if not saved.is_file():
        raise CheckpointError(f"cannot resume: {run_dir} is not a run directory (it has no {CONFIG_FILE})")
    text, still_open = saved.read_text(encoding="utf-8"), set(config.stages) - _begun(config, run_dir)
    if SPEAKER in still_open and not (run_dir / f"{ENCODER}-2").exists():
        still_open.add("judge")  # nothing has learnt from judged codes yet
    if differences := config_differences(text, config, open_stages=still_open):
        raise CheckpointError(
            f"cannot resume {run_dir}: it was started with another configuration ({'; '.join(differences)})"
        )
    if text != config.dump():  # lengths, or a stage still to come: from here on the run is this one
        write_text_atomic(saved, config.dump())


def _begun(config: RunConfig, run_dir: Path) -> set[str]:
    """Stages that have a checkpoint."""
    return {stage for stage in config.stages if list_checkpoints(_stage_dir(config, run_dir, stage))}


def _stage_dir(config: RunConfig, run_dir: Path, stage: str) -> Path:
    """The trainings of task `clone` have a directory each; a run of one training is that training's directory."""
    return run_dir / stage if config.task == "clone" else run_dir


def _train_encoder(config: RunConfig, data: PreparedData, summary: RunSummary, run: Run) -> None:
    """Task `encoder`: from the start, on recordings and pairs together."""
    run.say("encoder: training the codec's encoder")
    inputs = run.ranks.in_turn(lambda: encoder_inputs(config, data, run))
    summary.results[ENCODER] = train_encoder(config, data, inputs, run)
    mx.clear_cache()


def disk_usage(directory: Path) -> tuple[int, int]:
    """(files, bytes) under a directory."""
    sizes = [p.stat().st_size for p in directory.rglob("*") if p.is_file()]
    return len(sizes), sum(sizes)
