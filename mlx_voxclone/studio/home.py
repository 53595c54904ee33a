"""The studio's folder on disk: people, their voices, and small JSON files beside the audio.

HOME/people/NAME/settings.json
HOME/people/NAME/tasks/ID.json
HOME/people/NAME/voices/ID/voice.json, takes/, uploads/, clips/, run/, listening/, exports/
HOME/people/NAME/speech/ID/
"""

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import is_number, may_pass, parse_json, read_plain
from mlx_voxclone.studio.mistakes import Missing

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")  # of a person
ID = re.compile(r"[0-9a-f]{12}")  # of a voice, a task, a speech
_MOST = 4 << 20  # bytes of one of the small files
_TICK = 1e-3  # seconds: the least between two things of a kind
_change = threading.RLock()  # of small files: read, change, write


class UnreadError(CheckpointError):
    """A file that may be in order could not be read this time."""


def check_damage(path: Path, error: Exception) -> None:
    """Raise UnreadError where the error that a file was read with says nothing of the file."""
    if may_pass(error):
        raise UnreadError(f"{path}: cannot be read now ({error}); try again") from None


def new_id() -> str:
    """Twelve hex digits."""
    return secrets.token_hex(6)


def now(others: Iterable[float] = ()) -> float:
    """The time of something that is made now, Unix seconds: later than all others of its kind, also where the clock was
    set back meanwhile."""
    return max([time.time(), *(other + _TICK for other in others if is_number(other))])


def read_json(path: Path) -> dict[str, Any]:
    """An object from a small JSON file; {} where there is none.

    Raises:
        CheckpointError: unreadable, too large or no object; UnreadError: it could not be read this time.
    """
    try:
        found = parse_json(read_plain(path, _MOST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        check_damage(path, e)
        raise CheckpointError(f"{path}: cannot be read ({e}); move it away to go on without it") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no JSON object; move it away to go on without it")
    return found


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: what of a file's name is no text is escaped, and read back as it was."""
    return json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a small JSON file; readers see the old one or the new one. Raises CheckpointError."""
    write_text_atomic(path, json_text(value, indent=1) + "\n")


def change_json(path: Path, **values: Any) -> dict[str, Any]:
    """Set keys of a small JSON file, from any thread; returns all of it."""
    with _change:
        new = {**read_json(path), **values}
        write_json(path, new)
        return new


ASIDE = ".damaged-"  # and a number, behind the name of a file that could not be read


def move_aside(path: Path) -> Path:
    """Give a file that cannot be read another name, so that nothing is written over it; returns where it is.

    Raises:
        CheckpointError: it cannot be moved.
    """
    aside = (path.with_name(f"{path.name}{ASIDE}{number}") for number in range(1, 10_000))
    place = next(place for place in aside if not os.path.lexists(place))
    try:
        path.rename(place)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be moved aside ({(e.strerror or str(e)).lower()})") from None
    return place


def moved_aside(path: Path) -> list[Path]:
    """Where `move_aside` has put what was once this file."""
    return sorted(path.parent.glob(f"{path.name}{ASIDE}*"))


def private(folder: Path) -> Path:
    """A folder that only its owner may look into, made if missing. Raises CheckpointError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be made ({(e.strerror or str(e)).lower()})") from None
    return folder


class Project:
    """One voice that is being made.

    Attributes:
        takes: recordings made in the browser. uploads: files that were brought. clips: what `prepare` made of them.
        run: the training. listening: what was spoken to compare. exports: files to take away.
    """

    def __init__(self, person: "Person", id: str) -> None:
        self.person, self.id = person, id
        self.folder = person.folder / "voices" / id
        self.takes, self.uploads, self.clips = (self.folder / name for name in ("takes", "uploads", "clips"))
        self.run, self.listening, self.exports = (self.folder / name for name in ("run", "listening", "exports"))

    def info(self) -> dict[str, Any]:
        """`title`, `language` (code), `created` (Unix seconds), `consent` (None or `who`, `when`, `purpose`,
        `statement`), and what the steps add."""
        return read_json(self.folder / "voice.json")

    @property
    def created(self) -> float:
        """Unix seconds; 0 where that cannot be told."""
        with contextlib.suppress(CheckpointError, TypeError, ValueError):
            return float(self.info().get("created", 0))
        return 0.0

    def check_there(self) -> None:
        """Raises Missing: it was deleted, or has never been."""
        if not (self.folder / "voice.json").is_file():
            raise Missing("there is no such voice")

    def change(self, **values: Any) -> dict[str, Any]:
        """Set keys of `info`. Raises Missing: it was deleted meanwhile, and nothing of it comes back."""
        with _change:
            self.check_there()
            return change_json(self.folder / "voice.json", **values)


class Person:
    """Somebody's part of the studio; nobody else sees it."""

    def __init__(self, home: "Home", name: str) -> None:
        self.home, self.name = home, name
        self.folder = home.path / "people" / name

    def projects(self) -> list[Project]:
        """Voices, the newest first; one whose file is damaged comes last."""
        found = [Project(self, path.name) for path in self._folders("voices") if (path / "voice.json").is_file()]
        return sorted(found, key=lambda project: -project.created)

    def new_project(self, title: str, language: str, id: str | None = None) -> Project:
        """Begin a voice; `id`: one that no voice has. Raises CheckpointError."""
        project = Project(self, id or new_id())
        private(project.folder)
        created = now(other.created for other in self.projects())
        facts = {"title": title, "language": language, "created": created, "consent": None}
        write_json(project.folder / "voice.json", facts)
        return project

    def project(self, id: str) -> Project:
        """A voice by its id. Raises Missing."""
        if not ID.fullmatch(id):
            raise Missing("there is no such voice")
        project = Project(self, id)
        project.check_there()
        return project

    def settings(self) -> dict[str, Any]:
        """What the person has chosen: `model`, `language` of the page, ..."""
        return read_json(self.folder / "settings.json")

    def change_settings(self, **values: Any) -> None:
        """Set keys of `settings`."""
        private(self.folder)
        change_json(self.folder / "settings.json", **values)

    def _folders(self, name: str) -> list[Path]:
        try:
            return [Path(entry.path) for entry in os.scandir(self.folder / name) if ID.fullmatch(entry.name)]
        except FileNotFoundError:
            return []


class Home:
    """The studio's folder, made if missing. Raises CheckpointError."""

    def __init__(self, path: str | Path) -> None:
        self.path = private(Path(path).absolute())

    def person(self, name: str) -> Person:
        """Somebody's part, made if missing. Raises Missing for what is no name."""
        if not NAME.fullmatch(name):
            raise Missing("there is no such person")
        person = Person(self, name)
        private(person.folder)
        return person

    def people(self) -> list[Person]:
        """Everybody who has a part."""
        folder = self.path / "people"
        names = sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else []
        return [Person(self, name) for name in names if NAME.fullmatch(name)]
