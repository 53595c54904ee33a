"""Links that somebody put where we write: nothing is written, emptied or removed through them."""

import os

import pytest

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.cache import Entry
from mlx_voxclone.files.locks import LOCK, held
from mlx_voxclone.files.plain import open_own
from mlx_voxclone.files.run_log import JsonLog


@pytest.fixture
def outside(tmp_path):
    """A file and a folder that must stay as they are; `none` is not there, and must not come to be."""
    place = tmp_path / "outside"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_text("kept")
    yield place
    assert sorted(path.name for path in place.iterdir()) == ["file", "folder"]
    assert (place / "file").read_text() == "kept"
    assert not any((place / "folder").iterdir())


@pytest.mark.parametrize("target", ["file", "none"])
def test_a_file_of_a_known_name_is_no_link(outside, tmp_path, target):
    link = tmp_path / "link"
    link.symlink_to(outside / target)
    with pytest.raises(OSError, match="a link, and nothing is written through it"):
        open_own(link)
    link.unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        open_own(tmp_path / "pipe")
    with open(link, "ab", opener=open_own) as file:
        file.write(b"one")
    with open(link, "ab", opener=open_own) as file:
        file.write(b"two")
    assert link.read_bytes() == b"onetwo"


@pytest.mark.parametrize("target", ["file", "none"])
def test_locks_and_logs_are_no_links(outside, tmp_path, target, monkeypatch):
    place = tmp_path / "run"
    place.mkdir()
    (place / LOCK).symlink_to(outside / target)
    with pytest.raises(CheckpointError, match=r"\.lock: cannot be written \(a link"), held(place):
        pass
    (place / "log.jsonl").symlink_to(outside / target)
    with pytest.raises(OSError, match="a link"):
        JsonLog(place / "log.jsonl")
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    entry = Entry("0123" * 8, "pairs", {})
    entry.path.parent.mkdir(parents=True)
    entry.path.with_name(f".{entry.path.name}.lock").symlink_to(outside / target)
    with pytest.raises(CheckpointError, match=r"the cache cannot be written \(a link"), entry.locked(print):
        pass


@pytest.mark.parametrize("name", ["samples", "checkpoints/step-1", "checkpoints/.step-1.new", "deep/er/still"])
def test_a_directory_whose_parts_lie_elsewhere_is_not_written_into(outside, tmp_path, name):
    place = tmp_path / "run"
    link = place / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "folder")
    with pytest.raises(CheckpointError, match=f"{name}: a link to .*folder, outside of"), held(place):
        pass
    assert not (place / LOCK).exists()


def test_links_within_a_directory_and_to_it_are_its_users(tmp_path):
    place = tmp_path / "run"
    (place / "step-1").mkdir(parents=True)
    (place / "latest").symlink_to("step-1")
    (tmp_path / "way").symlink_to("run")
    for directory in (place, tmp_path / "way"):
        with held(directory):
            assert (place / LOCK).is_file()
