"""Fixtures of a hub on the loopback and of what is published on it (a plugin)."""

from pathlib import Path

import pytest
from hub_stand_in import WRITE, Hub, servers
from publishable import CONSENT, make_run

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.files import hub as resolver


@pytest.fixture(scope="session")
def _hub_servers():
    """Started once."""
    with servers() as started:
        yield started


@pytest.fixture
def hub(_hub_servers, tmp_path_factory, monkeypatch) -> Hub:
    """An empty hub which huggingface-hub takes for the real one, an empty cache, and nobody logged in."""
    import huggingface_hub.constants as constants

    handler, addresses = _hub_servers
    handler.hub = made = Hub()
    made.url, made.storage = addresses
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another protocol, for servers that speak it
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    resolver._fetched.cache_clear()
    yield made
    resolver._fetched.cache_clear()


@pytest.fixture
def logged_in(hub, monkeypatch) -> Hub:
    """The hub, with a token that may write."""
    monkeypatch.setenv("HF_TOKEN", WRITE)
    return hub


@pytest.fixture(scope="module")
def clone_run(base, encoder, adapters, tmp_path_factory) -> Path:
    """Read it only."""
    return make_run(tmp_path_factory.mktemp("runs") / "clone-ann", base, encoder, adapters)


@pytest.fixture
def publish(capsys):
    """`publish(source, *options)`: the command must succeed; its standard output."""

    def run(source, *options, repository="ann/voice", consent=CONSENT) -> str:
        argv = ["publish", source, "--repo", repository, "--consent", consent, *options]
        capsys.readouterr()
        assert voxclone([str(a) for a in argv]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run
