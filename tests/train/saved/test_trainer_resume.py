"""Resume equals uninterrupted, bit for bit; and what may not be resumed is refused in one line that says why."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from checkpoints_made import tensors
from toy_task import ToyTask, settings

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.run_log import LOG_NAME, JsonLog, read_log
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import list_checkpoints, recover_all

pytest_plugins = ["commands"]

DROPOUT = 0.3  # the loss draws from mx.random in every step


def task(**options):
    return ToyTask(7, dropout=DROPOUT, **options)


def run(run_dir, toy=None, **changes):
    trainer = Trainer(toy or task(), settings(**changes), run_dir, quiet=True)
    return trainer, trainer.run()


def resume(path, toy=None, **changes):
    mx.random.seed(12345)  # whatever the process did before
    trainer = Trainer(toy or task(), settings(**changes), resume=path, quiet=True)
    return trainer, trainer.run()


def figures(run_dir):
    """The valid lines of the log without those of time and memory."""
    timing = {"seconds", "eval_seconds", "items_per_s", "targets_per_s", "peak_memory_gb"}
    lines = read_log(run_dir / LOG_NAME)
    kept = [line for line in lines if line.get("event") not in ("start", "resume", "checkpoint", "end")]
    return [{key: value for key, value in line.items() if key not in timing} for line in kept]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Ten steps at once. An epoch of 7 items is two steps, so that step 5 is in the middle of one."""
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    _, result = run(run_dir, log_every=3, eval_every=2)
    return run_dir, result


class Deciding(ToyTask):
    """Decides between ways to compute by what no two processes agree on."""

    def __init__(self, decided):
        super().__init__(7, dropout=DROPOUT)
        self.decided = decided

    def decisions(self):
        return self.decided

    def take_decisions(self, found):
        self.decided = self.decided | found


def test_what_was_decided_is_kept_with_the_run(tmp_path):
    first = {"512": True, "1024": False}
    run(tmp_path / "run", Deciding(first), stop_after=4)
    trainer, _ = resume(tmp_path / "run", Deciding({"512": False, "76": True}))
    assert trainer.task.decided == {**first, "76": True}
    last = json.loads((tmp_path / "run" / "checkpoints" / "step-10" / "state.json").read_text())
    assert last["state"]["decided"] == {**first, "76": True}


@pytest.mark.parametrize("stop_after", [4, 5])  # the end of an epoch, the middle of one
def test_resume_equals_uninterrupted_bitwise(tmp_path, uninterrupted, stop_after):
    whole_dir, whole = uninterrupted
    options = dict(log_every=3, eval_every=2)
    _, half = run(tmp_path / "run", stop_after=stop_after, **options)
    assert (half.steps, half.total_steps, half.complete) == (stop_after, 10, False)
    _, result = resume(tmp_path / "run", **options)
    assert tensors(tmp_path / "run", 10) == tensors(whole_dir, 10)

    def comparable(line):
        """The stop writes the window it is in, and evaluates; these lines apart, everything is as it was."""
        off_schedule = line["step"] == 5 if "event" in line else line["step"] in (stop_after, 6)
        return not off_schedule

    ours, theirs = (list(filter(comparable, figures(run_dir))) for run_dir in (tmp_path / "run", whole_dir))
    assert ours == theirs
    assert len(ours) >= 6
    for name in ("first_loss", "last_loss", "smoothed_loss", "first_terms", "last_terms", "best_step", "best_metric"):
        assert getattr(result, name) == getattr(whole, name), name
    assert result.complete


def test_every_logged_loss_is_the_same_bitwise(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "run", stop_after=5)
    resume(tmp_path / "run")
    losses = [
        [(line["step"], line["loss"], line["mse"], line["grad_norm"]) for line in figures(d) if "event" not in line]
        for d in (tmp_path / "whole", tmp_path / "run")
    ]
    assert losses[0] == losses[1]
    assert [line[0] for line in losses[0]] == list(range(1, 11))


def test_resume_after_skipped_steps_and_in_bf16_is_exact_too(tmp_path):
    options = dict(precision="bf16", batch_size=1, accumulate=1, steps=12)

    def poisoned():
        toy = task()
        toy.poisoned = {1, 4}
        return toy

    _, whole = run(tmp_path / "whole", poisoned(), **options)
    assert whole.skipped >= 2
    run(tmp_path / "run", poisoned(), stop_after=5, **options)
    _, result = resume(tmp_path / "run", poisoned(), **options)
    assert tensors(tmp_path / "run", 12) == tensors(tmp_path / "whole", 12)
    assert result.skipped == whole.skipped


