"""The rehearsal of the guides, command by command as it is written there, in the small size that it names."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from places import ROOT

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.cli import main as voxclone

_RUN = "uv run voxclone "
_DEMO = "uv run --extra demo demo/app.py "


def page() -> str:
    return (ROOT / "docs" / "guides" / "rehearsal.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    (block,) = re.findall(r"```bash\n(.*?)```", page(), re.DOTALL)
    return block.splitlines()


def small() -> list[str]:
    """What the page says to add to the training, to see only that every step works."""
    return shlex.split(re.search(r"add `(--max-steps [^`]*)`", page().replace("\n", " "))[1])


def test_the_rehearsal_keeps_out_of_the_real_ones_way():
    """No directory of the first real run is written."""
    written = " ".join(commands())
    places = re.findall(r"(?:--output|--recordings|output=|--model|model=|path=) ?(\S+)", written)
    assert len(places) > 8
    assert all(place.startswith("rehearsal/") for place in places)
    assert [line.startswith((_RUN, _DEMO)) for line in commands()] == [True] * len(commands())


@pytest.mark.slow
def test_the_rehearsal(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    for line in commands():
        if line.startswith(_DEMO):
            argv = [sys.executable, "demo/app.py", *shlex.split(line.removeprefix(_DEMO)), "--port", "0"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment) as demo:
                try:
                    assert any(told.startswith("open http://") for told in demo.stderr), line
                finally:
                    demo.send_signal(signal.SIGTERM)
                assert demo.wait() == 143
            continue
        argv = shlex.split(line.removeprefix(_RUN))
        assert voxclone(argv + small() if argv[0] == "train" else argv) == 0, line
    assert len(read_audio(tmp_path / "rehearsal" / "hello.wav"))
    assert "ann" in Release(tmp_path / "rehearsal" / "ann").voices()
    report = (tmp_path / "rehearsal" / "run" / "report" / "index.html").read_text(encoding="utf-8")
    shown = report.partition('<details class="part">')[0]
    assert shown.count('aria-label="original recording"></audio>') == 1
    assert shown.count('aria-label="original voice (saying something else)"></audio>') == 1
    assert "missing" not in shown.partition("<body>")[2]
