"""Boards: a run as TensorBoard's reader, wandb's file and MLflow's client tell it; and boards that fail."""

import contextlib
import json
import sys
from types import SimpleNamespace

import pytest
from waiting import wait_for

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.run_log import BOARDS_FOLDER, LOG_NAME, JsonLog
from mlx_voxclone.tracking import boards
from mlx_voxclone.tracking.boards import PROJECT, shown
from mlx_voxclone.tracking.figures import figures, numbers

CONFIG = {"task": "clone", "voice": "ann", "data": {"path": "/home/ann/secret"}, "speaker": {"train": {"steps": 2}}}
RECORDS = {
    "encoder": [
        {"event": "start", "step": 0, "task": "encoder", "settings": {"steps": 1}},
        {"step": 1, "loss": 5.0, "lr": 1e-3, "losses": {"mel": 2.0}},
    ],
    "speaker": [
        {"event": "eval", "step": 0, "metrics": {"loss": 4.0}},
        {"step": 1, "loss": 3.5, "lr": 2e-5, "seconds": float("nan")},
        {"event": "checkpoint", "step": 1, "path": "checkpoints/step-1"},
        {"event": "eval", "step": 1, "metrics": {"loss": 3.0}},
        {"event": "end", "step": 1, "stopped_early": True},
    ],
}
SHOWN = {
    "encoder/loss": [(1, 5.0)],
    "encoder/lr": [(1, 1e-3)],
    "encoder/losses/mel": [(1, 2.0)],
    "speaker/heldout/loss": [(0, 4.0), (1, 3.0)],
    "speaker/loss": [(1, 3.5)],
    "speaker/lr": [(1, 2e-5)],
}


def write(run_dir, records=RECORDS) -> None:
    for training, lines in records.items():
        (run_dir / training).mkdir(parents=True, exist_ok=True)
        log = JsonLog(run_dir / training / LOG_NAME)
        for line in lines:
            log.write(line)
        log.close()


def one_run(name, run_dir, records=RECORDS) -> None:
    with shown([name], run_dir, CONFIG):
        write(run_dir, records)


def test_figures_are_numbers_alone():
    assert numbers({"a": 1, "b": {"c": 2.5, "d": "text", "e": True}, "f": float("inf"), "g": None}) == {
        "a": 1,
        "b/c": 2.5,
    }
    assert figures("x", {"event": "resume", "step": 3}) is None
    assert figures("x", {"step": 3, "text": "a"}) is None
    assert figures("x", {"step": 3, "loss": 1, "step_time": 2}) == (3, {"x/loss": 1, "x/step_time": 2})


