"""The voices of a person as cards: how far each is, how it sounds, what comes next."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import soundfile

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.report.look import peaks
from mlx_voxclone.studio.home import Person, Project
from mlx_voxclone.studio.keep.made import Made, made_of
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.record.listing import Progress, progress
from mlx_voxclone.studio.train.trainings import State, Trainings

LONGEST_TITLE = 80  # characters
RECORDING, TRAINING, STOPPED, READY = "recording", "training", "stopped", "ready"
_LONGEST_SAMPLE = 120  # seconds of a sound whose waveform is drawn


@dataclass(frozen=True)
class Sound:
    """A sound to play: see `report.look.player`."""

    peaks: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Card:
    """A voice.

    Attributes:
        state: `recording`, `training` (or waits for it), `stopped` (it did not end well, or was paused), `ready`.
        recorded: what there is to train on. training: how it stands with that.
        made: what the training has come to, of a voice that is ready. sample: how it sounds, where there is something.
    """

    project: Project
    title: str
    language: str
    state: str
    recorded: Progress
    training: State
    made: Made | None
    sample: Sound | None
    published: str = ""


def card(project: Project, trainings: Trainings) -> Card:
    """The card of a voice. Raises CheckpointError: one of its small files is damaged."""
    info, made, training = project.info(), made_of(project), trainings.state(project)
    if training.open:
        state = TRAINING
    elif made is not None:
        state = READY
    else:
        state = STOPPED if training.name in ("paused", "stopped", "failed") else RECORDING
    published = info.get("published")
    return Card(
        project=project,
        title=str(info.get("title") or project.id),
        language=str(info.get("language") or ""),
        state=state,
        recorded=progress(project),
        training=training,
        made=made if state == READY else None,
        sample=sound(made.sample) if state == READY and made is not None else None,
        published=str(published.get("address") or "") if isinstance(published, dict) else "",
    )


def cards(person: Person, trainings: Trainings) -> tuple[list[Card], list[str]]:
    """Of all voices, the newest first, and a line for each whose files are damaged."""
    found, damaged = [], []
    for project in person.projects():
        try:
            found.append(card(project, trainings))
        except VoxcloneError as e:
            damaged.append(str(e))
    return found, damaged


def plain_title(title: str) -> str:
    """A title in one line and one spelling: systems differ in how they compose an accent."""
    return " ".join("".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", title)).split())


def rename(project: Project, title: str) -> str:
    """Give a voice another title, in one line; files keep their names. Raises Mistake."""
    plain = plain_title(title)
    if not plain:
        raise Mistake("title", "keep.wrong.no_title")
    if len(plain) > LONGEST_TITLE:
        raise Mistake("title", "keep.wrong.long_title", most=LONGEST_TITLE)
    project.change(title=plain)
    return plain


def sound(path: Path | None) -> Sound | None:
    """What a player needs to know of a sound; None where it cannot be read."""
    if path is None:
        return None
    try:
        return _sound(path, path.stat().st_mtime_ns)
    except (OSError, soundfile.SoundFileError):
        return None


@lru_cache(maxsize=256)
def _sound(path: Path, changed: int) -> Sound:
    with soundfile.SoundFile(path) as file:
        samples = file.read(int(_LONGEST_SAMPLE * file.samplerate), dtype="float32", always_2d=True)
        return Sound(tuple(peaks(samples.T)), file.frames / file.samplerate)
