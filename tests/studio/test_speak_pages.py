"""The page of the step "Speak": forms, what is answered while it speaks, downloads; nothing is computed."""

import html
import io
import re
import threading
import time

import numpy as np
import pytest
import soundfile

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.speech.narration import Spoken
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.speak import begin, pages, view, work
from mlx_voxclone.studio.speak.history import Speech, speeches
from mlx_voxclone.studio.speak.view import view_of
from mlx_voxclone.studio.speak.wanted import MOST_LETTERS
from mlx_voxclone.studio.tasks import Tasks

TEXT = (
    "papa mino lesu tara koni sewu papa mino. tara koni sewu papa lesu mino tara koni. lesu mino papa tara koni sewu."
)
FORM = {"text": TEXT, "voice": "model:alto", "language": "en", "seed": "3", "steps": "7", "guidance": "1.2"}
HTMX = {"hx-request": "true"}


class Gate:
    """Lets sentences through one by one."""

    def __init__(self):
        self.all, self._open = threading.Event(), threading.Semaphore(0)

    def let(self, count):
        for _ in range(count):
            self._open.release()

    def passed(self, check):
        while not self.all.is_set() and not self._open.acquire(timeout=0.01):
            check(1)


@pytest.fixture
def gate(studio, me, monkeypatch, computing):
    """The stand-in speaker: a tenth of a second for each sentence, when the gate lets it through."""
    gate = Gate()

    class Slow:
        def __init__(self, speaker, chunks, rows, *, memory, seeds, on_frame, **_):
            self.seeds, self.on_frame, self.memory = seeds, on_frame, memory

        def __iter__(self):
            for number, seed in enumerate(self.seeds):
                gate.passed(self.on_frame)
                yield Spoken(number, np.full(2400, (1 + seed % 50) / 100, np.float32), 1, None)

    monkeypatch.setattr(work, "Narration", Slow)
    monkeypatch.setattr(work, "_rows", lambda speaker, source: None)
    monkeypatch.setattr(studio.models, "core", lambda path, **_: None)
    me.change_settings(model=str(SPEAKING_FILES), language="en")
    yield gate
    gate.all.set()


def until(true):
    end = time.monotonic() + 20
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.03)
    return found


def spoken(browser, gate, **changed):
    """Address of a speech that is complete."""
    gate.all.set()
    address = browser.submit("/speak", FORM | changed).headers["location"]
    assert until(lambda: 'data-state="done"' in browser.get(address).text)
    return address


def state(browser, address):
    return re.search(r'id="speech"[^>]*data-state="(\w+)"', browser.get(address).text)[1]


def heard(browser, address):
    samples, _ = soundfile.read(io.BytesIO(browser.get(f"{address}/sound.wav").content))
    return [round(value * 100) - 1 for value in samples[1200::2400]]


