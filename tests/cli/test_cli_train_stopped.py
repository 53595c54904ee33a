"""Trainings that something stops: a full disk, Ctrl-C inside a checkpoint, numbers that are not finite."""

import errno
import re
import signal

import numpy as np
import pytest
import yaml

from mlx_voxclone.checkpoint import writer
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.train import run as run_module
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.saved import state
from mlx_voxclone.train.saved.state import list_checkpoints

pytest_plugins = ["commands"]


def voxclone_code(*arguments) -> int:
    return voxclone([str(a) for a in arguments])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(run_module, "write_report", lambda run_dir: "no report")


@pytest.fixture(scope="module")
def encoder_run(miniature, corpus, tmp_path_factory):
    """A configuration file of task encoder and the weights of its last step, uninterrupted."""
    from commands import TINY_RUN

    directory = tmp_path_factory.mktemp("encoder_run")
    content = {"task": "encoder", "model": str(miniature), **TINY_RUN}
    content["data"] = {"path": str(corpus), **TINY_RUN["data"]}
    (directory / "encoder.yaml").write_text(yaml.safe_dump(content))
    argv = ["train", "--config", directory / "encoder.yaml", "--set", f"output={directory / 'run'}", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "write_report", lambda run_dir: "no report")
        assert voxclone_code(*argv) == 0
    return directory / "encoder.yaml", weights(directory / "run")


def weights(run) -> dict[str, bytes]:
    file = TensorFile(list_checkpoints(run)[-1][1] / "model.safetensors")
    return {name: bytes(file.raw(name)) for name in file.names()}


def leftovers(run) -> list[str]:
    return [str(path) for path in run.rglob("*") if path.name.startswith(".") or path.name.endswith(".partial")]


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(encoder_run, tmp_path, monkeypatch, capsys):
    config, expected = encoder_run
    run, calls = tmp_path / "run", []

    def space(directory, nbytes):
        if "checkpoints" in str(directory) and (calls.append(1) or len(calls) > 2):  # two files of the first fit
            raise OSError(errno.ENOSPC, "No space left on device", str(directory))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "free_space_check", space)
        assert voxclone_code("train", "--config", config, "--set", f"output={run}", "--quiet") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert "no space left" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert [step for step, _ in list_checkpoints(run)] == [2]
    assert not leftovers(run)
    assert voxclone_code("train", "--resume", run, "--quiet") == 0
    assert weights(run) == expected


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_checkpoint(encoder_run, tmp_path, monkeypatch, capsys, times):
    """Once: the checkpoint is written anew. Twice, the second time in that: the one before is what there is."""
    config, expected = encoder_run
    run, write, calls = tmp_path / "run", state.save_tensors, []

    def save(path, *arguments):
        write(path, *arguments)
        calls.append(1)
        if 3 <= len(calls) < 3 + times:  # its first file is on the disk, the second is not
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_tensors", save)
        assert voxclone_code("train", "--config", config, "--set", f"output={run}", "--quiet") == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    told = r"interrupted: (after step \d+ of \d+; )?continue with --resume " + re.escape(str(run))
    assert re.fullmatch(told, captured.err.splitlines()[-1])
    assert "Traceback" not in captured.err
    assert [step for step, _ in list_checkpoints(run)] == ([2, 4] if times == 1 else [2])
    assert not leftovers(run)
    assert voxclone_code("train", "--resume", run, "--quiet") == 0
    assert weights(run) == expected


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_with_a_line(encoder_run, tmp_path, monkeypatch, capsys):
    """Not in "complete": five steps in a row are given up, and what was good before is kept."""
    config, _ = encoder_run
    losses = EncoderTask.losses

    def broken(self, batch):
        return {name: value * (np.nan if self.model.training else 1) for name, value in losses(self, batch).items()}

    monkeypatch.setattr(EncoderTask, "losses", broken)
    argv = ["train", "--config", config, "--set", f"output={tmp_path / 'run'}", "--max-steps", "20", "--quiet"]
    assert voxclone_code(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("error: encoder: loss or gradient not finite in 5 consecutive")
    assert sum(record.get("event") == "skip" for record in read_log(tmp_path / "run" / "log.jsonl")) == 5
