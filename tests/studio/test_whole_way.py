"""The whole way through the studio as a person goes it: from the rehearsal's model to a voice that `say` speaks with.

The process is the command's, the browser a real one, the microphone a file that Chromium plays. At each step the page
must be accessible, as wide as a phone, quiet on its console and still when results arrive. VOXCLONE_SCREENSHOTS=DIR
keeps a picture of each step: those of docs/guides/studio are made so.
"""

import io
import os
import statistics
from pathlib import Path

import pytest
import soundfile
from browser import PHONE, launched, opened, play, shifts, sideways, violations
from PIL import Image
from spoken import microphone_file, recordings_with_texts
from studio_process import StudioProcess, voxclone

from mlx_voxclone.studio.record.prompts import SYLLABLES, sentences

pytestmark = pytest.mark.slow
MINUTE = 60_000  # of patience, in ms
TRAINING = 30 * MINUTE  # on a busy machine; three are usual
STILL = 0.1  # a page whose layout shifts add up to less is still
TITLE, STEPS = "Ann reading", 60  # of the rehearsal's training
SAY = ["papa mino lesu.", "tara koni lesu."]
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


class Way:
    """A page in a studio, and what is looked at on every step of the way."""

    def __init__(self, browser, page, address: str) -> None:
        self.browser, self.page, self.address = browser, page, address
        self.measured: dict[str, str] = {}

    def go(self, path: str) -> None:
        self.page.goto(self.address + path)

    def look(self, step: str, *, show: str | None = None) -> None:
        """Hold the page of a step to what all pages must be; `show`: what its picture begins with."""
        page = self.page
        moved = shifts(page)
        self.measured[step] = f"first paint {page.evaluate(_PAINT):.0f} ms, layout shifts {moved:.3f}"
        assert moved < STILL, (step, moved)
        assert not (wrong := violations(page)), (step, wrong)
        self._picture(step, show)
        with opened(self.browser, page.url, width=PHONE, dark=True) as phone:
            assert sideways(phone) <= 0, step
            assert not (wrong := violations(phone)), (step, wrong)

    def paint(self, path: str, times: int = 5) -> float:
        """Median of the milliseconds until something is seen of a page."""
        found = []
        for _ in range(times):
            self.go(path)
            self.page.wait_for_function(f"() => {_PAINT}")
            found.append(self.page.evaluate(_PAINT))
        return statistics.median(found)

    def _picture(self, step: str, show: str | None) -> None:
        if not (folder := os.environ.get("VOXCLONE_SCREENSHOTS")):
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.page.evaluate("what => what ? document.querySelector(what).scrollIntoView() : scrollTo(0, 0)", show)
        image = Image.open(io.BytesIO(self.page.screenshot(caret="hide"))).convert("RGB")
        image.quantize(256).save(Path(folder) / f"{step}.png", optimize=True)  # a third of the bytes


@pytest.fixture
def files(tmp_path):
    """Recordings with their texts, and what the microphone hears."""
    (tmp_path / "files").mkdir()
    made = recordings_with_texts(tmp_path / "files", 14, seconds=1.5)
    microphone = tmp_path / "microphone.wav"
    return made, microphone, microphone_file(microphone, list(sentences(SYLLABLES)[:2]))


@pytest.fixture
def browser(files):
    hears = f"--use-file-for-fake-audio-capture={files[1]}"
    with launched("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", hears) as found:
        yield found


@pytest.fixture
def studio(tmp_path):
    """A function that starts the studio of this test."""
    begun = []

    def start() -> StudioProcess:
        begun.append(StudioProcess(tmp_path / "studio", tmp_path / f"said-{len(begun)}.txt"))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()


