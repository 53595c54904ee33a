"""Step 3 as a person sees it: a training begun, watched, paused, cancelled, and what it delivers. A stand-in trains."""

import json
import re
import sys
import time

import numpy as np
import pytest
from places import TESTS

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.studio.model import choice
from mlx_voxclone.studio.train.outcome import reason
from mlx_voxclone.studio.train.trainings import Trainings
from mlx_voxclone.studio.web.languages import words_in
from mlx_voxclone.train.clone.deliver import ADAPTED, WORSE, ZERO_SHOT, Measured, choose
from mlx_voxclone.train.clone.voice import Voice

STAND_IN = (sys.executable, str(TESTS / "helpers" / "train_stand_in.py"))


@pytest.fixture
def trainings(studio, tmp_path):
    studio.trainings = Trainings(studio.home, tmp_path / "machine.lock", STAND_IN)
    studio.trainings.watch()
    yield studio.trainings
    for person in studio.home.people():
        for project in person.projects():
            studio.trainings.leave(project)
    studio.trainings.close()


@pytest.fixture
def voice(me, trainings):
    """A voice of five recordings."""
    project = recorded(me)
    choice.choose(me, choice.rehearsal(me.home))
    return project


def recorded(person, count=5, **wanted):
    project = person.new_project("Ann's Stimme", "de")
    project.change(consent={"who": "Ann", "when": "today", "purpose": "tests", "statement": "yes"})
    project.uploads.mkdir()
    for k in range(1, count + 1):
        write_wav(project.uploads / f"{k:04d}-00aa.wav", np.full(2400, 0.1, np.float32))
        notes = {"text": f"Satz {k}.", "suffix": ".wav", "check": {"speech": 0.1, "state": "good"}}
        (project.uploads / f"{k:04d}-00aa.json").write_text(json.dumps(notes))
    (project.folder / "stand_in.json").write_text(json.dumps({"steps": 10_000} | wanted))
    return project


def until(trainings, project, *names, seconds=20.0):
    end = time.monotonic() + seconds
    while (state := trainings.state(project)).name not in names and time.monotonic() < end:
        time.sleep(0.01)
    assert state.name in names, state


def place(project):
    return f"/voices/{project.id}/train"


def stepped(trainings, project):
    end = time.monotonic() + 20
    while not (stage := trainings.look(project).stage) or stage.step < 3:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_missing_is_said_beside_the_button(browser, me, trainings):
    project = me.new_project("Empty", "en")
    assert "No model is chosen yet" in browser.get(place(project)).text
    assert browser.submit(f"{place(project)}/start", {"how": "anew"}).status_code == 422
    choice.choose(me, choice.rehearsal(me.home))
    answer = browser.submit(f"{place(project)}/start", {"how": "anew"}, headers={"hx-request": "true"})
    assert (answer.status_code, "no consent" in answer.text) == (422, True)
    project.change(consent={"who": "Ann"})
    assert "no recordings with a text" in browser.get(place(project)).text
    few = recorded(me, 2)
    answer = browser.submit(f"{place(few)}/start", {"how": "anew"})
    assert "Recordings with a text: 2. At least 4" in answer.text
    assert trainings.state(few).name == "none"


def test_a_model_that_is_gone_is_a_sentence_and_leaves_the_last_result(browser, me, voice, trainings):
    (voice.run).mkdir()
    (voice.run / "config.yaml").write_text("")
    for gone, words in (
        (choice.Chosen("hub", "ann/no-such-model"), "not on this machine any more"),
        (choice.Chosen("folder", "/no/such/folder"), "The model cannot be used"),
    ):
        choice.choose(me, gone)
        answer = browser.submit(f"{place(voice)}/start", {"how": "anew"}, headers={"hx-request": "true"})
        assert (answer.status_code, words in answer.text) == (422, True)
        assert (voice.run / "config.yaml").is_file()
        assert not (voice.folder / "earlier").exists()


def test_a_training_is_watched_paused_gone_on_with_and_cancelled(browser, voice, trainings):
    assert browser.submit(f"{place(voice)}/start", {"how": "anew"}).status_code == 303
    stepped(trainings, voice)
    text = browser.get(place(voice)).text
    assert "Step " in text
    assert 'max="10000"' in text
    assert '<svg class="curves"' in text
    part = browser.submit(f"{place(voice)}/pause", headers={"hx-request": "true"})
    assert "<html" not in part.text
    until(trainings, voice, "paused")
    assert "What it has learnt is saved" in browser.get(place(voice)).text
    browser.submit(f"{place(voice)}/start", {"how": "resume"})
    assert trainings.state(voice).name == "running"
    began = time.monotonic()
    browser.submit(f"{place(voice)}/cancel")
    until(trainings, voice, "cancelled")
    assert time.monotonic() - began < 10
    text = browser.get(place(voice)).text
    assert "the recordings are still there" in text
    assert "Train this voice" in text
    assert not voice.run.exists()