def test_tensorboards_reader_finds_every_figure_also_of_a_resumed_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    one_run("tensorboard", tmp_path)
    one_run("tensorboard", tmp_path, {"speaker": [{"step": 2, "loss": 3.25}]})
    reader = EventAccumulator(str(tmp_path / BOARDS_FOLDER / "tensorboard"))
    reader.Reload()
    read = {tag: [(e.step, pytest.approx(e.value)) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    assert read == {**SHOWN, "speaker/loss": [(1, 3.5), (2, 3.25)]}
    everything = b"".join(file.read_bytes() for file in (tmp_path / BOARDS_FOLDER / "tensorboard").iterdir())
    assert b"speaker/train/steps" in everything
    assert b"ann" not in everything
    assert b"secret" not in everything


@pytest.mark.slow
def test_mlflows_client_finds_every_figure_also_of_a_resumed_run(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    place = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    one_run("mlflow", tmp_path)
    one_run("mlflow", tmp_path, {"speaker": [{"step": 2, "loss": 3.25}]})
    client = MlflowClient(place)
    (run,) = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    read = {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    assert read == {**SHOWN, "speaker/loss": [(1, 3.5), (2, 3.25)]}
    assert run.data.params == {"speaker/train/steps": "2"}
    assert run.info.status == "FINISHED"


def test_mlflow_without_a_server_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI to where it is"):
        one_run("mlflow", tmp_path)


def leveldb_records(data: bytes) -> list[bytes]:
    """The records of a log in LevelDB's format behind wandb's own 7 bytes: blocks of 32 kB, parts with 7-byte heads."""
    records, at = [], 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if left < 7 or kind == 0:
            at += left
            continue
        part = data[at + 7 : at + 7 + length]
        if kind in (1, 2):  # whole, or its first part
            records.append(part)
        else:
            records[-1] += part
        at += 7 + length
    return records


def wandbs_figures(everything: bytes) -> dict[str, list]:
    """All figures in a file of wandb's, as `SHOWN` has them."""
    from wandb.proto import wandb_internal_pb2

    read = {}
    for data in leveldb_records(everything):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            for name, value in row.items():
                if not name.startswith("_") and not name.endswith("/step"):
                    read.setdefault(name, []).append((row[f"{name.partition('/')[0]}/step"], value))
    return read


@pytest.mark.slow
def test_wandbs_file_of_an_offline_run_holds_every_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    one_run("wandb", tmp_path)
    (file,) = (tmp_path / BOARDS_FOLDER).rglob("*.wandb")
    assert file.read_bytes()[:4] == b":W&B"
    # Another process of wandb's writes it, a moment after the run's end where the machine is busy.
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: b"heldout" in file.read_bytes() and wandbs_figures(file.read_bytes()) == SHOWN, 60)
    assert wandbs_figures(file.read_bytes()) == SHOWN
    assert b"secret" not in file.read_bytes()


# ---- boards that fail ------------------------------------------------------------------------------------------------


def test_a_board_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"tensorboardX; install it with: pip install 'mlx-voxclone\[tensorboard\]'"):
        one_run("tensorboard", tmp_path)


def failing(what, closed):
    def fail(*_):
        raise RuntimeError("gone\nfor good")

    board = SimpleNamespace(show=lambda step, values: None, close=closed.append)
    setattr(board, what, fail)
    return board


def test_a_board_that_fails_is_left_out_and_the_training_goes_on(tmp_path, monkeypatch):
    lines, closed, kept = [], [], []
    other = SimpleNamespace(show=lambda step, values: kept.append(step), close=closed.append)
    monkeypatch.setattr(boards, "BOARDS", {"a": lambda *_: failing("show", closed), "b": lambda *_: other})
    with shown(["a", "b"], tmp_path, CONFIG, lines.append):
        write(tmp_path)
    assert lines == [
        "warning: report_to: a takes no more figures (RuntimeError: gone for good); the training goes on without it"
    ]
    assert kept == [1, 0, 1, 1]
    monkeypatch.setattr(boards, "BOARDS", {"a": lambda *_: failing("close", closed)})
    with shown(["a"], tmp_path, CONFIG, lines.append):
        pass
    assert lines[1:] == ["warning: report_to: a could not be closed (RuntimeError: gone for good)"]


def test_a_board_hears_how_the_run_ended(tmp_path, monkeypatch):
    ends = []
    board = SimpleNamespace(show=lambda step, values: None, close=ends.append)
    monkeypatch.setattr(boards, "BOARDS", {"a": lambda *_: board})
    with shown(["a"], tmp_path, CONFIG):
        pass
    with pytest.raises(KeyboardInterrupt), shown(["a"], tmp_path, CONFIG):
        raise KeyboardInterrupt
    assert ends == [True, False]


def test_nothing_is_told_outside_of_the_block(tmp_path, monkeypatch):
    told = []
    board = SimpleNamespace(show=lambda step, values: told.append(step), close=lambda finished: None)
    monkeypatch.setattr(boards, "BOARDS", {"a": lambda *_: board})
    one_run("a", tmp_path)
    count = len(told)
    write(tmp_path)
    assert len(told) == count > 0
