"""What a run directory has to tell: its configuration, the figures of `summary.json`, and generated speech."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import is_number, read_json, reason_of
from mlx_voxclone.publish.publication import Sample
from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.settings.differences import CONFIG_FILE

SUMMARY = "summary.json"
_SPOKEN = re.compile(r"samples/[a-z][a-z_-]*-\d+\.wav")  # of the run itself; those of its trainings hold recordings
_MEASURED, _WORDS = ("baked", "delivered", "comparison"), ("voice", "what", "method", "why")
_NAME, _PLAIN = re.compile(r"[a-z][a-z_]*"), re.compile(r"\w[\w .,:;%()+-]{0,199}")
_COUNTS = {"hours": "hours of speech", "train_clips": "clips to learn from", "heldout_clips": "clips held out"}


class Run:
    """A run that has ended.

    Args:
        directory: with `config.yaml` and `summary.json`.

    Raises:
        CheckpointError: no `summary.json`, or an unreadable one. ConfigError: an unusable configuration.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.config: RunConfig = load_run_config(directory / CONFIG_FILE)
        path = directory / SUMMARY
        try:
            self.summary = read_json(path)
        except FileNotFoundError:
            raise CheckpointError(
                f"{directory}: this run has not ended, it has no {SUMMARY}; finish it (voxclone train --resume"
                f" {directory}), or name one of its best/ directories"
            ) from None
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{path}: not readable as JSON ({reason_of(e)})") from None
        if not isinstance(self.summary, dict):
            raise CheckpointError(f"{path}: not a JSON object")

    def figures(self, stages: set[str] | None = None) -> list[tuple[str, str]]:
        """(what, value) of all that the run measured, without names and paths.

        Args:
            stages: trainings to report; None: all of them, and what the run measured as a whole.
        """
        found = []
        data = self.summary.get("data")
        for key, what in _COUNTS.items():
            if isinstance(data, dict) and is_number(data.get(key)):
                found.append((what, _text(data[key])))
        results = self.summary.get("results")
        for stage, result in (results if isinstance(results, dict) else {}).items():
            if (stages is None or stage in stages) and isinstance(result, dict):
                found += _training(stage, result)
        if stages is None:
            for key in _MEASURED:
                found += _leaves(self.summary.get(key), f"{key}: ")
        return found

    def samples(self) -> tuple[list[Sample], dict[str, Path]]:
        """Generated speech and its files by their names.

        Sentences of the configuration alone: without these the run speaks the transcript of a recording, which is not
        for others.
        """
        samples, files = [], {}
        entries = self.summary.get("speech")
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or entry.get("text") not in self.config.say:
                continue
            speech = {}
            for when, sound in entry.items():
                name = sound.get("file") if isinstance(sound, dict) else None
                if isinstance(name, str) and _SPOKEN.fullmatch(name) and _plain_file(self.directory / name):
                    speech[when], files[name] = name, self.directory / name
            if speech:
                samples.append(Sample(entry["text"], speech))
        return samples, files


def run_of(result: Path) -> tuple[Run, set[str] | None] | None:
    """The run that ended in `result` (a directory `best`), with the training in question if it has several.

    None: it is of no run that has ended.
    """
    if result.name != "best":
        return None
    for directory, stages in ((result.parent, None), (result.parent.parent, {result.parent.name})):
        if (directory / CONFIG_FILE).is_file() and (directory / SUMMARY).is_file():
            return Run(directory), stages
    return None


def _training(stage: str, result: dict[str, Any]) -> list[tuple[str, str]]:
    """Steps and held-out figures of a training, before it and at its best."""
    found = []
    if is_number(result.get("best_step")) and is_number(result.get("steps")):
        found.append((f"{stage}: best step", f"{_text(result['best_step'])} of {_text(result['steps'])}"))
    measured = {}
    for one in result.get("evaluations") or []:
        if isinstance(one, dict) and isinstance(one.get("metrics"), dict):
            measured[one.get("step")] = one["metrics"]
    if not measured:
        return found
    first, best = next(iter(measured.values())), measured.get(result.get("best_step"), {})
    for name, value in best.items():
        if is_number(value) and _NAME.fullmatch(name):
            before = f"{_text(first[name])} → " if is_number(first.get(name)) else ""
            found.append((f"{stage}: held-out {name.replace('_', ' ')}", f"{before}{_text(value)}"))
    return found


def _leaves(content: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """The numbers in nested sections, and words under the names in `_WORDS`."""
    for key, value in content.items() if isinstance(content, dict) else ():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if not _NAME.fullmatch(str(key)):
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}: ")
        elif is_number(value):
            yield name, _text(value)
        elif key in _WORDS and isinstance(value, str) and _PLAIN.fullmatch(value):
            yield name, value


def _text(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
