"""A training that diverges leaves the checkpoints from before it as they are, and says so in one line."""

import json
import math
import signal

import mlx.core as mx
import pytest
from checkpoints_made import tensors
from toy_task import ToyTask, settings

from mlx_voxclone.errors import DataError, NotFiniteError, TrainingError
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.train.loop.optimizers.groups import Optimizers
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved import state as states
from mlx_voxclone.train.saved.state import list_checkpoints, load_checkpoint

GOOD = 4  # steps before it diverges
OPTIONS = dict(steps=12, save_every=1, keep=2)


def trainer(run_dir, toy=None, **changes):
    return Trainer(toy or ToyTask(), settings(**OPTIONS | changes), run_dir, quiet=True)


def far_too_fast(monkeypatch):
    """Weights of about 1e30: finite, and no loss of theirs is."""
    rate = Optimizers.rate

    def fast(self, step, *arguments):
        return 1e30 if step >= GOOD else rate(self, step, *arguments)

    monkeypatch.setattr(Optimizers, "rate", fast)


def undefined(monkeypatch):
    """NaN in the weights."""
    updated = Optimizers.updated

    def ruined(self, gradients, values, norms, step, total):
        found = updated(self, gradients, values, norms, step, total)
        return {name: value * math.nan for name, value in found.items()} if step >= GOOD else found

    monkeypatch.setattr(Optimizers, "updated", ruined)


def moments(monkeypatch):
    """Weights as they should be, and an optimiser that holds infinity."""
    slots = Optimizers.slots

    def ruined(self):
        found = slots(self)
        return {k: v * math.inf if k.startswith("v/") and int(found["step"]) > GOOD else v for k, v in found.items()}

    monkeypatch.setattr(Optimizers, "slots", ruined)


