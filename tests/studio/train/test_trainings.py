"""Trainings of the studio: the queue, processes that outlive it, pausing, going on, cancelling. A stand-in trains."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
import time

import pytest
from places import TESTS

from mlx_voxclone.files.locks import held
from mlx_voxclone.studio.home import Home, UnreadError
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.results import training_number
from mlx_voxclone.studio.train import process
from mlx_voxclone.studio.train.former import former
from mlx_voxclone.studio.train.process import holder
from mlx_voxclone.studio.train.trainings import Trainings

STAND_IN = (sys.executable, str(TESTS / "helpers" / "train_stand_in.py"))


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "studio")


@pytest.fixture
def trainings(home, tmp_path):
    made = Trainings(home, tmp_path / "machine.lock", STAND_IN)
    yield made
    made.close()
    for person in home.people():
        for project in person.projects():
            made.leave(project)


def begin(home, trainings, person="ann", ask=True, **wanted):
    """A voice with a configuration, asked to be trained."""
    project = home.person(person).new_project(f"{person}'s voice", "en")
    trainings.configuration(project).write_text(f"task: clone\noutput: {project.run}\n")
    (project.folder / "stand_in.json").write_text(json.dumps(wanted))
    if ask:
        trainings.ask(project)
    return project


def until(trainings, project, *names, seconds=20.0):
    end = time.monotonic() + seconds
    while (state := trainings.state(project)).name not in names and time.monotonic() < end:
        trainings.tick()
        time.sleep(0.01)
    assert state.name in names, (state, trainings.output(project).read_text())
    return state


def steps(trainings, project):
    stage = trainings.look(project).stage
    return stage.step if stage else 0


def after_a_step(trainings, project):
    end = time.monotonic() + 20
    while not steps(trainings, project) and time.monotonic() < end:
        time.sleep(0.01)


def seen(trainings, person):
    return [(turn.project.id if turn.project else None, turn.running) for turn in trainings.turns(person)]


def test_a_training_runs_to_its_end(home, trainings):
    project = begin(home, trainings)
    assert trainings.state(project).name == "running"
    until(trainings, project, "done")
    found = trainings.look(project)
    assert (found.stage.name, found.stage.step, found.stage.total, found.part) == ("speaker", 20, 20, "writing")


def test_it_outlives_the_studio_and_is_found_again(home, trainings, tmp_path):
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    trainings.close()
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    assert again.state(project).name == "running"
    assert again.running().id == project.id
    pid = holder(project.folder / "training.lock").pid
    assert os.getsid(pid) == pid  # a session of its own: a terminal that is closed does not end it
    again.pause(project)
    until(again, project, "paused")


def test_pause_and_go_on(home, trainings):
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    trainings.pause(project)
    assert trainings.state(project).name in ("pausing", "paused")
    until(trainings, project, "paused")
    reached = steps(trainings, project)
    assert 0 < reached < 10_000
    (project.folder / "stand_in.json").write_text(json.dumps({"steps": reached + 3}))
    trainings.ask(project)
    until(trainings, project, "done")
    assert "--resume" in trainings.output(project).read_text()
    assert [loss for loss, _ in trainings.look(project).stage.losses] == list(range(1, reached + 4))


def test_one_at_a_time_and_others_see_no_name(home, trainings):
    first = begin(home, trainings, "ann", steps=10_000)
    second, third = begin(home, trainings, "bob"), begin(home, trainings, "ann")
    assert [trainings.state(one).name for one in (first, second, third)] == ["running", "waiting", "waiting"]
    assert [trainings.state(one).ahead for one in (second, third)] == [1, 2]
    assert seen(trainings, first.person) == [(first.id, True), (None, False), (third.id, False)]
    trainings.cancel(third)
    assert trainings.state(third).name == "none"
    trainings.cancel(first)
    until(trainings, second, "done")
    assert trainings.turns(first.person) == []


def test_the_queue_is_there_after_a_restart(home, trainings, tmp_path):
    begin(home, trainings, steps=10_000)
    second = begin(home, trainings)
    trainings.close()
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    assert again.state(second).name == "waiting"


def test_another_studio_waits_for_this_one(home, trainings, tmp_path):
    first = begin(home, trainings, steps=10_000)
    other_home = Home(tmp_path / "other")
    other = Trainings(other_home, tmp_path / "machine.lock", STAND_IN)
    second = begin(other_home, other)
    assert other.state(second).name == "waiting"
    assert seen(other, second.person) == [(None, True), (second.id, False)]
    assert other.state(second).ahead == 1
    trainings.cancel(first)
    until(trainings, first, "cancelled")
    until(other, second, "done")


@pytest.mark.parametrize("deaf", [False, True])
def test_cancelling_ends_it_and_deletes_what_it_learnt(home, trainings, deaf):
    project = begin(home, trainings, steps=10_000, deaf=deaf)
    (project.takes).mkdir()
    (project.takes / "a.wav").write_bytes(b"kept")
    after_a_step(trainings, project)
    trainings.cancel(project)
    assert trainings.state(project).name in ("cancelling", "cancelled")
    until(trainings, project, "cancelled")
    assert not project.run.exists()
    assert (project.takes / "a.wav").read_bytes() == b"kept"
    assert not list(project.folder.glob(".cancelled-*"))
    trainings.configuration(project).write_text(f"output: {project.run}\n")
    (project.folder / "stand_in.json").write_text("{}")
    trainings.ask(project)
    until(trainings, project, "done")


def test_it_is_being_cancelled_until_nothing_is_left(home, trainings, monkeypatch):
    """Gigabytes take their time to be deleted; a former model comes back after that."""
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    seen, rmtree = [], shutil.rmtree

    def looked(place, *arguments, **options):
        if ".cancelled-" in str(place):
            seen.append(trainings.state(project).name)
        rmtree(place, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", looked)
    trainings.cancel(project)
    until(trainings, project, "cancelled")
    assert seen == ["cancelling"]


def test_a_run_that_was_complete_before_is_not_deleted_by_cancelling(home, trainings):
    """Whatever has led to going on with it."""
    project = begin(home, trainings, steps=3)
    until(trainings, project, "done")
    (project.folder / "stand_in.json").write_text(json.dumps({"steps": 10_000}))
    trainings.ask(project)
    until(trainings, project, "running")
    trainings.cancel(project)
    until(trainings, project, "done")
    assert (project.run / "summary.json").is_file()


def test_asked_for_on_a_full_disk_it_waits(home, trainings, monkeypatch):
    """It is in the queue, so nobody is told that it is not; the next look begins it."""
    project = begin(home, trainings, ask=False)
    tick = trainings.tick

    def full():
        monkeypatch.setattr(trainings, "tick", tick)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trainings, "tick", full)
    trainings.ask(project)
    assert trainings.state(project).name == "waiting"
    until(trainings, project, "done")


def test_a_queue_that_cannot_be_read_now_is_not_lost(home, trainings, monkeypatch, tmp_path):
    other = Trainings(home, tmp_path / "machine.lock", STAND_IN)
    _, second = (begin(home, trainings, person, steps=10_000) for person in ("ann", "ben"))
    third = begin(home, trainings, "cara", ask=False)

    def too_many(path, *_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("mlx_voxclone.studio.home.read_plain", too_many)
        with pytest.raises(UnreadError, match="try again"):
            trainings.ask(third)
    assert other.state(second).name == "waiting"
    assert trainings.damaged(second) == []


def test_cancelling_goes_on_after_a_restart(home, trainings, tmp_path):
    project = begin(home, trainings, steps=10_000, deaf=True)
    after_a_step(trainings, project)
    trainings.cancel(project)
    trainings.close()
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    until(again, project, "cancelled")
    assert not project.run.exists()


@pytest.mark.slow
def test_pausing_goes_on_after_a_restart(home, trainings, tmp_path):
    """The studio was killed between noting it and telling the process."""
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    (project.folder / "training.json").write_text(json.dumps({"wish": "pause"}))
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    until(again, project, "paused")


def test_what_was_started_waits_no_longer(home, trainings, tmp_path):
    """The studio was killed between starting it and noting it."""
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    queue = home.path / "trainings.json"
    queue.write_text(json.dumps({"waiting": [{"person": "ann", "project": project.id}]}))
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    again.tick()
    assert again.state(project).name == "running"
    assert [turn.running for turn in again.turns(home.person("ann"))] == [True]
    assert json.loads(queue.read_text())["waiting"] == []


def test_a_paused_training_can_be_cancelled(home, trainings):
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    trainings.pause(project)
    until(trainings, project, "paused")
    trainings.cancel(project)
    until(trainings, project, "cancelled")
    assert not project.run.exists()


def test_what_is_done_is_not_cancelled(home, trainings):
    project = begin(home, trainings, steps=2)
    until(trainings, project, "done")
    trainings.cancel(project)
    assert trainings.state(project).name == "done"
    assert (project.run / "summary.json").is_file()


def test_a_failure_tells_the_commands_line(home, trainings):
    project = begin(home, trainings, fail="no disk; buy one")
    state = until(trainings, project, "failed")
    assert state.error == "no disk; buy one"
    (project.folder / "stand_in.json").write_text("{}")
    trainings.ask(project)
    until(trainings, project, "done")


def test_a_program_that_is_not_there_is_a_failure(home, tmp_path):
    trainings = Trainings(home, tmp_path / "machine.lock", ["/nowhere/voxclone"])
    project = begin(home, trainings)
    assert "nowhere" in until(trainings, project, "failed").error
    assert trainings.turns(project.person) == []


def test_a_full_disk_leaves_no_process_that_nobody_can_end(home, trainings, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(process.os, "pwrite", full)
    project = begin(home, trainings, steps=10_000)
    found = trainings.state(project)
    assert (found.name, "no space left" in found.error.lower()) == ("failed", True)
    assert holder(project.folder / "training.lock") is None


def test_a_process_that_the_system_ends_is_told(home, trainings):
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    os.kill(holder(project.folder / "training.lock").pid, signal.SIGKILL)
    until(trainings, project, "stopped")
    end = time.monotonic() + 20
    while not trainings.state(project).killed and time.monotonic() < end:  # who ended it is known a moment later
        trainings.tick()
    assert trainings.state(project).killed


def test_a_stale_process_id_is_nobody(home, trainings):
    """The computer was switched off: the file names a process, and another one has its number now."""
    project = begin(home, trainings, ask=False)
    project.run.mkdir()
    (project.run / "config.yaml").write_text("")
    for place in (project.folder / "training.lock", project.run / ".lock"):
        place.write_text(json.dumps({"pid": os.getpid(), "host": "here", "began": "then"}))
    assert trainings.state(project).name == "stopped"
    trainings.pause(project)  # nobody is told: this process lives on
    assert trainings.running() is None


def test_without_locks_the_moment_of_its_start_tells_a_process(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lock = tmp_path / "lock"
    child = process.start([sys.executable, "-c", "import time; time.sleep(60)"], [lock], tmp_path / "log")
    try:
        assert holder(lock).pid == child.pid
        content = json.loads(lock.read_text())
        lock.write_text(json.dumps(content | {"began": "another time"}))
        assert holder(lock) is None
    finally:
        child.kill()
        child.wait()


def test_a_process_of_another_machine_is_seen_and_never_signalled(home, trainings):
    project = begin(home, trainings, ask=False)
    with held(project.run):
        (project.run / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": "another"}))
        assert trainings.state(project).name == "running"
        trainings.pause(project)  # would end this very process
        assert holder(project.run / ".lock").pid is None


def test_a_training_of_the_command_lines_is_seen(home, trainings):
    project = begin(home, trainings, ask=False)
    with held(project.run):
        state = trainings.state(project)
        assert (state.name, state.outside) == ("running", True)
        with pytest.raises(Mistake, match="busy"):
            trainings.ask(project)
        other = begin(home, trainings)
        assert trainings.state(other).name == "waiting"
        assert seen(trainings, other.person) == [(project.id, True), (other.id, False)]
    until(trainings, other, "done")


def test_it_is_asked_for_once(home, trainings):
    project = begin(home, trainings, steps=10_000)
    with pytest.raises(Mistake, match="busy"):
        trainings.ask(project)
    with pytest.raises(Mistake, match="busy"):
        trainings.put_aside(project)


def test_a_new_run_leaves_the_earlier_one(home, trainings):
    project = begin(home, trainings, steps=2)
    until(trainings, project, "done")
    trainings.put_aside(project)
    assert trainings.state(project).name == "none"
    assert (project.folder / "earlier" / "1" / "summary.json").is_file()
    trainings.ask(project)
    until(trainings, project, "done")
    trainings.put_aside(project)
    assert sorted(path.name for path in (project.folder / "earlier").iterdir()) == ["1", "2"]


def trained_again(home, trainings, ask=True, **wanted):
    """A voice that has learnt once and is to learn once more; what it had learnt before."""
    project = begin(home, trainings, steps=2)
    until(trainings, project, "done")
    (project.run / "learnt").write_text("first")
    trainings.put_aside(project)
    (project.folder / "stand_in.json").write_text(json.dumps(wanted))
    if ask:
        trainings.ask(project)
    return project


def is_first(trainings, project):
    found = trainings.state(project)
    assert "report: here" in trainings.output(project).read_text()
    assert training_number(project.run) == 1
    return found.name == "done" and found.back and (project.run / "learnt").read_text() == "first"


@pytest.mark.parametrize("when", ["running", "paused", "waiting", "failed before it began"])
def test_cancelled_again_leaves_the_former_model(home, trainings, tmp_path, when):
    first = begin(home, trainings, ask=False, steps=10_000)
    fails = {"fail": "no memory"} if when.startswith("failed") else {"steps": 10_000}
    project = trained_again(home, trainings, ask=False, **fails)
    if when == "waiting":
        trainings.ask(first)
    trainings.ask(project)
    if when.startswith("failed"):
        until(trainings, project, "failed")
        assert former(project)
    elif when != "waiting":
        after_a_step(trainings, project)
    if when == "paused":
        trainings.pause(project)
        until(trainings, project, "paused")
    trainings.cancel(project)
    until(trainings, project, "done")
    assert is_first(trainings, project)
    assert is_first(Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN), project)
    trainings.cancel(project)  # a page that was open before
    assert is_first(trainings, project)
    trainings.leave(first)


@pytest.mark.slow
def test_its_temporary_files_go_with_it(home, trainings):
    project = begin(home, trainings, steps=10_000, deaf=True)
    after_a_step(trainings, project)
    temporary = project.folder / ".temporary"
    (temporary / "spoken.wav").write_bytes(b"x")
    trainings.cancel(project)
    until(trainings, project, "cancelled")
    trainings.tick()
    assert not temporary.exists()


@pytest.mark.parametrize("note", [None, {}, {"wish": "cancel", "error": ""}, {"back": True}])
def test_the_former_model_comes_back_after_an_end_in_between(home, trainings, tmp_path, note):
    """Of the studio: between putting aside and asking, or between deleting and putting back."""
    project = trained_again(home, trainings, ask=False)
    path = project.folder / "training.json"
    path.unlink() if note is None else path.write_text(json.dumps(note))
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    until(again, project, "done")
    assert is_first(again, project)


def test_a_run_of_the_command_lines_after_a_cancelled_one_is_left_alone(home, trainings, tmp_path):
    project = begin(home, trainings, steps=10_000)
    after_a_step(trainings, project)
    trainings.cancel(project)
    until(trainings, project, "cancelled")
    project.run.mkdir()
    (project.run / "summary.json").write_text("{}")
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    again.tick()
    assert again.state(project).name == "done"
    assert (project.run / "summary.json").is_file()


def test_a_voice_that_was_deleted_leaves_the_queue(home, trainings):
    first, second = begin(home, trainings, steps=10_000), begin(home, trainings)
    (second.folder / "voice.json").unlink()
    trainings.leave(first)
    assert holder(first.folder / "training.lock") is None
    trainings.tick()
    trainings.tick()
    assert trainings.turns(first.person) == []


def test_damaged_files_stop_nobody(home, trainings, tmp_path):
    project, other = begin(home, trainings, ask=False), begin(home, trainings, "bob", ask=False)
    (home.path / "trainings.json").write_text("{")
    (project.folder / "training.json").write_text("[]")
    (other.folder / "voice.json").write_text("{")
    again = Trainings(Home(home.path), tmp_path / "machine.lock", STAND_IN)
    assert again.state(project).name == "none"
    again.ask(project)
    until(again, project, "done")
    (other.folder / "voice.json").unlink()


def test_it_is_looked_after_beside(home, trainings):
    trainings.watch()
    project = begin(home, trainings, steps=10_000)
    second = begin(home, trainings)
    trainings.pause(project)
    end = time.monotonic() + 20
    while trainings.state(second).name != "done" and time.monotonic() < end:
        time.sleep(0.02)
    assert trainings.state(second).name == "done"
    with contextlib.suppress(Mistake):
        trainings.cancel(project)
