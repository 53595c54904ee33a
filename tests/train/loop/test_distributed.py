"""Several processes, one training: real ones on loopback, against one process with the same groups."""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from places import HELPERS, ROOT
from toy_task import ToyTask, settings

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.train.loop import distributed
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.state import list_checkpoints

pytest_plugins = ["commands"]
PATIENCE = 90  # seconds until a test gives up on a process


def free_ports(count: int) -> list[int]:
    """Of those that the system gives to nobody who asks for any."""
    ports = iter(random.Random(os.getpid()).sample(range(20_000, 32_000), 200))
    return list(itertools.islice(filter(_is_free, ports), count))


def _is_free(port: int) -> bool:
    with socket.socket() as one, contextlib.suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False


@pytest.fixture
def start(tmp_path):
    """`start(arguments of rank 0, arguments of rank 1, ...)`: a process each, as `mlx.launch` starts them."""
    started = []

    def start(*ranks: list, places=(), **environment) -> list[subprocess.Popen]:
        hostfile = tmp_path / "hosts.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(len(ranks))]))
        path = os.pathsep.join([str(ROOT), str(HELPERS), str(HELPERS / "training")])
        for rank, arguments in enumerate(ranks):
            own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile), "PYTHONPATH": path}
            started.append(
                subprocess.Popen(
                    [sys.executable, *map(str, arguments)],
                    env=os.environ | own | environment,
                    cwd=places[rank] if places else None,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


# MLX's ring has a thread per socket; two that fail at once print their pieces into each other, and so empty lines.
RING_SAYS = re.compile(
    r"(\[ring\]|Socket|Receiving from socket|Sending to socket|failed with errno|was closed by the peer"
    r"|made no progress|Too many send/recv errors\. Failing pending tasks\.\.\.|\d+|\s)*"
)


def ended(processes) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr without what MLX's ring says) of each."""
    told = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        lines = [line for line in err.splitlines() if not RING_SAYS.fullmatch(line)]
        told.append((process.returncode, out, "\n".join(lines)))
    return told


def jobs_file(tmp_path, *jobs) -> Path:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(jobs))
    return path


def steps(run_dir) -> list[dict]:
    return [line for line in read_log(run_dir / "log.jsonl") if "event" not in line]


def evaluations(run_dir) -> list[dict]:
    return [line["metrics"] for line in read_log(run_dir / "log.jsonl") if line.get("event") == "eval"]


def tensors(checkpoint) -> dict[str, np.ndarray]:
    found = {}
    for name in ("model", "optimizer"):
        file = TensorFile(checkpoint / f"{name}.safetensors")
        found |= {f"{name}:{key}": np.array(file.array(key)) for key in file.names()}
    return found


def wait_for(condition, processes) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)


def alone(run_dir, toy: dict, **changes) -> Trainer:
    """The same training in this process, complete."""
    task = ToyTask(**{k: v for k, v in toy.items() if k != "poisoned"})
    task.poisoned = set(toy.get("poisoned", ()))
    trainer = Trainer(task, settings(**changes), run_dir, quiet=True)
    trainer.run()
    return trainer


