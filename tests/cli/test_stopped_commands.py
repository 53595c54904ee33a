"""Commands as processes that something ends while they write: nothing half is left, and the next command goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import TINY_RUN, tree
from waiting import wait_for

from mlx_voxclone.train.saved.state import list_checkpoints

pytest_plugins = ["commands"]

# Ends itself when it has made its temporary number CALL; the file or directory is there and not yet what it will be.
CHILD = """
import os, signal, sys, time
number, call = int(sys.argv[1]), int(sys.argv[2])
sys.argv[1:3] = []
from mlx_voxclone.process import temporaries
create, made = temporaries._created, []

def counted(temporary, directory):
    found = create(temporary, directory)
    made.append(found)
    if len(made) == call:
        print("at", temporary.name, file=sys.stderr, flush=True)
        os.kill(os.getpid(), number)
        time.sleep(0.3)  # in a thread: the main one may be importing something first
    return found

temporaries._created = counted
os.fsync = lambda descriptor: None
from mlx_voxclone.cli import main
sys.exit(main())
"""
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)]


def voxclone(*arguments, number: int = 0, call: int = 0) -> tuple[int, list[str]]:
    """Exit code of a command in a process of its own, and the lines that it says."""
    argv = [sys.executable, "-c", CHILD, str(number), str(call), *map(str, arguments)]
    settle = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=120, preexec_fn=settle)
    return ran.returncode, [line for line in ran.stderr.splitlines() if not line.startswith("at ")]


def leftovers(place: Path) -> list[str]:
    return [str(path) for path in place.rglob("*") if path.name.startswith(".")]


def ended(place: Path, number: int, code: int, call: int, *arguments) -> None:
    """The command is ended, says one line of it and leaves nothing that the next one does not clear."""
    got, lines = voxclone(*arguments, number=number, call=call)
    assert got == code, lines
    assert not any("Traceback" in line for line in lines)
    if number == signal.SIGKILL:
        assert any(name.endswith(".partial") for name in leftovers(place))
    else:
        assert lines[-1].startswith("interrupted"), lines
        assert not leftovers(place)


def checked(place: Path, number: int, code: int, call: int, *arguments) -> None:
    """As `ended`, and then the command is given again."""
    ended(place, number, code, call, *arguments)
    got, lines = voxclone(*arguments)
    assert got == 0, lines
    assert not leftovers(place)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "call"), [(*SIGNALS[1], 3), *((*signal, 1) for signal in SIGNALS)])
def test_prepare(corpus, tmp_path, number, code, call):
    checked(tmp_path, number, code, call, "prepare", corpus, "--output", tmp_path / "out", "--min-seconds", "0.5")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_bake(whole, encoder_file, tmp_path, number, code):
    argv = ["bake", "--model", whole, "--encoder", encoder_file, "--output", tmp_path / "out", "--device", "cpu"]
    checked(tmp_path, number, code, 2, *argv)


@pytest.mark.parametrize(
    ("number", "code", "call"),
    [
        # At the first call the settings are half written.
        *(pytest.param(*s, call, marks=pytest.mark.slow) for s in SIGNALS for call in (1, 2, 3)),
    ],
)
def test_pairs(miniature, tmp_path, number, code, call):
    argv = ["pairs", "--model", miniature, "--output", tmp_path / "out", "--per-voice", "1", "--max-seconds", "0.4"]
    checked(tmp_path, number, code, call, *argv, "--device", "cpu")


@pytest.fixture(scope="module")
def training(miniature, corpus, tmp_path_factory):
    """A configuration, and the tensors of a run that nothing ended."""
    home = tmp_path_factory.mktemp("training")
    content = {"task": "encoder", "model": str(miniature), **TINY_RUN}
    content["data"] = {"path": str(corpus), **TINY_RUN["data"]}
    content["encoder"] = content["encoder"] | {"train": content["encoder"]["train"] | {"sample_every": 2}}
    (home / "encoder.yaml").write_text(yaml.safe_dump(content))
    assert voxclone("train", "--config", home / "encoder.yaml", "--set", f"output={home / 'run'}")[0] == 0
    return home / "encoder.yaml", weights(home / "run")


def weights(run: Path) -> bytes:
    return (list_checkpoints(run)[-1][1] / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("call", [2, 8, 16, 24, 32])
def test_train(training, tmp_path, number, code, call):
    config, expected = training
    run = tmp_path / "run"
    argv = ["train", "--config", config, "--set", f"output={run}", "--device", "cpu"]
    ended(tmp_path, number, code, call, *argv)
    if (run / "config.yaml").is_file():
        argv = ["train", "--resume", run]
    got, lines = voxclone(*argv)
    assert got == 0, lines
    assert weights(run) == expected
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_a_run_in_use_and_one_that_vanishes(training, tmp_path):
    config, _ = training
    run = tmp_path / "run"
    argv = ["train", "--config", config, "--set", f"output={run}", "--set", "encoder.train.steps=5000"]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, "0", "0", *map(str, argv)], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list_checkpoints(run))
    before = tree(run / "data")
    for arguments in (["--config", config, "--set", f"output={run}"], ["--resume", run]):
        got, lines = voxclone("train", *arguments)
        assert (got, lines) == (2, [f"error: {run}: is in use by process {process.pid}; wait for it, or end it"])
    assert tree(run / "data") == before
    os.rename(run, tmp_path / "elsewhere")  # at once: a removal would race with the next checkpoint
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 2, "\n".join(said[-25:])
    assert said[-1].startswith("error: ")
    assert "Traceback" not in "".join(said)
    got, lines = voxclone("train", "--resume", run, "--max-steps", list_checkpoints(run)[-1][0] + 2)
    assert got == 0, lines[-1]


@pytest.mark.slow
def test_a_training_whose_messages_nobody_reads(training, tmp_path):
    config, _ = training
    run = tmp_path / "run"
    argv = ["train", "--config", config, "--set", f"output={run}", "--set", "encoder.train.steps=5000"]
    process = subprocess.Popen([sys.executable, "-c", CHILD, "0", "0", *map(str, argv)], stderr=subprocess.PIPE)
    wait_for(lambda: list_checkpoints(run))
    process.stderr.close()
    assert process.wait(timeout=120) == 141
    assert not leftovers(tmp_path)
    step = list_checkpoints(run)[-1][0]
    assert sum('"lr"' in line for line in (run / "log.jsonl").read_text().splitlines()) == step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prepare", "bake", "say", "train", "pairs", "evaluate", "publish", "doctor"])
def test_ctrl_c_at_any_moment_of_the_start(name, tmp_path):
    """From the first import on: one line at most, and no traceback."""
    code = "import sys; from mlx_voxclone.cli import main; print('at main', flush=True); sys.exit(main())"
    for k in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", code, name, "nothing"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "VOXCLONE_DEBUG": ""},
        )
        process.stdout.readline()
        time.sleep(0.1 + 0.05 * k)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
        assert process.returncode in (2, 130), said
        assert "Traceback" not in said
        assert "Exception" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_shuts_down_changes_nothing(number):
    code = f"""
import os, sys
class Late:
    def __del__(self, kill=os.kill, process=os.getpid()):
        kill(process, {int(number)})
late = Late()
sys.argv = ["voxclone", "--version"]
from mlx_voxclone.cli import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_in_the_middle_of_an_import_waits_for_its_end(tmp_path):
    """A native module whose start is interrupted ends the process with a dump."""
    (tmp_path / "slow_start.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.2)\n    print('imported', flush=True)\n"
        "except KeyboardInterrupt:\n    print('torn', flush=True)\n"
    )
    code = """
import sys, time
from mlx_voxclone.cli.common import as_process
from mlx_voxclone.process import signals
def work():
    signals.begin_work()
    import slow_start
    time.sleep(10)
sys.exit(as_process(work))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "imported\n", "interrupted\n")
