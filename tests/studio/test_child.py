"""Programs in processes of their own: they end with their task, and their mistake is one line."""

import sys

import pytest
from visiting import ended
from waiting import wait_for

from mlx_voxclone.studio import child

STAND_IN = """
import pathlib, signal, sys, time
pathlib.Path(sys.argv[-1]).write_text("began")
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else signal.SIG_DFL)
pathlib.Path(sys.argv[-1]).write_text("ready")
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["hears", "deaf"])
def test_a_command_ends_with_its_task(studio, me, tmp_path, monkeypatch, how):
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(child, "PATIENCE", 0.2)
    processes, popen = [], child.subprocess.Popen
    monkeypatch.setattr(child.subprocess, "Popen", lambda *a, **k: processes.append(popen(*a, **k)) or processes[-1])
    sign = tmp_path / "sign"
    work = lambda task: child.carry_out(task, [how, str(sign)], folder=tmp_path)  # noqa: E731
    task = studio.tasks.start(me, "bake", "x", work, lane="files")
    wait_for(lambda: sign.exists() and sign.read_text() == "ready")
    task.cancel()
    assert ended(task).state == "cancelled"
    assert processes[0].poll() is not None


def test_what_a_command_has_said_when_it_is_stopped(studio, me, tmp_path):
    sign, caught = tmp_path / "sign", []
    program = "import pathlib, sys, time; print('result', flush=True); print('note', file=sys.stderr, flush=True);"
    program += f"pathlib.Path({str(sign)!r}).touch(); time.sleep(600)"

    def work(task):
        try:
            child.run(task, [sys.executable, "-c", program])
        except child.Stopped as e:
            caught.append((e.output, e.said))
            raise

    task = studio.tasks.start(me, "bake", "x", work, lane="files")
    wait_for(sign.exists)
    task.cancel()
    assert ended(task).state == "cancelled"
    assert caught == [("result\n", "note\n")]


def test_what_a_command_says_of_a_mistake(studio, me, tmp_path, monkeypatch):
    said = r"bar 10%\rbar 20%\nvoxclone bake: error: DIR: no space left"
    program = f"import sys; print('{said}', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", program))
    task = studio.tasks.start(me, "bake", "x", lambda t: child.carry_out(t, [], folder=tmp_path), lane="files")
    assert (ended(task).state, task.error) == ("failed", "DIR: no space left")