def test_optimiser_state_is_complete_and_float32(uninterrupted):
    run_dir, _ = uninterrupted
    saved = tensors(run_dir, 10)
    names = [key.removeprefix("model:") for key in saved if key.startswith("model:")]
    expected = {f"optimizer:{slot}/{name}" for slot in "mv" for name in names}
    assert {key for key in saved if key.startswith("optimizer:")} == expected | {
        "optimizer:step",
        "optimizer:learning_rate",
    }
    assert np.frombuffer(saved["optimizer:step"][1], np.uint64) == [10]


def test_a_checkpoint_inside_a_run_can_be_named(tmp_path, uninterrupted):
    run(tmp_path / "run", save_every=3, keep=9)
    steps = [step for step, _ in list_checkpoints(tmp_path / "run")]
    assert steps == [3, 6, 9, 10]
    trainer = Trainer(task(), settings(), resume=tmp_path / "run" / "checkpoints" / "step-3", quiet=True)
    assert (trainer.state.step, trainer.run_dir) == (3, (tmp_path / "run").resolve())
    before = tensors(tmp_path / "run", 10)
    trainer.run()  # the later checkpoints are there already, and replaced
    assert tensors(tmp_path / "run", 10) == before


def test_the_log_is_appended_and_says_what_is_superseded(tmp_path):
    run(tmp_path / "run", save_every=5, keep=9)
    before = (tmp_path / "run" / LOG_NAME).read_bytes()
    resume(tmp_path / "run" / "checkpoints" / "step-5", save_every=5)
    after = (tmp_path / "run" / LOG_NAME).read_bytes()
    assert after.startswith(before)
    (event,) = [line for line in map(json.loads, after.decode().splitlines()) if line.get("event") == "resume"]
    assert event["step"] == 5
    valid = [line["step"] for line in read_log(tmp_path / "run" / LOG_NAME) if "event" not in line]
    assert valid == list(range(1, 11))


def test_a_half_line_at_the_end_of_the_log_is_cut_off(tmp_path):
    path = tmp_path / LOG_NAME
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_log(path) == [{"step": 1}]
    log = JsonLog(path)
    log.write({"step": 2, "loss": float("inf")})
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2, "loss": "inf"}\n'


def test_best_is_restored_and_not_overwritten_by_something_worse(tmp_path, monkeypatch):
    """After the resume every evaluation is worse than the best before it: best/ must stay as it was."""
    toy = task()
    toy.metric = "draw"
    draws = iter([0.5, 0.4, 0.3])
    toy.extra_metrics = lambda: {"draw": next(draws)}
    run(tmp_path / "run", toy, eval_every=2, stop_after=4)
    best = tmp_path / "run" / "best"
    kept = (best / "export.json").read_bytes(), (best / "info.json").read_bytes()
    assert json.loads(kept[1])["step"] == 4

    worse = task()
    worse.metric = "draw"
    worse.extra_metrics = lambda: {"draw": 0.35}
    _, result = resume(tmp_path / "run", worse, eval_every=2)
    assert ((best / "export.json").read_bytes(), (best / "info.json").read_bytes()) == kept
    assert (result.best_step, result.best_metric) == (4, 0.3)
    assert [entry["step"] for entry in result.evaluations] == [0, 2, 4, 6, 8, 10]


def test_best_of_repeated_steps_is_not_lost_meanwhile(tmp_path):
    """Killed after step 8 wrote the best, resumed from step 4: an evaluation that is worse than step 8's stays out."""
    run(tmp_path / "run", eval_every=1, save_every=4, keep=9)
    best = tmp_path / "run" / "best"
    kept = json.loads((best / "info.json").read_text())
    assert kept["step"] > 5
    values = []
    toy = task()
    extra = toy.extra_metrics
    toy.extra_metrics = lambda: values.append(json.loads((best / "info.json").read_text())["value"]) or extra()
    resume(tmp_path / "run" / "checkpoints" / "step-4", toy, eval_every=1)
    assert values
    assert set(values) == {kept["value"]}


