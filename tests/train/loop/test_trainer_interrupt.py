"""Ctrl-C and kill -9 at the worst moments: the last complete step survives and the run goes on as if nothing was."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from places import HELPERS
from toy_task import ToyTask, settings

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.process.signals import held_back as uninterrupted
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved import state
from mlx_voxclone.train.saved.state import list_checkpoints, recover_all

OPTIONS = dict(save_every=2, eval_every=2, keep=9)


pytest_plugins = ["commands"]


def task():
    return ToyTask(7, dropout=0.3)


def trainer(run_dir, toy=None, **changes):
    return Trainer(toy or task(), settings(**(OPTIONS | changes)), run_dir, quiet=True)


def resume(run_dir, toy=None, **changes):
    return Trainer(toy or task(), settings(**(OPTIONS | changes)), resume=run_dir, quiet=True).run()


def parameters(run_dir, step=10):
    file = TensorFile(Path(run_dir) / "checkpoints" / f"step-{step}" / "model.safetensors")
    return {name: bytes(file.raw(name)) for name in file.names()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    result = trainer(run_dir).run()
    return parameters(run_dir), result


def check_continues(run_dir, whole):
    result = resume(run_dir)
    assert parameters(run_dir) == whole[0]
    assert result.evaluations == whole[1].evaluations
    assert (result.best_step, result.first_loss) == (whole[1].best_step, whole[1].first_loss)
    leftovers = [path.name for path in [*run_dir.iterdir(), *(run_dir / "checkpoints").iterdir()]]
    assert not [name for name in leftovers if name.startswith(".")]
    steps = [line["step"] for line in read_log(run_dir / "log.jsonl") if "event" not in line]
    assert steps == list(range(1, 11))


def interrupting(function, call):
    """`function`, with a real SIGINT to this process in call number `call` (1-based)."""
    calls = []

    def wrapped(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return function(*arguments, **options)

    return wrapped


def test_ctrl_c_between_micro_batches_saves_the_last_complete_step(tmp_path, whole, capsys):
    toy = task()
    losses, calls = toy.losses, []

    def slow_losses(batch):
        if toy.model.training:
            calls.append(None)
            if len(calls) == 12:  # two micro-batches per step: the second one of step 6
                signal.raise_signal(signal.SIGINT)
        return losses(batch)

    toy.losses = slow_losses
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", toy).run()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [2, 4, 5]
    said = capsys.readouterr().err
    assert f"interrupted after step 5 of 10; continue with --resume {tmp_path / 'run'}" in said
    assert not [thread for thread in threading.enumerate() if thread.name == "data"]
    check_continues(tmp_path / "run", whole)


def test_ctrl_c_within_the_update_lets_the_step_finish(tmp_path, whole):
    running = trainer(tmp_path / "run")
    running.optimizers.updated = interrupting(running.optimizers.updated, 5)
    with pytest.raises(KeyboardInterrupt):
        running.run()
    assert list_checkpoints(tmp_path / "run")[-1][0] == 5
    assert running.optimizers.slots()["step"].item() == 5
    check_continues(tmp_path / "run", whole)


def test_ctrl_c_within_an_evaluation_repeats_it(tmp_path, whole):
    toy = task()
    toy.extra_metrics = interrupting(toy.extra_metrics, 3)  # of step 4
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", toy).run()
    assert list_checkpoints(tmp_path / "run")[-1][0] == 4
    check_continues(tmp_path / "run", whole)


@pytest.mark.parametrize("hook", ["extra_metrics", "write_samples"])
def test_ctrl_c_after_the_last_step_leaves_a_run_that_can_be_ended(tmp_path, whole, hook):
    """Nothing is left to train, and yet evaluation, samples and result are still to come."""
    toy = task()
    setattr(toy, hook, interrupting(getattr(toy, hook), 6 if hook == "extra_metrics" else 2))  # of step 10
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", toy, sample_every=10).run()
    assert list_checkpoints(tmp_path / "run")[-1][0] == 10
    assert not (tmp_path / "run" / "result.json").exists()
    result = resume(tmp_path / "run", sample_every=10)
    assert result.complete
    assert result.evaluations == whole[1].evaluations
    assert parameters(tmp_path / "run") == whole[0]
    with pytest.raises(CheckpointError, match="nothing left to train"):
        resume(tmp_path / "run", sample_every=10)


def test_ctrl_c_while_best_is_written_keeps_the_former_best(tmp_path, whole):
    toy = task()
    toy.export = interrupting(toy.export, 2)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", toy).run()
    info = json.loads((tmp_path / "run" / "best" / "info.json").read_text())
    assert info["step"] == 0
    check_continues(tmp_path / "run", whole)


@pytest.mark.parametrize("call", [3, 4])  # model and optimiser of the second checkpoint
def test_ctrl_c_in_the_middle_of_a_checkpoint_loses_nothing(tmp_path, whole, monkeypatch, call):
    monkeypatch.setattr(state, "save_tensors", interrupting(state.save_tensors, call))
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run").run()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [2, 4]  # written anew after the interrupt
    check_continues(tmp_path / "run", whole)


def test_two_ctrl_c_leave_the_checkpoint_before(tmp_path, whole, monkeypatch):
    write = state.save_tensors
    calls = []

    def save_tensors(*arguments):
        calls.append(None)
        if len(calls) in (3, 4):  # in the checkpoint, and in the one that the interrupt asks for
            signal.raise_signal(signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(state, "save_tensors", save_tensors)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run").run()
    monkeypatch.undo()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [2]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-2"]
    check_continues(tmp_path / "run", whole)


def test_ctrl_c_before_the_first_step_can_be_resumed(tmp_path, whole):
    toy = task()
    toy.extra_metrics = interrupting(toy.extra_metrics, 1)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", toy).run()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [0]
    check_continues(tmp_path / "run", whole)


def test_uninterrupted_holds_ctrl_c_back_until_its_end():
    done = []

    def block():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")
        done.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_on_another_thread_works(tmp_path, whole):
    """A GUI trains beside its event loop, where no signal handler may be set."""
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer(tmp_path / "run").run()))
    thread.start()
    thread.join()
    assert results[0].steps == 10
    assert parameters(tmp_path / "run") == whole[0]


@pytest.mark.parametrize("present", ["old and new", "new", "old"])
def test_best_between_two_renames_is_mended(tmp_path, present):
    """What a kill between the renames of a replacement leaves behind, in each of its states."""
    for name in ("old", "new"):
        if name in present:
            (tmp_path / f".best.{name}").mkdir()
            (tmp_path / f".best.{name}" / "info.json").write_text(
                json.dumps({"step": 1, "metric": name, "value": 1.0, "metrics": {name: 1.0}})
            )
    recover_all(tmp_path)
    assert state.read_best(tmp_path)["metric"] == ("new" if "new" in present else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


# ---- kill -9 ---

_CHILD = """
    import os, signal, sys
    os.fsync = lambda descriptor: None
    sys.path[:0] = {tests!r}
    from test_trainer_interrupt import trainer
    from mlx_voxclone.train.saved import state
    calls = []

    def killing(function, call, half=False):
        def wrapped(*arguments, **options):
            calls.append(None)
            if len(calls) == call:
                if half:  # the file is there, and ends in the middle
                    function(*arguments, **options)
                    os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return wrapped

    {patch}
    trainer({run_dir!r}).run()
