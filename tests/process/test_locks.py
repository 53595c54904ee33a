"""Locks and temporaries between real processes: the living keep theirs, the dead do not."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory, atomic_file
from mlx_voxclone.files.locks import LOCK, held
from mlx_voxclone.pairs.files import settle
from mlx_voxclone.process import temporaries
from mlx_voxclone.process.temporaries import clear_below, clear_dead, is_held, made, try_lock, writer_of

CHILD = """
import sys, time
from pathlib import Path
from mlx_voxclone.files.locks import held
from mlx_voxclone.process.temporaries import made
what, place = sys.argv[1], Path(sys.argv[2])
if what == "lock":
    with held(place):
        print("ready", flush=True)
        time.sleep(60)
else:
    with made(place, directory=what == "directory") as left:
        if what == "directory":
            (left / "sub").mkdir()
            (left / "sub" / "file").write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


def no_locks(*_):
    """`flock` of a file system without locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


class Other:
    """Another process that holds something until it is killed."""

    def __init__(self, what, place):
        self._process = subprocess.Popen([sys.executable, "-c", CHILD, what, str(place)], stdout=subprocess.PIPE)
        assert self._process.stdout.readline() == b"ready\n"
        self.pid = self._process.pid

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def other():
    started = []

    def start(what, place):
        started.append(Other(what, place))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# ---- locks ---------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_the_first_ones_id(other, tmp_path):
    place = tmp_path / "deep" / "run"
    first = other("lock", place)
    with pytest.raises(CheckpointError, match=rf"run: is in use by process {first.pid}; ") as refused, held(place):
        pass
    assert "\n" not in str(refused.value)
    first.kill()
    assert (place / LOCK).exists()  # and locks nothing
    with held(place):
        assert json.loads((place / LOCK).read_text())["pid"] == os.getpid()
    assert not list(place.iterdir())


def test_what_a_lock_has_made_and_nobody_used_is_gone_again(tmp_path):
    with held(tmp_path / "a" / "b"), held(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert not list(tmp_path.iterdir())
    with held(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_a_file_in_the_place_of_the_directory(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match="is a file"), held(tmp_path / "run"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot be written"), held(tmp_path):
            pass
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("holder", "taken"),
    [
        ({"pid": "dead"}, True),
        ({"pid": "alive"}, False),
        ({"pid": "alive", "age": "before this machine was started"}, True),
        ({"pid": "dead", "host": "elsewhere"}, False),
        ("no JSON", True),
        ({"pid": "alive", "host": 3, "more": []}, False),
    ],
)
def test_without_locks_of_the_system_the_file_decides(holder, taken, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    lines, file = [], tmp_path / LOCK
    if isinstance(holder, dict):
        pid = dead_pid() if holder["pid"] == "dead" else os.getppid()
        file.write_text(json.dumps({"host": socket.gethostname()} | holder | {"pid": pid}))
    else:
        file.write_text(holder)
    if "age" in holder:
        os.utime(file, (1, 1))
    if taken:
        with held(tmp_path, lines.append):
            assert json.loads(file.read_text())["pid"] == os.getpid()
        assert len(lines) == 1
        assert "knows no locks" in lines[0]
        assert not file.exists()
    else:
        with pytest.raises(CheckpointError, match=rf"in use by process \d+.*delete {file}"), held(tmp_path):
            pass
        assert file.exists()


# ---- temporaries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "directory"])
def test_the_next_command_clears_what_the_dead_have_left_and_nothing_of_the_living(what, other, tmp_path):
    alive, dead = other(what, tmp_path / "alive"), other(what, tmp_path / "dead")
    dead.kill()
    (tmp_path / ".somebody.partial").write_text("else's")
    (tmp_path / ".link.12-00000000.partial").symlink_to(tmp_path / ".somebody.partial")
    with made(tmp_path / "mine") as mine:
        clear_dead(tmp_path, again=True)
        there = {path.name for path in tmp_path.iterdir()}
    left = there - {".somebody.partial", ".link.12-00000000.partial"}
    assert mine.name in left
    assert [name.startswith(f".alive.{alive.pid}-") for name in left - {mine.name}] == [True]
    assert (tmp_path / ".somebody.partial").read_text() == "else's"
    alive.kill()
    clear_below(tmp_path.parent)
    assert {path.name for path in tmp_path.iterdir()} == {".somebody.partial", ".link.12-00000000.partial"}


def test_two_processes_do_not_make_one_directory(other, tmp_path):
    first = other("directory", tmp_path / "out")
    refused = pytest.raises(CheckpointError, match=rf"out: process {first.pid} is writing it")
    with refused, atomic_directory(tmp_path / "out"):
        pytest.fail("this is hours of work")
    first.kill()
    with atomic_directory(tmp_path / "out") as directory:
        assert writer_of(tmp_path / "out") == os.getpid()
        (directory / "file").touch()
    clear_dead(tmp_path, again=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_locks_only_what_a_dead_process_of_this_machine_has_left_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    here, gone = temporaries._machine(), dead_pid()
    elsewhere = "0000" if here != "0000" else "1111"
    kept = {f".x.{os.getppid()}-{here}0000.partial", f".x.{gone}-{elsewhere}0000.partial", ".x.00000000.partial"}
    for name in (*kept, f".x.{gone}-{here}0000.partial"):
        (tmp_path / name).touch()
    clear_dead(tmp_path, again=True)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_any_number_may_look_whether_something_is_held(tmp_path):
    """They do not take one another for its holder, and whoever wants it waits for those that only look."""
    path = tmp_path / "lock"
    path.touch()
    with open(path) as one, open(path) as two, open(path) as three:
        assert is_held(one.fileno()) is is_held(two.fileno()) is False
        assert try_lock(three.fileno()) is False
        waiting = threading.Timer(0.05, lambda: (one.close(), two.close()))
        waiting.start()
        assert try_lock(three.fileno(), patience=60)
        waiting.join()
        with open(path) as four:
            assert is_held(four.fileno()) is True


def test_without_locks_nobody_can_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with open(tmp_path / "lock", "w") as file:
        assert is_held(file.fileno()) is try_lock(file.fileno(), patience=60) is None


def test_a_directory_that_has_anothers_number_is_looked_through(tmp_path):
    """File systems give the number of one that was removed to the next one."""
    (tmp_path / "first").mkdir()
    clear_dead(tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    (tmp_path / "second" / ".x.00000000.partial").touch()
    clear_dead(tmp_path / "second")
    assert not list((tmp_path / "second").iterdir())


def test_the_longest_name_has_room_for_a_temporary_one(tmp_path):
    for name in ("x" * 255, "ä" * 127):
        with atomic_file(tmp_path / name) as file:
            file.write(b"content")
        assert (tmp_path / name).read_bytes() == b"content"


def test_pairs_go_on_after_a_kill_before_their_settings_were_there(other, tmp_path):
    killed = other("file", tmp_path / "settings.json")
    killed.kill()
    assert list(tmp_path.iterdir())
    settle(tmp_path, {"seed": 0})
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_many_writes_look_through_their_directory_once(tmp_path, monkeypatch):
    looked, scan = [], os.scandir
    monkeypatch.setattr(temporaries, "_cleared", set())
    monkeypatch.setattr(os, "scandir", lambda place: (looked.append(place), scan(place))[1])
    for number in range(50):
        with atomic_file(tmp_path / f"{number}"):
            pass
    assert looked == [tmp_path]
