"""What all stages of one run share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.collect import Progress
from mlx_voxclone.process.progress import progress_over
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
        say: receives a line per stage, and warnings.
        quiet: no progress bars.
    """

    model: str
    compute: Compute
    directory: Path
    ranks: Ranks
    say: Callable[[str], None] = lambda line: None
    quiet: bool = True

    @classmethod
    def of(
        cls,
        config: RunConfig,
        directory: Path,
        *,
        quiet: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ) -> "Run":
        """A run of a configuration in a directory."""
        return cls(config.model, Compute.of(config), directory, current(), say, quiet)

    @cached_property
    def release(self) -> Release:
        """The model, opened when it is first asked for.

        Raises:
            CheckpointError: it is not there or is damaged.
        """
        return Release(self.model)

    def within(self, name: str) -> "Run":
        """The same in a directory of its own, under the run's."""
        return replace(self, directory=self.directory / name)

    @property
    def progress(self) -> Progress:
        """Wraps what is gone through, with a bar unless it is quiet."""
        return (lambda items, total, what: items) if self.quiet else progress_over
