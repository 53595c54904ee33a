"""Step "Record" as a person uses it: two takes from a microphone, one of them again, a reload in between; files."""

import numpy as np
import pytest
from browser import PHONE, launched, opened, play, shifts, sideways, violations
from recorded import AGREED, many, spoken, wav
from visiting import on_a_port

from mlx_voxclone.studio.record.prompts import SYLLABLES, sentences
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import Takes
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.web.languages import texts

pytestmark = pytest.mark.slow
SECONDS = 60_000  # of patience, in ms


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """With a microphone that hears a sentence again and again."""
    file = tmp_path_factory.mktemp("microphone") / "speech.wav"
    said = spoken("papa mino lesu, tara koni sewu.", before=0.5, after=0.5)
    noise = np.random.default_rng(0).normal(0, 1e-4, len(said))
    file.write_bytes(wav(said + noise, subtype="PCM_16"))
    fakes = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with launched(*fakes, f"--use-file-for-fake-audio-capture={file}") as browser:
        yield browser


@pytest.fixture
def studio(tmp_path):
    made = Studio(tmp_path / "studio")
    with on_a_port(made) as made.address:
        yield made


def begin(page, studio):
    """A new voice, filled in as a person does."""
    page.get_by_label("Name of the voice").fill("Ann reads")
    page.get_by_label("Language that is spoken").select_option(SYLLABLES)
    page.get_by_label("Whose voice is it?").fill("Ann Example")
    page.get_by_label("What is the voice for?").fill("Reading aloud")
    page.get_by_label("I am this person").check()
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector("#sentence")
    (project,) = studio.home.person("me").projects()
    return project


def record(page, seconds, *, key=None):
    """Press, speak, press again; returns what is said of the take, once the studio has it."""
    before = page.locator("#takes li").count()
    press = (lambda: page.keyboard.press(key)) if key else page.locator("#record").click
    press()
    page.wait_for_selector("#record[aria-pressed=true]", timeout=SECONDS)
    page.wait_for_function(
        "seconds => Number(document.getElementById('elapsed').textContent.split(':')[1]) >= seconds",
        arg=seconds,
        timeout=SECONDS,
    )
    press()
    page.wait_for_function("n => document.querySelectorAll('#takes li').length > n", arg=before, timeout=SECONDS)
    return page.locator("#result .found").get_attribute("data-state")


def prompt(page):
    return page.locator(".prompt").text_content()


def test_two_takes_one_again_and_a_reload_in_between(chromium, studio):
    with opened(chromium, f"{studio.address}/voices/new") as page:
        assert not violations(page)
        project = begin(page, studio)
        lines = sentences(SYLLABLES)
        assert prompt(page) == lines[0]
        assert record(page, 5) in ("good", "fair")
        assert prompt(page) == lines[1]
        (first,) = Takes(project).all()
        assert first.check.speech > 2
        assert page.locator("#level").get_attribute("aria-label") == "Level"
        page.wait_for_function("() => document.getElementById('level-said').textContent.trim() !== ''")

        page.reload()
        assert prompt(page) == lines[1]
        assert page.locator("#takes li").count() == 1
        assert play(page, lines[0]) > 0
        page.locator("main h1").click()  # no field has the focus
        assert record(page, 5, key="r") in ("good", "fair")
        assert prompt(page) == lines[2]

        page.locator(f"#take-{first.id}").get_by_role("link", name="Record again").click()
        page.wait_for_selector(f"#sentence[data-slot={first.slot}]")
        assert prompt(page) == lines[0]
        page.locator("#record").click()
        page.evaluate(  # stopped too early
            """() => new Promise((done) => {
                 const button = document.getElementById("record");
                 const stop = () => { button.click(); done(); };
                 const records = () => button.getAttribute("aria-pressed") === "true";
                 const wait = () => (records() ? setTimeout(stop, 800) : setTimeout(wait, 5));
                 wait();
               })"""
        )
        page.wait_for_selector("#result .found[data-state=bad]", timeout=SECONDS)
        assert prompt(page) == lines[0]
        assert [take.id for take in Takes(project).used() if take.slot == first.slot] == [first.id]
        assert record(page, 5) in ("good", "fair")
        assert prompt(page) == lines[2]
        assert shifts(page) < 0.1
        (again,) = [take for take in Takes(project).used() if take.slot == first.slot]
        assert again.id != first.id

        page.reload()
        assert page.locator("#takes li").count() == 4
        assert page.locator("#takes li[data-used=yes]").count() == 2
        assert "Recordings with a text: 2." in page.locator("#progress").text_content()
        page.locator(f"#take-{first.id}").get_by_role("button", name="Delete").click()
        page.wait_for_function("() => document.querySelectorAll('#takes li').length === 3")
        assert not violations(page)
    for options in ({"width": PHONE}, {"dark": True}, {"locale": "de-DE"}):
        with opened(chromium, f"{studio.address}/voices/{project.id}/record", **options) as page:
            assert sideways(page) <= 0
            assert not violations(page)


