"""Step 1: which model; a download that shows how far it is and can be cancelled; what this machine can train."""

import html
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from visiting import Browser, ended
from waiting import wait_for

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.process.network import Names
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.model import choice, fetch, machine
from mlx_voxclone.studio.model.amounts import about, gigabytes
from mlx_voxclone.studio.tasks import Tasks
from mlx_voxclone.studio.train import plan
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.languages import languages, texts, words_in

pytest_plugins = ["hub_fixtures"]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    from mlx_voxclone.miniature.micro import make_micro

    return make_micro(tmp_path_factory.mktemp("model") / "tiny")


def mistake(function, *arguments):
    with pytest.raises(Mistake) as caught:
        function(*arguments)
    return caught.value


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_nothing_is_chosen_at_first(me):
    assert choice.chosen(me) is None


def test_the_rehearsal_is_made_in_the_studios_folder(me):
    found = choice.rehearsal(me.home)
    choice.choose(me, found)
    assert Path(found.model).is_relative_to(me.home.path)
    assert choice.chosen(me) == found
    assert found.encoder.is_file()
    assert me.settings()["encoder"] == str(found.encoder)
    Release(found.model).check()


def test_a_folder_that_holds_a_model_is_taken(me, miniature):
    for typed in (str(miniature), f" '{miniature}' ", f"file://{miniature}"):
        assert choice.folder(typed) == choice.Chosen("folder", str(miniature))
    choice.choose(me, choice.folder(str(miniature)))
    assert choice.chosen(me).model == str(miniature)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("", "empty"),
        ("  ''  ", "empty"),
        ("models/voxtral", "relative"),
        ("/nowhere/at/all", "missing"),
        ("/a\0b", "no_path"),
        ("/" + "a" * 300, "no_path"),
        ("$NO_SUCH_VARIABLE_AT_ALL/x", "no_path"),
        (__file__, "file"),
        (str(Path(__file__).parent), "no_model"),
    ],
)
def test_another_folder_is_one_sentence_beside_its_field(typed, key):
    found = mistake(choice.folder, typed)
    assert (found.field, found.key) == ("folder", f"model.mistake.{key}")
    assert words_in("de")(found.key, **found.values)


@pytest.mark.parametrize(("address", "field"), [("/model/folder", "folder"), ("/model/hub", "hub")])
def test_nobody_elsewhere_has_this_machine_read_or_fetch_a_model(studio, me, miniature, address, field):
    door = Access(application(studio), Names("127.0.0.1"), tell=closed)
    elsewhere = Browser(door, base_url="http://127.0.0.1", client=("192.0.2.7", 1))
    answer = elsewhere.submit(address, {field: str(miniature) if field == "folder" else choice.OFFICIAL})
    assert answer.status_code == 422
    assert words_in("en")("model.not_here") in html.unescape(answer.text)
    assert choice.chosen(me) is None
    assert not studio.tasks.list(me)


def test_a_damaged_model_is_told_at_once(tmp_path, miniature):
    for path in miniature.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])
    found = mistake(choice.folder, str(tmp_path))
    assert found.key == "model.mistake.unusable"
    assert "consolidated.safetensors" in found.line


@pytest.mark.parametrize(
    "typed", [choice.OFFICIAL, f"https://huggingface.co/{choice.OFFICIAL}/", f"hf://{choice.OFFICIAL}"]
)
def test_the_hubs_name_may_be_its_address(typed):
    assert choice.hub_id(typed) == choice.OFFICIAL


@pytest.mark.parametrize("typed", ["", "voxtral", "a/b/c", "../../x", "https://evil.example/a/b"])
def test_what_is_no_name_is_refused(typed):
    assert mistake(choice.hub_id, typed).field == "hub"