def test_the_page_asks_and_is_told_what_is_new(browser, voice, trainings):
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    stepped(trainings, voice)
    asks = re.search(r'hx-get="([^"]+/status[^"]+)"', browser.get(place(voice)).text)[1].replace("&amp;", "&")
    same = browser.get(asks)
    assert "hx-retarget" not in same.headers
    assert 'id="status"' in same.text
    assert "samples" not in same.text.split('id="status"')[1].split("hx-get")[0]
    folder = voice.run / "speaker" / "samples" / "step-5"
    folder.mkdir(parents=True)
    write_wav(folder / "001.wav", np.full(2400, 0.1, np.float32))
    told = browser.get(asks).text
    assert 'hx-swap-oob="beforeend:#samples"' in told
    assert f'src="{place(voice)}/run/speaker/samples/step-5/001.wav"' in told
    assert 'data-play="Play"' in told
    voice.person.change_settings(language="de")
    assert 'data-play="Abspielen"' in browser.get(asks).text
    voice.person.change_settings(language="en")
    sound = browser.get(f"{place(voice)}/run/speaker/samples/step-5/001.wav", headers={"range": "bytes=0-99"})
    assert (sound.status_code, len(sound.content)) == (206, 100)
    again = re.search(r'hx-get="([^"]+)"', told)[1].replace("&amp;", "&")
    told = browser.get(again).text
    assert 'id="drawing-speaker-1" hx-swap-oob="innerHTML"><svg' in told
    assert told.count("hx-swap-oob") == 1
    trainings.pause(voice)
    until(trainings, voice, "paused")
    other = browser.get(again)
    assert other.headers["hx-retarget"] == "#training"
    assert "What it has learnt is saved" in other.text


def test_a_page_without_curves_is_sent_none(browser, voice):
    """What the run was like before it was deleted may differ from what the page was made with."""
    asked = re.search(r'hx-get="([^"]*/status[^"]*)"', browser.get(place(voice)).text)[1].replace("&amp;", "&")
    assert "curves=" in asked
    answer = browser.get(re.sub(r"curves=[^&]*", "curves=others", asked))
    assert answer.status_code == 204
    assert not answer.text


def test_only_the_voices_own_files_are_served(browser, voice, trainings):
    voice.run.mkdir()
    (voice.run / "config.yaml").write_text("secret")
    write_wav(voice.folder / "outside.wav", np.full(240, 0.1, np.float32))
    for path in ("config.yaml", "../outside.wav", "%2e%2e/outside.wav", "report/index.html", "nothing.wav"):
        assert browser.get(f"{place(voice)}/run/{path}").status_code == 404, path
    other = recorded(browser.app._app.state.studio.home.person("bob"))
    assert browser.get(place(other)).status_code == 404


def test_a_failure_tells_the_line_and_what_to_do(browser, me, voice, trainings):
    (voice.folder / "stand_in.json").write_text(json.dumps({"fail": "/x: no space left: 9 GB needed"}))
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    until(trainings, voice, "failed")
    text = browser.get(place(voice)).text
    assert "/x: no space left: 9 GB needed" in text
    assert "not enough space on the disk. Free some" in text
    log = browser.get(f"{place(voice)}/log")
    assert "attachment" in log.headers["content-disposition"]
    assert "no space left" in log.text


