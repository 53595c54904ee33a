"""What all steps of the studio share: folders, tasks, texts, the way in."""

import re
import shutil
import threading
import time
from importlib import resources

import pytest
from starlette.routing import Route
from visiting import ended

from mlx_voxclone.errors import DataError
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.mistakes import Cancelled, Missing, Size
from mlx_voxclone.studio.model.amounts import about, decimal, typed
from mlx_voxclone.studio.tasks import Task, Tasks
from mlx_voxclone.studio.train.curves import Line, Plot, svg
from mlx_voxclone.studio.troubles import ENDED
from mlx_voxclone.studio.web.languages import chosen, languages, texts, words_in
from mlx_voxclone.studio.web.pages import clock

STEPS = ("/model", "/voices", "/voices/new", "/speak", "/tasks")
_KEY = re.compile(r"""\bt\(\s*["']([a-z_]+(?:\.[a-z_0-9]+)+)["']""")


@pytest.mark.parametrize("address", STEPS)
def test_a_page_answers_in_every_language(browser, address):
    for code in languages():
        answer = browser.get(address, headers={"accept-language": code})
        assert answer.status_code == 200
        assert f'<html lang="{code}">' in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_what_is_not_there_is_a_page(browser):
    for address in ("/nothing", "/tasks/0123456789ab", "/voices/0123456789ab/record"):
        answer = browser.get(address)
        assert answer.status_code == 404, address
        assert "<h1>" in answer.text


@pytest.mark.parametrize("code", languages())
def test_what_is_wrong_is_said_in_the_pages_language(browser, code):
    """Not in the words of the server, which are English."""
    there, headers = texts(code), {"accept-language": code}
    assert there["common.missing"] in browser.get("/nothing", headers=headers).text
    assert there["common.missing"] in browser.get("/voices/0123456789ab/record", headers=headers).text
    assert there["common.old_form"] in browser.post("/language", headers=headers).text


def test_the_page_of_a_mistake_can_be_reloaded_and_told_in_another_language(browser, me):
    """It is the answer to a form, whose address takes forms alone: what is asked for there is the page of the form."""
    voice = me.new_project("Ann", "en")
    routes = [route for route in browser.app._app.routes if isinstance(route, Route)]
    for route in (route for route in routes if "GET" not in route.methods):
        if not route.param_convertors.keys() <= {"project"}:
            continue
        address = route.path.replace("{project}", voice.id)
        if address in ("/language", "/voices/brought/delete"):  # never tell a mistake of their own
            continue
        found = browser.get(address)
        assert found.status_code == 200, address
        assert address.startswith(found.url.path), address
        assert "<h1" in found.text
    wrong = browser.submit(f"/voices/{voice.id}/rename", {"title": ""})
    assert wrong.status_code == 422
    chosen = browser.submit("/language", {"language": "de"}, headers={"referer": str(wrong.url)}, follow_redirects=True)
    assert (chosen.status_code, chosen.url.path) == (200, f"/voices/{voice.id}")
    assert browser.get("/voices/0123456789ab/rename").status_code == 404
    assert browser.get("/speak/0123456789ab/cancel").status_code == 404


def test_other_names_are_refused(browser):
    assert browser.get("/model", headers={"host": "evil.example"}).status_code == 403
    assert browser.get("/model", headers={"origin": "http://evil.example"}).status_code == 403


def test_a_form_of_somebody_elses_is_refused(browser, me):
    assert browser.post("/language", data={"language": "de"}).status_code == 403
    assert browser.post("/language", data={"language": "de", "csrf": "é"}).status_code == 403
    assert browser.submit("/language", {"language": "de"}).status_code == 303
    assert me.settings() == {"language": "de"}
    assert '<html lang="de">' in browser.get("/model").text


@pytest.mark.parametrize(
    ("referer", "leads_to"),
    [
        ("http://127.0.0.1/voices?page=2", "http://127.0.0.1/voices?page=2"),
        ("http://evil.example/voices", "/"),
        ("http://127.0.0.1@evil.example/", "/"),
        ("//evil.example/", "/"),
        ("javascript://127.0.0.1/", "/"),
        ("http://[/", "/"),
        ("", "/"),
    ],
)
def test_another_language_leads_nowhere_else(browser, referer, leads_to):
    answer = browser.submit("/language", {"language": "de"}, headers={"referer": referer})
    assert (answer.status_code, answer.headers["location"]) == (303, leads_to)