def check_like_alone(run_dir, single) -> None:
    ours, theirs = steps(run_dir), steps(single)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("loss", "mse", "l1", "grad_norm", "lr", "epoch", "skipped"):
            assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6), (mine["step"], key)
    for mine, other in zip(evaluations(run_dir), evaluations(single), strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


OPTIONS = dict(steps=12, accumulate=4, eval_every=4, save_every=4, sample_every=6, keep=9)
TOY = dict(n_items=17, dropout=0.3)  # the last group of an epoch has one item, which leaves rank 1 without any
BAD = [5]


@pytest.mark.slow
def test_two_ranks_train_what_one_process_trains(tmp_path, start):
    """Losses, metrics, weights; after a skipped step; resumed; and only rank 0 writes."""
    runs, other = tmp_path / "runs", tmp_path / "other"
    whole = {"run_dir": str(runs / "whole"), "settings": OPTIONS, "toy": TOY}
    elsewhere = lambda name: {"1": {"run_dir": str(other / name), "random": 99}}  # noqa: E731
    part = whole | {"run_dir": str(runs / "part"), "settings": OPTIONS | {"stop_after": 7}, "mine": elsewhere("part")}
    jobs = [
        whole | {"mine": elsewhere("whole")},
        part,
        part | {"settings": OPTIONS, "resume": True},
        whole | {"run_dir": str(runs / "bad"), "poisoned": BAD, "mine": elsewhere("bad")},
        whole | {"run_dir": str(runs / "odd"), "settings": OPTIONS | {"accumulate": 3}, "fails": True},
        whole
        | {
            "run_dir": str(runs / "unlike"),
            "mine": {"1": {"settings": OPTIONS | {"weight_decay": 1e-6}}},
            "fails": True,
        },
        whole | {"run_dir": str(runs / "data"), "mine": {"1": {"toy": TOY | {"data_seed": 4}}}, "fails": True},
        whole | {"run_dir": str(runs / "whole"), "fails": True},
    ]
    arguments = [HELPERS / "rank_worker.py", jobs_file(tmp_path, *jobs)]
    first, second = ended(start(arguments, arguments))
    assert (first[0], second[0]) == (0, 0), (first, second)
    told = [[json.loads(line) for line in one[1].splitlines()] for one in (first, second)]
    assert told[0] == told[1]  # losses and every bit of parameters and moments
    assert not other.exists()

    alone(tmp_path / "one", TOY, **OPTIONS)
    check_like_alone(runs / "whole", tmp_path / "one")
    assert sorted(p.name for p in (runs / "whole").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    assert {p.name for p in (runs / "whole" / "samples").iterdir()} == {"step-0", "step-6", "step-12"}
    alone(tmp_path / "one-bad", TOY | {"poisoned": BAD}, **OPTIONS)
    assert [line["items"] for line in read_log(runs / "bad" / "log.jsonl") if line.get("event") == "skip"] == [
        line["items"] for line in read_log(tmp_path / "one-bad" / "log.jsonl") if line.get("event") == "skip"
    ]
    check_like_alone(runs / "bad", tmp_path / "one-bad")

    assert told[0][2] == told[0][0]  # resumed and not
    for _, checkpoint in list_checkpoints(runs / "whole"):
        if (same := runs / "part" / "checkpoints" / checkpoint.name).exists():
            here, there = tensors(checkpoint), tensors(same)
            assert all((here[name] == there[name]).all() for name in here.keys() | there.keys())

    refusals = [one["error"] for one in told[0][4:]]
    assert refusals[0].startswith("accumulate 3 cannot be shared by 2 ranks: set it to a multiple of 2")
    assert refusals[1] == "rank 1 has another training than rank 0 (weight_decay: 0.01 -> 1e-06): start all ranks alike"
    assert refusals[2] == "rank 1 has another training than rank 0 (data_seed: 3 -> 4): start all ranks alike"
    assert "is not empty" in refusals[3]
    assert {path.name for path in runs.iterdir()} == {"whole", "part", "bad"}


ENDLESS = dict(steps=5000, accumulate=2, save_every=3, keep=9)


@pytest.fixture
def endless(tmp_path, start, request):
    """Two ranks in the midst of a long training: (run directory, processes). A parameter: minutes that ranks wait."""
    job = {"run_dir": str(tmp_path / "run"), "settings": ENDLESS, "toy": TOY, "slow": 0.01}
    arguments = [HELPERS / "rank_worker.py", jobs_file(tmp_path, job)]
    processes = start(arguments, arguments, VOXCLONE_RANK_WAIT_MINUTES=getattr(request, "param", "1"))
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "step-3").exists(), processes)
    return tmp_path / "run", processes


def continue_alone(run_dir, tmp_path) -> None:
    """One process goes on with what two have left, and comes to what one would have come to from the start."""
    step = list_checkpoints(run_dir)[-1][0]
    options = ENDLESS | {"stop_after": step + 3}
    Trainer(ToyTask(**TOY), settings(**options), resume=run_dir, quiet=True).run()
    alone(tmp_path / "one", TOY, **options)
    ours, theirs = ([line["loss"] for line in steps(place)] for place in (run_dir, tmp_path / "one"))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_leaves_a_checkpoint(endless, tmp_path):
    run_dir, processes = endless
    processes[1].kill()
    (code, _, err), _ = ended(processes)
    assert code == 2
    step, newest = list_checkpoints(run_dir)[-1]
    assert step == steps(run_dir)[-1]["step"]  # not one is lost
    assert err == (
        "error: rank 0 of 2: another rank has ended or cannot be reached (its last line may say why); the last"
        f" checkpoint is {newest}; continue with --resume {run_dir}"
    )
    continue_alone(run_dir, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("endless", ["0.03"], indirect=True)
def test_a_rank_that_hangs_ends_the_run_after_the_wait(endless):
    run_dir, processes = endless
    processes[1].send_signal(signal.SIGSTOP)
    code, _, err = ended(processes[:1])[0]
    assert code == 2
    assert err.startswith(
        "error: rank 0 of 2: no answer from the other ranks for 0.03 minutes; the last checkpoint is "
    )
    assert err.endswith(f"continue with --resume {run_dir}")


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "number"),
    [
        (1, signal.SIGINT),
        pytest.param(0, signal.SIGINT, marks=SLOW),
        pytest.param(1, signal.SIGTERM, marks=SLOW),
        pytest.param(0, signal.SIGHUP, marks=SLOW),
    ],
)
def test_ctrl_c_on_any_rank_stops_all_after_the_same_step(endless, tmp_path, rank, number):
    run_dir, processes = endless
    processes[rank].send_signal(number)
    (code, _, err), (other_code, _, other_err) = ended(processes)
    assert (code, other_code) == (130, 130)
    step = list_checkpoints(run_dir)[-1][0]
    assert f"interrupted after step {step} of 5000; continue with --resume {run_dir}" in err
    assert other_err == "interrupted"
    assert step == steps(run_dir)[-1]["step"]
    if number == signal.SIGINT:
        continue_alone(run_dir, tmp_path)


