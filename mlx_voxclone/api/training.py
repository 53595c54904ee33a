"""Training from Python: what `voxclone train` does, as one call."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.api.shared import Place, is_place, path_of
from mlx_voxclone.api.speech import TextToSpeech, load
from mlx_voxclone.errors import CheckpointError, ConfigError
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.process.device import set_device
from mlx_voxclone.process.progress import BARS, Message, Progress, Reporter, told_to
from mlx_voxclone.settings.config import CALL, load_run_config, schema_keys
from mlx_voxclone.settings.differences import own_config
from mlx_voxclone.train.loop.distributed import join
from mlx_voxclone.train.run import RunSummary, run
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import BEST


@dataclass(frozen=True)
class Run:
    """A training that is complete.

    Attributes:
        directory: everything that it wrote.
        report: its page, with curves and samples to listen to.
        summary: all figures, as in `summary.json`.
    """

    directory: Path
    report: Path
    summary: RunSummary

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that was delivered (task `clone`); None: the task bakes none."""
        return Path(self.summary.baked["path"]) if self.summary.baked is not None else None

    @property
    def voice(self) -> str | None:
        """Name of the voice in the checkpoint."""
        return self.summary.baked["voice"] if self.summary.baked is not None else None

    @property
    def best(self) -> Path | None:
        """What a single training delivers, the best by its held-out metric: the directory of adapters for
        `load(adapters=...)`, or, of task `encoder`, the file for `load(encoder=...)`. None for task `clone`.
        """
        if self.summary.task == "clone":
            return None
        found = self.directory / BEST
        return found / ENCODER_FILE if self.summary.task == "encoder" else found

    @property
    def results(self) -> dict[str, TrainResult]:
        """Of each training by name (`encoder`, `speaker`, ...): steps, losses, held-out figures, time, memory."""
        return self.summary.results

    def load(self) -> TextToSpeech:
        """The delivered checkpoint, ready to speak.

        Raises:
            CheckpointError: the task delivers none, or it cannot be read.
        """
        if self.checkpoint is None:
            raise CheckpointError(f"{self.directory}: task {self.summary.task} bakes no checkpoint; load its model")
        return load(self.checkpoint)


def train(
    config: "Place | Mapping[str, Any] | None" = None,
    /,
    *,
    resume: Place | None = None,
    progress: Progress | None = None,
    message: Message | None = None,
    **overrides: Any,
) -> Run:
    """Train as a configuration says, from recordings to a checkpoint (task `clone`) or one part of it.

    Args:
        config: path of a YAML file, or the content of one as nested mappings; None: that of `resume`.
        resume: directory of a run to go on with.
        progress: called with the steps (clips, ...) done, those in all (None: unknown), and what is being done.
        message: called with each line that `voxclone train` would write on its way, warnings among them.
        overrides: keys of the configuration over those of `config`: `seed=1`, `data__path="recordings"` with `__` for
            the dots of `data.path`, `**{"data.path": "recordings"}`, or a section as a mapping, of which the keys that
            it does not name stay as they are. Paths are str or Path.

    Returns:
        The run: its directory, what it delivers, figures, report.

    Raises:
        ConfigError: an unknown key, a value out of its bounds, a path that is not there; one line, as the command's.
        DataError, CheckpointError, TrainingError: whatever a stage refuses.
        StoppedError: the machine ended it (a full disk, no memory); it can be resumed.
        KeyboardInterrupt: Ctrl-C, also when raised by `progress`: the last step is saved, `resume` goes on from there.

    Nothing is shown. MLX's default device is the configuration's while it trains; same seed, data and device, same run.
    """
    place = None if resume is None else path_of(resume, "resume")
    given = {key: value for name, value in overrides.items() for key, value in _dotted(name.replace("__", "."), value)}
    resolved = load_run_config(_source(config, place), given, given_by=CALL)
    if not join().first:  # of several processes the first one tells
        progress = message = None
    before = mx.default_device()
    with told_to(progress, message):
        set_device(resolved.device)
        try:
            reporter = Reporter(message or BARS.say, bars=True)
            summary = run(resolved.check_paths(), resume=place, reporter=reporter)
        finally:
            mx.set_default_device(before)
    directory = Path(summary.run_dir)
    return Run(directory, directory / "report" / "index.html", summary)


def _source(config: "Place | Mapping[str, Any] | None", resume: Path | None) -> "Path | dict[str, Any]":
    if config is None and resume is not None:
        return own_config(resume)
    if isinstance(config, Mapping):
        return {str(key): _plain(value) for key, value in config.items()}
    if not is_place(config):
        got = "" if config is None else f", got {config!r:.80}"
        raise ConfigError(f"give a configuration (a path or a mapping), or resume=DIRECTORY{got}")
    return path_of(config, "config")


def _dotted(key: str, value: Any) -> "list[tuple[str, Any]]":
    """A key and its value; of a section the keys in it, so that the others stay as they are."""
    if not isinstance(value, Mapping):
        return [(key, _plain(value))]
    if not value and key not in schema_keys():
        return [(key, {})]  # to be refused
    return [pair for name, inner in value.items() for pair in _dotted(f"{key}.{name}", inner)]


def _plain(value: Any) -> Any:
    """As YAML has it: paths are text, tuples lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
