"""The run around the steps: directory, settings, evaluation, best, early stopping, checkpoints kept, progress."""

import json
import sys

import pytest
from toy_task import ToyTask, settings

from mlx_voxclone.errors import CheckpointError, ConfigError, DataError, VoxcloneError
from mlx_voxclone.files.run_log import Progress, read_log
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop import heldout
from mlx_voxclone.train.loop.task import Task
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import list_checkpoints, load_checkpoint
from mlx_voxclone.train.stages.stage import run_trainer

pytest_plugins = ["commands"]


def run(run_dir, task=None, **changes):
    return Trainer(task or ToyTask(7), settings(**changes), run_dir, quiet=True).run()


def scripted(values):
    """A task whose held-out metric takes these values, one evaluation after the other."""
    task = ToyTask(7)
    task.metric = "script"
    left = iter(values)
    task.extra_metrics = lambda: {"script": next(left)}
    return task


def test_toy_task_is_a_task():
    assert isinstance(ToyTask(3), Task)


def test_it_learns_and_the_result_says_so(tmp_path):
    result = run(tmp_path / "run", steps=150, eval_every=50, sample_every=100)
    assert result.smoothed_loss < result.first_loss / 5
    assert result.evaluations[-1]["metrics"]["loss"] < result.evaluations[0]["metrics"]["loss"] / 5
    assert [entry["step"] for entry in result.evaluations] == [0, 50, 100, 150]
    assert result.best_metric == min(entry["metrics"]["loss"] for entry in result.evaluations)
    assert (result.metric, result.complete, result.stopped_early, result.skipped) == ("loss", True, False, 0)
    assert result.seconds > 0
    assert result.peak_memory_gb > 0
    assert TrainResult.load(tmp_path / "run") == result
    samples = sorted(path.parent.name for path in (tmp_path / "run" / "samples").rglob("sample.txt"))
    assert samples == ["step-0", "step-100", "step-150"]


def test_layout_of_a_run_directory(tmp_path):
    trainer = Trainer(ToyTask(7), settings(), tmp_path / "a" / "run", quiet=True)
    trainer.run()
    names = sorted(path.name for path in (tmp_path / "a" / "run").iterdir())
    assert names == ["best", "checkpoints", "log.jsonl", "result.json"]
    checkpoint = tmp_path / "a" / "run" / "checkpoints" / "step-10"
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert sorted(p.name for p in (tmp_path / "a" / "run" / "best").iterdir()) == ["export.json", "info.json"]
    events = [line.get("event") for line in read_log(tmp_path / "a" / "run" / "log.jsonl")]
    assert events == ["start", "eval", *[None] * 10, "eval", "checkpoint", "end"]


def test_a_used_run_directory_is_refused_untouched(tmp_path):
    (tmp_path / "run").mkdir()
    run(tmp_path / "run")  # an empty one is fine
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"not empty: continue with --resume .*run, or choose another output"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    with pytest.raises(CheckpointError, match="is a file"):
        run(tmp_path / "run" / "log.jsonl")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "nothing to train"),
        ({"warmup_steps": 10}, r"warmup_steps \(10\) must be below steps \(10\)"),
        ({"learning_rate": "fast"}, 'learning_rate: expected a number; got "fast"'),
        ({"learning_rate": 0}, "learning_rate: must be above 0"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"accumulate": 0}, "accumulate: must be at least 1"),
        ({"batch_size": 1.5}, "whole number"),
        ({"precision": "fp16"}, "precision: expected one of float32 or bf16"),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio: must be at most 1"),
        ({"grad_clip": -1.0}, "grad_clip: must be at least 0"),
        ({"keep": 0}, "keep: must be at least 1"),
        ({"eval_every": True}, "eval_every: expected a whole number"),
    ],
)
def test_settings_that_cannot_be_used(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("n_items", "changes", "words"),
    [
        (0, {}, "0 items"),
        (3, {"batch_size": 4}, "batch_size 4 is larger than the training data"),
        (7, {"epochs": 2, "warmup_steps": 4}, "warmup_steps 4 must be less than the 4 steps"),
    ],
)
def test_settings_that_do_not_fit_the_data(tmp_path, n_items, changes, words):
    task = ToyTask(7)
    task.n_items = n_items
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "run", task, **changes)
    assert not (tmp_path / "run").exists()