# ---- the command ----------------------------------------------------------------------------------------------------


def command(config, *rest) -> list:
    return [ROOT / "scripts" / "train.py", "--config", config, *rest]


@pytest.mark.slow
def test_ranks_with_different_configurations_end_in_one_line(start, config_file, encoder_file, tmp_path):
    output = tmp_path / "run"
    config = config_file("speaker", output=str(output), speaker={"encoder": str(encoder_file)})
    common = ["--max-steps", "4", "--set", "speaker.train.accumulate=2"]
    told = ended(start(command(config, *common), command(config, *common, "--lr", "0.5")))
    line = "error: rank 1 has another configuration than rank 0 (speaker.train.learning_rate: "
    for code, out, err in told:
        assert (code, out, err.count("\n")) == (2, "", 0), err
        assert err.startswith(line)
        assert err.endswith("-> 0.5): start all ranks alike")
    assert not output.exists()


@pytest.mark.slow
def test_a_run_directory_that_one_rank_does_not_see_is_refused(start, config_file, tmp_path):
    config = config_file("encoder", output="run")
    places = [tmp_path / "here", tmp_path / "there"]
    for place in places:
        place.mkdir()
    arguments = command(config, "--set", "encoder.train.accumulate=2")
    for code, _, err in ended(start(arguments, arguments, places=places)):
        assert code == 2
        assert err.startswith("error: rank 1 does not see the run directory ")
        assert err.count("\n") == 0
    assert not any(list(place.iterdir()) for place in places)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["encoder", "speaker", "clone"])
def test_the_command_on_two_ranks_and_on_one(task, start, config_file, encoder_file, tmp_path):
    from commands import TINY_RUN

    sections = {
        "encoder": {"encoder": TINY_RUN["encoder"] | {"train": TINY_RUN["encoder"]["train"] | {"accumulate": 2}}},
        "speaker": {"speaker": TINY_RUN["speaker"] | {"encoder": str(encoder_file)}},
    }
    sections["clone"] = sections["encoder"]
    config = config_file(task, **sections[task], voice="ann")
    for name, count in (("one", 1), ("two", 2)):
        arguments = command(config, "--device", "cpu", "--set", f"output={tmp_path / name}")
        told = ended(start(*[arguments] * count))
        del told[: len(told) - count]
        assert [one[0] for one in told] == [0] * count, told
        assert all(one[1:] == ("", "") for one in told[1:]), told
    stages = {"clone": ("encoder", "speaker")}.get(task, ("",))
    for stage in stages:
        one, two = (steps(tmp_path / name / stage) for name in ("one", "two"))
        assert len(one) == 4
        for mine, other in zip(two, one, strict=True):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
    files = [
        {str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("option", ["--smoke-test", "--sweep-lr"])
def test_trials_are_refused_on_several_ranks(monkeypatch, config_file, refused, option):
    ranks = distributed.Ranks()
    ranks.size = 2
    monkeypatch.setattr(distributed, "join", lambda: ranks)
    refused(["train", "--config", config_file("encoder"), option], f"{option} is for one process")


# ---- without other processes ----------------------------------------------------------------------------------------


def test_the_launcher_is_known_by_its_environment(tmp_path):
    hosts = tmp_path / "hosts.json"
    ring = {"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}
    for text, backend in (("", None), ('[["127.0.0.1:1"]]', None), ('[["127.0.0.1:1"], ["127.0.0.1:2"]]', "ring")):
        hosts.write_text(text)
        assert distributed.launched(ring) == backend
    assert distributed.launched({}) is None
    assert distributed.launched({"MLX_RANK": "1", "MLX_JACCL_COORDINATOR": "10.0.0.1:1"}) == "jaccl"
    nccl = {"MLX_RANK": "1", "NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": "1"}
    assert distributed.launched(nccl | {"MLX_WORLD_SIZE": "2"}) == "nccl"
    assert distributed.launched(nccl | {"MLX_WORLD_SIZE": "1"}) is None
    assert distributed.launched({"OMPI_COMM_WORLD_SIZE": "4"}) == "mpi"
    hosts.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        distributed.launched(ring)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan"])
def test_a_wait_that_is_no_time_is_refused(value, monkeypatch):
    monkeypatch.setenv("VOXCLONE_RANK_WAIT_MINUTES", value)
    with pytest.raises(ConfigError, match="number of minutes above 0"):
        distributed.wait_minutes()


def test_sums_go_in_buckets_of_bounded_size(monkeypatch):
    monkeypatch.setattr(distributed, "BUCKET", 10)
    ranks, sizes = distributed.Ranks(), []
    monkeypatch.setattr(ranks, "sum", lambda array: sizes.append(array.size) or 2 * array)
    arrays = {name: mx.random.normal(shape) for name, shape in zip("abcde", [(2, 3), (4,), (25,), (), (3,)])}
    total = ranks.sum_all(arrays)
    assert sizes == [10, 25, 4]
    assert list(total) == list(arrays)
    for name, array in arrays.items():
        assert mx.array_equal(total[name], 2 * array)
        assert total[name].shape == array.shape
