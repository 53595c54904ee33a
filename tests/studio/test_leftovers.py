"""What an end of the studio has left is deleted at its next start; nothing else is."""

import os
import subprocess
import sys
import threading

import pytest
from recorded import many
from waiting import wait_for

from mlx_voxclone.process.network import take_port
from mlx_voxclone.process.temporaries import try_lock
from mlx_voxclone.studio import server
from mlx_voxclone.studio.leftovers import clear
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.server import Served
from mlx_voxclone.studio.train import process

ID = "0123456789ab"
DEAD = "2147483646"  # no process has this number


def folder(place):
    place.mkdir(parents=True)
    (place / "file").write_bytes(b"x")
    return place


@pytest.fixture
def voice(me):
    return me.new_project("Ann", "en")


def left(me, voice):
    """One of each kind."""
    return [
        folder(voice.folder / ".cancelled-1760000000000000000"),
        folder(voice.folder / "upload-ab_c12x9"),
        folder(voice.folder.with_name(f".trash-{ID}-{ID}")),
        folder(me.folder / "speech" / f".trash-{ID}-{ID}"),
        folder(voice.exports / f".trash-mlx-audio-8bit-{ID}"),
        folder(voice.exports / f".mlx-audio.{DEAD}-0123abcd.partial"),
        folder(voice.listening / "compared" / f".{ID}.{DEAD}-0123abcd.partial"),
    ]


def test_what_was_left_goes(studio, me, voice):
    gone = left(me, voice)
    file = voice.folder / f".voice.json.{DEAD}-0123abcd.partial"
    file.write_text("{")
    clear(studio.home)
    assert not [place for place in [*gone, file] if place.exists()]
    assert voice.info()["title"] == "Ann"


def test_what_has_another_name_or_lies_elsewhere_stays(studio, me, voice, tmp_path):
    kept = [
        folder(voice.folder / ".cancelled-mine"),
        folder(voice.folder / "upload-my-own-recordings"),
        folder(voice.folder / "run" / ".cancelled-1760000000000000000"),
        folder(voice.folder / ".trash-mine"),
        folder(me.folder / f".trash-{ID}-{ID}"),
        folder(studio.home.path / "models" / ".cancelled-1"),
        folder(tmp_path / "outside" / ".cancelled-1"),
    ]
    (voice.folder / "upload-abcdefgh").write_bytes(b"a file")
    (voice.folder.with_name("ba9876543210")).symlink_to(tmp_path / "outside")
    (voice.folder / ".cancelled-2").symlink_to(tmp_path / "outside")
    clear(studio.home)
    assert all((place / "file").exists() for place in kept)
    assert (voice.folder / "upload-abcdefgh").exists()


@pytest.mark.parametrize("which", ["a clip", "the recording"])
def test_a_deletion_in_the_middle_is_finished_whatever_notes_hold(studio, me, voice, which):
    many(voice, uploads=1, clips=3)
    kept, id = Shelf(voice.uploads).ids()
    going = voice.uploads / f".going-{id}.json"
    (voice.uploads / f"{id}.json").rename(going)
    (going if which == "the recording" else voice.clips / f"{id}~002.json").write_text("{")
    clear(studio.home)
    assert not list(voice.clips.iterdir())
    assert sorted(path.name for path in voice.uploads.iterdir()) == [f"{kept}.json", f"{kept}.wav"]


@pytest.mark.parametrize("name", ["takes", "uploads", "clips"])
def test_a_folder_that_cannot_be_read_keeps_nobody_out(studio, me, voice, monkeypatch, name):
    many(voice, takes=1, uploads=1, clips=1)
    gone, marked = folder(voice.folder / "upload-ab_c12x9"), Shelf._marked

    def refused(shelf):
        if shelf.folder.name == name:
            raise PermissionError(13, "Permission denied", str(shelf.folder))
        return marked(shelf)

    monkeypatch.setattr(Shelf, "_marked", refused)
    clear(studio.home)
    assert not gone.exists()


def test_what_a_running_command_uses_stays(studio, voice):
    """One that has outlived the studio: a run that it holds, an export that it writes."""
    run, place = folder(voice.folder / ".cancelled-1"), voice.exports
    place.mkdir()
    script = f"""if True:
        import sys
        from pathlib import Path
        from mlx_voxclone.files.locks import held
        from mlx_voxclone.process.temporaries import made
        with held({str(run)!r}), made(Path({str(place)!r}) / "mlx-audio", directory=True):
            print("ready", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        clear(studio.home)
        assert (run / "file").exists()
        assert len(list(place.glob(".mlx-audio.*.partial"))) == 1
        process.kill()
        process.wait()
        clear(studio.home)
        assert not run.exists()
        assert not list(place.iterdir())


def test_the_studio_clears_before_it_answers(studio, me, voice, monkeypatch):
    gone, seen = left(me, voice), []
    start = server.WebServer.start
    monkeypatch.setattr(
        server.WebServer,
        "start",
        lambda web: seen.append([place for place in gone if place.exists()]) or start(web),
    )
    served = Served(studio, take_port("127.0.0.1", 0), "127.0.0.1")
    served.run(lambda: threading.Timer(0.1, served.close).start())
    assert seen == [[]]


PARENT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from mlx_voxclone.studio import child, temporary
from mlx_voxclone.studio.home import Home
program = "import pathlib, sys, tempfile, time;" \\
    "pathlib.Path(tempfile.mkdtemp(), 'voice.wav').write_bytes(b'x');" \\
    "pathlib.Path(sys.argv[1]).write_text('ready'); time.sleep(600)"
with temporary.kept_in(Home(sys.argv[1])):
    child.run(SimpleNamespace(check=lambda: None), [sys.executable, "-c", program, sys.argv[2]])
"""


def test_a_killed_studios_programs_end_and_leave_nothing(studio, tmp_path, monkeypatch):
    system = tmp_path / "system"
    system.mkdir()
    sign = tmp_path / "sign"
    environment = os.environ | {"TMPDIR": str(system)}
    arguments = [sys.executable, "-c", PARENT, str(studio.home.path), str(sign)]
    with subprocess.Popen(arguments, env=environment) as parent:
        try:
            wait_for(lambda: (sign.exists() and sign.read_text()) or parent.poll() is not None)
            assert parent.poll() is None
        finally:
            parent.kill()
    lock = next(studio.home.path.glob(".temporary/task-*/lock"))
    with lock.open("r+b") as held:
        assert list(lock.parent.glob("*/voice.wav"))
        assert not try_lock(held.fileno())  # it has outlived its studio
        clear(studio.home)
        assert try_lock(held.fileno())
    assert not list((studio.home.path / ".temporary").iterdir())
    assert not list(system.iterdir())


def test_a_trainings_temporary_files_stay_while_it_runs(studio, voice):
    file = folder(voice.folder / ".temporary") / "file"
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    with process.holding([voice.folder / process.OWN_LOCK], program) as training:
        clear(studio.home)
        assert file.exists()
        training.kill()
        training.wait()
        clear(studio.home)
        assert not file.exists()
