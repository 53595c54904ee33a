"""Steps 1 and 3 in a real browser: reloaded in the middle, in two tabs, on a phone, in the dark. A stand-in trains."""

import contextlib
import json
import sys

import pytest
from browser import opened, play, shifts, sideways, violations
from places import TESTS
from playwright.sync_api import Error as PlaywrightError
from test_train_pages import recorded
from visiting import on_a_port

from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.train.trainings import Trainings

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow

STAND_IN = (sys.executable, str(TESTS / "helpers" / "train_stand_in.py"))
LITTLE = 0.02  # of a layout shift: nobody sees it


@pytest.fixture
def address(studio, tmp_path):
    """Of a studio that is served, whose trainings are the stand-in's."""
    studio.trainings = Trainings(studio.home, tmp_path / "machine.lock", STAND_IN)
    with on_a_port(studio) as place:
        yield place
        for project in studio.home.person("me").projects():
            studio.trainings.leave(project)


def checked(page, name=""):
    assert violations(page) == [], name
    assert sideways(page) <= 0, name


def has_focus(page, selector: str) -> None:
    page.wait_for_function("what => document.activeElement.matches(what)", arg=selector)


def test_the_model_is_chosen(address, chromium, studio: Studio):
    with opened(chromium, f"{address}/model") as page:
        checked(page)
        page.get_by_label("Path of the folder").fill("/no/such/folder")
        page.get_by_role("button", name="Use this folder").click()
        page.get_by_text("There is no such folder on this machine.").wait_for()
        assert page.get_by_label("Path of the folder").input_value() == "/no/such/folder"
        assert page.get_by_label("Path of the folder").get_attribute("aria-invalid") == "true"
        has_focus(page, "#folder")  # the mistake's field
        checked(page)
        page.get_by_role("button", name="Rehearse").click()
        page.get_by_text("Chosen: the rehearsal").wait_for()
        has_focus(page, "#chosen a")  # the button that was pressed is gone: the way on has it
        checked(page)
    for options in ({"width": 320}, {"dark": True}):
        with opened(chromium, f"{address}/model", **options) as page:
            checked(page, str(options))


@pytest.mark.parametrize("headers", [{}, {"HX-Retarget": "#training"}], ids=["part", "all"])
def test_an_answer_that_comes_too_late_is_dropped(address, chromium, studio: Studio, headers):
    """How far it is was asked for before the training was cancelled, and is answered after it."""
    me, asked = studio.home.person("me"), []
    voice = recorded(me, every=20, seconds=0.1, steps=2000)
    with opened(chromium, f"{address}/model") as page:
        page.get_by_role("button", name="Rehearse").click()
        page.get_by_text("Chosen: the rehearsal").wait_for()
        page.goto(f"{address}/voices/{voice.id}/train")
        page.get_by_role("button", name="Train this voice").click()
        page.get_by_role("heading", name="Training", exact=True).wait_for()
        page.route("**/status?*", lambda route: asked.append(route) if not asked else route.continue_())
        for _ in range(600):
            if asked:
                break
            page.wait_for_timeout(100)
        assert asked
        page.get_by_text("Cancel the training …").click()
        page.get_by_role("button", name="Cancel and delete").click()
        page.get_by_text("What it had learnt is deleted", exact=False).wait_for(timeout=60_000)
        with contextlib.suppress(PlaywrightError):  # the browser has ended the request
            late = '<div id="status">late</div><div id="curves" hx-swap-oob="innerHTML"></div>'
            asked[0].fulfill(body=late, headers=headers)
        page.wait_for_timeout(500)  # a mistake of the page's on its console fails the test
        assert page.get_by_text("late").count() == 0


def test_a_training_in_two_tabs(address, chromium, studio: Studio):
    me = studio.home.person("me")
    voice = recorded(me, every=20, seconds=0.1, steps=2000)
    with opened(chromium, f"{address}/model") as page:
        page.get_by_role("button", name="Rehearse").click()
        page.get_by_text("Chosen: the rehearsal").wait_for()
    place = f"{address}/voices/{voice.id}/train"
    with opened(chromium, place) as page, opened(chromium, place, width=320, dark=True) as other:
        checked(page)
        page.get_by_role("button", name="Train this voice").click()
        page.get_by_role("heading", name="Training", exact=True).wait_for()
        other.get_by_role("heading", name="Training", exact=True).wait_for()
        other.locator("audio[aria-label='Step 20']").wait_for(state="attached", timeout=60_000)
        page.reload()
        page.get_by_role("heading", name="Training", exact=True).wait_for()
        assert play(page, "Step 20") > 0
        before = page.locator("#samples > li").count()
        page.wait_for_function("before => document.querySelectorAll('#samples > li').length > before", arg=before)
        assert page.locator("voice-player[playing]").count() in (0, 1)
        assert shifts(page) < LITTLE
        checked(page)
        checked(other)
        page.get_by_text("The same as a table").first.click()
        other.get_by_role("button", name="Pause").click()
        page.get_by_role("heading", name="Paused").wait_for(timeout=60_000)
        checked(page)
        page.get_by_role("button", name="Go on").click()
        other.get_by_role("heading", name="Training", exact=True).wait_for(timeout=60_000)
        other.get_by_text("Cancel the training …").click()
        other.get_by_role("button", name="Cancel and delete").click()
        page.get_by_text("What it had learnt is deleted", exact=False).wait_for(timeout=60_000)
        checked(page)
        (voice.folder / "stand_in.json").write_text(json.dumps({"steps": 5, "every": 5}))
        page.get_by_role("button", name="Train this voice").click()
        page.get_by_role("heading", name="The voice is ready").wait_for(timeout=60_000)
        checked(page)
        other.get_by_role("heading", name="The voice is ready").wait_for(timeout=60_000)
        checked(other)
