"""Train again: what was heard of the former model stays as of it, and is never shown as of the new one."""

import json
import re

import pytest
from listening_made import Tones, make_run
from matplotlib.figure import Figure

from mlx_voxclone.evaluate.blind import read_tests
from mlx_voxclone.studio.keep.made import made_of
from mlx_voxclone.studio.listen import comparison
from mlx_voxclone.studio.listen.blind import blind_test, blind_tests, earlier_tests, make
from mlx_voxclone.studio.listen.comparison import compare, comparisons
from mlx_voxclone.studio.listen.voices import heard
from mlx_voxclone.studio.results import is_of, result_of, training_number
from mlx_voxclone.studio.speak.voices import delivered
from mlx_voxclone.studio.train.outcome import outcome


@pytest.fixture
def voice(me):
    project = me.new_project("Ann", "en")
    make_run(project.run)
    return project


def train_again(studio, voice):
    studio.trainings.put_aside(voice)
    make_run(voice.run)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Plots take a second each, and nobody looks at these."""
    monkeypatch.setattr(comparison, "sound_figure", lambda *_, **__: Figure(figsize=(2, 1)))


def compared(voice, text, found=None):
    found = found or heard(voice.run)
    chosen = [found.variant("adapted")]
    return compare(Tones(), chosen, text, 0, voice.listening, lambda *_: None, "en", found.training)


def judged(voice, right):
    found = heard(voice.run)
    pair = found.variant("original"), found.variant("adapted")
    test = blind_test(voice.listening, make(Tones(), found, *pair, voice.listening, lambda *_: None, language="en"))
    for number, pair in enumerate(test.pairs, start=1):
        slot = "a" if (pair["x"] == pair["a"]) == (number <= right) else "b"
        test = test.answer(number, slot)
    return test


def test_comparisons_of_a_former_model_are_told_as_such(studio, browser, voice):
    old = compared(voice, "said by the first model")
    found = heard(voice.run)  # somebody has asked for one more
    train_again(studio, voice)
    place = f"/voices/{voice.id}/listen"
    late = compared(voice, "asked for before, spoken after", found)
    page = browser.get(place).text
    shown, _, before = page.partition("Of earlier trainings")
    assert "said by" not in shown
    assert "said by the first model" in before
    assert "asked for before, spoken after" in before
    new = compared(voice, "said by the second model")
    page = browser.get(place).text
    assert f"/sounds/{new}/" in page
    assert f"/sounds/{old}/" not in page
    for id in (old, late):
        earlier = browser.get(place, params={"comparison": id}).text
        assert f"/sounds/{id}/" in earlier
        assert "Of an earlier training:" in earlier
    assert "Of an earlier training:" not in browser.get(place, params={"comparison": new}).text


def test_comparisons_of_a_former_model_are_not_forgotten_for_new_ones(studio, voice, monkeypatch):
    monkeypatch.setattr(comparison, "_KEPT", 2)
    old = compared(voice, "said by the first model")
    train_again(studio, voice)
    for number in range(4):
        compared(voice, f"new {number}")
    kept = comparisons(voice.listening)
    assert [one["text"] for one in kept] == ["new 3", "new 2", "said by the first model"]
    assert kept[-1]["id"] == old


def test_blind_tests_of_a_former_model_are_listed_with_their_day(studio, browser, voice):
    place = f"/voices/{voice.id}/listen/blind"
    test = judged(voice, 9)
    assert "9 of 10 right" in browser.get(place).text
    assert [one["correct"] for one in read_tests(voice.run)] == [9]
    train_again(studio, voice)
    unseen = browser.get(place).text
    shown, _, before = unseen.partition("Of earlier trainings")
    assert "of 10 right" not in shown
    assert re.search(r"<li>\d{4}-\d\d-\d\d: [^:]+ / [^:]+: 9 of 10 right", before)
    assert before.count("of 10 right") == 1  # once, though it is kept in two places
    judged(voice, 4)
    shown, _, before = browser.get(place).text.partition("Of earlier trainings")
    assert "4 of 10 right" in shown
    assert "9 of 10 right" not in shown
    assert [one["correct"] for one in read_tests(voice.run)] == [4]
    assert [one["id"] for one in earlier_tests(voice.listening, voice.run)] == [test.id]


def test_a_test_that_ended_unseen_is_of_the_training_that_it_judged(studio, browser, voice):
    judged(voice, 8)
    train_again(studio, voice)
    assert "8 of 10 right" in browser.get(f"/voices/{voice.id}/listen/blind").text.partition("Of earlier trainings")[2]
    assert read_tests(voice.run) == []


def test_answers_outlive_their_sounds(voice):
    ids = [judged(voice, right).id for right in range(5)]
    assert [test.id for test in blind_tests(voice.listening)] == ids[::-1]
    assert [test.outcome.correct for test in blind_tests(voice.listening)] == [4, 3, 2, 1, 0]
    sounds = [len(list(test.folder.glob("*.wav"))) for test in blind_tests(voice.listening)]
    assert sounds == [30, 30, 30, 0, 0]


def test_a_training_has_a_number(studio, voice, tmp_path):
    assert training_number(voice.run) == 1
    created = (voice.run / "summary.json").stat().st_mtime
    assert is_of(voice.run, 1, created)
    assert is_of(voice.run, None, created)  # of one that was not noted
    assert not is_of(voice.run, 1, created - 1)
    train_again(studio, voice)
    assert training_number(voice.run) == heard(voice.run).training == 2
    assert not is_of(voice.run, 1, created + 100)
    (voice.folder / "earlier" / "mine").mkdir()
    (voice.folder / "earlier" / "²").mkdir()
    assert training_number(voice.run) == 2
    assert training_number(tmp_path / "none" / "run") == 1


def test_a_former_run_that_is_put_back_keeps_its_number(studio, browser, voice):
    """Whatever came to nothing after it, and lies in `earlier/` with a higher one."""
    first = compared(voice, "said by the first model")
    studio.trainings.put_aside(voice)
    voice.run.mkdir()  # paused, then trained anew, then cancelled
    studio.trainings.put_aside(voice)
    studio.trainings.put_back(voice)
    assert training_number(voice.run) == heard(voice.run).training == 1
    page = browser.get(f"/voices/{voice.id}/listen").text
    assert f"/sounds/{first}/" in page
    assert "Of earlier trainings" not in page
    train_again(studio, voice)
    assert training_number(voice.run) == 3
    assert sorted(path.name for path in (voice.folder / "earlier").iterdir()) == ["1", "2"]
    assert not [one for one in comparisons(voice.listening) if is_of(voice.run, one["training"], one["created"])]


@pytest.mark.parametrize(
    "summary",
    [
        "",
        "[]",
        "{}",
        '{"delivered": "adapted", "baked": "here"}',
        '{"delivered": [1], "baked": {"voice": 7, "path": []}, "speech": 3, "data": 4}',
        '{"delivered": {"name": 5, "measured": 7}, "baked": {"voice": "../../x", "path": 1}, "seconds": "x"}',
        '{"delivered": {"measured": [1, {"name": "adapted"}]}, "speech": [1, {"text": 2, "after": 3}]}',
    ],
)
def test_a_summary_of_another_kind_ends_no_page(browser, voice, summary):
    """It is read in one place: what it does not say, nobody makes of it."""
    (voice.run / "summary.json").write_text(summary)
    outcome(voice.run)
    assert made_of(voice) is None
    assert delivered(voice) is None
    for place in (
        f"/voices/{voice.id}/train",
        f"/voices/{voice.id}/listen",
        "/voices",
        "/speak",
        f"/voices/{voice.id}",
    ):
        assert browser.get(place).status_code < 500, place


def test_everybody_reads_the_same_of_a_summary(voice):
    content = json.loads((voice.run / "summary.json").read_text())
    content |= {"baked": {"voice": "ann", "path": str(voice.run / "baked")}, "seconds": 90.0, "data": {"hours": 0.5}}
    (voice.run / "summary.json").write_text(json.dumps(content))
    found, end = result_of(voice.run), outcome(voice.run)
    assert (found.voice, found.delivered, found.seconds) == ("ann", "adapted", 90.0)
    assert (end.voice, end.delivered, end.seconds, end.minutes) == ("ann", "adapted", 90.0, 30.0)
    assert made_of(voice).voice == "ann"