def test_missing_path(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_not_a_run_directory_or_without_a_checkpoint(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="not a run directory"):
        resume(tmp_path / "other")
    (tmp_path / "other" / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        resume(tmp_path / "other")


@pytest.mark.parametrize(
    ("toy", "changes", "named"),
    [
        ({}, {"learning_rate": 0.02}, "learning_rate: 0.01 -> 0.02"),
        ({}, {"batch_size": 3, "seed": 6}, "batch_size: 2 -> 3; seed: 5 -> 6"),
        ({}, {"weight_decay": 0.1}, "weight_decay: 0.01 -> 0.1"),
        ({"data_seed": 4}, {}, "data_seed: 3 -> 4"),
        ({"hidden": 8}, {}, "trainable parameters: hidden.0.bias"),
    ],
)
def test_another_configuration_is_named(tmp_path, toy, changes, named):
    run(tmp_path / "run", stop_after=2)
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    with pytest.raises(CheckpointError, match=named) as caught:
        resume(tmp_path / "run", task(**toy), **changes)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before


def test_a_free_text_fingerprint_is_compared_too(tmp_path):
    toy = task()
    toy.fingerprint = lambda: "one"
    run(tmp_path / "run", toy, stop_after=2)
    toy = task()
    toy.fingerprint = lambda: "two"
    with pytest.raises(CheckpointError, match="one -> two"):
        resume(tmp_path / "run", toy)


def test_what_does_not_move_the_weights_may_change(tmp_path):
    run(tmp_path / "run", stop_after=2)
    _, result = resume(tmp_path / "run", save_every=3, eval_every=4, keep=1, log_every=2, patience=9)
    assert result.steps == 10


def test_more_steps_are_allowed_with_a_warning(tmp_path, capsys):
    run(tmp_path / "run", steps=4)
    _, result = resume(tmp_path / "run", steps=8)
    assert (result.steps, result.total_steps) == (8, 8)
    assert "warning: the run has 8 steps now, 4 before" in capsys.readouterr().err


def test_nothing_left_to_train_is_an_error_not_a_success(tmp_path, uninterrupted):
    run_dir, whole = uninterrupted
    with pytest.raises(CheckpointError, match="at step 10 of 10"):
        resume(run_dir)
    assert TrainResult.load(run_dir) == whole  # still there for whoever wants the figures


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "state", "no state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys, damage):
    run(tmp_path / "whole", save_every=4, keep=9)
    run(tmp_path / "run", save_every=4, keep=9, stop_after=8)
    newest = tmp_path / "run" / "checkpoints" / "step-8"
    file = newest / ("state.json" if "state" in damage else "optimizer.safetensors")
    content = bytearray(file.read_bytes())
    if damage in ("remove", "no state"):
        file.unlink()
    else:
        content[-3] ^= 0xFF
        file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"step-8 is damaged.*resume from .*step-4") as caught:
        resume(newest)
    assert "\n" not in str(caught.value)
    resume(tmp_path / "run", save_every=4)
    assert "warning: checkpoint" in capsys.readouterr().err
    assert tensors(tmp_path / "run", 10) == tensors(tmp_path / "whole", 10)


def test_only_damaged_checkpoints(tmp_path):
    run(tmp_path / "run", stop_after=2)
    shutil.copy(tmp_path / "run" / LOG_NAME, tmp_path / "run" / "checkpoints" / "step-2" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot resume: checkpoint .*step-2 is damaged: model.safetensors has"):
        resume(tmp_path / "run")


# ---- what a stop between two renames leaves ----------------------------------------------------------------------


@pytest.mark.parametrize("home", ["checkpoints", "samples"])
def test_what_a_stop_left_between_two_renames_is_mended(tmp_path, home):
    """Of a directory that was being replaced the whole new one stands in its place, and nothing else stays behind."""
    place = tmp_path / home
    for name, content in ((".step-2.new", "new"), (".step-2.old", "old"), (".step-4.old", "pruned"), ("step-6", "own")):
        (place / name).mkdir(parents=True)
        (place / name / "a.txt").write_text(content)
    (place / ".step-8.12345678.partial").mkdir()  # half-written, by a process that is dead
    recover_all(tmp_path)
    assert {path.name: (path / "a.txt").read_text() for path in place.iterdir()} == {"step-2": "new", "step-6": "own"}


def test_a_checkpoint_of_an_earlier_version_is_named_as_such(tmp_path):
    run(tmp_path / "run", stop_after=2)
    file = tmp_path / "run" / "checkpoints" / "step-2" / "state.json"
    document = json.loads(file.read_text())
    document["settings"] |= {"betas": [0.9, 0.99], "eps": 1e-8, "max_skipped": 5}
    file.write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as caught:
        resume(tmp_path / "run")
    line = "is of an earlier version, which had betas, eps, max_skipped; start a new run"
    assert str(caught.value) == f"cannot resume: checkpoint {file.parent} {line}"