"""


def child(run_dir, patch):
    code = textwrap.dedent(_CHILD).format(
        tests=[str(Path(__file__).parent), str(HELPERS), str(HELPERS / "training")], run_dir=str(run_dir), patch=patch
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("patch", "steps"),
    [
        # 3: parameters of the second checkpoint, 6: optimiser of the third one
        ("state.save_tensors = killing(state.save_tensors, 3, half=True)", [2]),
        pytest.param("state.save_tensors = killing(state.save_tensors, 6, half=True)", [2, 4], marks=pytest.mark.slow),
        ("state.write_text_atomic = killing(state.write_text_atomic, 3)", [2, 4]),
        # renames of our own: best/ twice from its second writing on, a new checkpoint once
        pytest.param("state.os.rename = killing(os.rename, 5)", None, marks=pytest.mark.slow),
        pytest.param("state.os.rename = killing(os.rename, 6)", None, marks=pytest.mark.slow),
        ("state.os.rename = killing(os.rename, 7)", None),
    ],
)
def test_kill_9_while_writing_leaves_a_run_that_continues(tmp_path, whole, patch, steps):
    process = child(tmp_path / "run", patch)
    assert process.wait(timeout=60) == -signal.SIGKILL
    if steps is not None:
        assert [step for step, _ in list_checkpoints(tmp_path / "run")] == steps
    check_continues(tmp_path / "run", whole)


def test_kill_9_at_any_moment(tmp_path, whole):
    process = child(tmp_path / "run", "trainer.__globals__['OPTIONS']['save_every'] = 1")
    while not list_checkpoints(tmp_path / "run") and process.poll() is None:
        time.sleep(0.001)
    time.sleep(0.02 * (os.getpid() % 5))
    process.kill()
    process.wait(timeout=60)
    newest = list_checkpoints(tmp_path / "run")[-1][0]
    if newest < 10:  # else it was faster than we
        check_continues(tmp_path / "run", whole)


def test_data_that_is_lost_in_the_midst_loses_no_step(tmp_path):
    trainer(tmp_path / "whole").run()
    toy, made = task(), 0
    usual = toy.item

    def item(epoch, index, step=0):
        nonlocal made
        made += 1
        if made > 13:
            raise DataError("shard.tar: gone")
        return usual(epoch, index, step)

    toy.item = item
    with pytest.raises(DataError) as caught:
        trainer(tmp_path / "run", toy, save_every=0).run()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-3"
    hint = f"the last checkpoint is {checkpoint}; continue with --resume {tmp_path / 'run'}"
    assert str(caught.value) == f"shard.tar: gone; {hint}"
    resume(tmp_path / "run", save_every=0)
    assert parameters(tmp_path / "run") == parameters(tmp_path / "whole")


def test_data_that_is_lost_before_the_first_step_leaves_no_checkpoint(tmp_path):
    toy = task()

    def item(epoch, index, step=0):
        raise DataError("shard.tar: gone")

    toy.item = item
    with pytest.raises(DataError) as caught:
        trainer(tmp_path / "run", toy).run()
    assert str(caught.value) == "shard.tar: gone"
    assert not list_checkpoints(tmp_path / "run")
