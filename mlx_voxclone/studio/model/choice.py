"""Which model a person works with: the rehearsal, a folder on this machine, or one of the hub's.

Kept in the person's settings: `model` (what the commands take as --model), `model_kind`, and `encoder` (a file, of the
rehearsal: its checkpoint comes without, as the release does).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_voxclone.checkpoint.release import PARAMS, WEIGHTS, Release
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.hub import REPOSITORY
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.miniature.micro import ENCODER_FILE, SPEAKING, make_micro
from mlx_voxclone.studio.home import Home, Person, private
from mlx_voxclone.studio.mistakes import Mistake

Kind = Literal["rehearsal", "folder", "hub"]
REHEARSAL, FOLDER, HUB = "rehearsal", "folder", "hub"
OFFICIAL = "mistralai/Voxtral-4B-TTS-2603"
_LONGEST = 1000  # characters of what is typed


@dataclass(frozen=True)
class Chosen:
    """A model.

    Attributes:
        kind: see `Kind`. model: a folder, or an id of the hub. encoder: file of its encoder, None where it has its own
            or none.
    """

    kind: str
    model: str
    encoder: Path | None = None

    @property
    def rehearses(self) -> bool:
        return self.kind == REHEARSAL


def chosen(person: Person) -> Chosen | None:
    """What the person has chosen, and what is still there; None: nothing yet."""
    settings = person.settings()
    if not isinstance(model := settings.get("model"), str):
        return None
    kind, encoder = settings.get("model_kind"), settings.get("encoder")
    if kind == REHEARSAL:
        return rehearsal(person.home)
    known = kind if kind in (FOLDER, HUB) else FOLDER if Path(model).is_dir() else HUB
    return Chosen(known, model, Path(encoder) if encoder else None)


def choose(person: Person, choice: Chosen) -> None:
    """Keep a choice."""
    encoder = None if choice.encoder is None else str(choice.encoder)
    person.change_settings(model=choice.model, model_kind=choice.kind, encoder=encoder)


def rehearsal(home: Home) -> Chosen:
    """The speaking miniature, in the studio's folder; made if missing. Raises CheckpointError."""
    folder = private(home.path / "models") / REHEARSAL
    if not (folder / WEIGHTS).is_file():
        make_micro(folder, SPEAKING)
    return Chosen(REHEARSAL, str(folder), folder / ENCODER_FILE)


def folder(typed: str) -> Chosen:
    """A folder that holds a model to train. Raises Mistake, beside the field `folder`."""
    text = _unquoted(typed)
    if not text:
        raise Mistake("folder", "model.mistake.empty")
    try:
        path = Path(expanded(text))
        there, is_folder = path.exists(), path.is_dir()
    except (VoxcloneError, OSError, ValueError):
        raise Mistake("folder", "model.mistake.no_path") from None
    if "\0" in text:
        raise Mistake("folder", "model.mistake.no_path")
    if not path.is_absolute():
        raise Mistake("folder", "model.mistake.relative")
    if not there:
        raise Mistake("folder", "model.mistake.missing")
    if not is_folder:
        raise Mistake("folder", "model.mistake.file", folder=path.parent)
    if not (path / WEIGHTS).exists() or not (path / PARAMS).exists():
        lacks = WEIGHTS if (path / PARAMS).exists() else PARAMS
        raise Mistake("folder", "model.mistake.no_model", file=lacks)
    check(str(path), "folder")
    return Chosen(FOLDER, str(path))


def hub_id(typed: str) -> str:
    """An id of the hub, `OWNER/NAME`; the address of its page will do. Raises Mistake, beside the field `hub`."""
    text = _unquoted(typed).removeprefix("hf://")
    for host in ("https://", "http://"):
        text = text.removeprefix(host)
    text = text.removeprefix("huggingface.co/").removeprefix("hf.co/").strip("/")
    if not text:
        raise Mistake("hub", "model.mistake.no_id")
    if not REPOSITORY.fullmatch(text):
        raise Mistake("hub", "model.mistake.id", example=OFFICIAL)
    return text


def check(model: str, field: str) -> None:
    """Refuse a model that cannot be read whole, or not be trained. Raises Mistake beside `field`."""
    try:
        release = Release(model)
        release.check_full("training")
        release.check()
    except VoxcloneError as e:
        raise Mistake(field, "model.mistake.unusable", line=str(e)) from None
    except OSError as e:
        raise Mistake(field, "model.mistake.unreadable", line=str(e)) from None


def _unquoted(typed: str) -> str:
    """What was meant: file managers put quotation marks or `file://` around what is dragged into a field."""
    text = typed.strip()[:_LONGEST]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if text.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        text = unquote(urlsplit(text).path)
    return text.strip()