def test_from_a_microphone_to_a_voice(tmp_path, files, studio, browser):
    uploads, _, seconds = files
    running = studio()
    with opened(browser, running.address, permissions=["microphone"]) as page:
        page.set_default_timeout(2 * MINUTE)
        way = Way(browser, page, running.address)
        model(way)
        voice = new_voice(way)
        record(way, voice, seconds)
        upload(way, voice, uploads)
        train(way, voice)
        listen(way, voice)
        blind(way, voice)
        speak(way, voice)
        exported = keep(way, voice, tmp_path)
        paint = way.paint("/voices")
    assert running.close() == 0, running.said()
    say(tmp_path, exported)
    again = studio()
    with opened(browser, again.address) as page:
        page.set_default_timeout(2 * MINUTE)
        found_again(Way(browser, page, again.address), voice)
    assert again.close() == 0, again.said()
    for step, measured in way.measured.items():
        print(f"{step}: {measured}")
    print(f"/voices: first paint {paint:.0f} ms, the median of 5")


def model(way: Way) -> None:
    page = way.page
    page.get_by_role("button", name="Rehearse").click()
    page.get_by_text("Chosen: the rehearsal").wait_for()
    way.look("model")
    page.get_by_role("link", name="On to the recordings").click()


def new_voice(way: Way) -> str:
    """A voice with consent; returns the address of its pages."""
    page = way.page
    page.get_by_label("Name of the voice").fill(TITLE)
    page.get_by_label("Language that is spoken").select_option(SYLLABLES)
    page.get_by_label("Whose voice is it?").fill("Ann Lee")
    page.get_by_label("What is the voice for?").fill("reading my own books aloud")
    way.look("consent")  # leaves the form as it is
    page.get_by_label("I am this person").check()
    page.get_by_role("button", name="Begin").click()
    page.wait_for_url("**/record")
    return page.url.removesuffix("/record").removeprefix(way.address)


def record(way: Way, voice: str, seconds: float) -> None:
    """Two takes, one with the mouse and one with keys."""
    page = way.page
    prompts = sentences(SYLLABLES)
    for number, press in enumerate((page.locator("#record").click, lambda: page.keyboard.press("r")), start=1):
        assert page.locator(".prompt").inner_text() == prompts[number - 1]
        press()
        elapsed = "document.querySelector('#elapsed').textContent"
        page.wait_for_function(f"() => {elapsed} < '0:04'")  # not that of the take before
        page.wait_for_function(f"what => {elapsed} >= what", arg=f"0:{seconds:02.0f}")
        press()
        page.wait_for_function("n => document.querySelectorAll('#takes .take').length === n", arg=number)
        found = page.locator("#result .found")
        assert found.get_attribute("data-state") in ("good", "fair"), found.inner_text()
        page.locator("h1").click()  # no button has the focus: keys work
    assert page.locator(".prompt").inner_text() == prompts[2]
    play(page, prompts[1])
    way.look("record")


def upload(way: Way, voice: str, uploads: list[Path]) -> None:
    page = way.page
    page.get_by_role("link", name="Files", exact=True).click()
    page.locator("#files").set_input_files(uploads)
    page.get_by_text(f"Uploaded: {len(uploads)}. Refused: 0.").first.wait_for()
    page.get_by_text(f"Recordings with a text: {len(uploads) // 2 + 2}.").wait_for()
    way.look("files")
    page.get_by_role("link", name="Go on to training").click()


def train(way: Way, voice: str) -> None:
    """Reloaded and looked at in a second tab while it goes on; the sample is heard as soon as it is there."""
    page = way.page
    page.get_by_role("button", name="Train this voice").click()
    page.get_by_role("heading", name="Training", exact=True).wait_for()
    samples = page.locator("#samples audio")
    samples.nth(2).wait_for(state="attached", timeout=TRAINING)  # two sentences at each measurement: the second one
    page.reload()
    page.get_by_role("heading", name="Training", exact=True).wait_for()
    before = samples.count()
    assert before > 2
    with opened(way.browser, page.url) as tab:
        tab.get_by_role("heading", name="Training", exact=True).wait_for()
        assert tab.locator("#samples audio").count() >= before
        label = samples.last.get_attribute("aria-label")
        assert play(page, label) > 0
        assert play(tab, label) > 0
        way.look("train")
        for one in (page, tab):  # nobody has to reload for the end
            one.get_by_role("heading", name="The voice is ready").wait_for(timeout=TRAINING)
        assert f"Step {STEPS}" in samples.last.get_attribute("aria-label")
        delivered = [one.locator("p.lead").inner_text() for one in (page, tab)]
        assert delivered[0].startswith("Delivered:")
        assert delivered[0] == delivered[1]
        assert shifts(tab) < STILL
    way.look("trained")
    page.get_by_role("link", name="Listen and compare").click()


