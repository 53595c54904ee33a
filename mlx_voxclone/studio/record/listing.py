"""What a voice's recordings come to: the list that training reads, and how much speech there is towards a goal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.record.checks import BAD
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import Takes

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


def recordings(project: Project) -> Iterator[Recording]:
    """All that can be used, takes first; a long recording by the clips that it was cut into."""
    for take in Takes(project).used():
        yield Recording("takes", take.id, take.path, take.text, take.speech)
    uploads, clips = Shelf(project.uploads), Shelf(project.clips)
    there = []
    for id, notes in uploads.items():
        if notes.get("cut") is not None:  # else what lies there is half of it
            there.append(id)
        if not notes.get("long") and not _is_bad(notes):
            yield _recording("uploads", uploads, id, notes)
    for id, notes in clips.items():
        if notes.get("upload") in there and not _is_bad(notes):
            yield _recording("clips", clips, id, notes)


def progress(project: Project) -> Progress:
    """How much speech with a text there is, and what is missing from the rest."""
    found = list(recordings(project))
    texted = [one for one in found if one.text]
    bad = sum(_is_bad(notes) for shelf in (project.takes, project.uploads) for _, notes in Shelf(shelf).items())
    return Progress(sum(one.seconds for one in texted), len(texted), len(found) - len(texted), bad)


def to_recordings(project: Project) -> Path:
    """Write the list of recordings with their texts that `voxclone prepare` and `data.path` take.

    Returns:
        `PROJECT/recordings.jsonl`, on the disk.
    Raises:
        DataError: there is no recording with a text, or no consent.
        CheckpointError: the list cannot be written.
    """
    info = project.info()
    if not info.get("consent"):
        raise DataError("this voice has no consent yet; nothing is trained on it")
    texted = [one for one in recordings(project) if one.text]
    if not texted:
        raise DataError("this voice has no recording with a text yet; record some sentences, or add texts to the files")
    language = info.get("language")
    lines = []
    for one in texted:
        line = {"audio": one.path.relative_to(project.folder).as_posix(), "text": one.text, "speaker": project.id}
        if language and language != SYLLABLES:
            line["language"] = language
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text_atomic(project.folder / LISTING, "".join(lines))
    return project.folder / LISTING


def _recording(shelf: str, items: Shelf, id: str, notes: dict[str, Any]) -> Recording:
    seconds = (notes.get("check") or {}).get("speech", 0.0)
    return Recording(shelf, id, items.sound(id), notes.get("text") or None, seconds)


def _is_bad(notes: dict[str, Any]) -> bool:
    return (notes.get("check") or {}).get("state") == BAD
