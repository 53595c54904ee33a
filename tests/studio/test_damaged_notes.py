"""Small files of a voice that are truncated, empty, of another kind or no text: nothing in them is ever written over,
nothing else is lost, and the page says which one it is."""

import errno
import json
import os
import re
import sys
import time

import pytest
from listening_made import make_run
from recorded import many, spoken, wav

from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.evaluate.blind import keep_test, read_tests
from mlx_voxclone.studio.home import UnreadError, change_json, read_json
from mlx_voxclone.studio.listen.blind import blind_test, blind_tests
from mlx_voxclone.studio.listen.comparison import comparisons
from mlx_voxclone.studio.record.listing import progress, recorded
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import PLAN, Takes
from mlx_voxclone.studio.record.uploads import Uploads
from mlx_voxclone.studio.record.waiting import FILE, Waiting

BROKEN = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a list": lambda content: b'["what was typed"]',
    "a number": lambda content: b"7",
    "nothing": lambda content: b"null",
    "binary": lambda content: b"\x80\x00\xffRIFF" + bytes(range(256)),
    "deep": lambda content: b"[" * 5000,
}
broken = pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)


def damaged(path, damage) -> bytes:
    path.write_bytes(damage(path.read_bytes()))
    return path.read_bytes()


def notice(page: str) -> str:
    found = re.search(r'<div id="damaged"[^>]*>(.*?)</div>', page, re.DOTALL)[1]
    return found


