"""Fixtures of `shards_made.py` (a plugin)."""

import shutil
from pathlib import Path

import pytest

from mlx_voxclone.data.shards import fetch


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    from shards_made import make_shards  # here: a plugin is imported before pytest looks at what it imports

    return make_shards(tmp_path_factory.mktemp("made") / "shards")


@pytest.fixture
def shards(_made, tmp_path) -> Path:
    """24 clips of two speakers in six shards, three held out in one."""
    shutil.copytree(_made, tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """`server(folder)`: one that serves it; nobody waits long for it."""
    monkeypatch.setattr(fetch, "WAITS", (0.01, 0.01))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    from shards_made import Server

    started = []

    def start(folder: Path):
        started.append(Server(folder))
        return started[-1]

    yield start
    for one in started:
        one.close()
