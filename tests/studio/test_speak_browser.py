"""Step "Speak" as a person uses it: heard before it is complete, cancelled, one sentence again, saved."""

import io

import pytest
import soundfile
from browser import PHONE, play, shifts, sideways, violations
from visiting import on_a_port

from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.studio.state import Studio

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow
SECONDS = 300_000  # of patience, in ms: the miniature speaks, on a machine that may be busy
TWO = "papa mino lesu tara koni sewu. lesu mino papa tara koni sewu."
MANY = " ".join([TWO] * 30)
PLAYS = "() => document.querySelector('speech-stream')?.currentTime > 0.2"


@pytest.fixture
def address(tmp_path):
    """Of the step, in a studio whose model is the speaking miniature; it computes in a thread of its own."""
    studio = Studio(tmp_path / "studio")
    studio.home.person("me").change_settings(model=str(SPEAKING_FILES), language="en")
    with on_a_port(studio) as place:
        yield f"{place}/speak"


def ask(page, text):
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_text("More settings").click()
    page.get_by_label("Care taken with the sound").select_option("3")
    page.get_by_role("button", name="Speak", exact=True).click()


def test_two_sentences_are_heard_said_again_and_saved(address, open_page):
    page = open_page(address)
    assert not violations(page)
    ask(page, TWO)
    page.wait_for_function(PLAYS, timeout=SECONDS)
    assert not violations(page)
    page.wait_for_selector("#speech[data-state=done]", timeout=SECONDS)
    page.wait_for_function("() => document.querySelector('speech-stream').paused", timeout=SECONDS)
    assert page.evaluate("document.querySelector('speech-stream').currentTime") > 4  # all of it, without the player
    assert shifts(page) < 0.1
    assert page.locator("#speech-history li").count() == 1
    assert play(page, "Everything, spoken by " + page.locator("#speak-voice option:checked").inner_text()) > 0

    before = page.locator(".player-time").inner_text()
    page.get_by_role("button", name="Say sentence 2 again").click()
    page.wait_for_selector("text=Undo", timeout=SECONDS)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save as MP3", exact=True).click()
    samples, rate = soundfile.read(io.BytesIO(saved.value.path().read_bytes()))
    assert rate == 24000
    assert len(samples) / rate > 4
    page.get_by_role("button", name="Take back the earlier sentence 2").click()
    page.wait_for_selector("text=Redo")
    assert page.locator(".player-time").inner_text().rpartition("/")[2] == before.rpartition("/")[2]
    assert not violations(page)

    page.get_by_label("Seed", exact=True).fill("many")
    page.get_by_role("button", name="Speak", exact=True).click()
    page.wait_for_selector("#seed-mistake:not(:empty)")
    assert page.locator("#speech[data-state=done]").count() == 1  # the last result stays
    assert not violations(page)
    phone = open_page(page.url, width=PHONE, dark=True)
    assert sideways(phone) <= 0
    assert not violations(phone)


def test_heard_while_later_sentences_are_spoken_in_two_tabs_and_cancelled(address, open_page):
    page = open_page(address)
    ask(page, MANY)
    page.wait_for_function(PLAYS, timeout=SECONDS)
    assert page.locator("#speech").get_attribute("data-state") == "running"
    page.reload()
    second = open_page(address)
    for tab in (page, second):
        assert tab.locator("#speech").get_attribute("data-state") == "running"
        tab.get_by_role("button", name="Listen").click()
        tab.wait_for_function(PLAYS, timeout=SECONDS)
    page.get_by_role("link", name="Hear sentence 1").click()  # one sound at a time
    assert page.evaluate("document.querySelector('speech-stream').paused")
    heard = page.evaluate("document.querySelector('speech-stream').currentTime")
    page.get_by_role("button", name="Listen").click()
    page.wait_for_function(
        "heard => document.querySelector('speech-stream')?.currentTime > heard + 0.2", arg=heard, timeout=SECONDS
    )
    assert page.locator("#speech").get_attribute("data-state") == "running"
    page.get_by_role("button", name="Cancel").click()
    for tab in (page, second):
        tab.wait_for_selector("#speech[data-state=cancelled]", timeout=SECONDS)
        tab.wait_for_selector("text=Cancelled. Sentences kept:")
        assert tab.locator("voice-player").count() == 1
    page.wait_for_function("() => document.getElementById('announce').innerText.includes('Cancelled.')")
    page.go_back()  # once: the page as it is now, not as it was then
    page.wait_for_url(address)
    page.wait_for_selector("#speech-history li >> text=cancelled")