def test_what_cannot_be_read_at_the_moment_is_no_damage(voice, monkeypatch):
    """Too many files are open: nothing is moved aside, and nothing is written in its place."""
    voice.uploads.mkdir(exist_ok=True)
    (voice.uploads / FILE).write_text('{"a": "papa"}')

    def too_many(path, *_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("mlx_voxclone.studio.record.waiting.read_json", too_many)
        with pytest.raises(UnreadError, match="try again"):
            Waiting(voice.uploads)
    found = Waiting(voice.uploads)
    assert (found.texts, found.damaged) == ({"a": "papa"}, False)
    assert [path.name for path in voice.uploads.iterdir()] == [FILE]


@broken
def test_texts_that_wait_are_moved_aside_before_others_are_kept(browser, voice, at, damage):
    headers = {"x-csrf": browser.csrf()}

    def bring(name, content):
        return browser.post(f"{at}/files/one", params={"name": name}, content=content, headers=headers)

    bring("a.txt", b"papa mino lesu")
    assert Waiting(voice.uploads).texts == {"a": "papa mino lesu"}
    left = damaged(voice.uploads / FILE, damage)
    assert f"uploads/{FILE}." in notice(browser.get(f"{at}/files").text)
    assert bring("x.wav", wav(spoken("papa mino lesu."))).status_code == 200
    assert (voice.uploads / FILE).read_bytes() == left  # no text was taken or given
    assert bring("b.txt", b"tara koni").status_code == 200
    assert Waiting(voice.uploads).texts == {"b": "tara koni"}
    assert (voice.uploads / f"{FILE}.damaged-1").read_bytes() == left
    assert f"uploads/{FILE}.damaged-1" in notice(browser.get(f"{at}/files").text)
    again = damaged(voice.uploads / FILE, damage)
    assert bring("c.txt", b"sewu nalu").status_code == 200
    assert (voice.uploads / f"{FILE}.damaged-2").read_bytes() == again
    assert (voice.uploads / f"{FILE}.damaged-1").read_bytes() == left


def test_texts_that_can_be_read_stay_beside_those_that_cannot(voice):
    voice.uploads.mkdir()
    (voice.uploads / FILE).write_text('{"a": "papa", "b": ["tara"], "c": 7}')
    waiting = Waiting(voice.uploads)
    waiting.add({"d": "sewu"})
    waiting.write()
    assert Waiting(voice.uploads).texts == {"a": "papa", "d": "sewu"}
    assert json.loads((voice.uploads / f"{FILE}.damaged-1").read_text())["b"] == ["tara"]


@pytest.mark.parametrize(
    "damage",
    [
        *BROKEN.values(),
        lambda content: b'{"own": "tara koni", "skipped": []}',
        lambda content: b'{"own": [["tara"]], "skipped": []}',
        lambda content: b'{"own": null}',
        lambda content: b'{"skipped": {"a": 1}}',
    ],
)
def test_a_plan_is_never_written_over(browser, voice, at, damage):
    Takes(voice).add_own("tara koni sewu.")
    left = damaged(voice.takes / PLAN, damage)
    slot = Takes(voice).next().key
    assert slot == f"{SYLLABLES}-001"
    assert f"takes/{PLAN}." in notice(browser.get(at).text)
    for address, form in (("own", {"text": "papa"}), ("skip", {"slot": slot}), ("unskip", {})):
        for headers in ({}, {"hx-request": "true"}):
            answer = browser.submit(f"{at}/{address}", form, headers=headers)
            assert answer.status_code == 422
            assert f"takes/{PLAN} of this voice cannot be read" in answer.text
            assert 'id="sentence"' in answer.text
        assert (voice.takes / PLAN).read_bytes() == left
    take = Takes(voice).record(slot, wav(spoken("papa mino lesu.")))
    assert take.used
    assert (voice.takes / PLAN).read_bytes() == left


OTHER = [
    {"text": 5},
    {"text": ["papa"]},
    {"slot": {}},
    {"peaks": "high"},
    {"peaks": [1, None]},
    {"peaks": [float("nan")]},
    {"check": "good"},
    {"check": {"state": "fine"}},
    {"check": {"state": 1, "findings": []}},
    {"check": {"state": "good", "findings": [], "speech": "long"}},
    {"check": {"state": "good", "findings": [{"key": 1, "state": "fair"}]}},
    {"check": {"state": "good", "findings": 7, "new": 1}},
    {"seconds": "two"},
    {"seconds": 10**400},
    {"peaks": [0.5, 10**400]},
    {"check": {"state": "good", "findings": [], "speech": 10**400}},
    {"long": "yes"},
    {"cut": "all"},
    {"name": 3},
    {"suffix": 1},
]
DAMAGES = [*BROKEN.values()] + [
    lambda content, values=values: json.dumps({**json.loads(content), **values}).encode() for values in OTHER
]


def test_notes_that_cannot_be_read_cost_their_recording_alone(voice):
    many(voice, takes=2, uploads=2, clips=2)
    for shelf in ("takes", "uploads", "clips"):
        folder = getattr(voice, shelf)
        id = Shelf(folder).ids()[1]
        path = folder / f"{id}.json"
        whole = path.read_bytes()
        for damage in DAMAGES:
            left = damaged(path, damage)
            assert recorded(voice).damaged == [f"{shelf}/{id}.json"], left
            assert len(Shelf(folder).items()) == len(Shelf(folder).ids()) - 1
            assert progress(voice).recordings in (1, 2)
            assert path.read_bytes() == left
            path.write_bytes(whole)
        assert not recorded(voice).damaged


@pytest.mark.parametrize("shelf", ["takes", "uploads", "clips"])
def test_pages_say_which_notes_cannot_be_read(browser, voice, at, shelf):
    many(voice, takes=2, uploads=2, clips=2)
    id = Shelf(getattr(voice, shelf)).ids()[1]
    path = getattr(voice, shelf) / f"{id}.json"
    left = damaged(path, BROKEN["truncated"])
    for address in ("", "/files"):
        assert f"{shelf}/{id}.json." in notice(browser.get(f"{at}{address}").text)
    text = f"takes/{id}/text" if shelf == "takes" else f"sounds/{shelf}/{id}/text"
    assert browser.submit(f"{at}/{text}", {"text": "papa mino"}).status_code == 404
    assert browser.get("/voices").status_code == browser.get(f"/voices/{voice.id}/train").status_code == 200
    assert path.read_bytes() == left
    assert list(path.parent.glob(f"{id}.wav"))


@broken
def test_facts_of_a_voice_are_never_written_over(browser, voice, at, damage):
    left = damaged(voice.folder / "voice.json", damage)
    with pytest.raises(CheckpointError, match=r"voice\.json: (cannot be read|holds no JSON object)"):
        voice.change(title="Ben")
    answer = browser.submit(f"{at}/consent", {"who": "A", "purpose": "p", "agreed": "yes"})
    assert answer.status_code == 422
    assert "voice.json" in answer.text
    assert browser.get("/voices").status_code == 200
    assert (voice.folder / "voice.json").read_bytes() == left


@pytest.mark.parametrize("name", ["consent", "language", "title", "created"])
def test_facts_of_another_kind_end_no_page(browser, voice, at, name):
    pages = (at, f"{at}/files", "/voices", f"/voices/{voice.id}/train", "/speak", f"/voices/{voice.id}/listen")
    for value in (7, ["a"], {"who": 1}, "word", None):
        voice.change(**{name: value})
        assert {address: browser.get(address).status_code for address in pages} == dict.fromkeys(pages, 200)


@broken
def test_what_is_asked_of_a_training_is_moved_aside(studio, browser, voice, damage, monkeypatch):
    """The queue and the wishes can be asked for again; what cannot be read stays for whoever looks for it."""
    change_json(studio.home.path / "trainings.json", waiting=[{"person": "me", "project": voice.id, "asked": 1}])
    queue = damaged(studio.home.path / "trainings.json", damage)
    change_json(voice.folder / "training.json", wish="pause", error="")
    left = damaged(voice.folder / "training.json", damage)
    assert studio.trainings.state(voice).name in ("none", "paused")
    studio.trainings.cancel(voice)
    with pytest.raises(CheckpointError):
        change_json(voice.folder / "training.json", wish="run")
    assert (voice.folder / "training.json").read_bytes() == left
    address = f"/voices/{voice.id}/train"
    assert "left out: trainings.json, training.json." in browser.get(address).text
    monkeypatch.setattr(studio.trainings, "_command", (sys.executable, "-c", "import time; time.sleep(60)"))
    studio.trainings.ask(voice)
    assert studio.trainings.state(voice).name == "running"
    studio.trainings.leave(voice)
    assert (voice.folder / "training.json.damaged-1").read_bytes() == left
    assert (studio.home.path / "trainings.json.damaged-1").read_bytes() == queue
    assert "left out: trainings.json.damaged-1, training.json.damaged-1." in browser.get(address).text


# Listening


def a_test(voice) -> dict:
    pair = {"text": "papa", "a": "original", "b": "adapted", "x": "adapted", "seed": 0}
    facts = {"name": "original", "title": "Original"}
    test = {"id": "0123456789ab", "created": time.time() + 5, "first": facts, "second": facts | {"name": "adapted"}}
    folder = voice.listening / "blind" / test["id"]
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps({**test, "seed": 1, "sounds": "alike", "pairs": [pair] * 3}))
    return test


