"""A second click shows what the first one has begun, and nobody fills the queue for all others."""

import asyncio
import html
import re
import threading

import httpx
import pytest
from listening_made import make_run
from waiting import wait_for

from mlx_voxclone.studio.home import Home, read_json
from mlx_voxclone.studio.keep import exports, publishing
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.model import choice, fetch, machine, whispers
from mlx_voxclone.studio.model import pages as model_pages
from mlx_voxclone.studio.record import file_pages, long
from mlx_voxclone.studio.tasks import MOST_OPEN, Task, Tasks
from mlx_voxclone.studio.train.trainings import MOST_WAITING, Trainings
from mlx_voxclone.studio.web.languages import languages, texts

AGREED = {"who": "Ann Lee", "when": "2026-05-02T10:00:00+00:00", "purpose": "audiobooks", "statement": "I agree."}
CONSENT = "Ann Lee agreed on 2026-05-02."


@pytest.fixture
def listened(me):
    """A voice that can be listened to."""
    made = me.new_project("Ann", "en")
    make_run(made.run)
    made.change(consent=AGREED)
    return made


@pytest.fixture
def busy(studio, me):
    """Both lanes are kept by somebody else's tasks: what a test begins waits."""
    go, ben = threading.Event(), studio.home.person("ben")
    studio.tasks.start(ben, "x", "x", lambda task: go.wait(60) and None, lane="files")
    yield
    go.set()


