"""What `doctor` says of the automatic pairs: whether there are any to make, how long it takes, and on which disk."""

import json
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from places import CONFIG

from mlx_voxclone.checkpoint.release import Release, part_of
from mlx_voxclone.cli.front import doctor
from mlx_voxclone.doctor import clone
from mlx_voxclone.doctor import forecast as trainings
from mlx_voxclone.doctor import pairs as pairs_forecast
from mlx_voxclone.doctor.forecast import Forecast
from mlx_voxclone.doctor.pairs import FramesTrial, PairsPlan, forecast_pairs, plan_pairs
from mlx_voxclone.files.atomic import same_disk
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.process.machine import Machine
from mlx_voxclone.process.progress import SILENT
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.judge.auto_pairs import BYTES_PER_SECOND, AutomaticPairs, automatic_pairs

pytest_plugins = ["commands"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def configured(model, **changes):
    return load_run_config(CONFIG, {"model": str(model), **changes})


def counts(config) -> tuple[int, int] | None:
    plan = plan_pairs(config)
    return None if plan is None else (len(plan.said), len(plan.copied))


def complete(asked: AutomaticPairs, moved: bool = True) -> None:
    """Entries that count as made."""
    settings = {asked.pairs: asked.made_from}
    if moved:
        settings[asked.moved] = {"of": asked.pairs.path.name, "moves": asked.moves}
    for entry, made_from in settings.items():
        entry.path.mkdir(parents=True, exist_ok=True)
        (entry.path / "settings.json").write_text(json.dumps(made_from))
        entry.complete({"pairs": 3, "voices": 3})


# --- what there is to make --------------------------------------------------------------------------------------------


def test_what_a_run_will_make(miniature, whole, encoder_file):
    """The miniature has three voices; an encoder that is at hand needs no pairs, what is kept does."""
    assert counts(configured(miniature)) == (72, 144)
    few = {"encoder.pairs.per_voice": 5, "encoder.pairs.moves": 3}
    assert counts(configured(miniature, **few)) == (15, 45)
    for model, given in ((miniature, {"speaker.encoder": str(encoder_file)}), (whole, {})):
        assert counts(configured(model, **given)) == (72, 0)
        assert counts(configured(model, **given, **{"speaker.preserve.path": None})) is None
    assert counts(configured(whole, task="encoder")) == (72, 144)
    assert counts(configured(whole, task="speaker")) is None
    assert counts(configured(miniature, **{"encoder.pairs.path": None})) is None
    assert counts(configured("mistralai/Voxtral-4B-TTS-2603")) == (480, 960)  # nothing is fetched to find out


def test_what_is_there_already(miniature):
    few = {"encoder.pairs.per_voice": 1, "encoder.pairs.max_seconds": 1.0}
    config = configured(miniature, **few)
    asked = AutomaticPairs.of(config, Release(miniature))
    complete(asked, moved=False)
    plan = plan_pairs(config)
    assert (len(plan.said), len(plan.copied), plan.missing) == (0, 6, True)
    complete(asked)
    plan = plan_pairs(config)
    assert not plan.missing
    assert plan.place == asked.pairs.path.parent


def test_seconds_and_bytes_follow_the_texts(miniature, tmp_path):
    (tmp_path / "texts.txt").write_text(f"{'a' * 29}\n{'b' * 600}\n")
    given = {"encoder.pairs.texts": str(tmp_path / "texts.txt"), "encoder.pairs.per_voice": 2}
    plan = plan_pairs(configured(miniature, **given))
    # Voices, copies and the pair itself; 15 letters a second, full stops among them, up to 20 s.
    assert plan.seconds(20.0) == 3 * 3 * (2 + 20)
    assert plan.nbytes(20.0) == BYTES_PER_SECOND * plan.seconds(20.0)


# --- how long it takes ------------------------------------------------------------------------------------------------


def test_frames_of_a_batch_and_of_the_decoder(miniature, monkeypatch):
    """Every batch is as long as its longest sentence; layers beyond those that try cost what the last ones do."""
    tried = []

    def trial(params, dtype, layers, batch, budget):
        tried.append((layers, batch))
        return FramesTrial(layers, 0.5 + 0.25 * layers, 1.0 + 0.5 * layers, 7.0)

    monkeypatch.setattr(pairs_forecast, "try_frames", trial)
    monkeypatch.setattr(pairs_forecast, "time_decoding", lambda config: 0.125)
    params = trainings.model_params(miniature) | {"n_layers": 10}
    monkeypatch.setattr(pairs_forecast, "model_params", lambda model: params)
    config = configured(miniature, **{"encoder.pairs.batch": 2})
    said = [plan_pairs(config).said[0].__class__(k, "a" * (15 * n), "en", "ann", k) for k, n in enumerate((4, 2, 6))]
    found = forecast_pairs(config, PairsPlan(said, said, Path("x")))
    assert tried == [(1, 2), (4, 2)]
    frames = 12.5 * 2 * (4 + 2 + 6)
    expected = 3 * (0.5 + 0.25 * 10) + 12.5 * (4 + 6) * (1.0 + 0.5 * 10) + frames * 0.125
    assert found.steps * found.step_seconds == pytest.approx(expected)
    assert found.steps == frames
    assert found.parts["activations and the rest"] == 7.0


def test_real_trials_in_the_small(miniature):
    mx.random.seed(5)
    expected = mx.random.normal((4,))
    mx.random.seed(5)
    config = configured(miniature, **{"encoder.pairs.batch": 2})
    found = forecast_pairs(config, plan_pairs(config), budget=0.1)
    np.testing.assert_array_equal(mx.random.normal((4,)), expected)
    assert found.step_seconds > 0
    release = Release(miniature)
    sizes = dict.fromkeys(("lm", "head", "decoder"), 0.0)
    for name in release.tensors.names():
        sizes[part_of(name)] += 4.0 * np.prod(release.tensors.info(name).shape)
    assert [found.parts[k] for k in ("language model", "flow head", "codec decoder")] == list(sizes.values())
    config = release.config.backbone
    rows = 2 * 2 * config.n_layers * config.n_kv_heads * config.head_dim * 4  # keys and values, two sentences
    assert found.parts["keys and values"] == rows * (pairs_forecast.PROMPT + 250)


@pytest.mark.slow
def test_it_takes_as_long_as_was_foretold(tmp_path, monkeypatch):
    """In the processor's own time: others may be busy beside."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    model = make_micro(tmp_path / "speaking", "speaking")
    config = configured(model, **{"encoder.pairs.per_voice": 1, "encoder.pairs.max_seconds": 8.0})
    told = forecast_pairs(config, plan_pairs(config))
    began = time.process_time()
    automatic_pairs(config, Release(model), SILENT)
    took = time.process_time() - began
    assert took / 3 < told.steps * told.step_seconds < 3 * took


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def untried(monkeypatch):
    """Forecasts that nothing is tried for."""
    monkeypatch.setattr(trainings, "forecast", lambda config, stage: Forecast(stage, {"all": 1e6}, 1.0, 10))
    parts = {"language model": 1e6}
    monkeypatch.setattr(
        pairs_forecast, "forecast_pairs", lambda config, plan: Forecast("pairs", parts, 0.5, 240, "n", "frame")
    )
    monkeypatch.setattr(clone, "forecast_clips", lambda config, work, note: [])


def told(capsys, miniature, tmp_path, *more) -> str:
    argv = ["--config", str(CONFIG), "--set", f"model={miniature}", "--set", f"output={tmp_path / 'run'}", *more]
    assert doctor.main([*argv, "--device", "cpu", "--quiet"]) == 0
    return capsys.readouterr().out


def test_doctor_counts_time_and_disk_or_says_cached(untried, miniature, tmp_path, capsys):
    text = told(capsys, miniature, tmp_path)
    assert "pairs (n)" in text
    assert "240 frames: 2 min 00 s" in text
    assert "automatic pairs" in text.split("\ndisk")[1]
    assert not (tmp_path / "cache").exists()
    config = configured(miniature)
    asked = AutomaticPairs.of(config, Release(miniature))
    complete(asked)
    text = told(capsys, miniature, tmp_path)
    assert f"pairs: cached in {asked.home}" in text
    assert "pairs (n)" not in text
    assert "automatic pairs" not in text
    assert json.loads(told(capsys, miniature, tmp_path, "--json"))["pairs_cached"] == str(asked.home)
    assert "pairs" not in told(capsys, miniature, tmp_path, "--set", "encoder.pairs.path=null").replace("pairs: ", "")


def test_a_cache_on_another_disk_is_counted_there(untried, miniature, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlx_voxclone.files.atomic.same_disk", lambda a, b: False)
    text = told(capsys, miniature, tmp_path)
    assert "automatic pairs" not in text.split("\ndisk\n")[1].split("\n\n")[0].split("\ndisk of")[0]
    assert "automatic pairs" in text.split("\ndisk of ")[1]
    machine = Machine("M9", 8, 16_000_000_000, 11_000_000_000, "gpu", "0", "macOS")
    disks = [doctor.Disk("disk", "`output`", {}, 5), doctor.Disk("disk of X", "VOXCLONE_CACHE", {"pairs": 2e9}, 10**9)]
    (_, line) = doctor.advice(configured(miniature), [], machine, disks)
    assert line == "disk of X: free 1.00 GB more, or set VOXCLONE_CACHE to another disk"
    large = [Forecast("pairs", {"all": 12e9}, 1.0, 1)]
    (_, line) = doctor.advice(configured(miniature), large, machine, [])
    assert line == "pairs: too much memory for this machine; try --set encoder.pairs.batch=4"


def test_same_disk(tmp_path):
    assert same_disk(tmp_path / "a" / "b", tmp_path)
    assert same_disk("/proc/self", tmp_path) is False or not Path("/proc").exists()
