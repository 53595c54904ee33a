"""The blind test: nothing tells which is which, every answer is kept, and its end goes into the report."""

import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from listening_made import Tones, forget, make_run, pitch_of, tone

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.audio.segment import frame_levels, speech_level, speech_mask
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.evaluate.blind import read_tests
from mlx_voxclone.studio.listen import blind, blind_pages
from mlx_voxclone.studio.listen.alike import copied, made_alike
from mlx_voxclone.studio.listen.blind import BlindTest, blind_test, blind_tests, make, plan
from mlx_voxclone.studio.listen.voices import heard
from mlx_voxclone.studio.mistakes import Missing

SLOTS = ("a", "b", "x")


@pytest.fixture
def project(me):
    made = me.new_project("Ann", "en")
    make_run(made.run)
    return made


def a_test(project, first="original", second="adapted", **options):
    found = heard(project.run)
    bench = options.pop("bench", None) or Tones()
    chosen = found.variant(first), found.variant(second)
    id = make(bench, found, *chosen, project.listening, options.pop("progress", lambda *_: None), **options)
    return blind_test(project.listening, id)


def answered(test, right):
    """The test with as many right answers, the first ones."""
    for number, pair in enumerate(test.pairs, start=1):
        slot = "a" if pair["x"] == pair["a"] else "b"
        test = test.answer(number, slot if number <= right else {"a": "b", "b": "a"}[slot])
    return test


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_over_seeds_every_order_is_as_frequent_as_any_other():
    """Two coins per pair, each fair, free of each other, of the pair's number and of the pair before."""
    plans = [plan(12, "one", "two", seed) for seed in range(400)]
    total = 400 * 10
    first = Counter((pair.a == "one", pair.x == pair.a) for drawn in plans for pair in drawn)
    assert len(first) == 4
    for count in first.values():
        assert abs(count - total / 4) < 4 * np.sqrt(total * 3 / 16)
    x_is_a = np.array([[pair.x == pair.a for pair in drawn] for drawn in plans])
    assert np.all(np.abs(x_is_a.mean(axis=0) - 0.5) < 4 * 0.5 / np.sqrt(400))
    assert abs((x_is_a[:, 1:] == x_is_a[:, :-1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(3600)
    places = Counter(drawn[0].sentence for drawn in plans)
    assert len(places) == 12
    assert plan(12, "one", "two", 3) == plan(12, "one", "two", 3)


def test_sentences_come_again_only_when_all_were_there_and_with_another_seed():
    drawn = plan(4, "one", "two", 0)
    assert [sorted(pair.sentence for pair in drawn[k : k + 4]) for k in (0, 4)] == [[0, 1, 2, 3]] * 2
    assert len({(pair.sentence, pair.seed) for pair in drawn}) == 10
    assert all({pair.a, pair.b} == {"one", "two"} and pair.x in (pair.a, pair.b) for pair in drawn)


# ---- sounds ----------------------------------------------------------------------------------------------------------


def speech_db(samples):
    levels = frame_levels([samples], 24_000)
    return speech_level(levels, speech_mask(levels))


@pytest.mark.parametrize("levels", [(0.01, 0.9), (0.3, 0.3), (0.9, 0.02)])
def test_two_sounds_are_of_one_length_and_level(levels):
    one, other = made_alike(tone(300, 0.4, levels[0]), tone(500, 1.1, levels[1]))
    assert len(one) == len(other)
    assert one.dtype == other.dtype == np.float32
    assert speech_db(one) == pytest.approx(speech_db(other), abs=0.3)
    assert -24 < speech_db(one) < -22
    assert (pitch_of(one[:8000]), pitch_of(other[:8000])) == ("zero-shot", "adapted")
    assert one[-4000:].max() == 0


def test_a_peaky_sound_takes_the_other_down_with_it():
    clicks = tone(300, 0.4, 0.01)
    clicks[6000::2400] = 0.9
    one, other = made_alike(clicks, tone(500, 0.4))
    assert max(np.abs(one).max(), np.abs(other).max()) <= 0.991
    assert speech_db(one) == pytest.approx(speech_db(other), abs=0.5)


def test_silence_stays_silent():
    one, other = made_alike(np.zeros(4800, np.float32), tone(300))
    assert not one.any()
    assert len(one) == len(other)


def test_copies_differ_in_every_part_and_by_less_than_can_be_heard():
    rng, sound = np.random.default_rng(0), tone(300)
    one, other = copied(sound, rng), copied(sound, rng)
    assert np.abs(one - sound).max() < 1.01 / 32768
    for part in np.split(one - other, 9):
        assert part.any()


# ---- a test on disk --------------------------------------------------------------------------------------------------


def test_a_test_holds_what_it_was_made_of(project):
    bench, told = Tones(), []
    test = a_test(project, bench=bench, progress=lambda *said: told.append(said))
    assert Counter(name for name, _, _ in bench.said) == {"adapted": 10}
    assert len({text for _, text, _ in bench.said}) == 10
    for number, pair in enumerate(test.pairs, start=1):
        sounds = {slot: read_audio(test.folder / f"{number:02}-{slot}.wav") for slot in SLOTS}
        assert {slot: pitch_of(sounds[slot]) for slot in SLOTS} == {slot: pair[slot] for slot in SLOTS}
    assert told[0] == (0, 10)
    assert told[-1] == (10, 10)
    assert all(len(said) == 2 for said in told)  # no name of a variant


def test_two_voices_speak_all_sentences_one_after_the_other(project):
    bench = Tones()
    a_test(project, "tuned", "adapted", bench=bench)
    assert [name for name, _, _ in bench.said] == ["tuned"] * 10 + ["adapted"] * 10


def test_one_that_is_stopped_is_not_there(project):
    last = a_test(project)

    def stop(done, total):
        if done == 3:
            raise DataError("stopped")

    with pytest.raises(DataError, match="stopped"):
        a_test(project, progress=stop)
    assert [test.id for test in blind_tests(project.listening)] == [last.id]


def test_without_recordings_there_is_no_test(project):
    forget(project.run / "data")
    found = heard(project.run)
    with pytest.raises(CheckpointError, match="no recordings"):
        make(Tones(), found, *found.variants[:2], project.listening, lambda *_: None)


def test_answers_are_on_disk_one_by_one(project):
    test = a_test(project)
    assert (test.current, test.outcome) == (1, None)
    with pytest.raises(ValueError):
        test.record()
    test = test.answer(1, "a")
    assert BlindTest(test.folder).pairs[0]["answer"] == test.pairs[0]["a"]
    assert test.answer(1, "b").pairs[0]["answer"] == test.pairs[0]["a"]  # a second tab: the first answer counts
    assert test.answer(9, "b").answered == 1  # out of turn
    with (test.folder / "answers.jsonl").open("a") as file:
        file.write('{"pair": 2, "ans')  # a power cut
    assert BlindTest(test.folder).current == 2
    for slot in ("x", "", "c"):
        with pytest.raises(Missing):
            test.answer(2, slot)
    for number, slot in ((3, "a"), (0, "a"), (2, "test.json")):
        with pytest.raises(Missing):
            test.sound(number, slot)


def test_the_end_is_kept_with_the_run_once(project):
    test = answered(a_test(project), 9)
    assert (test.outcome.correct, test.outcome.verdict) == (9, "apart")
    assert test.keep(project.run)
    assert not test.keep(project.run)
    (kept,) = read_tests(project.run)
    assert (kept["correct"], kept["of"], kept["seed"]) == (9, 10, test.content["seed"])
    assert [pair["answer"] == pair["x"] for pair in kept["pairs"]] == [True] * 9 + [False]
    assert kept["second"]["model"] == str(project.run / "baked")
    assert kept["interval"] == pytest.approx([0.555, 0.9975], abs=1e-3)


# ---- pages -----------------------------------------------------------------------------------------------------------


def pair_of(browser, project, number, test):
    """All that is sent about a pair: the page's part of it, and each sound's headers and bytes."""
    place = f"/voices/{project.id}/listen/blind"
    part = browser.get(f"{place}/now").text
    shown = part[part.index('<section id="blind"') : part.index("</form>")]
    answers = {slot: browser.get(f"{place}/{test.id}/{number}/{slot}") for slot in SLOTS}
    return shown, answers


def test_nothing_that_is_sent_tells_which_is_which(browser, project):
    """Of tests of other seeds all is the same but ids, texts and the sounds themselves; within a pair, too."""
    seen = []
    for seed in (900_001, 900_002, 900_003):
        test = a_test(project, seed=seed)
        for number in range(1, 11):
            shown, answers = pair_of(browser, project, number, test)
            for name in ("original", "adapted", "Original", "Adapted", str(test.content["seed"])):
                assert not re.search(rf"\b{name}\b", shown)
            headers = [
                {key: value for key, value in one.headers.items() if key not in ("etag",)} for one in answers.values()
            ]
            assert headers[0] == headers[1] == headers[2]
            assert answers["x"].headers["last-modified"] == "Thu, 01 Jan 1970 00:00:00 GMT"
            assert answers["x"].headers["cache-control"] == "no-store"
            bodies = {slot: one.content for slot, one in answers.items()}
            assert len({len(body) for body in bodies.values()}) == 1
            assert len({body[:44] for body in bodies.values()}) == 1  # the WAV's own header
            for start in range(44, len(bodies["a"]) - 4000, 4000):
                assert len({body[start : start + 4000] for body in bodies.values()}) == 3
            plain = re.sub(r"Sentence number \d+\.", "TEXT", shown).replace(test.id, "ID")
            seen.append((number, re.sub(r'value="[0-9a-f]{64}"', "", plain)))
            browser.submit(f"/voices/{project.id}/listen/blind/{test.id}/answer", {"pair": number, "answer": "a"})
    for number in range(1, 11):
        assert len({text for n, text in seen if n == number}) == 1


def wait(studio, me, project, kind):
    """The newest task, ended: its work is done here."""
    task = studio.tasks.list(me, kind, project)[0]
    queued, work = studio.tasks._lanes["compute"].get(timeout=5)
    assert queued is task
    studio.tasks._carry_out(task, work)
    return task


def test_from_beginning_to_report(studio, browser, me, project, monkeypatch):
    monkeypatch.setattr(blind_pages, "Bench", Tones)
    place = f"/voices/{project.id}/listen/blind"
    page = browser.get(place).text
    assert re.search(r'value="original" selected.*value="adapted" selected', page, re.S)
    for sent, field in (
        ({"first": "original", "second": "original"}, "second"),
        ({"first": "x", "second": "y"}, "first"),
    ):
        answer = browser.submit(place, sent, headers={"hx-request": "true"})
        assert answer.status_code == 422
        assert re.search(rf'id="{field}-mistake" role="alert">[^<]+<', answer.text)
    assert browser.submit(place, {"first": "original", "second": "adapted"}).status_code == 303
    assert browser.submit(place, {"first": "original", "second": "adapted"}).status_code == 303  # that very one
    assert browser.submit(place, {"first": "tuned", "second": "adapted"}).status_code == 422  # one is being prepared
    assert wait(studio, me, project, "blind").state == "done"
    (test,) = blind_tests(project.listening)
    for number, pair in enumerate(test.pairs, start=1):
        shown = browser.get(place).text  # as after a reload
        assert f'name="pair" value="{number}"' in shown
        slot = "a" if pair["x"] == pair["a"] else "b"
        answer = browser.submit(f"{place}/{test.id}/answer", {"pair": number, "answer": slot})
        assert answer.status_code == 303
    end = browser.get(place).text
    assert "10 of 10 right" in end
    assert "can be told apart" in end
    assert 'class="interval"' in end
    assert end.count('class="task"') == 1  # the report's, once
    assert wait(studio, me, project, "report").state == "done"
    report = (project.run / "report" / "index.html").read_text()
    assert "10 of 10 right" in report
    assert "Blind listening test" in report
    assert len(studio.tasks.list(me, "report", project)) == 1  # once
    browser.get(place)
    assert len(read_tests(project.run)) == 1


def test_answers_that_make_no_sense(browser, project):
    test = a_test(project)
    place = f"/voices/{project.id}/listen/blind"
    for sent in ({"pair": "1", "answer": "x"}, {"pair": "", "answer": "a"}, {"pair": "²", "answer": "a"}, {}):
        assert browser.submit(f"{place}/{test.id}/answer", sent).status_code == 404
    assert browser.submit(f"{place}/{'0' * 12}/answer", {"pair": "1", "answer": "a"}).status_code == 404
    assert browser.post(f"{place}/{test.id}/answer", data={"pair": "1", "answer": "a"}).status_code == 403
    assert browser.get(f"{place}/{test.id}/2/a").status_code == 404  # not before its turn
    assert blind_test(project.listening, test.id).current == 1


def test_a_file_that_cannot_be_added_to_is_told_and_left(browser, project):
    (project.run / "abx.json").write_text("mine")
    answered(a_test(project), 5)
    page = browser.get(f"/voices/{project.id}/listen/blind").text
    assert "5 of 10 right" in page
    assert "move it away" in page
    assert (project.run / "abx.json").read_text() == "mine"


def test_a_test_that_ended_when_the_studio_did_is_kept_by_the_next_look(studio, browser, me, project):
    answered(a_test(project), 10)
    assert read_tests(project.run) == []
    browser.get(f"/voices/{project.id}/listen/blind")
    assert json.loads((project.run / "abx.json").read_text())["tests"][0]["correct"] == 10
    assert studio.tasks.list(me, "report", project)


def test_a_test_is_never_taken_for_one_of_a_later_run(studio, browser, me, project):
    answered(a_test(project), 10)
    studio.trainings.put_aside(project)
    place = f"/voices/{project.id}/listen/blind"
    assert browser.get(place).status_code == 200
    assert not project.run.exists()  # where the next training writes
    make_run(project.run)
    page, _, before = browser.get(place).text.partition("Of earlier trainings")
    assert "10 of 10 right" not in page
    assert "10 of 10 right" in before
    assert 'name="first"' in page
    assert read_tests(project.run) == []
    assert not studio.tasks.list(me, "report", project)


def test_two_tabs_at_the_end_keep_it_once(project, monkeypatch):
    test, kept, written = answered(a_test(project), 10), blind.keep_test, []

    def slow(*arguments):
        time.sleep(0.2)
        written.append(kept(*arguments))

    monkeypatch.setattr(blind, "keep_test", slow)
    with ThreadPoolExecutor(2) as tabs:
        assert sorted(tabs.map(test.keep, [project.run] * 2)) == [False, True]
    assert len(written) == 1


def test_a_voice_that_was_not_trained(browser, me):
    other = me.new_project("Ben", "en")
    place = f"/voices/{other.id}/listen/blind"
    page = browser.get(place).text
    assert "has not been trained to the end" in page
    assert f'href="/voices/{other.id}/train"' in page.partition("<main")[2]  # the way on
    assert browser.submit(place, {"first": "original", "second": "adapted"}).status_code == 422