def test_a_studio_that_does_not_answer_costs_no_take(chromium, studio):
    with opened(chromium, f"{studio.address}/voices/new") as page:
        project = begin(page, studio)
        page.evaluate("() => { window.real = fetch; window.fetch = () => Promise.reject(new TypeError('gone')); }")
        page.locator("#record").click()
        page.wait_for_selector("#record[aria-pressed=true]", timeout=SECONDS)
        page.wait_for_function("() => document.getElementById('elapsed').textContent >= '0:04'", timeout=SECONDS)
        page.locator("#record").click()
        page.wait_for_selector("#send-again:visible")
        assert "kept here" in page.locator("#take-mistake").text_content()
        assert page.locator("#record").is_disabled()  # nothing is recorded over it
        page.evaluate("() => { window.fetch = window.real; }")
        page.get_by_role("button", name="Send the take again").click()
        page.wait_for_function("() => document.querySelectorAll('#takes li').length === 1", timeout=SECONDS)
        (take,) = Takes(project).all()
        assert take.check.seconds > 3.5
        assert page.locator("#take-mistake").text_content() == ""


@pytest.mark.parametrize(
    ("script", "key"),
    [
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }",
            "refused",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); }",
            "no_microphone",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotReadableError'); }",
            "busy",
        ),
        ("Object.defineProperty(window, 'isSecureContext', { value: false })", "insecure"),
    ],
)
def test_a_microphone_that_cannot_be_had_is_one_sentence(chromium, studio, script, key):
    with opened(chromium, f"{studio.address}/voices/new") as page:
        begin(page, studio)
        page.add_init_script(script)
        page.reload()
        page.locator("#record").click()
        page.wait_for_selector("#take-mistake:not(:empty)")
        assert page.locator("#take-mistake").text_content() == texts("en")[f"record.recorder.{key}"]
        assert page.locator("#record").text_content() == "Record"


def test_typing_and_skipping_by_keys(chromium, studio):
    with opened(chromium, f"{studio.address}/voices/new") as page:
        project = begin(page, studio)
        lines = sentences(SYLLABLES)
        page.locator("main h1").click()
        page.keyboard.press("s")
        page.wait_for_function("text => document.querySelector('.prompt').textContent === text", arg=lines[1])
        page.get_by_text("Read a text of your own").click()
        own = page.get_by_label("Text, up to half a minute of speech")
        own.fill("...")
        page.get_by_role("button", name="Use this text").click()
        page.wait_for_selector("#text-mistake:not(:empty)")
        assert page.get_by_label("Text, up to half a minute of speech").input_value() == "..."
        page.get_by_label("Text, up to half a minute of speech").fill("rss tara sos")  # the keys are letters here
        page.get_by_role("button", name="Use this text").click()
        page.wait_for_function("() => document.querySelector('.prompt').textContent === 'rss tara sos'")
        assert Takes(project).skipped() == [f"{SYLLABLES}-001"]
        assert not Takes(project).all()


def test_files_their_texts_and_a_long_one(chromium, studio, tmp_path):
    folder = tmp_path / "brought"
    folder.mkdir()
    for k in range(2):
        (folder / f"{k}.wav").write_bytes(wav(spoken("papa mino lesu.", k)))
    (folder / "0.txt").write_text("papa mino lesu")
    (folder / "notes.docx").write_bytes(b"x")
    (folder / "long.wav").write_bytes(wav(np.tile(spoken("papa mino lesu, tara koni sewu."), 10)))
    with opened(chromium, f"{studio.address}/voices/new") as page:
        project = begin(page, studio)
        page.get_by_role("link", name="Files").click()
        page.wait_for_selector("#upload")
        assert not violations(page)
        page.locator("#folder").set_input_files(folder)
        page.wait_for_selector("text=Uploaded: 4. Refused: 0.", timeout=SECONDS)
        page.wait_for_selector("#work .task[data-state=done]", timeout=SECONDS)
        page.wait_for_selector("text=/Cut into clips: \\d+/", timeout=SECONDS)
        assert page.locator("#list > ul > li").count() == 3
        assert play(page, "1.wav") > 0
        field = page.get_by_label("Text of 1.wav")
        field.fill("tara koni")
        field.blur()
        page.wait_for_selector("text=Saved.")
        page.reload()
        assert page.get_by_label("Text of 1.wav").input_value() == "tara koni"
        assert page.get_by_label("Text of 0.wav").input_value() == "papa mino lesu"
        assert not violations(page)
        assert sideways(page) <= 0
        page.get_by_role("button", name="Delete long.wav").last.click()
        page.wait_for_function("() => document.querySelectorAll('#list > ul > li').length === 2")
        assert not Shelf(project.clips).ids()
    with opened(chromium, f"{studio.address}/voices/{project.id}/record/files", width=PHONE, dark=True) as page:
        assert sideways(page) <= 0
        assert not violations(page)


def test_hundreds_of_takes_and_files_are_gone_through_by_keyboard(chromium, studio):
    project = studio.home.person("me").new_project("Ann", SYLLABLES)
    project.change(consent=AGREED)
    many(project, 130, 45)
    for place, of in (("record", "takes"), ("record/files", "list")):
        with opened(chromium, f"{studio.address}/voices/{project.id}/{place}") as page:
            assert page.locator(f"#{of} li.card").count() == 20
            assert not violations(page)
            link = page.locator(f"#{of} .pager").first.get_by_role("link", name="Page 2", exact=True)
            link.focus()
            page.keyboard.press("Enter")
            page.wait_for_url("**page=2#*")
            assert page.locator(f"#{of} .pager").first.locator("[aria-current=page]").text_content() == "2"
            page.locator(f"#{of} li.card").nth(3).get_by_role("button", name="Delete").click()
            page.wait_for_function("of => document.querySelectorAll(`#${of} li.card`).length === 20", arg=of)
            assert page.locator(f"#{of} .pager").first.locator("[aria-current=page]").text_content() == "2"
            page.set_viewport_size({"width": PHONE, "height": 900})
            assert not sideways(page)
