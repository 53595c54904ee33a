"""The base encoder in the cache: found, made again where it is damaged, and what is said where it cannot be made."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from refusals import refused

from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.process.progress import Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.clone import base_encoder as module
from mlx_voxclone.train.clone.base_encoder import base_encoder
from mlx_voxclone.train.saved.result import RESULT_NAME, TrainResult
from mlx_voxclone.train.stages.running import Run

pytest_plugins = ["commands"]


@pytest.fixture
def trained(encoder_file, monkeypatch):
    """Stands for the training, which leaves an encoder and a result; a list of where it has trained."""
    places: list[Path] = []

    def train(config, pairs, run):
        directory = run.directory
        places.append(directory)
        (directory / "best").mkdir(parents=True)
        shutil.copy(encoder_file, directory / "best" / "encoder.safetensors")
        (directory / "log.jsonl").write_text("{}\n")
        return ended(directory)

    monkeypatch.setattr(module, "_trained", train)
    return places


def ended(directory: Path) -> TrainResult:
    """The result of a complete training, saved."""
    losses = dict.fromkeys(
        ("first_loss", "last_loss", "smoothed_loss", "best_metric", "seconds", "peak_memory_gb"), 1.0
    )
    counts = {"steps": 4, "total_steps": 4, "best_step": 4, "skipped": 0}
    rest = {"first_terms": {}, "last_terms": {}, "evaluations": [], "metric": "loss", "stopped_early": False}
    result = TrainResult(**losses, **counts, **rest)
    result.save(directory)
    return result


@pytest.fixture
def asked(miniature, tmp_path, monkeypatch):
    """`asked()`: the base encoder of the miniature, and the lines that were said."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pairs").mkdir()

    def ask() -> tuple[Path, list[str]]:
        lines: list[str] = []
        config = RunConfig(task="clone", model=str(miniature))
        return base_encoder(config, [tmp_path / "pairs"], Run.of(config, tmp_path, Reporter(lines.append))), lines

    return ask


def test_it_is_trained_once(asked, trained, encoder_file):
    found, lines = asked()
    assert found.read_bytes() == encoder_file.read_bytes()
    assert lines[0].startswith("encoder: training the model's base encoder")
    (found.parent.parent / "log.jsonl").unlink()  # nobody needs it
    assert asked() == (found, [f"encoder: from the model's base encoder, in the cache {trained[0]}"])
    assert len(trained) == 1


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "other bytes": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_trained_again(asked, trained, encoder_file, damage):
    """Not declared complete as they are, which would end this run and every later one."""
    found, _ = asked()
    DAMAGES[damage](found)
    again, lines = asked()
    assert lines[0] == f"encoder: the base encoder in {trained[0]} is damaged, and is trained again"
    assert again.read_bytes() == encoder_file.read_bytes()
    assert len(trained) == 2


def test_what_was_trained_and_not_declared_complete(asked, trained, monkeypatch):
    """A process was killed between the two."""
    asked()
    (trained[0] / "complete.json").unlink()
    monkeypatch.setattr(module, "_trained", lambda config, pairs, run: TrainResult.load(run.directory))
    assert not any("damaged" in line for line in asked()[1])


@pytest.mark.parametrize("name", ["best/encoder.safetensors", RESULT_NAME])
def test_a_half_that_was_not_declared_complete(asked, trained, name):
    asked()
    (trained[0] / "complete.json").unlink()
    (trained[0] / name).write_bytes(b"{")
    assert "is damaged, and is trained again" in asked()[1][0]
    assert len(trained) == 2


def test_a_disk_that_fills_up(asked, tmp_path, monkeypatch):
    def full(*_):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as e:
            raise CheckpointError("cannot be written") from e

    monkeypatch.setattr(module, "_trained", full)
    refused(asked, CheckpointError, str(tmp_path / "cache"), "no space left on its disk", "VOXCLONE_CACHE")


@pytest.mark.parametrize("gone", ["pairs", "cache"])
def test_what_is_deleted_while_it_is_trained(asked, tmp_path, monkeypatch, gone):
    def deleting(config, pairs, run):
        shutil.rmtree(tmp_path / gone)
        raise DataError("audio/000001.flac: no such audio file")

    monkeypatch.setattr(module, "_trained", deleting)
    refused(asked, CheckpointError, str(tmp_path / gone), "was deleted while the base encoder", "run again")


def test_what_fails_for_another_reason_says_so(asked, monkeypatch):
    def failing(config, pairs, run):
        raise DataError("something else")

    monkeypatch.setattr(module, "_trained", failing)
    refused(asked, DataError, "something else")
