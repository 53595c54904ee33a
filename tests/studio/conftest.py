"""A studio in a temporary folder, and a client that sees it as its browser does."""

import functools
import threading
from collections.abc import Iterator

import pytest
from recorded import AGREED
from visiting import Browser

from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.tokens import Tokens


@pytest.fixture
def studio(tmp_path) -> Iterator[Studio]:
    made = Studio(tmp_path / "studio")
    yield made
    made.tasks.close()


@pytest.fixture
def browser(studio) -> Browser:
    door = Access(application(studio), Names("127.0.0.1"), tell=functools.partial(closed, home=studio.home))
    return Browser(door, base_url="http://127.0.0.1", client=("127.0.0.1", 1))


@pytest.fixture
def tokens(tmp_path) -> Tokens:
    """Of a studio for Ann and Ben."""
    return Tokens(tmp_path, ["ann", "ben"])


@pytest.fixture
def waited() -> list[float]:
    """Seconds that `door` has let wrong tokens wait."""
    return []


@pytest.fixture
def door(studio, tokens, waited) -> Access:
    """The studio behind `tokens`."""

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    return Access(application(studio), Names("127.0.0.1"), tokens, tell=closed, sleep=sleep)


@pytest.fixture
def visitor(door) -> Browser:
    """A browser of nobody yet."""
    return Browser(door, base_url="http://127.0.0.1:80", follow_redirects=False)


@pytest.fixture
def me(studio):
    return studio.home.person("me")


@pytest.fixture
def voice(me):
    """A voice with consent that reads syllables, without a recording yet."""
    project = me.new_project("Ann", SYLLABLES)
    project.change(consent=AGREED)
    return project


@pytest.fixture
def at(voice):
    """The address of its recordings."""
    return f"/voices/{voice.id}/record"


@pytest.fixture
def computing(studio) -> Iterator[None]:
    """The compute lane, on a thread of its own: for work that needs no MLX."""
    thread = threading.Thread(target=studio.tasks.run, daemon=True)
    thread.start()
    yield
    studio.tasks.close()
    thread.join(5)
