"""What the stages of a run share."""

import pytest

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process.progress import Reporter, told_to
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.loop.distributed import current
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.running import Run


def test_a_stage_has_a_directory_of_its_own_and_shares_the_rest(miniature, tmp_path):
    lines: list[str] = []
    config = RunConfig(task="speaker", model=str(miniature), precision="bf16")
    run = Run.of(config, tmp_path, Reporter(lines.append))
    stage = run.within("speaker")
    assert (run.directory, stage.directory) == (tmp_path, tmp_path / "speaker")
    assert (stage.compute, stage.ranks, stage.reporter) == (Compute("bf16"), current(), run.reporter)
    stage.say("a line")
    assert lines == ["a line"]
    assert stage.release.fingerprint() == Release(miniature).fingerprint()


def test_the_model_is_opened_when_it_is_asked_for(tmp_path):
    run = Run.of(RunConfig(task="speaker", model=str(tmp_path / "none")), tmp_path)
    with pytest.raises(CheckpointError, match="none"):
        _ = run.release


def test_lines_and_bars_are_shown_as_asked():
    """To a caller that listens, where the reporter has bars; the lines go where the reporter sends them."""
    steps, lines = [], []
    with told_to(lambda *step: steps.append(step), None):
        for bars in (False, True):
            reporter = Reporter(lines.append, bars)
            assert list(reporter.over([1, 2], 2, "counting")) == [1, 2]
            with reporter.bar(total=5, desc="steps") as bar:
                bar.update(5)
            assert (len(steps), reporter.bars) == (3 * bars, bars)
            reporter.say("a line")
            reporter.without_lines().say("another")
            assert reporter.without_lines().bars is bars
    assert steps == [(1, 2, "counting"), (2, 2, "counting"), (5, 5, "steps")]
    assert lines == ["a line"] * 2