def test_epochs_count_the_last_partial_group(tmp_path):
    """7 items in batches of 2, two of them per step: 4 + 3 items, two steps per epoch."""
    task = ToyTask(7)
    result = run(tmp_path / "run", task, steps=0, epochs=3)
    assert result.steps == 6
    used = [index for epoch, index in task.items_made if epoch < 3]
    assert sorted(used) == sorted(list(range(7)) * 3)
    assert TrainSettings(epochs=1, batch_size=2).total_steps(7) == 4


def test_nothing_trainable_is_refused(tmp_path):
    task = ToyTask(7)
    task.model.freeze()
    with pytest.raises(DataError, match="no trainable parameters"):
        run(tmp_path / "run", task)
    task = ToyTask(7)
    task.weights = {"mse": 0.0, "l1": 0.0}
    with pytest.raises(DataError, match="every loss weight is 0"):
        run(tmp_path / "run", task)
    assert not (tmp_path / "run").exists()


def test_a_term_of_weight_zero_is_logged_and_not_trained(tmp_path):
    task = ToyTask(7)
    task.weights = {"mse": 1.0, "l1": 0.0}
    run(tmp_path / "run", task)
    lines = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "event" not in line]
    assert all(line["loss"] == line["mse"] and line["l1"] > 0 for line in lines)


def test_heldout_loss_is_the_mean_over_all_targets():
    """Two batches with different numbers of targets: sums over targets, not a mean of means."""
    task = ToyTask(7)
    batches = [task.collate([task.item(0, i) for i in group]) for group in ((0, 1, 2), (3,))]
    task.heldout_batches = lambda: batches
    metrics = heldout.heldout_metrics(task)
    task.heldout_batches = lambda: [task.collate([task.item(0, i) for i in range(4)])]
    assert metrics["mse"] == pytest.approx(heldout.heldout_metrics(task)["mse"], rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["mse"] + 0.3 * metrics["l1"])


def test_without_heldout_data_or_targets_the_run_is_refused(tmp_path):
    task = ToyTask(7)
    task.heldout_batches = list
    with pytest.raises(DataError, match="no held-out data"):
        run(tmp_path / "run", task)
    task = ToyTask(7)
    targets = task.targets
    task.targets = lambda batch: targets(batch) | {"l1": 0.0}
    with pytest.raises(DataError, match="no targets for l1"):
        run(tmp_path / "other", task)


def test_best_is_chosen_by_the_heldout_metric_not_the_training_loss(tmp_path):
    """The training loss falls all the time; the metric is best at step 4."""
    result = run(tmp_path / "run", scripted([5.0, 3.0, 2.0, 4.0, 2.0, 6.0]), eval_every=2)
    assert (result.metric, result.best_step, result.best_metric) == ("script", 4, 2.0)
    info = json.loads((tmp_path / "run" / "best" / "info.json").read_text())
    assert (info["step"], info["metric"], info["value"]) == (4, "script", 2.0)
    run(tmp_path / "four", stop_after=4)
    exported = [json.loads((tmp_path / name / "best" / "export.json").read_text()) for name in ("run", "four")]
    assert exported[0] == exported[1]  # the parameters of step 4, not the last ones
    flags = [(x["step"], x["best"]) for x in read_log(tmp_path / "run" / "log.jsonl") if x.get("event") == "eval"]
    assert flags == [(0, True), (2, True), (4, True), (6, False), (8, False), (10, False)]


def test_nothing_better_than_the_start_is_said(tmp_path, capsys):
    result = run(tmp_path / "run", scripted([1.0, 2.0]))
    assert result.best_step == 0
    assert "never improved on its value before training" in capsys.readouterr().err


def test_more_patience_continues_a_stage_that_was_stopped_early(tmp_path):
    """With the same patience its result stands; without any, too, it goes on."""
    values = [5.0, 4.0, 4.5, 3.0, 3.0, 3.5]
    options = {"steps": 16, "eval_every": 2}
    first = run_trainer(scripted(values), settings(patience=2, **options), tmp_path / "run")
    assert (first.steps, first.stopped_early) == (10, True)
    assert run_trainer(scripted([]), settings(patience=2, **options), tmp_path / "run") == first
    assert run_trainer(scripted([]), settings(patience=1, **options), tmp_path / "run") == first
    more = run_trainer(scripted([3.6, 3.7, 3.8, 3.9]), settings(patience=4, **options), tmp_path / "run")
    assert (more.steps, more.stopped_early) == (14, True)
    last = run_trainer(scripted([4.0]), settings(patience=0, **options), tmp_path / "run")
    assert (last.steps, last.stopped_early, last.best_step) == (16, False, 6)


