"""The studio's rehearsal as it is: the command trains the speaking miniature on recordings of a synthetic voice."""

import json
import time

import pytest
from recorded import AGREED

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.model import machine
from mlx_voxclone.studio.model.choice import Chosen, rehearsal
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.train import plan
from mlx_voxclone.studio.train.outcome import outcome
from mlx_voxclone.studio.train.trainings import Trainings

pytestmark = pytest.mark.slow


@pytest.fixture
def trainings(tmp_path):
    made = Trainings(Home(tmp_path / "studio"), tmp_path / "machine.lock")
    made.watch()
    yield made
    for person in made._home.people():
        for project in person.projects():
            made.leave(project)
    made.close()


def spoken(trainings, count, seconds=2.5):
    """A voice of synthetic recordings, as files that were brought."""
    project = trainings._home.person("ann").new_project("Ann Lee", "syllables")
    project.change(consent=AGREED)
    write_corpus(project.folder / "made", [SyntheticSpeaker.sample(3)], count, seconds=seconds)
    project.uploads.mkdir()
    for k, line in enumerate((project.folder / "made" / "manifest.jsonl").read_text().splitlines(), 1):
        entry = json.loads(line)
        (project.folder / "made" / entry["audio"]).rename(project.uploads / f"{k:04d}-00aa.wav")
        notes = {"text": entry["text"], "suffix": ".wav", "check": {"speech": seconds, "state": "good"}}
        (project.uploads / f"{k:04d}-00aa.json").write_text(json.dumps(notes))
    plan.write(project, rehearsal(trainings._home), this_machine(), trainings.configuration(project))
    return project


def until(trainings, project, test, seconds=7200):
    end = time.monotonic() + seconds
    while not test() and time.monotonic() < end:
        assert trainings.state(project).name in ("running", "pausing", "paused", "done", "cancelling", "cancelled"), (
            trainings.state(project), trainings.output(project).read_text(),
        )  # fmt: skip
        time.sleep(0.1)
    assert test(), trainings.output(project).read_text()


def test_a_rehearsal_is_paused_gone_on_with_and_delivers(trainings):
    project = spoken(trainings, 30)
    trainings.ask(project)
    until(trainings, project, lambda: (stage := trainings.look(project).stage) is not None and stage.step > 16)
    trainings.pause(project)
    until(trainings, project, lambda: trainings.state(project).name == "paused")
    trainings.ask(project)
    until(trainings, project, lambda: trainings.state(project).name == "done")
    found, look = outcome(project.run), trainings.look(project)
    assert found.delivered in ("adapted", "zero-shot")
    assert found.voice == "ann-lee"
    assert "ann-lee" in Release(found.checkpoint).voices()
    assert found.figures[0].before is not None
    assert found.figures[0].after is not None
    assert found.speaker_judge == "spectral"
    assert (look.stage.step, look.stage.total) == (60, 60)
    assert [measured.step for measured in look.stage.measured] == [0, 15, 30, 45, 60]
    assert {sample.step for sample in look.samples} == {0, 15, 30, 45, 60}
    assert all(sample.text for sample in look.samples)
    assert (project.run / "report" / "index.html").is_file()


def test_the_fewest_recordings_are_enough(trainings):
    project = spoken(trainings, plan.FEWEST, seconds=1.5)
    trainings.ask(project)
    until(trainings, project, lambda: (stage := trainings.look(project).stage) is not None and stage.step > 1)
    began = time.monotonic()
    trainings.cancel(project)
    until(trainings, project, lambda: trainings.state(project).name == "cancelled")
    assert not project.run.exists()
    print(f"cancelled after {time.monotonic() - began:.1f} s")


def test_what_doctor_says_is_understood(trainings, tmp_path):
    person = trainings._home.person("ann")
    task = Task(person, machine.KIND, "x", None, "files")
    model = make_micro(tmp_path / "tiny")
    found = machine.forecast(task, Chosen("folder", str(model)), this_machine(), person.folder)
    names = [name for name, _ in found["parts"]]
    assert {"pairs", "base_encoder", "encoder", "codes", "judging", "speaker", "voice", "delivery"} == set(names)
    assert found["memory"] > 0
    assert found["seconds"] > found["once"] > 0
    assert found["disk"] > 0
