"""The cache of what is made once for a model: where it is, what counts as complete, and who may make an entry."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlx_voxclone.data.shards.store import default_cache
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.cache import Entry, cache_root

HOLD = """
import sys, time
from mlx_voxclone.files.cache import Entry
with Entry("0123" * 8, "pairs", {}).locked(print):
    print("held", flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def entry(home) -> Entry:
    """With two files in it, not complete."""
    found = Entry("0123" * 8, "pairs", {})
    (found.path / "audio").mkdir(parents=True)
    (found.path / "audio" / "a").write_text("aaa")
    (found.path / "b").write_text("b")
    return found


def hold(seconds: float) -> subprocess.Popen:
    """Another process that holds the entry."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOXCLONE_CACHE", "here")
    assert cache_root() == tmp_path / "here"
    assert default_cache() == tmp_path / "here" / "shards"
    monkeypatch.delenv("VOXCLONE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_root() == Path("/caches/voxclone")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "voxclone"


def test_the_model_and_what_it_is_made_from_decide_the_place(home):
    entry = Entry("0123456789abcdef" * 4, "pairs", {"a": 1, "b": [2]})
    assert entry.path.parent == home / "0123456789abcdef"
    assert entry.path.name.startswith("pairs-")
    assert Entry("0123456789abcdef" * 4, "pairs", {"b": [2], "a": 1}).path == entry.path
    others = [("1" * 64, "pairs", {"a": 1, "b": [2]}), ("0123456789abcdef" * 4, "pairs", {"a": 2, "b": [2]})]
    others.append(("0123456789abcdef" * 4, "moved", {"a": 1, "b": [2]}))
    assert all(Entry(*other).path != entry.path for other in others)
    assert not home.exists()


def test_complete_is_what_has_all_its_files(entry):
    assert entry.facts() is None
    entry.complete({"pairs": 3})
    assert entry.facts() == {"pairs": 3}
    assert entry.damaged() == []
    (entry.path / "audio" / "a").write_text("aa")
    assert entry.facts() is None
    assert entry.damaged() == ["audio/a"]
    (entry.path / "audio" / "a").write_text("aaa")
    (entry.path / "b").unlink()
    assert (entry.facts(), entry.damaged()) == (None, ["b"])
    entry.reopen()
    assert (entry.facts(), entry.damaged()) == (None, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"facts": {}}', '{"facts": 1, "sizes": {}}'])
def test_a_marker_that_is_none(entry, text):
    (entry.path / "complete.json").write_text(text)
    assert (entry.facts(), entry.damaged()) == (None, [])


def test_the_second_waits_for_the_first(entry):
    process, lines = hold(600), []

    def told(line):
        lines.append(line)
        process.terminate()

    with entry.locked(told):
        assert process.wait(timeout=60) == -signal.SIGTERM
    (line,) = lines
    assert line.startswith(f"waiting for process {process.pid} on ")
    assert str(entry.path) in line


def test_the_lock_of_a_dead_process_is_none(entry):
    process, lines = hold(600), []
    process.send_signal(signal.SIGKILL)
    process.wait()
    with entry.locked(lines.append):
        assert lines == []


def test_two_threads_do_not_make_it_at_once(entry):
    inside, most = [], []

    def make():
        with entry.locked(lambda line: None):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.05)
            inside.pop()

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only(home):
    home.mkdir(mode=0o500)
    entry = Entry("0" * 64, "pairs", {})
    with pytest.raises(CheckpointError, match="cannot be written .permission denied.; set VOXCLONE_CACHE"):
        entry.check_place(0)
    with pytest.raises(CheckpointError, match="cannot be written"), entry.locked(print):
        pass
