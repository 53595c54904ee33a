"""Folders that may not be read are refused by name: nothing is left out without a word."""

import errno
import os
from pathlib import Path

import pytest
from recordings import folder_of, talk

from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def forbid(monkeypatch):
    """Makes a folder one that may not be listed, nor entered where so said: of root's rights nothing is taken away."""

    def forbidden(folder: Path, entered: bool = True) -> None:
        scandir, stat = os.scandir, os.stat

        def refuse(path) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        def own_scandir(path="."):
            listed = isinstance(path, str | Path) and Path(path) == folder
            return refuse(path) if listed else scandir(path)

        def own_stat(path, *arguments, **options):
            inside = isinstance(path, str | Path) and folder in Path(path).parents
            return refuse(path) if inside and not entered else stat(path, *arguments, **options)

        monkeypatch.setattr(os, "scandir", own_scandir)
        monkeypatch.setattr(os, "stat", own_stat)

    return forbidden


def check_refused(source: Path, folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_listing(source)
    assert str(caught.value).startswith(f"{folder}: a folder that cannot be read (permission denied); ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [".", "ann", "ann/more", "bob"])
@pytest.mark.parametrize("entered", [True, False])
def test_a_folder_of_audio(tmp_path, forbid, place, entered):
    source = make(tmp_path / "r", "ann/a.wav", "ann/more/b.wav", "bob/c.wav")
    forbid(source / place, entered)
    check_refused(source, source / place)


@pytest.mark.parametrize("place", [".", "19", "19/198", "26/495"])
def test_a_folder_of_a_corpus(tmp_path, forbid, place):
    source = make(tmp_path / "r", "19/198/19-198-0000.flac", "26/495/26-495-0000.flac")
    for name in ("19/198/19-198", "26/495/26-495"):
        (source / f"{name}.trans.txt").write_text(f"{Path(name).name}-0000 WORDS\n")
    assert len(read_listing(source).entries) == 2
    forbid(source / place, entered=False)
    check_refused(source, source / place)


def test_a_folder_beside_common_voice(tmp_path, forbid):
    source = make(tmp_path / "r", "de/clips/a.mp3", "other/b.wav")
    (source / "de" / "train.tsv").write_text("client_id\tpath\tsentence\nx\ta.mp3\tWorte\n")
    forbid(source / "other", entered=False)
    check_refused(source, source / "other")


def test_beside_tar_shards(tmp_path, forbid):
    source = make(tmp_path / "r", "a.tar", "more/b.wav")
    forbid(source / "more")
    with pytest.raises(DataError, match="more: a folder that cannot be read"):
        prepare(source, tmp_path / "out")


@pytest.mark.parametrize("name", [".Trashes", "lost+found", "System Volume Information"])
def test_hidden_folders_and_those_of_the_system_are_no_recordings(tmp_path, forbid, name):
    source = folder_of(tmp_path / "r", a=talk(), b=talk(seed=1))
    make(source, f"{name}/c.wav")
    forbid(source / name, entered=False)
    assert prepare(source, tmp_path / "out", PrepareOptions()).clips["train"] == 1
