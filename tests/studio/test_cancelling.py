"""Every step that loads a model says so, and is cancelled while it loads."""

import time

import pytest
from listening_made import make_run

from mlx_voxclone.studio.model import choice
from mlx_voxclone.studio.web.languages import texts


class Loading:
    """Models of which one is loaded for ever."""

    def core(self, path, *, adapters=(), encoder=None, progress=None):
        assert progress is not None
        until = time.monotonic() + 30
        while time.monotonic() < until:
            progress(3, 4, "loading")
            time.sleep(0.01)

    speaker = core


@pytest.fixture
def project(me):
    made = me.new_project("Ann", "en")
    make_run(made.run)
    return made


@pytest.mark.parametrize(
    ("address", "form", "seen"),
    [
        ("/voices/{id}/listen/speak", {"sentence": "0", "variant": ["adapted"], "seed": "1"}, "/voices/{id}/listen"),
        ("/voices/{id}/listen/blind", {"first": "tuned", "second": "adapted"}, "/voices/{id}/listen/blind"),
        ("/speak", {"text": "Good morning.", "language": "en", "voice": "own:{id}"}, "/speak"),
    ],
)
def test_loading_is_shown_and_cancelled(studio, browser, me, project, computing, monkeypatch, address, form, seen):
    choice.choose(me, choice.rehearsal(me.home))
    monkeypatch.setattr(studio, "models", Loading())
    voice = next((one for one in browser.get("/speak").text.split('"') if one.startswith("model:")), "")
    filled = {key: voice if key == "voice" else value for key, value in form.items()}
    assert browser.submit(address.format(id=project.id), filled).status_code == 303
    [task] = studio.tasks.list(me)
    until = time.monotonic() + 10
    while not task.total and time.monotonic() < until:
        time.sleep(0.01)
    said = {texts("en")[key] for key in ("speak.loading", "listen.task.loading")}
    assert task.what in said
    assert task.what in browser.get(seen.format(id=project.id)).text
    assert "75 %" in browser.get(f"/tasks/{task.id}").text
    assert browser.submit(f"/tasks/{task.id}/cancel").status_code == 303
    while task.open and time.monotonic() < until:
        time.sleep(0.01)
    assert task.state == "cancelled"