def listen(way: Way, voice: str) -> None:
    page = way.page
    page.get_by_role("button", name="Speak").click()
    page.locator("#result voice-player").first.wait_for(timeout=5 * MINUTE)
    assert page.locator("#result voice-player").count() >= 3
    for name in ("Original", "Adapted"):
        assert play(page, name) > 0
    way.look("listen", show="#result")


def blind(way: Way, voice: str) -> None:
    """Ten pairs by keyboard, always the first answer."""
    page = way.page
    page.get_by_role("link", name="To the blind test").click()
    page.get_by_role("button", name="Prepare the test").click()
    for number in range(1, 11):
        page.get_by_role("heading", name=f"Pair {number} of 10").wait_for(timeout=5 * MINUTE)
        page.keyboard.press("x")
        page.wait_for_function("() => document.querySelector('audio[data-slot=x]').currentTime > 0.05")
        page.keyboard.press("1")
    page.get_by_role("heading", name="of 10 right").wait_for()
    page.get_by_text("Adding the test to the report").wait_for(state="detached")
    way.look("blind")


def speak(way: Way, voice: str) -> None:
    """Two sentences, the first heard as soon as it is there."""
    page = way.page
    page.get_by_role("link", name="Speak", exact=True).click()
    page.get_by_label("Text", exact=True).fill("\n\n".join(SAY))
    page.get_by_label("Voice", exact=True).select_option(label=TITLE)
    page.get_by_role("button", name="Speak", exact=True).click()
    page.wait_for_function("() => document.querySelector('speech-stream')?.currentTime > 0.05", timeout=5 * MINUTE)
    page.locator("#speech[data-state=done]").wait_for()
    page.wait_for_function("() => document.querySelector('speech-stream').paused")
    assert page.locator("#sentences > .sentence").count() == len(SAY)
    assert play(page, f"Everything, spoken by {TITLE}") > 0
    way.look("speak")


def keep(way: Way, voice: str, folder: Path) -> Path:
    """The voice as a file."""
    page = way.page
    page.get_by_role("link", name="Voices").click()
    assert play(page, f"{TITLE}, a sample") > 0
    way.look("keep")
    page.get_by_role("link", name=TITLE, exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name=".safetensors").first.click()
    exported = folder / download.value.suggested_filename
    download.value.save_as(exported)
    way.look("voice")
    return exported


def say(folder: Path, exported: Path) -> None:
    """The exported voice speaks by the command, with the released model."""
    output = folder / "said.wav"
    base = folder / "studio" / "models" / "rehearsal"
    done = voxclone("say", "--model", base, "--voice", exported, "--text", SAY[0], "--output", output)
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(output)
    assert 0.5 < len(samples) / rate < 5.0
    assert abs(samples).max() > 0.02


def found_again(way: Way, voice: str) -> None:
    """Everything is there after the studio was closed."""
    page = way.page
    assert page.url == f"{way.address}/voices"
    assert play(page, f"{TITLE}, a sample") > 0
    way.go(f"{voice}/record")
    assert page.locator("#takes .take").count() == 2
    way.go(f"{voice}/train")
    page.get_by_role("heading", name="The voice is ready").wait_for()
    assert page.locator("#samples audio").count() >= 2
    way.go(f"{voice}/listen")
    assert play(page, "Original") > 0
    way.go(f"{voice}/listen/blind")
    page.get_by_role("heading", name="of 10 right").wait_for()
    way.go("/speak")
    page.locator(".speech-history h3 a").first.click()
    assert play(page, f"Everything, spoken by {TITLE}") > 0
