"""What a voice's recordings come to: the list that training reads, and how much speech there is towards a goal."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.studio.home import Project, json_text
from mlx_voxclone.studio.record import waiting
from mlx_voxclone.studio.record.checks import BAD
from mlx_voxclone.studio.record.consent import given
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Look, Shelf
from mlx_voxclone.studio.record.takes import Taken, Takes

LISTING = "recordings.jsonl"
GOALS = (5, 10, 30)  # minutes: a voice can be told, is good, and has every sound in every place


@dataclass(frozen=True)
class Recording:
    """A sound that training can use. `text` is None while there is none."""

    shelf: str  # "takes", "uploads" or "clips"
    id: str
    path: Path
    text: str | None
    seconds: float  # of speech


@dataclass(frozen=True)
class Progress:
    """How much there is. Seconds are of speech in what training would take."""

    seconds: float
    recordings: int  # with a text
    without_text: int
    not_usable: int  # checked, and found bad

    @property
    def minutes(self) -> float:
        return self.seconds / 60

    @property
    def goal(self) -> int:
        """The next goal in minutes; the last one once it is reached."""
        return next((goal for goal in GOALS if self.minutes < goal), GOALS[-1])


@dataclass(frozen=True)
class Recorded:
    """All that a voice has, as it is at one moment: each file of notes is read once."""

    project: Project
    taken: Taken
    uploads: Look
    clips: Look

    @property
    def damaged(self) -> list[str]:
        """Files whose notes cannot be read, as seen from the voice's folder."""
        texts = waiting.damaged(self.project.uploads)
        paths = (*self.taken.damaged, *texts, *self.uploads.damaged, *self.clips.damaged)
        return [path.relative_to(self.project.folder).as_posix() for path in paths]


def recorded(project: Project) -> Recorded:
    """A voice's recordings now."""
    return Recorded(project, Takes(project).now(), Shelf(project.uploads).look(), Shelf(project.clips).look())


def recordings(there: Recorded) -> Iterator[Recording]:
    """All that can be used, takes first; a long recording by the clips that it was cut into."""
    for take in there.taken.used:
        yield Recording("takes", take.id, take.path, take.text or None, take.speech)
    uploads, clips = Shelf(there.project.uploads), Shelf(there.project.clips)
    cut = set()
    for id, notes in there.uploads.items:
        if notes.get("cut") is not None:  # else what lies there is half of it
            cut.add(id)
        if not notes.get("long") and not is_bad(notes):
            yield _recording("uploads", uploads, id, notes)
    for id, notes in there.clips.items:
        if notes.get("upload") in cut and not is_bad(notes):
            yield _recording("clips", clips, id, notes)


def progress(project: Project, there: Recorded | None = None) -> Progress:
    """How much speech with a text there is, and what is missing from the rest.

    Args:
        there: what was read of the voice already.
    """
    there = there or recorded(project)
    found = list(recordings(there))
    texted = [one for one in found if one.text]
    bad = sum(take.check.state == BAD for take in there.taken.takes)
    bad += sum(is_bad(notes) for _, notes in there.uploads.items)
    return Progress(sum(one.seconds for one in texted), len(texted), len(found) - len(texted), bad)


def to_recordings(project: Project) -> Path:
    """Write the list of recordings with their texts that `voxclone prepare` and `data.path` take.

    Returns:
        `PROJECT/recordings.jsonl`, on the disk.
    Raises:
        DataError: there is no recording with a text, or no consent.
        CheckpointError: the list cannot be written.
    """
    if given(project) is None:
        raise DataError("this voice has no consent yet; nothing is trained on it")
    texted = [one for one in recordings(recorded(project)) if one.text]
    if not texted:
        raise DataError("this voice has no recording with a text yet; record some sentences, or add texts to the files")
    language = project.info().get("language")
    lines = []
    for one in texted:
        line = {"audio": one.path.relative_to(project.folder).as_posix(), "text": one.text, "speaker": project.id}
        if isinstance(language, str) and language not in ("", SYLLABLES):
            line["language"] = language
        lines.append(json_text(line) + "\n")
    write_text_atomic(project.folder / LISTING, "".join(lines))
    return project.folder / LISTING


def is_bad(notes: dict[str, Any]) -> bool:
    """Whether a file or clip was checked, and found to be of no use."""
    return (notes.get("check") or {}).get("state") == BAD


def is_silent(notes: dict[str, Any]) -> bool:
    """Whether a file or clip could be used, and has no text yet."""
    return not notes.get("text") and not notes.get("long") and not is_bad(notes)


def is_uncut(notes: dict[str, Any]) -> bool:
    """Whether a file is long, and still to be cut, by its text if it has one."""
    return bool(notes.get("long")) and notes.get("cut") is None


def _recording(shelf: str, items: Shelf, id: str, notes: dict[str, Any]) -> Recording:
    seconds = (notes.get("check") or {}).get("speech", 0.0)
    return Recording(shelf, id, items.sound_of(id, notes), notes.get("text") or None, seconds)
