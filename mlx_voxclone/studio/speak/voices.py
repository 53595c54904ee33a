"""Voices that a person can speak with: those of the model, those trained here, and files that were brought."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.checkpoint.dtypes import FLOATS
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import PARAMS, Release
from mlx_voxclone.checkpoint.torch_file import read_pt
from mlx_voxclone.checkpoint.voices import EMBEDDING, MOST, VOICE_DIRECTORY
from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.files.atomic import whole_file
from mlx_voxclone.files.hub import REPOSITORY
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.studio.home import Person, Project, private
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.model.choice import HUB, chosen
from mlx_voxclone.studio.results import result_of
from mlx_voxclone.studio.troubles import refusals

OWN, FILES, MODEL = "own", "files", "model"  # where voices come from, in the order in which they are shown
SUFFIXES = (".safetensors", ".pt")
MOST_BYTES = 32 << 20  # of a voice's file: a minute of the released model has 5 MB
_MOST_FILES = 200
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_naming = threading.Lock()  # two tabs may bring files of one name


@dataclass(frozen=True)
class Voice:
    """A voice to choose.

    Attributes:
        key: `own:ID`, `files:NAME` or `model:NAME`. title: for people. language: its code, where it is known.
    """

    key: str
    title: str
    language: str | None = None

    @property
    def group(self) -> str:
        """`own`, `files` or `model`."""
        return self.key.partition(":")[0]


@dataclass(frozen=True)
class Source:
    """What speaks in a voice.

    Attributes:
        model: directory of the checkpoint. adapters: of LoRA.
        voice: name of one of the checkpoint's voices, or the file of one.
    """

    model: Path
    voice: str | Path
    adapters: tuple[Path, ...] = ()

    @property
    def there(self) -> bool:
        """Whether all of it is still there."""
        if not (self.model / PARAMS).is_file() or not all((one / TENSORS).is_file() for one in self.adapters):
            return False
        files = [self.voice] if isinstance(self.voice, Path) else _files_of(self.model, self.voice)
        return any(file.is_file() for file in files)


def voices_of(person: Person) -> list[Voice]:
    """All of a person's, those trained here first."""
    found = []
    for project in person.projects():
        with contextlib.suppress(VoxcloneError):  # one that is damaged closes no page: its card says so
            if delivered(project) is not None:
                info = project.info()
                found.append(Voice(f"{OWN}:{project.id}", str(info.get("title", "")), info.get("language")))
    found += [Voice(f"{FILES}:{path.name}", path.stem) for path in _imported(person)]
    model = model_of(person)
    with contextlib.suppress(VoxcloneError):  # a model that is gone is told when it is to speak
        found += (
            []
            if model is None or not model.is_dir()
            else [Voice(f"{MODEL}:{name}", name) for name in Release(model).voices()]
        )
    return found


def source_of(person: Person, key: str, model: Path | None = None) -> Source:
    """What speaks in a voice.

    Args:
        model: whose voice it is, unless it was trained here; None: the model that the person has chosen.

    Raises:
        Mistake: no model was chosen, its folder is gone, there is no such voice (any more).
    """
    group, _, name = key.partition(":")
    if group == OWN:
        with contextlib.suppress(Missing):
            source = delivered(person.project(name))
            if source is not None:
                return source
        raise Mistake("voice", "speak.voice_gone")
    model = model or model_of(person)
    if model is None:
        raise Mistake("voice", "speak.no_model")
    if not (model / PARAMS).is_file():
        raise Mistake("voice", "speak.model_gone", folder=model)
    files = {path.name: path for path in _imported(person)} if group == FILES else {}
    source = Source(model, files.get(name, name))
    if (group == FILES and name not in files) or group not in (FILES, MODEL) or not source.there:
        raise Mistake("voice", "speak.voice_gone")
    return source


def model_of(person: Person) -> Path | None:
    """The checkpoint that the person has chosen; None: none yet. One of the hub is where it was fetched to."""
    try:
        choice = chosen(person)
    except VoxcloneError:  # the rehearsal, on a disk that is full
        return None
    if choice is None:
        return None
    if choice.kind != HUB or not REPOSITORY.fullmatch(choice.model) or Path(choice.model).is_dir():
        return Path(choice.model)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(choice.model, PARAMS)
    return Path(found).parent if isinstance(found, str) else Path(choice.model)


