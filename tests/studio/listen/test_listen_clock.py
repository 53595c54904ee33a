"""A clock that is set back: what was just made is the newest of its kind, is kept, and is of the present training."""

import os
import time

import pytest
from listening_made import Tones, make_run
from matplotlib.figure import Figure
from visiting import ended

from mlx_voxclone.studio.listen import blind, comparison, pages
from mlx_voxclone.studio.listen.blind import blind_tests, make
from mlx_voxclone.studio.listen.comparison import compare, comparisons, folder_of
from mlx_voxclone.studio.listen.voices import heard
from mlx_voxclone.studio.tasks import Tasks

AHEAD = 3600.0  # seconds


@pytest.fixture
def ahead(monkeypatch):
    """The clock is an hour ahead; the function sets it right."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + AHEAD)
    return lambda: monkeypatch.setattr(time, "time", right)


@pytest.fixture
def project(me, ahead, monkeypatch):
    """A voice whose training has ended by then."""
    monkeypatch.setattr(comparison, "sound_figure", lambda *_, **__: Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(comparison, "_KEPT", 2)
    monkeypatch.setattr(blind, "_KEPT", 1)
    made = me.new_project("Ann", "en")
    make_run(made.run)
    os.utime(made.run / "summary.json", (time.time(),) * 2)
    return made


def test_a_new_comparison_is_kept_and_shown(studio, browser, me, project, ahead, computing, monkeypatch):
    monkeypatch.setattr(pages, "Bench", lambda *_: Tones())
    found = heard(project.run)
    for text in ("One.", "Two."):
        compare(Tones(), found.variants[1:2], text, 0, project.listening, lambda *_: None, "en", 1, project.run)
    ahead()
    address = f"/voices/{project.id}/listen"
    assert browser.submit(f"{address}/speak", {"text": "Three.", "variant": ["tuned"], "seed": "0"}).status_code == 303
    (task,) = studio.tasks.list(me, "listen", project)
    assert ended(task).state == "done", task.error
    assert [one["text"] for one in comparisons(project.listening)] == ["Three.", "Two."]
    assert folder_of(project.listening, task.result["comparison"]).is_dir()
    page = browser.get(address).text
    assert f"/sounds/{task.result['comparison']}/" in page
    assert "Of earlier trainings" not in page


def test_a_first_comparison_is_of_the_training_that_ended_ahead(
    studio, browser, me, project, ahead, computing, monkeypatch
):
    monkeypatch.setattr(pages, "Bench", lambda *_: Tones())
    ahead()
    address = f"/voices/{project.id}/listen"
    browser.submit(f"{address}/speak", {"text": "One.", "variant": ["tuned"], "seed": "0"})
    (task,) = studio.tasks.list(me, "listen", project)
    assert ended(task).state == "done", task.error
    page = browser.get(address).text
    assert f"/sounds/{task.result['comparison']}/" in page
    assert "Of earlier trainings" not in page


def test_a_new_blind_test_has_its_sounds_and_is_of_the_training(project, ahead):
    found = heard(project.run)

    def another():
        return make(Tones(), found, *found.variants[1:3], project.listening, lambda *_: None, pairs=2)

    made = [another() for _ in range(2)]
    ahead()
    made.append(another())
    tests = blind_tests(project.listening)
    assert [test.id for test in tests] == made[::-1]
    assert [len(list(test.folder.glob("*.wav"))) for test in tests] == [6, 0, 0]
    assert all(test.is_of(project.run) for test in tests)


def test_the_newest_task_and_voice_come_first(studio, me, ahead):
    first = [ended(studio.tasks.start(me, "bake", f"{k}", lambda task: None, lane="files")) for k in range(2)]
    voice = me.new_project("Ann", "en")
    ahead()
    last = ended(studio.tasks.start(me, "bake", "last", lambda task: None, lane="files"))
    assert studio.tasks.list(me) == [last, *first[::-1]]
    assert [task.id for task in Tasks(studio.home).list(me)] == [last.id, *(task.id for task in first[::-1])]
    newer = me.new_project("Ben", "en")
    assert [project.id for project in me.projects()] == [newer.id, voice.id]


@pytest.mark.parametrize("created", ["inf", "nan", "tomorrow", None, [1]])
def test_an_odd_time_of_another_voice_is_not_taken_over(me, created):
    me.new_project("Ann", "en").change(created=created)
    assert me.new_project("Ben", "en").info()["created"] == pytest.approx(time.time(), abs=600)
