"""Step "Listen" as a person uses it: a sentence side by side, and ten blind pairs by keyboard."""

import pytest
from browser import PHONE, play, shifts, sideways, violations
from listening_made import Tones, make_run
from matplotlib.figure import Figure
from visiting import on_a_port

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.evaluate.blind import read_tests
from mlx_voxclone.studio.listen import blind_pages, comparison, pages
from mlx_voxclone.studio.listen.blind import blind_tests
from mlx_voxclone.studio.state import Studio

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow
SECONDS = 60_000  # of patience, in ms


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A trained voice in a studio on a port, and the address of its listening. Tones speak; nothing is drawn with MLX,
    which has this thread alone."""
    for module in (pages, blind_pages):
        monkeypatch.setattr(module, "Bench", Tones)
    monkeypatch.setattr(comparison, "sound_figure", lambda *_, **__: Figure(figsize=(5.2, 2.9)))
    studio = Studio(tmp_path / "studio")
    made = studio.home.person("me").new_project("Ann", "en")
    make_run(made.run)
    made.tasks = lambda: [(task.kind, task.state, task.error) for task in studio.tasks.list(made.person)]
    with on_a_port(studio) as address:
        made.address = f"{address}/voices/{made.id}/listen"
        yield made


def test_a_sentence_side_by_side(project, open_page):
    page = open_page(project.address)
    page.get_by_label("Sentence", exact=True).select_option("3")
    page.get_by_role("button", name="Speak").click()
    page.wait_for_selector("voice-player", timeout=SECONDS)
    assert page.locator("voice-player").count() == 4
    assert shifts(page) < 0.1
    assert play(page, "Adapted") > 0
    page.reload()
    assert play(page, "Original") > 0  # found again
    page.get_by_label("Or a sentence of one's own").fill("...")
    page.get_by_role("button", name="Speak").click()
    page.wait_for_selector("#text-mistake:not(:empty)")
    assert page.locator("voice-player").count() == 4  # the last result stays
    assert not violations(page)
    phone = open_page(project.address, width=PHONE, dark=True)
    assert sideways(phone) <= 0
    assert not violations(phone)


def test_ten_blind_pairs_by_keyboard(project, open_page):
    page = open_page(f"{project.address}/blind")
    assert not violations(page)
    page.get_by_role("button", name="Prepare the test").click()
    page.wait_for_selector("#answer", timeout=SECONDS)
    assert shifts(page) < 0.1
    assert not violations(page)
    (test,) = blind_tests(project.listening)
    for number, pair in enumerate(test.pairs, start=1):
        page.wait_for_selector(f"text=Pair {number} of 10", timeout=SECONDS)
        if number == 4:
            page.reload()
            page.wait_for_selector("text=Pair 4 of 10")
        page.keyboard.press("1")  # X was not heard yet: no answer
        for key in "abx":
            page.keyboard.press(key)
            page.wait_for_function(
                "key => document.querySelector(`audio[data-slot=${key}]`).currentTime > 0.05", arg=key
            )
            assert page.evaluate("[...document.querySelectorAll('audio')].filter((one) => !one.paused).length") <= 1
        assert blind_tests(project.listening)[0].answered == number - 1
        is_a = pair["x"] == pair["a"]
        page.keyboard.press("1" if is_a == (number <= 9) else "2")
    page.wait_for_selector("h2:has-text('9 of 10 right')", timeout=SECONDS)
    assert page.get_by_text("Original and Adapted can be told apart").count() == 1
    page.wait_for_selector("text=Open the report", timeout=6 * SECONDS)
    assert ("report", "done", "") in project.tasks()
    assert not violations(page)
    (kept,) = read_tests(project.run)
    assert (kept["correct"], kept["verdict"]) == (9, "apart")
    assert "9 of 10 right" in (project.run / "report" / "index.html").read_text()
    phone = open_page(f"{project.address}/blind", width=PHONE, dark=True)
    assert sideways(phone) <= 0
    assert not violations(phone)


def test_what_is_refused_is_told_above_a_page_that_stays_as_it_is(project, open_page, monkeypatch):
    def refused(*_):
        raise CheckpointError("/x/model: is damaged")

    monkeypatch.setattr(pages, "_start", refused)
    page = open_page(project.address)
    page.get_by_label("Or a sentence of one's own").fill("One.")
    page.get_by_role("button", name="Speak").click()
    page.get_by_text("A file of the model or of the voice cannot be used.").wait_for()
    assert page.locator("#refused [lang=en]").text_content() == "/x/model: is damaged"
    assert page.get_by_label("Or a sentence of one's own").input_value() == "One."
    assert not violations(page)
