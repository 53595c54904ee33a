"""`kill -9` before each single change that an action makes on the disk, and a new start on the same folder.

After that the folder is as it was before the action, or as it is after it: nothing lost, nothing half there, nothing
left over.
"""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from recorded import AGREED, many, spoken, wav

from mlx_voxclone.speech.chunks import Chunk
from mlx_voxclone.studio.home import Home, write_json
from mlx_voxclone.studio.keep import removal
from mlx_voxclone.studio.leftovers import clear
from mlx_voxclone.studio.record.pages import _begun
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.takes import Takes
from mlx_voxclone.studio.record.uploads import Uploads
from mlx_voxclone.studio.speak.history import Asked, new_speech, speeches
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.tasks import Task

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
SOUND = wav(spoken("papa mino lesu."))
VOICE = "0123456789ab"


def voice_of(home):
    return home.person("me").project(VOICE)


def with_takes(home):
    project = home.person("me").new_project("Ann", SYLLABLES, VOICE)
    project.change(consent=AGREED)
    many(project, takes=1, uploads=1, clips=2)
    return project


def long_of(home):
    return next(id for id, notes in Uploads(voice_of(home)).shelf.items() if notes.get("long"))


def take_of(home):
    return Takes(voice_of(home)).shelf.ids()[0]


def bring(home, name, content):
    source = home.path.with_name(name)
    source.write_bytes(content)
    Uploads(voice_of(home)).add(name, source)


def text_of_long(home):
    Uploads(voice_of(home)).set_text(long_of(home), "papa mino lesu. " * 9)


def begin_voice(home):
    _begun(home.person("me"), VOICE, "Ann", SYLLABLES, AGREED)


def with_run(home):
    project = with_takes(home)
    project.run.mkdir()
    (project.run / "config.yaml").write_text("task: clone\n")
    (project.run / "summary.json").write_text("{}")
    (project.folder / "training.log").write_text("delivered: adapted\n")
    write_json(project.folder / "training.json", {"wish": "run", "code": 0})
    return project


def with_former(home):
    project = with_run(home)
    studio = Studio(home.path)
    studio.trainings.put_aside(project)
    project.run.mkdir()
    (project.run / "config.yaml").write_text("task: clone\n")
    (project.folder / "training.log").write_text("error: no luck\n")
    write_json(project.folder / "training.json", {"wish": "cancel"})
    studio.tasks.close()


def cancelled(home):
    """What comes after a cancelled training has ended, as the studio does it."""
    trainings = Studio(home.path).trainings
    trainings.tick()


def begin_speech(home):
    asked = Asked("a. b.", f"own:{VOICE}", "Ann", "en", 1, 7, 1.2, (Chunk("a.", 0.1), Chunk("b.", 0.1)))
    new_speech(home.person("me"), asked)


def with_speech(home):
    project = with_takes(home)
    begin_speech(home)
    task = Task(home.person("me"), "bake", "x", VOICE, "files")
    task.note("done")
    return project


def only_speech(home):
    return speeches(home.person("me"), 1)[0][0]


def say(home):
    import numpy as np

    only_speech(home).add(0, np.zeros(2400, np.float32), 1, None)


def delete_voice(home):
    studio = Studio(home.path)
    removal.delete(voice_of(home), studio.tasks, studio.trainings, speeches=True)


ACTIONS = {
    "a take is saved": (with_takes, lambda home: Takes(voice_of(home)).record(f"{SYLLABLES}-003", SOUND)),
    "a take is deleted": (with_takes, lambda home: Takes(voice_of(home)).remove(take_of(home))),
    "a file comes in": (with_takes, lambda home: bring(home, "one.wav", SOUND)),
    "a file is deleted": (with_takes, lambda home: Uploads(voice_of(home)).remove(long_of(home))),
    "a file's text is changed": (with_takes, text_of_long),
    "texts come in": (with_takes, lambda home: bring(home, "texts.csv", b"one|papa mino.\ntwo|lesu mino.\n")),
    "a voice is begun": (lambda home: home.person("me"), begin_voice),
    "a training is put aside": (with_run, lambda home: Studio(home.path).trainings.put_aside(voice_of(home))),
    "a training is cancelled": (with_former, cancelled),
    "a speech is begun": (with_takes, begin_speech),
    "a sentence is spoken": (with_speech, say),
    "a speech is deleted": (with_speech, lambda home: only_speech(home).delete()),
    "a voice is deleted": (with_speech, delete_voice),
}


FURTHER = {  # what besides may lie there: the next go at it writes over it, and nothing shows it before
    "a file's text is changed": r".*/clips/0002-ID~\d{3}\.(json|wav)",
    "a voice is begun": r"people/me/voices/",
    "a speech is begun": r"people/me/speech/",
    "a sentence is spoken": r".*/takes/0000-0\.wav",
}


def killed_at(number, action, home):
    """Whether an action was killed before its change `number`; False: it has fewer."""
    pid = os.fork()
    if not pid:
        left = [number]

        def hook(event, arguments):
            if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
                left[0] -= 1
                if not left[0]:
                    os._exit(9)

        code = 1
        signal.alarm(60)  # a lock that another thread held when this process was made stays held
        try:
            sys.addaudithook(hook)
            action(home)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), code
    return code == 9


def restarted(home):
    studio = Studio(home.path)
    clear(studio.home)
    studio.trainings.tick()
    studio.tasks.close()


def seen(home):
    """All files of a home but those of locks, with their ids as one."""
    found = []
    for root, folders, names in os.walk(home.path):
        place = Path(root).relative_to(home.path).as_posix()
        found += [f"{place}/{name}" for name in names if not name.endswith(".lock")]
        found += [f"{place}/{name}/" for name in folders]
    digits = re.compile(r"(?<=/)(?!0123456789ab)[0-9a-f]{12}(?=/|\.json)|(?<=\d{4}-)[0-9a-f]{8}")
    return sorted(digits.sub("ID", name) for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_that_is_killed_has_happened_or_not(tmp_path, name):
    prepare, action = ACTIONS[name]
    start = Home(tmp_path / "start")
    prepare(start)
    whole = tmp_path / "whole"
    shutil.copytree(start.path, whole)
    action(Home(whole))
    restarted(Home(whole))
    restarted(start) if name != "a training is cancelled" else None
    allowed, number = [seen(start), seen(Home(whole))], 0
    while True:
        number += 1
        home = Home(tmp_path / f"{number}" / "studio")
        shutil.rmtree(home.path)
        shutil.copytree(start.path, home.path)
        killed = killed_at(number, action, home)
        restarted(home)
        now = seen(home)
        extra = {one for one in now if re.fullmatch(FURTHER.get(name, ""), one)}
        assert any({*now} - extra == {*one} - extra for one in allowed), (number, [{*now} ^ {*one} for one in allowed])
        if not killed:
            break
    assert number > 3, "no change was seen"
