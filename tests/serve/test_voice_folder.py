"""The files of uploaded voices: whole or not there, also after a kill at any moment, and whoever else is at them."""

import json
import os
import signal
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest
from places import ROOT

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.serve import voice_folder
from mlx_voxclone.serve.voice_folder import TakenError, VoiceFolder

RECORD = {"name": "ann", "created_at": 1, "consent": "Ann agreed, by letter", "sha256": "0" * 64, "model": "m"}
CLIP = (np.sin(np.arange(4800) / 20) / 4).astype(np.float32)
WHOLE = ["ann.json", "ann.safetensors", "ann.wav"]
STEPS = ("_write_pending", "write_wav", "save_tensors", "write_text_atomic")


class KilledError(BaseException):
    """In the place of a kill: nothing is tidied up behind it, locks are gone."""


def keep(folder, name="ann"):
    folder.keep(name, RECORD | {"name": name}, CLIP, mx.ones((3, 8)))


def files(folder):
    return sorted(path.name for path in folder.path.iterdir())


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """`killed(work, step, after)`: `work(folder)` ended before or after it has called a function of the module."""

    def run(work, step, after=False, on=voice_folder):
        function = getattr(on, step)

        def last(*arguments, **options):
            if after:
                function(*arguments, **options)
            raise KilledError

        folder = VoiceFolder(tmp_path / "voices")
        with monkeypatch.context() as patch:
            patch.setattr(on, step, last)
            if step != "_remove_files":
                patch.setattr(VoiceFolder, "_remove_files", lambda *_: None)
            with pytest.raises(KilledError):
                work(folder)
        assert not folder.names() or files(folder) == WHOLE
        return VoiceFolder(tmp_path / "voices")  # the server is started again

    return run


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_while_a_voice_is_kept(killed, step, after):
    folder = killed(keep, step, after)
    there = (STEPS.index(step), after) >= (2, True)  # its rows are
    assert files(folder) == (WHOLE if there else [])
    assert folder.is_taken("ann") == there
    if there:
        assert folder.record("ann") == RECORD
        folder.remove("ann")
    keep(folder)
    assert files(folder) == WHOLE
    assert folder.record("ann") == RECORD
    assert len(read_audio(folder.file("ann", ".wav"))) == len(CLIP)


def test_another_server_on_the_folder_frees_the_name_too(killed, tmp_path):
    other = VoiceFolder(tmp_path / "voices")
    killed(keep, "write_wav", True)
    keep(other)
    assert files(other) == WHOLE


@pytest.mark.parametrize("unlinked", [0, 1, 2])
def test_a_kill_while_a_voice_is_removed(killed, monkeypatch, unlinked, tmp_path):
    """Before its rows are gone it is still there, later its name is free."""
    keep(VoiceFolder(tmp_path / "voices"))

    def remove(folder):
        for suffix in (".safetensors", ".wav", ".json")[:unlinked]:
            folder.file("ann", suffix).unlink()
        raise KilledError

    monkeypatch.setattr(VoiceFolder, "_remove_files", lambda folder, *_: remove(folder))
    with pytest.raises(KilledError):
        VoiceFolder(tmp_path / "voices").remove("ann")
    monkeypatch.undo()
    folder = VoiceFolder(tmp_path / "voices")
    assert files(folder) == ([] if unlinked else WHOLE)
    if not unlinked:
        assert folder.record("ann") == RECORD


@pytest.mark.slow
def test_a_process_that_is_killed(tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, 'tests/serve'); import test_voice_folder as t;"
        "t.voice_folder.save_tensors = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "from pathlib import Path; t.keep(t.VoiceFolder(Path(sys.argv[1])))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}"}
    command = [sys.executable, "-c", code, str(tmp_path / "voices")]
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=120).returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "voices").iterdir()) == ["ann.json", "ann.wav"]
    assert files(VoiceFolder(tmp_path / "voices")) == []