@pytest.mark.parametrize(
    "damage",
    [
        *BROKEN.values(),
        *(
            lambda content, values=values: json.dumps({**json.loads(content), **values}).encode()
            for values in (
                {"id": 5},
                {"created": "today"},
                {"pairs": 3},
                {"pairs": [1, 2]},
                {"pairs": [{"text": "papa"}]},
                {"first": "a"},
                {"first": {"name": 1}},
            )
        ),
    ],
)
def test_a_listening_test_that_cannot_be_read_is_left_out(browser, voice, damage):
    make_run(voice.run)
    test = a_test(voice)
    path = voice.listening / "blind" / test["id"] / "test.json"
    blind_test(voice.listening, test["id"]).answer(1, "b")
    left = damaged(path, damage)
    assert blind_tests(voice.listening) == []
    assert browser.get(f"/voices/{voice.id}/listen/blind").status_code == 200
    assert browser.submit(f"/voices/{voice.id}/listen/blind/{test['id']}/answer", {"pair": "2"}).status_code < 500
    assert browser.get(f"/voices/{voice.id}/listen/blind/{test['id']}/1/a").status_code in (404, 422)
    assert path.read_bytes() == left
    assert (path.parent / "answers.jsonl").is_file()


@pytest.mark.parametrize(
    "rest", [b"", b'{"pair": 2, "ans', b"\xff\xfe", b"[1]\n{}\n7\n", b'{"pair": [1], "answer": "a"}\n']
)
def test_an_answer_behind_a_broken_one_counts(voice, rest):
    test = a_test(voice)
    place = voice.listening / "blind" / test["id"] / "answers.jsonl"
    blind_test(voice.listening, test["id"]).answer(1, "b")
    place.write_bytes(place.read_bytes() + rest)
    assert blind_test(voice.listening, test["id"]).answer(2, "a").answered == 2
    assert blind_test(voice.listening, test["id"]).answer(3, "b").current is None
    assert place.read_bytes().count(rest) >= 1