def at_once(browser, requests):
    """Send POSTs side by side, as two clicks are; the answers."""
    csrf = browser.csrf()

    async def send():
        transport = httpx.ASGITransport(browser.app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            forms = [client.post(address, data={"csrf": csrf, **form}) for address, form in requests]
            return await asyncio.gather(*forms)

    return asyncio.run(send())


# ---- the queue -------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_once_is_queued_once(studio, me):
    def start(**changed):
        values = {"person": me, "kind": "bake", "project": None, "once": "8"} | changed
        return studio.tasks.start(values.pop("person"), values.pop("kind"), "x", lambda task: None, **values)

    first, voice = start(), me.new_project("Ann", "en")
    others = [start(once="4"), start(kind="look"), start(project=voice), start(person=studio.home.person("ben"))]
    assert start() is first
    assert len({one.id for one in [first, *others, start(once=None), start(once=None)]}) == 7
    assert studio.tasks.same(me, "bake", "8") is first
    first.cancel()
    assert studio.tasks.same(me, "bake", "8") is None
    assert start() is not first


def test_one_that_is_being_cancelled_is_begun_anew(studio, me, computing):
    began, go = threading.Event(), threading.Event()
    first = studio.tasks.start(me, "bake", "x", lambda task: began.set() or (go.wait(60) and None), once="8")
    assert began.wait(10)
    first.cancel()
    assert first.open
    assert studio.tasks.start(me, "bake", "x", lambda task: None, once="8") is not first
    go.set()


def test_clicks_at_once_queue_one(tmp_path):
    tasks, ready = Tasks(Home(tmp_path)), threading.Barrier(8)
    me, found = Home(tmp_path).person("me"), []

    def click():
        ready.wait()
        found.append(tasks.start(me, "bake", "x", lambda task: None, once="8"))

    threads = [threading.Thread(target=click) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len({task.id for task in found}) == 1
    tasks.close()


@pytest.mark.parametrize("ends", ["done", "failed", "cancelled", "never began"])
def test_who_sees_the_end_of_a_task_finds_it_on_the_disk(studio, me, computing, ends, monkeypatch):
    seen, note = [], Task.note

    def noted(task, *state):
        seen.append(task.open or task.state == "cancelled")
        note(task, *state)

    def work(task):
        if ends == "failed":
            raise Mistake("", "speak.damaged")
        if ends == "cancelled":
            task.cancel()
            task.check()

    monkeypatch.setattr(Task, "note", noted)
    if ends == "never began":
        task = Task(me, "x", "x", None, "compute")
        monkeypatch.setattr(task, "note", lambda *state: seen.append(task.state == "waiting"))
        task.cancel()
    else:
        task = studio.tasks.start(me, "x", "x", work)
        wait_for(lambda: not task.open)
        state = read_json(me.folder / "tasks" / f"{task.id}.json")["state"]
        assert state == task.state == ends
    assert all(seen)


def test_a_person_has_so_many_tasks_open_and_others_go_on(studio, me):
    for _ in range(MOST_OPEN):
        last = studio.tasks.start(me, "speak", "x", lambda task: None)
    with pytest.raises(Mistake) as caught:
        studio.tasks.start(me, "speak", "x", lambda task: None)
    assert (caught.value.key, caught.value.values) == ("tasks.too_many", {"most": MOST_OPEN})
    assert len(list((me.folder / "tasks").iterdir())) == MOST_OPEN
    studio.tasks.start(studio.home.person("ben"), "speak", "x", lambda task: None)
    studio.tasks.start(me, "prepare", "x", lambda task: None, limited=False)  # what another task begins
    last.cancel()
    studio.tasks.list(me)[0].cancel()
    assert studio.tasks.start(me, "speak", "x", lambda task: None).open


@pytest.mark.parametrize("code", languages())
def test_too_many_is_a_sentence_of_the_page(studio, browser, me, code, monkeypatch, listened):
    """Wherever a long action is begun."""
    choice.choose(me, choice.Chosen("hub", choice.OFFICIAL))
    monkeypatch.setattr(file_pages.whispers, "at_hand", lambda name: True)
    monkeypatch.setattr(long, "uncut", lambda project: ["0001-00aa"])
    monkeypatch.setattr(model_pages, "is_fetched", lambda model: False)
    me.change_settings(language=code)
    place = f"/voices/{listened.id}"
    for _ in range(MOST_OPEN):
        studio.tasks.start(me, "other", "x", lambda task: None)
    line = html.escape(texts(code)["tasks.too_many"].format(most=MOST_OPEN), quote=False)
    for address, form in {
        "/model/hub": {"hub": "ann/voxtral"},
        "/model/forecast": {},
        f"{place}/record/files/cut": {},
        f"{place}/record/files/texts": {"whisper": long.whisper_of(me)},
        f"{place}/listen/speak": {"sentence": "0", "variant": ["adapted"]},
        f"{place}/listen/blind": {"first": "tuned", "second": "adapted"},
        "/speak": {"text": "Hello.", "voice": "model:alto", "language": "en"},
    }.items():
        if address == "/speak":
            choice.choose(me, choice.rehearsal(me.home))
        for headers in ({}, {"hx-request": "true"}):
            answer = browser.submit(address, form, headers=headers)
            assert (address, answer.status_code) == (address, 422)
            assert re.findall(r'role="alert">([^<]+)<', answer.text) == [line], address
    assert len(studio.tasks.list(me)) == MOST_OPEN
    assert not list(me.folder.glob("speech/*"))


def publishable(monkeypatch):
    """A voice that could be baked and published, as far as the pages look."""
    monkeypatch.setattr(exports, "bake", lambda project, bits: lambda task: None)
    monkeypatch.setattr(
        publishing, "wanted", lambda project, repository, consent, **options: publishing.Wanted(repository, consent)
    )


# ---- two clicks ------------------------------------------------------------------------------------------------------


def test_two_clicks_on_every_long_action_begin_one(studio, browser, me, listened, busy, monkeypatch):
    choice.choose(me, choice.Chosen("hub", choice.OFFICIAL))
    publishable(monkeypatch)
    monkeypatch.setattr(file_pages.whispers, "at_hand", lambda name: False)
    monkeypatch.setattr(long, "uncut", lambda project: ["0001-00aa"])
    monkeypatch.setattr(model_pages, "is_fetched", lambda model: False)
    place = f"/voices/{listened.id}"
    clicks = {
        ("/model/hub", fetch.KIND): {"hub": "ann/voxtral"},
        ("/model/forecast", machine.KIND): {},
        (f"{place}/record/files/cut", file_pages.PREPARE): {},
        (f"{place}/record/files/texts", whispers.KIND): {"whisper": long.whisper_of(me)},
        (f"{place}/listen/speak", "listen"): {"sentence": "0", "variant": ["adapted"], "seed": "1"},
        (f"{place}/listen/blind", "blind"): {"first": "tuned", "second": "adapted"},
        (f"{place}/bake", exports.BAKE): {"bits": "8"},
        (f"{place}/publish", publishing.LOOK): {"repository": "ann/voice", "consent": CONSENT},
        ("/speak", "speak"): {"text": "Hello.", "voice": "model:alto", "language": "en", "seed": ""},
    }
    for (address, kind), form in clicks.items():
        if address == "/speak":
            choice.choose(me, choice.rehearsal(me.home))
        answers = [*at_once(browser, [(address, form)] * 2), browser.submit(address, form)]
        assert [answer.status_code for answer in answers] == [303] * 3, address
        assert len({answer.headers["location"] for answer in answers}) == 1, address
        assert len(studio.tasks.list(me, kind)) == 1, address


def test_two_clicks_publish_once(studio, browser, me, listened, busy, monkeypatch):
    publishable(monkeypatch)
    monkeypatch.setattr(publishing, "has_token", lambda: True)
    wish = {"repository": "ann/voice", "consent": CONSENT, "private": True, "baked": False}
    looked = studio.tasks.start(me, publishing.LOOK, "x", lambda task: None, project=listened)
    looked.state, looked.result = "done", wish | {"files": [], "card": "", "mark": "x"}
    address, form = f"/voices/{listened.id}/publish/now", {"look": looked.id, "confirmed": "on"}
    answers = at_once(browser, [(address, form)] * 2)
    assert [answer.status_code for answer in answers] == [303, 303]
    [task] = studio.tasks.list(me, publishing.PUBLISH)
    assert {answer.headers["location"] for answer in answers} == {
        f"/voices/{listened.id}/publish?upload={task.id}#upload"
    }


def test_another_action_of_the_kind_says_that_one_runs(studio, browser, me, listened, busy, monkeypatch):
    publishable(monkeypatch)
    monkeypatch.setattr(model_pages, "is_fetched", lambda model: False)
    place, english = f"/voices/{listened.id}", texts("en")
    for address, one, other, key in (
        ("/model/hub", {"hub": "ann/voxtral"}, {"hub": "ann/other"}, "model.mistake.downloads"),
        (f"{place}/listen/speak", {"variant": ["adapted"]}, {"variant": ["tuned"]}, "listen.mistake.busy"),
        (f"{place}/listen/blind", {"first": "tuned", "second": "adapted"}, {"first": "original", "second": "adapted"},
         "listen.mistake.busy"),
    ):  # fmt: skip
        assert browser.submit(address, one).status_code == 303, address
        answer = browser.submit(address, other)
        assert (address, answer.status_code) == (address, 422)
        assert english[key] in html.unescape(answer.text), address


def begin_a_voice(browser, id, title="Ann"):
    """The address that the form of a new voice leads to."""
    form = {"title": title, "language": "en", "who": "Ann Lee", "purpose": "books", "agreed": "yes", "id": id}
    return browser.submit("/voices/new", form).headers["location"]


def test_two_clicks_begin_one_voice(browser, me):
    id = re.search(r'name="id" value="([0-9a-f]+)"', browser.get("/voices/new").text)[1]
    first = begin_a_voice(browser, id)
    assert first == f"/voices/{id}/record"
    assert begin_a_voice(browser, id) == first
    assert [project.id for project in me.projects()] == [id]


@pytest.mark.parametrize("id", ["", "../../../x", "0123456789ab"])
def test_a_form_that_is_filled_in_anew_begins_another_voice(browser, me, id):
    """Back in the browser brings the same form again; an identifier of nobody's is none."""
    made = {begin_a_voice(browser, id, title) for title in ("Ann", "Ann, louder", "Ben")}
    assert made == {f"/voices/{project.id}/record" for project in me.projects()}
    assert len(made) == 3


def test_a_text_is_spoken_with_as_many_seeds_as_are_asked_for(studio, browser, me, listened, busy):
    choice.choose(me, choice.rehearsal(me.home))
    form = {"text": "Hello.", "voice": "model:alto", "language": "en"}
    for changed in ({"seed": "1"}, {"seed": "2"}, {"seed": ""}, {"text": "Good morning."}, {"steps": "3"}):
        assert browser.submit("/speak", form | changed).status_code == 303
    assert len(studio.tasks.list(me, "speak")) == 5
    first = browser.submit("/speak", form | {"seed": "1"}).headers["location"]
    assert browser.submit(f"{first}/repeat", {"seed": "same"}).headers["location"] == first
    assert browser.submit(f"{first}/go-on").headers["location"] == first
    assert len(studio.tasks.list(me, "speak")) == 5
    assert len(list((me.folder / "speech").iterdir())) == 5


# ---- trainings -------------------------------------------------------------------------------------------------------


def test_so_many_trainings_of_a_person_wait(tmp_path):
    home = Home(tmp_path)
    trainings = Trainings(home, tmp_path / "machine.lock", ("false",))
    trainings._busy = lambda: True
    ann, ben = home.person("ann"), home.person("ben")
    for _ in range(MOST_WAITING):
        trainings.ask(ann.new_project("Ann", "en"))
    with pytest.raises(Mistake, match="many"):
        trainings.ask(ann.new_project("Ann", "en"))
    trainings.ask(ben.new_project("Ben", "en"))
    assert len(trainings.turns(ben)) == MOST_WAITING + 1
