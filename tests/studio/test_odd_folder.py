"""A studio in a folder whose name is no UTF-8: all goes on, and what is noted is read back as it was."""

import os
from pathlib import Path

import pytest
from visiting import ended

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio.home import json_text, read_json, write_json
from mlx_voxclone.studio.model.choice import chosen
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.tasks import Task, Tasks


@pytest.fixture
def studio(tmp_path):
    home = os.fsdecode(os.fsencode(tmp_path) + b"/h\xe9me")
    try:
        os.mkdir(home)
    except OSError:
        pytest.skip("this disk takes no such name")
    made = Studio(home)
    yield made
    made.tasks.close()


def test_a_task_that_fails_there_ends_and_the_next_one_begins(studio, browser, me):
    line = f"{studio.home.path}/x: no such file"

    def work(task):
        raise CheckpointError(line)

    task = ended(studio.tasks.start(me, "bake", "x", work, lane="files"), 60)
    assert (task.state, task.error) == ("failed", line)
    assert "h\\udce9me/x: no such file" in browser.get(f"/tasks/{task.id}").text
    assert ended(studio.tasks.start(me, "bake", "y", lambda task: None, lane="files"), 10).state == "done"
    assert Tasks(studio.home).get(me, task.id).error == line


def test_the_rehearsal_is_chosen_there(studio, browser, me):
    assert browser.submit("/model/rehearsal").status_code == 303
    assert Path(chosen(me).model).is_relative_to(studio.home.path)


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(5, "odd"), CheckpointError("no space left on its disk")])
def test_a_lane_outlives_whatever_a_note_raises(studio, me, monkeypatch, error):
    begun, note = [], Task.note

    def fails(task, state=None):
        if state is not None:
            raise error
        note(task, state)

    monkeypatch.setattr(Task, "note", fails)
    for number in range(2):
        task = studio.tasks.start(me, "bake", "x", lambda task: begun.append(task) or {}, lane="files")
        assert ended(task, 10).state == "done", number
        assert "odd" in task.error or "space" in task.error
    assert len(begun) == 2


def test_odd_names_are_read_back(studio, me):
    odd = os.fsdecode(b"h\xe9me \xff\n") + "\u00e9\ud800"
    assert json_text({"a": "é"}) == '{"a": "é"}'
    write_json(me.folder / "x.json", {"name": odd, odd: 1})
    assert read_json(me.folder / "x.json") == {"name": odd, odd: 1}
    voice = me.new_project(odd, "en")
    assert voice.info()["title"] == odd
    shelf = Shelf(voice.uploads)
    id = shelf.add({"name": odd, "sha256": "0" * 64}, lambda file: file.write(b"x"))
    assert shelf.change(id, text=odd)["name"] == shelf.notes(id)["text"] == odd