@pytest.mark.parametrize(
    "damage",
    [
        *BROKEN.values(),
        *(
            lambda content, values=values: json.dumps({**json.loads(content), **values}).encode()
            for values in (
                {"created": "today"},
                {"takes": 4},
                {"takes": [1]},
                {"takes": [{"name": "adapted"}]},
                {"text": None},
                {"id": 1},
            )
        ),
    ],
)
def test_a_comparison_that_cannot_be_read_is_left_out(browser, voice, damage):
    make_run(voice.run)
    path = voice.listening / "compared" / "0123456789ab" / "comparison.json"
    path.parent.mkdir(parents=True)
    take = {"name": "adapted", "delivered": True, "seconds": 1.0, "ended": True, "peak_db": -3.0, "peaks": [0.5]}
    content = {"id": "0123456789ab", "created": time.time() + 5, "text": "papa", "own": True, "seed": 0}
    path.write_text(json.dumps({**content, "takes": [take]}))
    assert len(comparisons(voice.listening)) == 1
    assert "papa" in browser.get(f"/voices/{voice.id}/listen").text
    left = damaged(path, damage)
    assert comparisons(voice.listening) == []
    assert browser.get(f"/voices/{voice.id}/listen").status_code == 200
    assert path.read_bytes() == left


@broken
def test_listening_tests_of_a_run_are_never_written_over(voice, damage):
    voice.run.mkdir()
    keep_test(voice.run, {"id": "a", "correct": 7})
    left = damaged(voice.run / "abx.json", damage)
    assert read_tests(voice.run) == []
    with pytest.raises(CheckpointError, match="move it away"):
        keep_test(voice.run, {"id": "b"})
    assert (voice.run / "abx.json").read_bytes() == left


def test_what_else_is_among_the_tests_of_a_run_stays(voice):
    voice.run.mkdir()
    (voice.run / "abx.json").write_text('{"tests": ["by hand", {"id": "a", "correct": 1}], "note": "mine"}')
    keep_test(voice.run, {"id": "a", "correct": 2})
    found = json.loads((voice.run / "abx.json").read_text())
    assert found == {"tests": ["by hand", {"id": "a", "correct": 2}], "note": "mine"}


@broken
def test_settings_are_never_written_over(me, damage):
    me.change_settings(model="rehearsal")
    left = damaged(me.folder / "settings.json", damage)
    with pytest.raises(VoxcloneError):
        me.change_settings(language="de")
    with pytest.raises(VoxcloneError):
        read_json(me.folder / "settings.json")
    assert (me.folder / "settings.json").read_bytes() == left


def test_a_text_that_is_none_of_a_sound_waits(voice, tmp_path):
    many(voice, uploads=3)
    path = tmp_path / "a.csv"
    path.write_text(f"file 0|papa mino\nfile 1|{'papa ' * 300}\nfile 2|tara koni\n")
    found = Uploads(voice).add("a.csv", path)
    assert (found.key, found.values) == ("list_too_long", {"count": 3, "given": 2, "refused": 1})
    assert list(Waiting(voice.uploads).texts) == ["file 1"]