@pytest.mark.parametrize("letter", ["a", "\u0928", "\U0001f600"])
def test_the_longest_text_is_taken_whatever_its_letters(browser, gate, letter):
    """A form writes up to twelve bytes for one; the limit is of letters."""
    word = letter * 9 + " "
    text = "Hello. " + word * ((MOST_LETTERS - 7) // 10)
    answer = browser.submit("/speak", FORM | {"text": text})
    assert answer.status_code == 303
    browser.submit(f"{answer.headers['location']}/cancel")
    assert browser.submit("/speak", FORM | {"text": text + word}).status_code == 422


def test_back_is_pressed_once(browser, gate):
    """An address comes into the browser's history where it is another one."""
    address = browser.submit("/speak", FORM, headers=HTMX).headers["hx-push-url"]
    there = HTMX | {"hx-current-url": f"http://127.0.0.1{address}?page=1"}
    assert "hx-push-url" not in browser.submit(f"{address}/cancel", headers=there).headers
    elsewhere = HTMX | {"hx-current-url": "http://127.0.0.1/speak"}
    assert browser.submit(f"{address}/cancel", headers=elsewhere).headers["hx-push-url"] == address


def test_a_text_is_spoken_and_heard_while_it_is_spoken(browser, gate):
    answer = browser.submit("/speak", FORM, headers=HTMX)
    address = answer.headers["hx-push-url"]
    assert answer.headers["hx-retarget"] == "#speech"
    assert "data-begin" in answer.text
    assert f">{TEXT}</textarea>" in answer.text  # the form stays as it was, without a mistake
    assert f'href="{address}"' in answer.text  # in the history
    assert browser.get(f"{address}/stream?from=0").json() == {"sentences": [], "open": True, "total": 3}

    gate.let(1)
    found = until(lambda: browser.get(f"{address}/stream?from=0").json()["sentences"])
    assert [one["number"] for one in found] == [1]
    samples, rate = soundfile.read(io.BytesIO(browser.get(found[0]["src"]).content))
    assert (len(samples), rate) == (2400, 24000)
    # Reloaded, or in a second tab.
    for page in ("/speak", address):
        assert "Sentences spoken: 1 of 3" in browser.get(page).text
        assert "data-offered" in browser.get(page).text

    def unchanged():  # the task counts a sentence a moment after it can be heard
        revision = re.search(r"\?rev=(\w+)", browser.get(address, headers=HTMX).text)[1]
        return revision if browser.get(f"{address}?rev={revision}", headers=HTMX).status_code == 204 else None

    revision = until(unchanged)
    assert revision

    gate.let(2)
    assert until(lambda: state(browser, address) == "done")
    assert browser.get(f"{address}?rev={revision}", headers=HTMX).status_code == 200
    assert heard(browser, address) == [3, 4, 5]
    assert browser.get(f"{address}/stream?from=1").json()["open"] is False
    assert "nothing" not in browser.get("/speak").text.lower().split("<h2")[-1]


def test_cancelled_it_says_so_and_keeps_what_was_spoken(browser, gate):
    address = browser.submit("/speak", FORM).headers["location"]
    gate.let(2)
    assert until(lambda: "Sentences spoken: 2 of 3" in browser.get(address).text)
    assert browser.submit(f"{address}/cancel", headers=HTMX).status_code == 200
    assert until(lambda: state(browser, address) == "cancelled")
    assert "Cancelled. Sentences kept: 2 of 3." in browser.get(address).text
    assert heard(browser, address) == [3, 4]
    gate.all.set()
    assert browser.submit(f"{address}/go-on").status_code == 303
    assert until(lambda: state(browser, address) == "done")
    assert heard(browser, address) == [3, 4, 5]


def test_a_task_that_ends_while_it_is_looked_at_is_shown_open_or_with_its_sound(browser, gate, me, studio, monkeypatch):
    address = browser.submit("/speak", FORM).headers["location"]
    gate.let(1)
    assert until(lambda: "Sentences spoken: 1 of 3" in browser.get(address).text)
    speech, (task,) = Speech(me, address.rpartition("/")[2]), studio.tasks.list(me)
    sentences = Speech.sentences

    def late(self):
        task.cancel()
        until(lambda: not task.open)
        return sentences(self)

    with monkeypatch.context() as patch:
        patch.setattr(Speech, "sentences", late)
        seen = view_of(speech, studio.tasks)
    assert (seen.open, seen.sound is None) in ((True, True), (False, False))
    assert view_of(speech, studio.tasks).sound is not None


def test_the_second_waits_and_is_cancelled_at_once(browser, gate, studio, me):
    first = browser.submit("/speak", FORM).headers["location"]
    second = browser.submit("/speak", FORM | {"seed": "4"}).headers["location"]
    assert "Waits for its turn. Before it: 1." in browser.get(second).text
    assert browser.get("/tasks").text.count("Speaking: papa") >= 2
    assert until(lambda: state(browser, first) == "running")
    assert f'data-speech="{first.rpartition("/")[2]}"' in browser.get("/speak").text
    answer = browser.submit(f"{second}/cancel", headers=HTMX)
    assert 'data-state="cancelled"' in answer.text
    assert state(browser, first) == "running"
    gate.all.set()
    assert until(lambda: state(browser, first) == "done")
    assert state(browser, second) == "cancelled"
    assert heard(browser, first) == [3, 4, 5]


def test_a_mistake_stands_beside_its_field_and_the_last_result_stays(browser, gate):
    address = spoken(browser, gate)
    answer = browser.submit("/speak", FORM | {"seed": "many"}, headers=HTMX)
    assert answer.status_code == 422
    assert "hx-retarget" not in answer.headers
    assert 'id="speech"' not in answer.text
    assert re.search(r'id="seed-mistake"[^>]*>The seed is a whole number', answer.text)
    assert re.search(r'name="seed"[^>]*aria-describedby="seed-mistake" aria-invalid="true"', answer.text)
    assert "<details open>" in answer.text
    assert TEXT in answer.text
    assert browser.submit("/speak").status_code == 422  # nothing at all
    whole = browser.submit("/speak", FORM | {"text": ""})
    assert whole.status_code == 422
    assert "Write something to be spoken." in whole.text
    assert heard(browser, address) == [3, 4, 5]


def test_a_sentence_is_said_again_and_taken_back(browser, gate):
    address = spoken(browser, gate)
    assert "Undo" not in browser.get(address).text
    answer = browser.submit(f"{address}/again", {"sentence": "1"}, headers=HTMX)
    assert answer.status_code == 200
    assert "data-begin" not in answer.text
    assert until(lambda: state(browser, address) == "done")
    assert heard(browser, address) == [3, 5, 5]
    text = browser.get(address).text
    assert "Take back the earlier sentence 2" in text
    assert "Redo" not in text
    assert browser.submit(f"{address}/use", {"sentence": "1", "take": "0"}).status_code == 303
    assert heard(browser, address) == [3, 4, 5]
    assert "Redo" in browser.get(address).text
    for data in ({"sentence": "9", "take": "0"}, {"sentence": "1", "take": "7"}, {"sentence": "x"}, {}):
        assert browser.submit(f"{address}/use", data).status_code == 404, data
    assert browser.submit(f"{address}/again", {"sentence": "9"}).status_code == 404


def test_a_sentence_whose_sound_is_gone_is_said_again(browser, gate, me, monkeypatch):
    address = spoken(browser, gate)
    folder = me.folder / "speech" / address.rpartition("/")[2]
    (folder / "takes" / "0001-0.wav").write_bytes(b"RIFF")
    (folder / "speech.wav").unlink()
    assert "The sound of a sentence is gone or damaged." in browser.get(address).text
    assert browser.get(f"{address}/sound.wav").status_code == 422
    for sentence in ("0", "1"):
        assert browser.submit(f"{address}/again", {"sentence": sentence}).status_code == 303
        assert until(lambda: "aria-busy" not in browser.get(address).text)
    assert heard(browser, address) == [4, 5, 5]
    monkeypatch.setattr(view, "joined", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert "The disk is full, so the sentences could not be joined." in browser.get(address).text


def test_while_it_speaks_nothing_else_is_begun_with_it(browser, gate):
    address = browser.submit("/speak", FORM).headers["location"]
    gate.let(1)
    assert until(lambda: "1 of 3" in browser.get(address).text)
    answer = browser.submit(f"{address}/again", {"sentence": "0"}, headers=HTMX)
    assert answer.status_code == 422
    assert answer.headers["hx-retarget"] == "#speech-mistake"
    assert "still being spoken" in answer.text
    assert browser.submit(f"{address}/go-on").headers["location"] == address  # just that is being done


def test_the_same_again_and_with_another_seed(browser, gate, me):
    address = spoken(browser, gate)
    same = browser.submit(f"{address}/repeat", {"seed": "same"}).headers["location"]
    other = browser.submit(f"{address}/repeat", {"seed": "other"}).headers["location"]
    asked = [Speech(me, one.rpartition("/")[2]).asked() for one in (address, same, other)]
    assert asked[0].seed == asked[1].seed != asked[2].seed
    assert {one.text for one in asked} == {TEXT}
    assert 'name="seed" inputmode="numeric" autocomplete="off" value="3"' in browser.get(address).text
    assert until(lambda: state(browser, other) == "done")


def test_voice_and_language_are_remembered(browser, gate):
    assert 'value="model:tenor" selected' not in browser.get("/speak").text
    spoken(browser, gate, voice="model:tenor", language="nl")
    text = browser.get("/speak").text
    assert 'value="model:tenor" selected' in text
    assert 'value="nl" selected' in text
    assert 'value="model:bass" selected' in browser.get("/speak?voice=model:bass").text


def test_downloads(browser, gate):
    address = spoken(browser, gate)
    wav = browser.get(f"{address}/sound.wav?save")
    assert "attachment" in wav.headers["content-disposition"]
    assert browser.get(f"{address}/sound.wav", headers={"range": "bytes=0-1"}).status_code == 206
    mp3 = browser.get(f"{address}/sound.mp3")
    assert mp3.headers["content-type"] == "audio/mpeg"
    assert len(soundfile.read(io.BytesIO(mp3.content))[0]) >= 7200
    srt = browser.get(f"{address}/sound.srt")
    assert "papa-mino-lesu-tara-koni-sewu-papa-mino.srt" in srt.headers["content-disposition"]
    assert srt.text.count("-->") == 3
    for kind in ("ogg", "json"):
        assert browser.get(f"{address}/sound.{kind}").status_code == 404
    for file in ("..%2Fspeech.wav", "..%2Fasked.json", "0000-9.wav"):
        assert browser.get(f"{address}/takes/{file}").status_code == 404


def test_deleted_while_it_speaks(browser, gate, me, studio):
    address = browser.submit("/speak", FORM).headers["location"]
    gate.let(1)
    assert until(lambda: "1 of 3" in browser.get(address).text)
    assert browser.submit(f"{address}/delete").headers["location"] == "/speak"
    assert browser.get(address).status_code == 404
    assert until(lambda: [task.state for task in studio.tasks.list(me)] == ["cancelled"])
    assert not list((me.folder / "speech").iterdir())


def test_a_full_disk_is_one_sentence(browser, gate, me, monkeypatch):
    gate.all.set()
    with monkeypatch.context() as patch:
        patch.setattr(Speech, "add", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        address = browser.submit("/speak", FORM).headers["location"]
        assert until(lambda: state(browser, address) == "failed")
    assert "The disk is full. Sentences kept: 0." in browser.get(address).text
    assert "Go on" in browser.get(address).text

    def full(*_, **__):
        raise CheckpointError("x: not written, no space left on its disk; free some and run again")

    monkeypatch.setattr(begin, "new_speech", full)
    answer = browser.submit("/speak", FORM, headers=HTMX)
    assert answer.status_code == 422
    assert "so nothing was begun" in answer.text


def test_what_was_spoken_when_the_studio_ended_is_kept(browser, gate, me, studio, monkeypatch):
    address = browser.submit("/speak", FORM).headers["location"]
    gate.let(1)
    assert until(lambda: "1 of 3" in browser.get(address).text)
    later = Tasks(Home(studio.home.path))  # as after a restart
    later.close()
    with monkeypatch.context() as patch:
        patch.setattr(studio, "tasks", later)
        assert "Interrupted when the studio was closed. Sentences kept: 1 of 3." in browser.get(address).text
        assert heard(browser, address) == [3]


def test_the_history_is_per_person_and_paged(browser, gate, me, studio, monkeypatch):
    address = spoken(browser, gate)
    assert f'href="{address}"' in browser.get("/speak").text
    assert speeches(studio.home.person("ben")) == ([], 1)
    with monkeypatch.context() as patch:
        patch.setattr("mlx_voxclone.studio.web.access.ME", "ben")
        assert browser.get(address).status_code == 404
        assert browser.get(f"{address}/sound.wav").status_code == 404
    monkeypatch.setattr("mlx_voxclone.studio.speak.history.PER_PAGE", 1)
    later = spoken(browser, gate, seed="9")
    assert 'rel="next" href="/speak?page=2"' in browser.get("/speak").text
    assert f'href="{later}"' in browser.get("/speak").text
    assert f'href="{address}"' in browser.get("/speak?page=2").text
    for number in ("0", "-1", "x", "99999999999"):
        assert browser.get(f"/speak?page={number}").status_code == 200


def test_a_damaged_speech_can_be_deleted(browser, gate, me):
    address = spoken(browser, gate)
    folder = me.folder / "speech" / address.rpartition("/")[2]
    (folder / "asked.json").write_text('{"text": 1}')
    assert "This speech is damaged" in browser.get("/speak").text
    assert browser.submit(f"{address}/delete").status_code == 303
    assert not folder.exists()


def test_a_voice_is_brought_and_taken_away(browser, gate, me):
    content = (SPEAKING_FILES / "voice_embedding" / "alto.pt").read_bytes()
    answer = browser.submit("/speak/voices", files={"file": ("My alto.pt", content)}, headers=HTMX)
    assert answer.status_code == 200
    assert re.search(r'value="files:my-alto.pt" selected', answer.text)
    bad = browser.submit("/speak/voices", files={"file": ("a.wav", b"RIFF")}, headers=HTMX)
    assert bad.status_code == 422
    assert "A voice ends in .safetensors or .pt." in bad.text
    assert browser.submit("/speak/voices").status_code == 422
    large = browser.submit("/speak/voices", files={"file": ("a.pt", bytes(33 << 20))}, headers=HTMX)
    assert "A voice's file has up to 32 MB." in html.unescape(large.text)
    assert "files:my-alto.pt" in browser.get("/speak").text
    assert browser.submit("/speak/voices/delete", {"voice": "files:my-alto.pt"}).status_code == 303
    assert "files:my-alto.pt" not in browser.get("/speak").text


def test_a_long_text_shows_its_first_sentences(browser, gate, monkeypatch):
    monkeypatch.setattr(pages, "ROWS", 2)
    address = spoken(browser, gate)
    assert "Show more sentences (1)" in browser.get(address).text
    more = browser.get(f"{address}/rows?first=2", headers=HTMX)
    assert 'value="3"' in more.text
    assert "Show more" not in more.text


def test_without_a_model_the_way_to_one_is_shown(browser, me):
    text = browser.get("/speak").text
    assert 'href="/model">Choose a model first' in text
    assert browser.submit("/speak", FORM, headers=HTMX).status_code == 422