def test_every_language_has_the_same_texts():
    english = texts("en")
    for code in languages():
        other = texts(code)
        assert sorted(other) == sorted(english)
        for key, text in english.items():
            assert set(re.findall(r"{\w+", other[key])) == set(re.findall(r"{\w+", text)), f"{code}: {key}"


def test_every_text_that_a_page_names_is_there():
    root = resources.files("mlx_voxclone.studio")
    files = [path for pattern in ("*.html", "*.py") for path in root.rglob(pattern)]
    named = {key for path in files for key in _KEY.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert named <= set(texts("en"))


def test_the_language_is_the_browsers_until_one_is_chosen():
    assert chosen(None, "fr;q=1, de-AT;q=0.9, en;q=0.8") == "de"
    assert chosen(None, "xx, ;q=, de;q=nonsense") == "en"
    assert chosen("de", "en") == "de"
    assert chosen("xx", "") == "en"
    with pytest.raises(KeyError):
        words_in("de")("no.such.text")


def test_people_and_voices(tmp_path):
    home = Home(tmp_path / "studio")
    ann, ben = home.person("ann"), home.person("ben")
    voice = ann.new_project("Ann's voice", "de")
    assert voice.info()["title"] == "Ann's voice"
    assert [each.id for each in ann.projects()] == [voice.id]
    assert not ben.projects()
    with pytest.raises(Missing):
        ben.project(voice.id)
    for name in ("", "..", "Ann", "a/b", "a" * 41):
        with pytest.raises(Missing):
            home.person(name)
    for id in ("", "..", "../../ann", voice.id.upper() + "x"):
        with pytest.raises(Missing):
            ann.project(id)


def test_a_change_brings_no_deleted_voice_back(me):
    voice = me.new_project("Ann", "en")
    shutil.rmtree(voice.folder)
    with pytest.raises(Missing):
        voice.change(title="Anna")
    assert not voice.folder.exists()


def test_a_task_tells_its_progress_and_result(studio, me, computing):
    task = studio.tasks.start(
        me, "speak", "A sentence", lambda task: task.progress(1, 2, "speaking") or {"seconds": 1.5}
    )
    assert ended(task).state == "done"
    assert (task.done, task.total, task.what, task.result) == (1, 2, "speaking", {"seconds": 1.5})


def test_what_was_there_before_tells_nothing_of_the_time_left(me, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    task = Task(me, "download", "A model", None, "files")
    task.begin()
    now = 100.0  # of loading, say
    task.progress(700, 1000)  # fetched by an earlier one
    assert task.left is None
    now = 110.0
    task.progress(800, 1000)
    assert task.left == 20.0
    task.progress(0, 3, "another part")
    assert task.left is None
    now = 112.0
    task.progress(1, 3)
    assert task.left == 4.0


def test_a_page_shows_one_state_of_a_task(studio, me):
    """One that ends while a page is made of it would be shown as done in one place and as running in another."""
    task = studio.tasks.start(me, "speak", "A sentence", lambda task: None)
    (shown,) = studio.tasks.shown(me)
    task.state = "done"
    assert (shown.state, shown.id) == ("waiting", task.id)
    assert studio.tasks.shown(me)[0].state == "done"
    shown.cancel()
    with pytest.raises(Cancelled):
        task.check()


def test_a_mistake_is_one_line(studio, me, computing):
    def work(task):
        raise DataError("the clip is silent")

    task = ended(studio.tasks.start(me, "speak", "A sentence", work))
    assert (task.state, task.error) == ("failed", "the clip is silent")


@pytest.mark.parametrize("lane", ["compute", "files"])
def test_a_task_is_cancelled_while_it_runs_and_while_it_waits(studio, me, computing, browser, lane):
    running = threading.Event()

    def work(task):
        running.set()
        while True:
            time.sleep(0.01)
            task.check()

    first, second = (studio.tasks.start(me, "speak", name, work, lane=lane) for name in ("first", "second"))
    assert running.wait(5)
    assert studio.tasks.ahead_of(second) == 1
    assert browser.submit(f"/tasks/{second.id}/cancel").status_code == 303
    assert second.state == "cancelled"  # at once: the first one still runs
    assert first.state == "running"
    assert browser.submit(f"/tasks/{first.id}/cancel", headers={"hx-request": "true"}).status_code == 200
    assert ended(first).state == ended(second).state == "cancelled"


def test_what_ran_when_the_studio_ended_is_told(tmp_path):
    home = Home(tmp_path)
    me = home.person("me")
    tasks = Tasks(home)
    done = tasks.start(me, "bake", "done", lambda task: {"path": "x"}, lane="files")
    ended(done)
    tasks.start(me, "speak", "open", lambda task: None)  # nobody computes
    later = Tasks(home)
    found = {task.title: task for task in later.list(me)}
    assert (found["done"].state, found["done"].result) == ("done", {"path": "x"})
    assert (found["open"].state, found["open"].error) == ("failed", ENDED)
    assert not later.list(home.person("ben"))
    tasks.close()
    later.close()


def test_clock():
    assert [clock(seconds) for seconds in (None, 0, 75.4, 3675)] == ["–", "0:00", "1:15", "1:01:15"]


def test_numbers_are_written_as_the_language_writes_them():
    german, english = words_in("de"), words_in("en")
    assert "1,6 kHz" in german("record.check.narrow", value=1.6)
    assert "1.6 kHz" in english("record.check.narrow", value=1.6)
    assert "(\N{MINUS SIGN}42 dB)" in german("record.check.quiet", value=-42.0)
    assert "20\N{NARROW NO-BREAK SPACE}000 Zeichen" in german("speak.too_long", letters=20000, most=9)
    assert "20,000 letters" in english("speak.too_long", letters=20000, most=9)
    assert german("speak.seed_is", seed=1234567).endswith("1234567")
    needed, free = Size(1_500_000_000), Size(12_000)
    assert "1,50 GB" in german("keep.wrong.space", needed=needed, free=free)
    assert "1.50 GB" in english("keep.wrong.space", needed=needed, free=free)
    assert about(7200, german) == "2 Std."
    assert about(840, german) == "14 Min."
    assert decimal(-3.25, 1, german) == "\N{MINUS SIGN}3,2"
    assert typed(1.25, german) == "1,25"


def test_nothing_takes_no_second():
    t = words_in("en")
    assert [about(seconds, t) for seconds in (0, 0.2, 1.4)] == [f"{count} s" for count in (0, 1, 1)]


def test_curves_are_drawn_in_the_pages_language():
    lines = (Line("Verlust", ((0, 0.1), (5, -0.25))), Line("x", ((0, 0.5),), dots=True))
    plot = Plot("Kurve", lines, point=words_in("de")("common.point"))
    drawn = svg(plot, 5, "Schritt") + plot.text(0.125) + Plot("Kurve", lines, percent=True, point=",").text(0.1234)
    assert "0,1 →" in drawn
    assert "0,125" in drawn
    assert "12,3\N{NO-BREAK SPACE}%" in drawn
    assert not re.search(r">[^<]*\d\.\d[^<]*</text>", drawn)
    assert re.search(r">\N{MINUS SIGN}?\d,\d+</text>", drawn)


@pytest.mark.parametrize("low", [0.5, 0.86, -0.4])
def test_labels_of_curves_have_room(low):
    """A digit is at most 0.65 of the 15 px that train.css gives the texts."""
    points = ((0, low), (30, low + 0.1), (60, low + 0.04))
    for percent in (False, True):
        drawn = svg(Plot("Similarity", (Line("x", points, dots=True),), percent=percent), 60, "step")
        labels = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end">([^<]+)</text>', drawn)
        assert len(labels) > 3
        assert [text for x, text in labels if 0.65 * 15 * len(text) > float(x)] == []