def delivered(project: Project) -> Source | None:
    """What a training has come to: its new checkpoint, or the base with adapters; None: nothing yet."""
    for run in (project.run, *_folders(project.run)):
        for source in _results(run):
            if source.there:
                return source
    return None


def bring(person: Person, name: str, write: Callable[[Any], object]) -> Voice:
    """Keep the file of a voice that a person brings.

    Args:
        name: of the file.
        write: called with a file to write its content into.

    Raises:
        Mistake: another kind of file, too large, no voice, of another model, or the disk is full.
    """
    stem, suffix = os.path.splitext(os.path.basename(name.replace("\\", "/")))
    if suffix.lower() not in SUFFIXES:
        raise Mistake("file", "speak.file_kind")
    stem = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-")[:48] or "voice"
    with _naming, refusals("file", "speak.disk_full_file"):  # until the file is there, its name is free
        path = private(_folder(person)) / f"{_free(person, stem)}{suffix.lower()}"
        with whole_file(path, lambda: None) as file:
            write(file)
            file.flush()
            _check(Path(file.name), suffix.lower(), model_of(person))
    return Voice(f"{FILES}:{path.name}", path.stem)


def _free(person: Person, stem: str) -> str:
    """The name for a file that is brought: its own, with a number if there is one of that name. Raises Mistake."""
    taken = [path.stem for path in _imported(person)]
    if len(taken) >= _MOST_FILES:
        raise Mistake("file", "speak.file_many", most=_MOST_FILES)
    return next(one for one in (stem, *(f"{stem}-{k}" for k in range(2, _MOST_FILES + 2))) if one not in taken)


def take_away(person: Person, key: str) -> None:
    """Delete the file of a voice that was brought. Raises Missing."""
    path = next((path for path in _imported(person) if f"{FILES}:{path.name}" == key), None)
    if path is None:
        raise Missing("there is no such voice")
    path.unlink(missing_ok=True)


def _check(path: Path, suffix: str, model: Path | None) -> None:
    """Refuse what is no voice. By the file's own numbers alone: MLX does not compute in this thread."""
    if path.stat().st_size > MOST_BYTES:
        raise Mistake("file", "speak.file_large", most=MOST_BYTES >> 20)
    try:
        if suffix == ".pt":
            shape = tuple(read_pt(path).shape)
        else:
            file = TensorFile(path)
            info = file.info(EMBEDDING)
            shape = tuple(info.shape)
            values = file.numpy(EMBEDDING) if info.dtype in FLOATS else np.full(1, np.nan)
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) > MOST:
                raise Mistake("file", "speak.file_no_voice")
    except CheckpointError:
        raise Mistake("file", "speak.file_no_voice") from None
    if len(shape) != 2 or shape[0] < 2:
        raise Mistake("file", "speak.file_no_voice")
    with contextlib.suppress(CheckpointError):  # a model that is gone decides nothing
        if model is not None and model.is_dir() and Release(model).config.backbone.dim != shape[1]:
            raise Mistake("file", "speak.file_other_model")


def _folder(person: Person) -> Path:
    return person.folder / "brought"


def _imported(person: Person) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        found = [Path(entry.path) for entry in os.scandir(_folder(person)) if entry.is_file(follow_symlinks=False)]
        return sorted(path for path in found if path.suffix in SUFFIXES and _NAME.fullmatch(path.stem))
    return []


def _files_of(model: Path, voice: str) -> list[Path]:
    if not _NAME.fullmatch(voice):
        return []
    return [model / VOICE_DIRECTORY / f"{voice}{suffix}" for suffix in (".pt", ".safetensors")]


def _folders(place: Path) -> list[Path]:
    """Those in a folder, the newest first."""
    try:
        found = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(place) if entry.is_dir()]
    except OSError:
        return []
    return [Path(path) for _, path in sorted(found, reverse=True)]


def _results(run: Path) -> Iterator[Source]:
    found = result_of(run)
    if found is None:
        return
    if found.voice is not None:
        yield Source(run / "baked", found.voice)
        if found.baked is not None:
            yield Source(found.baked, found.voice)
    for best in (run / "speaker" / "best", run / "best"):
        if (best / TENSORS).is_file():
            with contextlib.suppress(VoxcloneError):
                config = load_run_config(run / "config.yaml")
                if config.voice is not None:
                    yield Source(Path(str(config.model)), config.voice, (best,))
