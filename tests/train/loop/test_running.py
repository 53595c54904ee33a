"""What the stages of a run share."""

from pathlib import Path

import pytest

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process.progress import progress_over
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.loop.distributed import current
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.running import Run


def test_a_stage_has_a_directory_of_its_own_and_shares_the_rest(miniature, tmp_path):
    lines: list[str] = []
    config = RunConfig(task="speaker", model=str(miniature), precision="bf16")
    run = Run.of(config, tmp_path, say=lines.append)
    stage = run.within("speaker")
    assert (run.directory, stage.directory) == (tmp_path, tmp_path / "speaker")
    assert (stage.compute, stage.ranks, stage.quiet) == (Compute("bf16"), current(), True)
    stage.say("a line")
    assert lines == ["a line"]
    assert stage.release.fingerprint() == Release(miniature).fingerprint()


def test_the_model_is_opened_when_it_is_asked_for(tmp_path):
    run = Run.of(RunConfig(task="speaker", model=str(tmp_path / "none")), tmp_path)
    with pytest.raises(CheckpointError, match="none"):
        _ = run.release


def test_a_quiet_run_has_no_bars():
    quiet, other = (Run("m", Compute("float32"), Path(), current(), quiet=quiet) for quiet in (True, False))
    assert other.progress is progress_over
    items = [1, 2]
    assert quiet.progress(items, 2, "counting") is items
