"""What `doctor` says of the encoder trainings of a run: how many there are, how long each is, and on which disk."""

import json
from pathlib import Path

import pytest
from places import CONFIG

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.cli.front import doctor
from mlx_voxclone.doctor import clone
from mlx_voxclone.doctor import forecast as trainings
from mlx_voxclone.doctor import pairs as pairs_forecast
from mlx_voxclone.doctor.disk import disk_needed
from mlx_voxclone.doctor.encoder import plan_encoders
from mlx_voxclone.doctor.forecast import PAIR_COST, Forecast, encoder_size
from mlx_voxclone.process.machine import Machine
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.clone.base_encoder import base_entry

pytest_plugins = ["commands"]
HUB = "mistralai/Voxtral-4B-TTS-2603"
SMALL = {"encoder.train.steps": 500, "encoder.refine.steps": 70, "judge.rounds": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def configured(model, **changes):
    return load_run_config(CONFIG, {"model": str(model), **SMALL, **changes})


def planned(model, **changes) -> list[tuple[str, str, int]]:
    return [(t.name, t.settings, t.count) for t in plan_encoders(configured(model, **changes)).trainings]


def complete(config, model) -> Path:
    """A base encoder that counts as trained."""
    entry = base_entry(config, Release(model))
    (entry.path / "best").mkdir(parents=True)
    (entry.path / "best" / "encoder.safetensors").write_bytes(b"weights")
    entry.complete({"steps": 50})
    return entry.path


class Tried:
    """Stands for `forecast`: a second a micro-batch on recordings, and notes of what it was called with."""

    def __init__(self):
        self.configs = []

    def __call__(self, config, stage):
        self.configs.append(config)
        section = config.encoder
        seconds = section.train.accumulate * trainings.share_cost(section)
        return Forecast(stage, {"all": 1e6 * section.train.batch_size}, seconds, 1, "tried")


# --- which trainings --------------------------------------------------------------------------------------------------


def test_the_trainings_of_a_run(miniature, whole, encoder_file):
    """As `clone/recover.py` carries them out."""
    base, own = ("base encoder", "encoder.train", 1), ("encoder", "encoder.refine", 3)
    assert planned(miniature) == planned(HUB) == [base, own]
    assert planned(miniature, **{"judge.rounds": 0}) == [base, ("encoder", "encoder.refine", 1)]
    assert planned(miniature, **{"judge.enabled": False}) == [base, ("encoder", "encoder.refine", 1)]
    again = [("encoder", "encoder.train", 1), ("encoder, on judged codes", "encoder.refine", 2)]
    from_the_start = ({"encoder.pairs.path": None}, {"speaker.encoder": None})
    for given in (*from_the_start, {"encoder.weights": str(encoder_file)}):
        assert planned(miniature, **given) == again
    assert planned(miniature, **{"speaker.encoder": None, "judge.enabled": False}) == again[:1]
    assert planned(whole) == planned(miniature, **{"speaker.encoder": str(encoder_file)}) == []
    assert planned(miniature, task="encoder") == again[:1]
    assert planned(miniature, task="speaker") == []


def test_a_base_encoder_in_the_cache_is_not_trained_again(miniature):
    config = configured(miniature)
    place = complete(config, miniature)
    plan = plan_encoders(config)
    assert plan.cached == place
    assert [t.name for t in plan.trainings] == ["encoder"]
    other = plan_encoders(configured(miniature, **{"encoder.train.steps": 501}))  # another recipe, another encoder
    assert other.cached is None
    assert len(other.trainings) == 2
    (place / "best" / "encoder.safetensors").unlink()
    assert plan_encoders(config).cached is None


# --- time and memory --------------------------------------------------------------------------------------------------


def test_time_of_both_trainings_from_one_trial(miniature):
    """A base encoder learns from pairs alone, which cost less; the run's own from as many as `share` says."""
    alike = {"encoder.refine.batch_size": 8, "encoder.refine.accumulate": 1}  # as the base encoder's
    config, tried = configured(miniature, **{"encoder.pairs.share": 0.25}, **alike), Tried()
    base, own = plan_encoders(config).forecasts(config, tried)
    assert len(tried.configs) == 1
    assert (base.steps, own.steps) == (500, 3 * 70)
    assert base.step_seconds == pytest.approx(PAIR_COST)
    assert own.step_seconds == pytest.approx(1 - 0.25 * (1 - PAIR_COST))
    assert base.parts == own.parts
    assert (base.note, own.note) == (
        "once per model, on pairs alone; tried",
        "up to 3 trainings, 70 steps each; tried",
    )


def test_other_batches_are_tried_for_themselves(miniature):
    changes = {"encoder.train.batch_size": 16, "encoder.refine.batch_size": 4, "encoder.refine.accumulate": 2}
    config, tried = configured(miniature, **changes, **{"encoder.refine.epochs": 2}), Tried()
    base, own = plan_encoders(config).forecasts(config, tried)
    assert [c.encoder.train.batch_size for c in tried.configs] == [16, 4]
    assert (base.peak, own.peak) == (16e6, 4e6)
    assert own.step_seconds == pytest.approx(2 * (1 - 0.5 * (1 - PAIR_COST)))
    assert own.steps == 0  # epochs decide
    assert own.note == "up to 3 trainings; tried"


def test_a_base_encoder_has_no_discriminators(miniature):
    config, tried = configured(miniature, **{"encoder.discriminators.enabled": True}), Tried()
    plan_encoders(config).forecasts(config, tried)
    assert [c.encoder.discriminators.enabled for c in tried.configs] == [False, True]


# --- disk -------------------------------------------------------------------------------------------------------------


def test_disk_of_the_encoders():
    """Of the release: 0.6 GB an encoder, three times that a checkpoint."""
    config = configured(HUB)
    weights, plan = 4 * encoder_size(HUB), plan_encoders(config)
    assert weights == pytest.approx(0.6e9, rel=0.01)
    # Three directories with two checkpoints and best/ each, and once more of one and of best/ while they are replaced.
    assert plan.run_bytes(config) == pytest.approx(weights * (3 * (6 + 1) + 3 + 1))
    assert disk_needed(config, plan)["encoder's checkpoints"] == plan.run_bytes(config)
    apart = plan.cache_bytes(config, shared=False)
    assert apart == pytest.approx({"base encoder": weights, "its checkpoints, while it trains": weights * (6 + 1 + 3)})
    # On one disk they are gone before those of the run come, which are more, be it one training only.
    assert plan.cache_bytes(config, shared=True) == {"base encoder": weights}
    few = configured(HUB, **{"judge.rounds": 0})
    assert plan_encoders(few).run_bytes(few) == pytest.approx(weights * (6 + 1 + 3 + 1))
    assert plan_encoders(few).cache_bytes(few, shared=True) == {"base encoder": weights}
    assert plan.copy_bytes(config) == {"copy of the base encoder": weights}
    alone = configured(HUB, **{"speaker.encoder": None})
    assert plan_encoders(alone).cache_bytes(alone, shared=False) == plan_encoders(alone).copy_bytes(alone) == {}
    one = configured(HUB, task="encoder")  # keeps two checkpoints: three, and best/ twice, for a moment
    assert plan_encoders(one).run_bytes(one) == pytest.approx(weights * (3 * 3 + 2))


# --- the command ------------------------------------------------------------------------------------------------------


def told(capsys, monkeypatch, miniature, tmp_path, *more) -> str:
    """What `doctor` prints, with forecasts that nothing is tried for."""
    monkeypatch.setattr(trainings, "forecast", Tried())
    parts = {"language model": 1e6}
    monkeypatch.setattr(
        pairs_forecast, "forecast_pairs", lambda config, plan: Forecast("pairs", parts, 0.5, 240, "n", "frame")
    )
    monkeypatch.setattr(clone, "forecast_clips", lambda config, work, note: [])
    argv = ["--config", str(CONFIG), "--set", f"model={miniature}", "--set", f"output={tmp_path / 'run'}", *more]
    argv += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    assert doctor.main([*argv, "--device", "cpu", "--quiet"]) == 0
    return capsys.readouterr().out


def test_doctor_shows_both_encoders(miniature, tmp_path, capsys, monkeypatch):
    text = told(capsys, monkeypatch, miniature, tmp_path)
    assert "\nbase encoder (once per model, on pairs alone; tried)" in text
    assert "\nencoder (up to 3 trainings, 70 steps each; tried)" in text
    assert ", 500 steps: " in text
    assert ", 210 steps: " in text
    assert "base encoder  " in text.split("\ndisk")[1]
    found = json.loads(told(capsys, monkeypatch, miniature, tmp_path, "--json"))
    assert [(s["stage"], s["steps"]) for s in found["stages"]][1:3] == [("base encoder", 500), ("encoder", 210)]
    assert found["base_encoder_cached"] is None
    assert found["disk"]["base encoder"] > 0
    assert not (tmp_path / "cache").exists()


def test_doctor_says_where_the_base_encoder_is(miniature, tmp_path, capsys, monkeypatch):
    place = complete(configured(miniature, output=str(tmp_path / "run")), miniature)
    text = told(capsys, monkeypatch, miniature, tmp_path)
    assert f"\nbase encoder: cached in {place}" in text
    assert "once per model" not in text
    assert "base encoder  " not in text.split("\ndisk")[1]
    found = json.loads(told(capsys, monkeypatch, miniature, tmp_path, "--json"))
    assert found["base_encoder_cached"] == str(place)
    assert "base encoder" not in [stage["stage"] for stage in found["stages"]]


def test_doctor_tries_no_encoder_where_there_is_one(whole, tmp_path, capsys, monkeypatch):
    text = told(capsys, monkeypatch, whole, tmp_path)
    assert "\nspeaker (" in text
    assert "\nencoder (" not in text
    assert "encoder's checkpoints" not in text


def test_a_base_encoder_on_another_disk(miniature, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlx_voxclone.files.atomic.same_disk", lambda a, b: False)
    here, there = told(capsys, monkeypatch, miniature, tmp_path).split("\ndisk")[1:]
    assert "copy of the base encoder" in here
    assert "its checkpoints, while it trains" in there


def test_what_to_change_is_a_key_of_the_training_that_is_too_large():
    config = configured(HUB, **{"encoder.discriminators.enabled": True})
    machine = Machine("M9", 8, 16_000_000_000, 11_000_000_000, "gpu", "0", "macOS")
    large = [Forecast("base encoder", {"a": 15e9}, 1.0, 1, settings="encoder.train")]
    large.append(Forecast("encoder", {"a": 15e9}, 1.0, 1, settings="encoder.refine"))
    _, base, own = doctor.advice(config, large, machine, [])
    assert "encoder.train.batch_size=4, --set encoder.train.accumulate=2" in base
    assert "discriminators" not in base
    assert "encoder.refine.batch_size=2, --set encoder.refine.accumulate=4" in own
    assert "encoder.discriminators.enabled=false" in own