def test_files_of_the_operators_are_left_alone(tmp_path):
    """A clip beside an empty record, record and clip of a voice whose rows were taken away, what is no record."""
    keep(VoiceFolder(tmp_path))
    (tmp_path / "ann.safetensors").unlink()
    (tmp_path / "bob.json").touch()
    for name in ("bob.wav", "carl.wav", "carl.json", ".ann.partial", "notes.json"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "dora.json").symlink_to(tmp_path / "ann.json")
    (tmp_path / "emil.json").write_text(json.dumps({"pending": "yes"}))
    os.mkfifo(tmp_path / "fifo.json")
    before = {path.name for path in tmp_path.iterdir()}
    folder = VoiceFolder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before - {"bob.json"}
    for name in ("ann", "bob", "carl", "dora", "emil", "fifo", "notes"):
        assert folder.is_taken(name)
    assert {path.name for path in tmp_path.iterdir()} == before - {"bob.json"}


@pytest.mark.parametrize(
    ("suffix", "when"), [(".safetensors", "before"), (".wav", "before"), (".safetensors", "after")]
)
def test_a_file_that_the_operator_copies_in_meanwhile_stays(tmp_path, monkeypatch, suffix, when):
    """After the name was looked at, which is before the clip is encoded; or after the clip is written."""
    folder, write = VoiceFolder(tmp_path), voice_folder.write_wav
    own = tmp_path / f"ann{suffix}"

    def written(*arguments):
        write(*arguments)
        (tmp_path / "ann.safetensors").write_bytes(b"the operator's")

    if when == "before":
        own.write_bytes(b"the operator's")
    else:
        monkeypatch.setattr(voice_folder, "write_wav", written)
    with pytest.raises((TakenError, CheckpointError)):
        keep(folder)
    assert files(folder) == [own.name]
    assert own.read_bytes() == b"the operator's"


def test_a_folder_whose_disk_is_full_can_be_opened(killed, tmp_path, monkeypatch):
    """A removal that was killed is taken back by writing; where that cannot be, the voice is there all the same."""
    keep(VoiceFolder(tmp_path / "voices"))
    killed(lambda folder: folder.remove("ann"), "_remove_files", on=VoiceFolder)

    def full(*_):
        raise CheckpointError("no space left")

    monkeypatch.setattr(voice_folder, "write_text_atomic", full)
    assert VoiceFolder(tmp_path / "voices").names() == {"ann"}


def test_what_is_being_made_is_neither_cleared_nor_removed(tmp_path, monkeypatch):
    """By another server that starts or looks at the name meanwhile, or a client that wants it gone."""
    folder, write, seen = VoiceFolder(tmp_path), voice_folder.write_text_atomic, []

    def meddled(*arguments):
        other = VoiceFolder(tmp_path)
        assert other.is_taken("ann")
        with pytest.raises(TakenError):
            other.remove("ann")
        with pytest.raises(TakenError):
            keep(other)
        seen.append(files(folder))
        write(*arguments)

    monkeypatch.setattr(voice_folder, "write_text_atomic", meddled)
    keep(folder)
    assert seen == [WHOLE]
    assert (files(folder), folder.record("ann")) == (WHOLE, RECORD)


def test_a_name_that_was_just_taken_is_no_voice_to_remove(tmp_path, monkeypatch):
    """Between the empty record and its lock: nothing was there to remove, and the voice is made all the same."""
    folder, lock, found = VoiceFolder(tmp_path), voice_folder.try_lock, []

    def meddled(descriptor):
        monkeypatch.setattr(voice_folder, "try_lock", lock)
        with pytest.raises(FileNotFoundError):
            VoiceFolder.remove(folder, "ann")
        found.append(files(folder))
        return lock(descriptor)

    monkeypatch.setattr(voice_folder, "try_lock", meddled)
    keep(folder)
    assert found == [[]]
    assert (files(folder), folder.record("ann")) == (WHOLE, RECORD)


def test_many_at_one_name(tmp_path, no_fsync):
    """Whoever keeps it, removes it and starts on it: one voice or none, and nothing of half a one."""
    failures, kept, removed = [], [], []
    begin = threading.Barrier(4)

    def run(work, done):
        begin.wait()
        for _ in range(40):
            try:
                work(VoiceFolder(tmp_path))
                done.append(1)
            except (TakenError, FileNotFoundError):
                pass
            except BaseException as error:
                failures.append(error)

    work = [(keep, kept), (keep, kept), (lambda folder: folder.remove("ann"), removed)]
    threads = [threading.Thread(target=run, args=one) for one in [*work, work[-1]]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kept
    assert len(kept) - len(removed) in (0, 1)
    assert files(VoiceFolder(tmp_path)) == (WHOLE if len(kept) > len(removed) else [])
