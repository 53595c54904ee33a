"""What all stages of one run share."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.process.progress import SILENT, Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.loop.distributed import Ranks, current
from mlx_voxclone.train.stages.compute import Compute


@dataclass(frozen=True)
class Run:
    """One run, as its stages see it.

    Attributes:
        model: that is trained from; `release` opens it.
        compute: where and how precisely.
        directory: the run's, or a stage's own in it (`within`).
        ranks: the processes that share the run.
        reporter: shows a line per stage, warnings and progress.
    """

    model: str
    compute: Compute
    directory: Path
    ranks: Ranks
    reporter: Reporter = SILENT

    @classmethod
    def of(cls, config: RunConfig, directory: Path, reporter: Reporter = SILENT) -> "Run":
        """A run of a configuration in a directory."""
        return cls(config.model, Compute.of(config), directory, current(), reporter)

    @cached_property
    def release(self) -> Release:
        """The model, opened on first use.

        Raises:
            CheckpointError: it is not there or is damaged.
        """
        return Release(self.model)

    def within(self, name: str) -> "Run":
        """The same in a directory of its own, under the run's."""
        return replace(self, directory=self.directory / name)

    def say(self, line: str) -> None:
        """Show a line."""
        self.reporter.say(line)