def test_the_end_says_what_was_delivered_and_why(browser, voice, trainings):
    (voice.folder / "stand_in.json").write_text(json.dumps({"steps": 3}))
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    until(trainings, voice, "done")
    measured = [
        {"name": "zero-shot", "dissimilarity": 0.5, "error_rate": 0.125, "unexplained": 0.3},
        {"name": "adapted", "dissimilarity": 0.25, "error_rate": None},
    ]
    summary = {
        "delivered": {
            "name": "zero-shot",
            "why": "adapting made it worse (error_rate 0.1 -> 0.3)",
            "measured": measured,
        },
        "baked": {"voice": "ann"},
        "seconds": 125.0,
        "speech": [{"text": "Satz <1>.", "after": {"file": "samples/after-1.wav"}}],
    }
    (voice.run / "summary.json").write_text(json.dumps(summary))
    (voice.run / "samples").mkdir()
    write_wav(voice.run / "samples" / "after-1.wav", np.full(2400, 0.1, np.float32))
    (voice.run / "report").mkdir()
    (voice.run / "report" / "index.html").write_text("<h1>Report</h1><script>1</script>")
    text = browser.get(place(voice), headers={"accept-language": "de"}).text
    assert "Die Stimme ist fertig" in text
    assert "falsch verstandene Zeichen: 0,1 → 0,3" in text
    assert ">50,0 %<" in text
    assert ">75,0 %<" in text
    assert "nicht gemessen" in text
    assert "nur nach dem Spektrum" in text
    assert "Satz &lt;1&gt;." in text
    report = browser.get(f"{place(voice)}/run/report/index.html")
    assert "<h1>Report" in report.text
    assert "script-src 'sha256-" in report.headers["content-security-policy"]


def test_training_again_puts_the_result_aside(browser, studio, voice, trainings, monkeypatch):
    forgotten = []
    monkeypatch.setattr(studio.models, "forget", forgotten.append)
    (voice.folder / "stand_in.json").write_text(json.dumps({"steps": 2}))
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    until(trainings, voice, "done")
    (voice.folder / "stand_in.json").write_text(json.dumps({"steps": 10_000}))
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    assert trainings.state(voice).name == "running"
    assert (voice.folder / "earlier" / "1" / "summary.json").is_file()
    assert not forgotten  # by the thread that computes alone
    studio.tasks._take_steps()
    assert set(forgotten) == {voice.run}


def test_going_on_from_an_old_page_does_not_touch_what_is_done(browser, voice, trainings):
    (voice.folder / "stand_in.json").write_text(json.dumps({"steps": 3}))
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    until(trainings, voice, "done")
    assert browser.submit(f"{place(voice)}/start", {"how": "resume"}).status_code == 303
    assert trainings.state(voice).name == "done"


def test_a_second_voice_waits_and_says_so(browser, me, voice, trainings):
    other = recorded(me)
    browser.submit(f"{place(voice)}/start", {"how": "anew"})
    browser.submit(f"{place(other)}/start", {"how": "anew"})
    text = browser.get(place(other)).text
    assert "Trainings before it: 1" in text
    assert f'href="{place(voice)}"' in text
    tasks = browser.get("/tasks").text
    assert f'href="{place(voice)}"' in tasks
    assert f'action="{place(other)}/cancel"' in tasks
    browser.submit(f"{place(other)}/cancel")
    assert trainings.state(other).name == "none"


@pytest.mark.parametrize("code", ["en", "de"])
def test_every_reason_of_the_command_is_a_sentence_of_the_page(code):
    """Words of `choose` that the page does not know would stand there in English."""
    t = words_in(code)

    def measured(name, **values):
        return Measured(name, Voice("a", np.zeros((37, 1), np.int32), ""), {k: np.array(v) for k, v in values.items()})

    zero = measured(ZERO_SHOT, code_loss=[2.0, 2.0], **{name: [0.1, 0.1] for name in WORSE})
    cases = [
        (choose(zero, measured(ADAPTED), 0.5, 0.1), "drift"),
        (choose(zero, measured(ADAPTED, code_loss=[3.0, 3.0]), None, 0.1), "no_nearer"),
        (choose(zero, measured(ADAPTED, code_loss=[1.0, 1.0]), None, 0.1), "better"),
        (choose(zero, measured(ADAPTED), None, 0.1), "no_worse"),
        *((choose(zero, measured(ADAPTED, **{name: [0.3, 0.3]}), None, 0.1), "worse") for name in WORSE),
    ]
    for (_, why), key in cases:
        words = t(f"train.why.{key}").partition("{")[0].rstrip(" (")
        assert reason(why, t).startswith(words), why
    for name in WORSE:
        assert f"{name} 0.1" not in reason(f"adapting made it worse ({name} 0.1 -> 0.2, {name} 1 -> 2)", t)


def test_a_second_click_shows_the_training(browser, voice, trainings):
    for _ in range(2):
        assert browser.submit(f"{place(voice)}/start", {"how": "anew"}).status_code == 303
        assert trainings.state(voice).name == "running"
    stepped(trainings, voice)
    answer = browser.submit(f"{place(voice)}/start", {"how": "anew"}, headers={"hx-request": "true"})
    assert answer.status_code == 200
    assert trainings.state(voice).name == "running"
    assert not (voice.folder / "earlier").exists()
