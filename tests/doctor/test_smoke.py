"""The smoke test: that it passes, and above all that it can fail."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from places import CONFIG

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.doctor.smoke import check
from mlx_voxclone.errors import TrainingError
from mlx_voxclone.train.run import RunSummary
from mlx_voxclone.train.saved.result import TrainResult

pytest_plugins = ["commands"]


def result(before: float = 3.0, after: float = 2.0, **changes) -> TrainResult:
    evaluations = [{"step": 0, "metrics": {"loss": before}}, {"step": 2, "metrics": {"loss": after}}]
    figures = {"first_loss": 3.1, "last_loss": 2.1, "smoothed_loss": 2.1, "first_terms": {}, "last_terms": {}}
    good = TrainResult(
        steps=2, total_steps=2, **figures, evaluations=evaluations, metric="loss", best_step=2, best_metric=after,
        seconds=1.0, peak_memory_gb=0.1, skipped=0, stopped_early=False,
    )  # fmt: skip
    return replace(good, **changes)


@pytest.fixture
def summary(whole, tmp_path) -> RunSummary:
    """Of a run in which everything holds."""
    for stage in ("encoder", "speaker"):
        (tmp_path / stage).mkdir()
        write_log(tmp_path / stage, [3.1, 2.1])
    spoken = {when: {"file": f"samples/{when}-1.wav", "frames": 9, "ended": True} for when in ("before", "after")}
    return RunSummary(
        "clone",
        str(tmp_path),
        results={"encoder": result(), "speaker": result()},
        baked={"path": str(whole), "voice": "clone", "fold_error": 0.003, "adapter_effect": 0.1},
        speech=[{"text": "papa", **spoken}],
    )


def write_log(directory: Path, losses: list) -> None:
    lines = [{"event": "start", "step": 0}, *({"step": i + 1, "loss": loss} for i, loss in enumerate(losses))]
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_all_is_well(summary):
    assert check(summary) == []


@pytest.mark.parametrize("stage", ["encoder", "speaker"])
@pytest.mark.parametrize("losses", [[3.1, "nan"], ["inf", 2.1], []])  # as the log writes them
def test_a_loss_that_is_not_finite_fails(summary, tmp_path, stage, losses):
    write_log(tmp_path / stage, losses)
    assert check(summary) == [f"{stage}: a loss is not finite"]


@pytest.mark.parametrize("stage", ["encoder", "speaker"])
def test_a_skipped_step_fails(summary, stage):
    summary.results[stage] = result(skipped=1)
    assert check(summary) == [f"{stage}: a loss is not finite"]


@pytest.mark.parametrize("stage", ["encoder", "speaker"])
@pytest.mark.parametrize(("before", "after"), [(2.0, 2.0), (2.0, 2.1), (2.0, math.nan), (2.0, math.inf)])
def test_a_loss_that_did_not_fall_fails(summary, stage, before, after):
    summary.results[stage] = result(before, after)
    (fault,) = check(summary)
    assert fault.startswith(f"{stage}: the held-out loss did not fall (2 -> ")


@pytest.mark.parametrize(
    ("error", "effect"), [(0.02, 0.5), (0.003, 0.004), (math.nan, 0.1), (0.003, math.nan), (0.0, 0.0)]
)
def test_a_bake_that_is_not_the_adapter_model_fails(summary, error, effect):
    """Too far from base + adapter; or as far from it as the base is, so that nothing was folded."""
    summary.baked |= {"fold_error": error, "adapter_effect": effect}
    (fault,) = check(summary)
    assert fault.startswith("baked: differs from base + adapter")


def test_a_bake_without_the_encoder_fails(summary, miniature):
    summary.baked["path"] = str(miniature)
    assert check(summary) == ["baked: the checkpoint has no encoder"]


def test_silence_fails(summary):
    summary.speech = []
    assert check(summary) == ["say: nothing was spoken"]


@pytest.mark.slow
def test_the_whole_smoke_test(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    argv = ["train", "--config", str(CONFIG), "--smoke-test", "--set", f"output={tmp_path / 'smoke'}"]
    assert voxclone(argv) == 0
    out = capsys.readouterr().out
    assert "FAILED" not in out
    assert "smoke test passed" in out
    for row in ("encoder loss", "speaker held out", "folded vs adapter", "files written", "peak memory"):
        assert row in out
    assert (tmp_path / "smoke-1" / "run" / "baked" / "consolidated.safetensors").is_file()
    assert (tmp_path / "smoke-1" / "run" / "samples" / "after-1.wav").is_file()
    made = {path.parent.name.split("-")[0] for path in (tmp_path / "smoke-1" / "cache").glob("*/*/complete.json")}
    assert {"pairs", "moved", "encoder"} <= made
    assert not (tmp_path / "cache").exists()


def test_a_run_without_a_bake_fails(summary):
    summary.baked = None
    assert check(summary) == ["baked: nothing was"]


def test_a_training_that_gave_up_is_exit_code_1(monkeypatch, tmp_path, capsys):
    """Losses that are never finite end the training early; for the smoke test that is a failure like any other."""

    def gave_up(*args, **kwargs):
        raise TrainingError("encoder: loss or gradient not finite in 5 consecutive steps")

    monkeypatch.setattr("mlx_voxclone.doctor.smoke.run", gave_up)
    assert voxclone(["train", "--config", str(CONFIG), "--smoke-test", "--set", f"output={tmp_path / 'smoke'}"]) == 1
    assert "FAILED: encoder: loss or gradient not finite" in capsys.readouterr().out
