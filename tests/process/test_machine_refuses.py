"""What the machine refuses, or takes away, in the middle: one line, and nothing of a training is lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from toy_task import ToyTask, settings

from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.cli.common import entry
from mlx_voxclone.errors import DataError, StoppedError
from mlx_voxclone.files.run_log import JsonLog
from mlx_voxclone.process.limits import allow_open_files, describe_memory_error, describe_os_error
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.state import list_checkpoints


@pytest.mark.parametrize(("limit", "wanted", "allowed"), [
    ((100, 5000), 2048, 2048), ((100, 500), 2048, 500), ((4000, 5000), 2048, 2048), ((300, 300), 2048, 300),
    ((100, resource.RLIM_INFINITY), 2048, 2048), ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 2048, 2048),
])  # fmt: skip
def test_as_many_open_files_as_the_system_allows(monkeypatch, limit, wanted, allowed):
    now = [limit]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[0])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: now.__setitem__(0, new))
    assert allow_open_files(wanted) == allowed
    assert now[0][1] == limit[1]
    assert now[0][0] in (limit[0], allowed)


def test_a_system_that_allows_no_more_files_is_asked_once(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 5000))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allow_open_files(2048) == 256


def trainer(run_dir, toy=None, **changes):
    return Trainer(toy or ToyTask(7, dropout=0.3), settings(steps=9, **changes), run_dir, quiet=True)


def weights(run) -> bytes:
    return (list_checkpoints(run)[-1][1] / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    trainer(run).run()
    return weights(run)


def goes_on(run) -> bytes:
    Trainer(ToyTask(7, dropout=0.3), settings(steps=9), resume=run, quiet=True).run()
    return weights(run)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_log_that_cannot_be_written_costs_no_step(number, tmp_path, monkeypatch, expected):
    write = JsonLog.write

    def refused(self, record):
        if record.get("step", 0) >= 5:
            raise OSError(number, os.strerror(number), str(self.path))
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(JsonLog, "write", refused)
        with pytest.raises(StoppedError, match=r"log.jsonl.*the last checkpoint is .*step-5; continue with --resume"):
            trainer(tmp_path / "run").run()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [5]
    assert goes_on(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "clips/a.flac"), StoppedError),
        (AudioError("missing", "clips/a.flac: no such file or directory"), DataError),
    ],
)
def test_data_that_has_vanished_costs_no_step(error, kind, tmp_path, expected):
    class Vanishing(ToyTask):
        def item(self, epoch, index, step):
            if step >= 4:
                raise error
            return super().item(epoch, index, step)

    with pytest.raises(kind, match=r"clips/a.flac: no such file or directory; the last checkpoint is"):
        trainer(tmp_path / "run", Vanishing(7, dropout=0.3)).run()
    assert list_checkpoints(tmp_path / "run")[-1][0] == 4
    assert goes_on(tmp_path / "run") == expected


def test_a_run_directory_that_has_vanished_is_made_again(tmp_path, expected):
    class Removing(ToyTask):
        def item(self, epoch, index, step):
            if step == 4:
                shutil.rmtree(tmp_path / "run", ignore_errors=True)
            return super().item(epoch, index, step)

    with pytest.raises(
        StoppedError, match="was deleted during the training and has been made again; the last checkpoint is"
    ):
        trainer(tmp_path / "run", Removing(7, dropout=0.3), save_every=6).run()
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [6]
    assert goes_on(tmp_path / "run") == expected


def test_without_memory_the_last_checkpoint_is_named(tmp_path, monkeypatch, expected):
    update, calls = Trainer._update, []

    def starved(self, *arguments):
        if calls.append(1) or len(calls) == 6:
            raise RuntimeError("[malloc] Unable to allocate 17179869184 bytes.")
        update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", starved)
        with pytest.raises(StoppedError, match=r"^not enough memory .*the last checkpoint is .*step-4"):
            trainer(tmp_path / "run", save_every=2).run()
    assert goes_on(tmp_path / "run") == expected


def test_a_defect_of_ours_stays_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_update", lambda *arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path / "run").run()
    assert describe_memory_error(RuntimeError("shapes (3) and (4) do not fit")) is None
    assert describe_os_error(OSError(errno.EBADF, "Bad file descriptor")) is None


# ---- limits of the process -----------------------------------------------------------------------------------------


def limited(which: int, size: int, code: str) -> tuple[int, str]:
    """Exit code and stderr of a process with a limit."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(which, (size, size)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran.returncode, ran.stderr


def test_a_file_beyond_the_limit_on_sizes(tmp_path):
    code = f"""
import sys
import numpy as np
from mlx_voxclone.audio.io import AudioError
from mlx_voxclone.cli.common import entry
from mlx_voxclone.audio.io import write_wav
sys.exit(entry(lambda argv: write_wav({str(tmp_path / "a.wav")!r}, np.zeros(100_000)))())
"""
    returned, said = limited(resource.RLIMIT_FSIZE, 50_000, code)
    assert returned == 2
    assert (
        said == f"error: {tmp_path / 'a.wav'}: larger than files may be here (ulimit -f, or the file system's limit)\n"
    )
    assert not list(tmp_path.iterdir())


def test_too_little_address_space_is_said_before_anything_waits_for_it():
    code = "import sys; from mlx_voxclone.cli import main; sys.argv = ['voxclone', 'say']; sys.exit(main())"
    returned, said = limited(resource.RLIMIT_AS, 800_000_000, code)
    assert returned == 2
    assert said.startswith("error: this process may use 0.8 GB of address space (ulimit -v), and needs at least 1; ")
    assert said.count("\n") == 1


def test_a_working_directory_that_was_deleted(tmp_path, monkeypatch, capsys):
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()

    def command(argv):
        np.save("x.npy", np.zeros(3))

    assert entry(command)([]) == 2
    monkeypatch.chdir(tmp_path)
    assert capsys.readouterr().err.startswith("error: the working directory was deleted meanwhile")
