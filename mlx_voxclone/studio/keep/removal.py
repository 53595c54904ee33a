"""A voice deleted with all that was made of it: recordings, clips, the training, exports, what was spoken with it."""

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.studio.home import ID, Person, Project, read_json, write_json
from mlx_voxclone.studio.keep.exports import clear_trash, out_of_sight, trash
from mlx_voxclone.studio.keep.made import bytes_of
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.tasks import Tasks
from mlx_voxclone.studio.train.trainings import Trainings

RECORDINGS, CLIPS, TRAINING, LISTENING, EXPORTS, SPEECHES = (
    "recordings", "clips", "training", "listening", "exports", "speeches",
)  # fmt: skip
SPEECH = "speech"  # folder of what a person has had spoken
_DELETED = re.compile(rf"\.trash-({ID.pattern})-{ID.pattern}")  # see `exports.out_of_sight`
_KINDS = {  # folders of a voice; all that is not named here is of its training
    "takes": RECORDINGS,
    "uploads": RECORDINGS,
    "clips": CLIPS,
    "listening": LISTENING,
    "exports": EXPORTS,
}
_INFO = "voice.json"
DELETES_SPEECHES = "delete-speeches.json"  # in the folder of a voice that is being deleted with what was spoken with it


@dataclass(frozen=True)
class Part:
    """What goes of one kind: files and bytes."""

    what: str
    files: int
    size: int


def belongings(project: Project, speeches: Sequence[Path] = ()) -> list[Part]:
    """What goes with a voice, of each kind that there is something of."""
    sums = dict.fromkeys((RECORDINGS, CLIPS, TRAINING, LISTENING, EXPORTS, SPEECHES), (0, 0))
    with contextlib.suppress(OSError):
        places = [(_KINDS.get(one.name, TRAINING), Path(one.path)) for one in os.scandir(project.folder)]
        for what, place in [*((w, p) for w, p in places if p.name != _INFO), *((SPEECHES, each) for each in speeches)]:
            files, size = bytes_of(place)
            sums[what] = sums[what][0] + files, sums[what][1] + size
    return [Part(what, files, size) for what, (files, size) in sums.items() if files]


def spoken_with(project: Project) -> list[Path]:
    """Folders of what was spoken with a voice."""
    found = []
    for place in _folders(project.person.folder / SPEECH):
        with contextlib.suppress(VoxcloneError):
            if ID.fullmatch(place.name) and read_json(place / "asked.json").get("voice") == f"own:{project.id}":
                found.append(place)
    return found


def check_idle(project: Project, tasks: Tasks, trainings: Trainings) -> None:
    """Refuse to touch a voice that is being worked on. Raises Mistake."""
    if trainings.state(project).open:
        raise Mistake("", "keep.wrong.trains")
    speaking = set()
    for place in spoken_with(project):
        with contextlib.suppress(VoxcloneError):
            speaking.add(read_json(place / "state.json").get("task"))
    for task in tasks.list(project.person):
        if task.open and (task.project == project.id or task.id in speaking):
            raise Mistake("", "keep.wrong.busy", title=task.title)


def delete(project: Project, tasks: Tasks, trainings: Trainings, *, speeches: bool) -> None:
    """Delete a voice for good. All of it is renamed first, so that no half of it is ever seen.

    Args:
        speeches: delete what was spoken with it, too. Where the disk is too full to note that, an end of the studio in
            the middle leaves some of it in the history.

    Raises:
        Mistake: it trains, speaks or is exported. Missing: it has gone already.
        CheckpointError: the folder cannot be renamed; all is as it was.
    """
    check_idle(project, tasks, trainings)
    spoken = spoken_with(project) if speeches else []
    (project.folder / DELETES_SPEECHES).unlink(missing_ok=True)
    if spoken:
        with contextlib.suppress(CheckpointError):  # a deletion is never refused for lack of space
            write_json(project.folder / DELETES_SPEECHES, {})
    try:
        gone = [out_of_sight(project.folder)]
    except CheckpointError:
        (project.folder / DELETES_SPEECHES).unlink(missing_ok=True)
        raise
    for place in spoken:
        with contextlib.suppress(Missing):
            gone.append(out_of_sight(place))
    tasks.forget(project)
    for place in gone:
        shutil.rmtree(place, ignore_errors=True)


def clear(person: Person) -> None:
    """Finish what an end of the studio in the middle of a deletion has left."""
    for place in _folders(person.folder / "voices"):
        if (found := _DELETED.fullmatch(place.name)) and (place / DELETES_SPEECHES).is_file():
            for speech in spoken_with(Project(person, found[1])):
                with contextlib.suppress(VoxcloneError):
                    trash(speech)
    for name in ("voices", SPEECH):
        clear_trash(person.folder / name)


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