def check_kept(run_dir, expected):
    """The last good checkpoints are all there is, to the bit."""
    assert [step for step, _ in list_checkpoints(run_dir)] == [GOOD - 1, GOOD]
    for step in (GOOD - 1, GOOD):
        assert tensors(run_dir, step) == expected[step]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Of a run that does not diverge."""
    run_dir = tmp_path_factory.mktemp("good") / "run"
    trainer(run_dir, keep=99).run()
    return {step: tensors(run_dir, step) for step, _ in list_checkpoints(run_dir)}


@pytest.mark.parametrize("how", [far_too_fast, undefined])
def test_steps_that_are_skipped_cost_no_checkpoint(tmp_path, monkeypatch, expected, how):
    with monkeypatch.context() as patch:
        how(patch)
        with pytest.raises(TrainingError, match="not finite in 5 consecutive steps") as caught:
            trainer(tmp_path / "run").run()
    assert str(caught.value).endswith(
        f"the last checkpoint is {tmp_path}/run/checkpoints/step-4, and {tmp_path}/run/best holds step 0"
    )
    assert "\n" not in str(caught.value)
    check_kept(tmp_path / "run", expected)
    Trainer(ToyTask(), settings(**OPTIONS), resume=tmp_path / "run", quiet=True).run()
    assert tensors(tmp_path / "run", 12) == expected[12]


@pytest.mark.parametrize("how", [far_too_fast, undefined, moments])
def test_a_run_whose_end_is_ruin_is_no_success(tmp_path, monkeypatch, expected, how):
    how(monkeypatch)
    monkeypatch.setattr("mlx_voxclone.train.loop.trainer.MAX_SKIPPED", 99)
    with pytest.raises(TrainingError, match=r"diverged: after step 7 .* it was not saved") as caught:
        trainer(tmp_path / "run", stop_after=7).run()
    assert "step-4" in str(caught.value)
    check_kept(tmp_path / "run", expected)


@pytest.mark.parametrize("how", [far_too_fast, undefined])
@pytest.mark.parametrize("after", [0, 2])  # at once, and while steps are skipped
def test_ctrl_c_does_not_save_ruin(tmp_path, monkeypatch, expected, capsys, how, after):
    how(monkeypatch)
    run = trainer(tmp_path / "run")
    step, steps = run._step, []

    def interrupted(group):
        steps.append(None)
        if len(steps) == GOOD + 2 + after:
            signal.raise_signal(signal.SIGINT)
        step(group)

    run._step = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.run()
    check_kept(tmp_path / "run", expected)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "is not saved" in said
    assert said.endswith(f"step-4; continue with --resume {tmp_path / 'run'}")


def test_a_skipped_step_puts_a_checkpoint_off(tmp_path):
    """Until the next step that is not skipped; what was to be removed for it stays as long."""
    toy = ToyTask()
    toy.poisoned = {2}
    run = trainer(tmp_path / "run", toy, batch_size=1, accumulate=1, save_every=3, keep=1, steps=14)
    seen, step = [], run._step

    def watched(group):
        seen.append(([n for n, _ in list_checkpoints(run.run_dir)], run.state.skipped_in_row, run.state.step))
        step(group)

    run._step = watched
    run.run()
    lines = read_log(tmp_path / "run" / "log.jsonl")
    skipped = {line["step"] for line in lines if line.get("event") == "skip"}
    saved = [line["step"] for line in lines if line.get("event") == "checkpoint"]
    due, wanted = None, []
    for n in range(1, 15):
        due = n if n % 3 == 0 or n == 14 else due
        if due is not None and (n not in skipped or n == 14):
            wanted, due = [*wanted, n], None
    assert saved == wanted
    assert any(n % 3 and n != 14 for n in saved) == any(n % 3 == 0 for n in skipped)
    assert all(len(there) == 1 for there, _, n in seen if n > min(saved))


def test_ctrl_c_beside_a_bad_item_loses_nothing(tmp_path):
    """The step was skipped, and the weights are good: saved, and what is older stays."""
    toy = ToyTask()
    run = trainer(tmp_path / "run", toy, save_every=2, keep=1, batch_size=1, accumulate=1)
    step, steps = run._step, []

    def interrupted(group):
        steps.append(None)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        step(group)
        if len(steps) == 3:
            run.state.skipped_in_row = 1

    run._step = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert [n for n, _ in list_checkpoints(tmp_path / "run")] == [2, 3]


def test_weights_that_are_not_finite_are_refused_before_anything(tmp_path):
    toy = ToyTask()
    toy.model.out.weight = toy.model.out.weight * math.inf
    with pytest.raises(DataError, match=r"toy: out.weight is not finite before any training"):
        trainer(tmp_path / "run", toy)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_ruin_is_passed_over(tmp_path, expected, capsys):
    """One that an earlier version has written."""
    trainer(tmp_path / "run", stop_after=6).run()
    newest = tmp_path / "run" / "checkpoints" / "step-6"
    checkpoint = load_checkpoint(newest)
    identity = {key: checkpoint.document[key] for key in ("task", "metric", "settings", "schedule", "fingerprint")}
    ruined = checkpoint.parameters | {"out.bias": mx.array([math.nan])}
    states.save_checkpoint(tmp_path / "run", checkpoint.state, ruined, checkpoint.optimizer, identity)
    Trainer(ToyTask(), settings(**OPTIONS), resume=tmp_path / "run", quiet=True).run()
    assert "step-6 is of a training that diverged: out.bias is not finite; trying the one" in capsys.readouterr().err
    assert tensors(tmp_path / "run", 12) == expected[12]


@pytest.mark.parametrize("error", [FloatingPointError("the model's numbers are not finite"), NotFiniteError("damaged")])
def test_a_model_that_cannot_speak_any_more_can_still_be_told_so(tmp_path, capsys, error):
    """Samples and further metrics of a model that has blown up are left out; the run says how it goes on."""
    toy = ToyTask()
    toy.metric = "draw"
    calls = []

    def fails(*_):
        calls.append(None)
        if len(calls) > 1:
            raise error
        return {"draw": 1.0}

    toy.extra_metrics = toy.write_samples = fails
    run = trainer(tmp_path / "run", toy, steps=4, eval_every=2, sample_every=2, save_every=0)
    with pytest.raises(TrainingError, match="diverged"):
        run.run()
    assert [math.isnan(entry["metrics"]["draw"]) for entry in run.state.evaluations] == [False, True, True]
    assert f"no samples of step 0: {error}" in capsys.readouterr().err
    assert list((tmp_path / "run").glob("samples/*")) == []


def test_nothing_else_is_forgiven(tmp_path):
    toy = ToyTask()
    toy.metric = "draw"
    toy.extra_metrics = dict
    with pytest.raises(ValueError, match="'draw' is none of"):
        trainer(tmp_path / "run", toy).run()


def test_best_is_what_it_was(tmp_path, monkeypatch):
    far_too_fast(monkeypatch)
    with pytest.raises(TrainingError, match=r"best holds step [1-4]$"):
        trainer(tmp_path / "run", eval_every=1).run()
    assert json.loads((tmp_path / "run" / "best" / "info.json").read_text())["step"] in range(1, GOOD + 1)