def test_early_stopping(tmp_path):
    result = run(tmp_path / "run", scripted([5.0, 4.0, 4.5, 3.0, 3.0, 3.5]), steps=50, eval_every=2, patience=2)
    assert (result.steps, result.stopped_early, result.complete, result.best_step) == (10, True, True, 6)
    assert list_checkpoints(tmp_path / "run")[-1][0] == 10
    options = settings(steps=50, eval_every=2, patience=2)
    with pytest.raises(CheckpointError, match=r"stopped early at step 10.*raise patience"):
        Trainer(scripted([]), options, resume=tmp_path / "run", quiet=True)
    task = scripted([2.0, 1.0])
    options = settings(steps=50, eval_every=2, patience=3, stop_after=14)
    assert Trainer(task, options, resume=tmp_path / "run", quiet=True).run().best_step == 14


def test_a_measurement_at_a_stop_does_not_shorten_the_patience(tmp_path):
    """At steps 0, 4 and 8 it is due; that at 6 is for the stop alone."""
    values = iter([5.0, 6.0, 6.0, 4.0, 3.0])
    usual = {"steps": 12, "eval_every": 4, "patience": 2}
    run(tmp_path / "run", scripted([next(values) for _ in range(3)]), stop_after=6, **usual)
    assert load_checkpoint(list_checkpoints(tmp_path / "run")[-1][1]).state.stale == 1
    options = settings(**usual)
    result = Trainer(scripted(list(values)), options, resume=tmp_path / "run", quiet=True).run()
    assert (result.steps, result.best_step) == (12, 12)


def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path):
    result = run(tmp_path / "run", scripted([5.0, float("nan"), 4.0]), eval_every=5)
    assert result.best_step == 10
    with pytest.raises(DataError, match="held-out script is nan before any training"):
        run(tmp_path / "other", scripted([float("nan")]))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(tmp_path / "run", save_every=2, keep=3)
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [6, 8, 10]
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]


def test_old_checkpoints_go_only_after_the_new_one_is_complete(tmp_path, monkeypatch):
    from mlx_voxclone.train.saved import state

    present = []
    write = state.write_text_atomic
    monkeypatch.setattr(
        state,
        "write_text_atomic",
        lambda *a, **k: present.append([step for step, _ in list_checkpoints(tmp_path / "run")]) or write(*a, **k),
    )
    run(tmp_path / "run", save_every=2, keep=1)
    assert present == [[], [2], [4], [6], [8]]


def test_data_errors_reach_the_caller(tmp_path):
    task = ToyTask(7)

    def item(epoch, index, step):
        raise DataError("clip.wav is gone")

    task.item = item
    with pytest.raises(VoxcloneError, match="clip.wav is gone"):
        run(tmp_path / "run", task)


def test_progress_without_a_terminal_is_a_line_every_tenth(capsys):
    progress = Progress("toy", 200)
    for step in range(1, 201):
        progress.step(step, 1.5, 10.0)
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("toy: step 20/200, loss 1.5, 10 items/s, 0:0")
    assert lines[-1].startswith("toy: step 200/200")


def test_quiet_keeps_warnings(capsys):
    progress = Progress("toy", 10, quiet=True)
    for step in range(1, 11):
        progress.step(step, 1.5, 10.0)
    progress.note("held-out")
    progress.say("warning: look")
    assert capsys.readouterr().err == "warning: look\n"


def test_progress_on_a_terminal_is_a_bar_with_loss_speed_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("toy", 4)
    for step in range(1, 5):
        progress.step(step, 1.25, 10.0)
    progress._bar.refresh()
    progress.close()
    shown = capsys.readouterr().err
    assert "loss 1.25, 10 items/s" in shown
    assert "4/4" in shown
    assert "<00:00" in shown  # elapsed < left