# ---- the download ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(hub, monkeypatch, miniature, tmp_path):
    """The hub's stand-in, for processes too, with a model on it."""
    import huggingface_hub.constants as constants

    for name, value in (
        ("HF_ENDPOINT", hub.url),
        ("HF_HUB_CACHE", constants.HF_HUB_CACHE),
        ("HF_HUB_DISABLE_XET", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    files = {p.relative_to(miniature).as_posix(): p.read_bytes() for p in miniature.rglob("*") if p.is_file()}
    hub.make("ann/voxtral", {**files, "other.bin": b"not needed"})
    return hub


def test_a_model_is_fetched_with_progress_and_then_chosen(me, studio, stand_in):
    seen = []
    task = studio.tasks.start(
        me, fetch.KIND, "x", lambda task: fetch.fetch(watched(task, seen), "ann/voxtral"), lane="files"
    )
    assert ended(task).state == "done", task.error
    assert choice.chosen(me) == choice.Chosen("hub", "ann/voxtral")
    assert fetch.is_fetched("ann/voxtral")
    assert seen[-1] == (task.result["bytes"], task.result["bytes"])
    assert all(done <= total for done, total in seen if total)
    assert not any("other.bin" in asked for asked in stand_in.requests if asked.startswith("GET /ann"))
    assert Release("ann/voxtral").voices()


def watched(task, seen):
    progress = task.progress
    task.progress = lambda done, total, what="": seen.append((done, total)) or progress(done, total, what)
    return task


def test_a_download_is_cancelled_at_once_and_chooses_nothing(me, studio, stand_in, monkeypatch):
    began, go = threading.Event(), threading.Event()
    monkeypatch.setattr(fetch, "_bytes", lambda folder: began.set() or 0)
    stand_in.fail(r"resolve", 503)  # the library tries again and again
    task = studio.tasks.start(me, fetch.KIND, "x", lambda task: fetch.fetch(task, "ann/voxtral"), lane="files")
    assert began.wait(20)
    task.cancel()
    assert ended(task, 10).state == "cancelled"
    go.set()
    assert choice.chosen(me) is None


@pytest.mark.parametrize("name", ["ann/nothing", "ann/other"])
def test_what_the_hub_does_not_have_is_one_line(me, studio, stand_in, name):
    stand_in.make("ann/other", {"README.md": b"a card"})
    task = studio.tasks.start(me, fetch.KIND, "x", lambda task: fetch.fetch(task, name), lane="files")
    assert ended(task).state == "failed"
    assert name in task.error
    assert "\n" not in task.error
    assert choice.chosen(me) is None


# ---- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gigabytes", "name"), [(8, "mac-16gb"), (17.2, "mac-16gb"), (34, "mac-32gb"), (69, "mac-64gb"), (500, "mac-64gb")]
)
def test_the_profile_is_that_of_the_memory(gigabytes, name):
    found = plan.profile(replace(this_machine(), memory=int(gigabytes * 1e9)))
    assert found == name
    assert load_run_config(found).task == "clone"
    assert words_in("en")(f"model.profile.{found.replace('-', '_')}")


FOUND = {
    "machine": {"usable": 12e9},
    "stages": [
        {"stage": "pairs", "peak": 9e9, "seconds": 600.0},
        {"stage": "base encoder", "peak": 4e9, "seconds": 1200.0},
        {"stage": "encoder, on judged codes", "peak": 4e9, "seconds": 60.0},
        {"stage": "speaker", "peak": 11.5e9, "seconds": 3600.0},
    ],
    "disk": {"baked checkpoint": 8e9, "adapters": 1e9},
    "free": 100e9,
    "cache_disk": {"needed": {"pairs": 3e9}, "free": 2e9},
}


def test_what_doctor_finds_is_told_in_plain_words():
    found = machine.summary(FOUND)
    assert (found["memory"], found["memory_verdict"]) == (11.5e9, "tight")
    assert (found["seconds"], found["once"]) == (5460.0, 1800.0)
    assert (found["disk"], found["free"], found["disk_verdict"]) == (3e9, 2e9, "too_small")
    assert [name for name, _ in found["parts"]] == ["pairs", "base_encoder", "again", "speaker"]
    for code in languages():
        t = words_in(code)
        for key in [f"model.part.{part}" for part in machine.PARTS] + [
            "model.verdict.tight",
            "model.verdict.too_small",
        ]:
            assert t(key)


def test_the_trials_are_doctors_and_can_be_cancelled(me, studio, tmp_path):
    program = tmp_path / "doctor.py"
    program.write_text(f"import sys, time\nassert sys.argv[1] == 'doctor'\nprint({json.dumps(json.dumps(FOUND))})\n")
    chosen = choice.Chosen("hub", choice.OFFICIAL)

    def start(command):
        work = lambda task: machine.forecast(task, chosen, this_machine(), tmp_path, command)  # noqa: E731
        return studio.tasks.start(me, machine.KIND, "x", work, lane="files")

    task = ended(start([sys.executable, str(program)]))
    assert task.state == "done", task.error
    assert (task.result["model"], task.result["seconds"]) == (choice.OFFICIAL, 5460.0)
    program.write_text("import sys\nsys.exit('error: no room')")
    assert ended(start([sys.executable, str(program)])).error == "no room"
    program.write_text("import time\ntime.sleep(100)")
    task = start([sys.executable, str(program)])
    wait_for(lambda: task.state != "waiting")
    task.cancel()
    assert ended(task, 10).state == "cancelled"


def test_a_machine_can_be_tried_before_anything_is_fetched(browser, me, studio, monkeypatch):
    asked = []
    monkeypatch.setattr(machine, "forecast", lambda task, chosen, *rest: asked.append(chosen) or machine.summary(FOUND))
    browser.submit("/model/forecast")
    [task] = studio.tasks.list(me, machine.KIND)
    assert ended(task).state == "done"
    assert asked == [choice.Chosen("hub", choice.OFFICIAL)]
    monkeypatch.setattr(task, "result", {"model": choice.OFFICIAL, **machine.summary(FOUND)})
    text = browser.get("/model", headers={"accept-language": "de"}).text
    assert "12 GB von 12 GB: reicht knapp" in text
    assert "1 Std. 30 Min., davon 30 Min. nur beim ersten Mal" in text
    assert "3,0 GB von 2,0 GB: reicht nicht" in text


def test_times_and_sizes_are_those_of_the_language():
    t = words_in("de")
    told = [about(s, t) for s in (0.2, 40, 300, 7800, 7200)]
    assert told == ["1 Sek.", "40 Sek.", "5 Min.", "2 Std. 10 Min.", "2 Std."]
    assert [gigabytes(size, t) for size in (12.4e9, 3.25e9, 51.4e6, 0)] == ["12 GB", "3,2 GB", "51 MB", "0 MB"]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_leads_from_nothing_to_the_rehearsal(browser, me):
    assert "No model is chosen yet" in browser.get("/model").text
    assert browser.submit("/model/rehearsal").headers["location"] == "/model"
    text = browser.get("/model").text
    assert "Chosen: the rehearsal" in text
    assert 'href="/voices/new"' in text
    project = me.new_project("Ann", "en")
    assert f'href="/voices/{project.id}/record"' in browser.get("/model").text


def test_a_mistake_stays_beside_its_field_and_leaves_the_choice(browser, me):
    browser.submit("/model/rehearsal")
    answer = browser.submit("/model/folder", {"folder": "/no<where>"}, headers={"hx-request": "true"})
    assert answer.status_code == 422
    assert "<html" not in answer.text
    assert 'value="/no&lt;where&gt;"' in answer.text
    assert 'id="folder-mistake" role="alert">There is no such folder' in answer.text
    assert choice.chosen(me).rehearses
    assert "<html" in browser.submit("/model/hub", {"hub": "x"}).text


def test_a_download_is_shown_and_cancelled_on_the_page(browser, me, studio, stand_in):
    stand_in.fail(r"GET /api/models/ann/voxtral", 503)
    browser.submit("/model/hub", {"hub": "ann/voxtral"})
    [task] = studio.tasks.list(me, fetch.KIND)
    text = browser.get("/model/download").text
    assert "ann/voxtral" in text
    ended(task)
    text = browser.get("/model/download").text
    assert "the hub has a problem" in text
    assert 'id="chosen" hx-swap-oob' in text


def test_a_restart_tells_of_a_download_that_was_open(studio, me, stand_in):
    task = studio.tasks.start(me, fetch.KIND, "Fetching", lambda task: {"model": "x"}, lane="files")
    ended(task)
    again = Tasks(studio.home)
    assert [one.state for one in again.list(me, fetch.KIND)] == ["done"]
    again.close()


def test_texts_name_no_raw_keys():
    for code in languages():
        words = " ".join(text for key, text in texts(code).items() if key.startswith(("model.", "train.")))
        for key in ("learning_rate", "batch_size", "patience", "lora", "quantise", "eval_every", "zero-shot"):
            assert key not in words
