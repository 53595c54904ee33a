"""`train --sweep-lr`: equal trainings but for the rate, data made once, and what is told of them."""

import fcntl
import json
import math

import pytest

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import CheckpointError, ConfigError, TrainingError
from mlx_voxclone.pairs import clip_codes
from mlx_voxclone.process.progress import SILENT
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train import run, sweep
from mlx_voxclone.train.sweep import Point, best, lines

pytest_plugins = ["commands"]


def point(rate, value, before=1.0):
    return Point(rate, {"loss": before, "cer": 0.5}, {"loss": value, "cer": 0.4}, "loss")


def test_the_best_is_the_lowest_that_became_better():
    assert best([point(1e-6, 0.9), point(1e-5, 0.7), point(1e-4, 0.8)]).rate == 1e-5
    assert best([point(1e-6, 1.1), point(1e-5, math.nan)]) is None
    blown = Point(1e-3, None, None, "loss", "blew up")
    assert best([blown, point(1e-5, 0.9)]).rate == 1e-5
    told = lines([point(1e-6, 0.9), point(1e-5, 0.7), blown])
    assert told[0].split() == ["learning", "rate", "loss", "cer"]
    assert told[1].split() == ["before", "1", "0.5"]
    assert told[3].split() == ["1e-05", "0.7", "0.4"]
    assert "0.001: blew up" in told
    assert "best: 1e-05 (held-out loss 0.7)" in told
    assert told[-1] == "it is the highest of those tried; a higher one may be better still"
    assert lines([point(1e-6, 1.0)])[-1].startswith("no rate improved on the start")


@pytest.fixture
def config_path(config_file, encoder_file):
    from commands import TINY_RUN

    return config_file("speaker", speaker={**TINY_RUN["speaker"], "encoder": str(encoder_file)})


@pytest.mark.slow
def test_it_trains_with_each_rate_and_makes_codes_once(config_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "write_report", lambda run_dir: "no report")
    encoded = []
    loaded = clip_codes.load_model
    monkeypatch.setattr(clip_codes, "load_model", lambda *a, **k: encoded.append(a) or loaded(*a, **k))
    argv = ["train", "--config", str(config_path), "--set", f"output={tmp_path / 'run'}", "--max-steps", "9"]
    assert voxclone([*argv, "--sweep-lr", "1e-9", "5e-3", "--quiet"]) == 0
    home = tmp_path / "run-sweep"
    assert {path.name for path in home.iterdir()} == {"lr-1e-09", "lr-0.005", "sweep.json"}
    assert len(encoded) == 1
    document = json.loads((home / "sweep.json").read_text())
    first, second = document["points"]
    assert first["first"] == second["first"]  # from the same start
    assert first["value"] == pytest.approx(first["first"]["loss"], rel=1e-6)  # next to no rate, next to no change
    assert abs(second["value"] / first["value"] - 1) > 1e-3
    for point in (first, second):
        assert point["value"] == point["metrics"]["loss"]
    for name, rate in (("lr-1e-09", 1e-9), ("lr-0.005", 5e-3)):
        train = load_run_config(home / name / "config.yaml").speaker.train
        assert (train.learning_rate, train.steps, train.eval_every, train.patience) == (rate, 9, 3, 0)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["learning", "rate", "loss"]
    assert voxclone([*argv, "--sweep-lr", "1e-9", "--quiet"]) == 2
    assert "run-sweep: exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rate_that_blows_up_is_told_and_the_others_go_on(config_path, tmp_path, monkeypatch):
    done = run.run
    config = load_run_config(config_path, {"output": tmp_path / "run"}, max_steps=8)

    def blows_up(config, **options):
        if config.speaker.train.learning_rate > 1:
            raise TrainingError("not finite")
        return done(config, **options)

    monkeypatch.setattr(sweep, "run", blows_up)
    monkeypatch.setattr(run, "write_report", lambda run_dir: "no report")
    points = sweep.sweep(config, [5.0, 5e-3], reporter=SILENT)
    assert (points[0].fault, points[0].value) == ("not finite", math.inf)
    assert points[1].metrics is not None
    assert json.loads((tmp_path / "run-sweep" / "sweep.json").read_text())["points"][0]["fault"] == "not finite"


def test_two_sweeps_in_one_place_do_not_mix(config_path, tmp_path, monkeypatch):
    config = load_run_config(config_path, {"output": tmp_path / "run"})
    home = tmp_path / "run-sweep"

    def locked(here, **options):
        with pytest.raises(BlockingIOError), (home / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise ConfigError("enough")

    monkeypatch.setattr(sweep, "run", locked)
    with pytest.raises(ConfigError, match="enough"):
        sweep.sweep(config, [1e-5])
    assert not home.exists()
    home.mkdir()
    with (home / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(CheckpointError, match="run-sweep: is in use by another process"):
            sweep.sweep(config, [1e-5])


def test_what_is_no_sweep_is_refused(config_path, tmp_path, capsys):
    config = load_run_config(config_path, {"output": tmp_path / "run"})
    for rates in ([], [0.0], [1e-5, 1e-5], [math.nan]):
        with pytest.raises(ConfigError, match="learning rates of a sweep"):
            sweep.sweep(config, rates)
    with pytest.raises(ConfigError, match="a sweep is for a single training"):
        sweep.sweep(config.model_copy(update={"task": "clone"}), [1e-5])
    (tmp_path / "run-sweep").mkdir()
    (tmp_path / "run-sweep" / "x").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        sweep.sweep(config, [1e-5])
    assert voxclone(["train", "--config", str(config_path), "--sweep-lr", "--lr", "1e-5"]) == 2
    assert "leave out" in capsys.readouterr().err
