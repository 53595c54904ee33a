"""Long recordings and missing texts: cut at pauses, cut with a text, and heard by a Whisper, as `prepare` does it.

Each is a task that can be cancelled and begun again: what is done already stays, the rest is still to do. Only what
needs a Whisper runs where MLX computes. What is heard is kept nowhere but in the voice's own folder.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.hearing.chapters import cut_chapter
from mlx_voxclone.data.ingest import Plan, examine, write_pieces
from mlx_voxclone.data.options import WHISPER_MODEL, PrepareOptions
from mlx_voxclone.data.transcribe import PACKAGE, Transcriber
from mlx_voxclone.errors import DataError
from mlx_voxclone.studio.home import Person, Project
from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.model import whispers
from mlx_voxclone.studio.record.checks import BAD, Check, Finding, check, wave
from mlx_voxclone.studio.record.listing import is_silent, is_uncut
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf, lock
from mlx_voxclone.studio.tasks import Task, beside
from mlx_voxclone.whisper.hearing import Listener

_OPTIONS = PrepareOptions(speech_detector="levels")
Item = tuple[Shelf, str]


def uncut(project: Project) -> list[str]:
    """Long recordings without a text that no clip was cut from yet: a Whisper is not needed for them."""
    found = Shelf(project.uploads).items()
    return [id for id, notes in found if is_uncut(notes) and not notes.get("text")]


def unheard(project: Project) -> tuple[list[str], list[Item]]:
    """What a Whisper is needed for: long recordings with a text that are not cut, and recordings without a text."""
    uploads, clips = Shelf(project.uploads), Shelf(project.clips)
    brought = uploads.items()
    chapters = [id for id, notes in brought if is_uncut(notes) and notes.get("text")]
    silent = [(uploads, id) for id, notes in brought if is_silent(notes)]
    silent += [(clips, id) for id, notes in clips.items() if is_silent(notes)]
    return chapters, silent


def cut_at_pauses(project: Project, task: Task) -> dict[str, Any]:
    """Cut all `uncut` recordings into clips of up to 20 s. Any thread.

    Returns:
        `clips`, how many.
    Raises:
        Cancelled: what was cut so far stays.
    """
    shelf, count, done, gone = Shelf(project.uploads), 0, 0, set()
    while ids := [id for id in uncut(project) if id not in gone]:  # more may come meanwhile, or some be deleted
        task.check()
        try:
            path = shelf.sound(ids[0])
            task.progress(done, done + len(ids), str(shelf.notes(ids[0]).get("name")))
            try:
                plan = examine(path, False, _OPTIONS, task.check)
            except AudioError as e:
                _refused(shelf, ids[0], e, None)
            else:
                count += _keep(project, ids[0], path, plan, [None] * len(plan.pieces), task, None)
        except Missing:  # its sound has gone, or it was deleted
            gone.add(ids[0])
        done += 1
    return {"clips": count}


def make_texts(project: Project, task: Task, whisper: str, loading: str = "") -> dict[str, Any]:
    """Cut long recordings with their texts, and hear what has none. On the thread that computes.

    Args:
        whisper: directory or hub id. loading: text of the progress while it loads.
    Returns:
        `clips` that were cut, `texts` that were made, and `nothing` for those in which no word was understood.
    Raises:
        Cancelled: what was made so far stays.
        DataError: mlx-whisper is not installed, the model cannot be used, or does not know the language.
    """
    chapters, _ = unheard(project)
    language = language_of(project)
    done = {"clips": 0, "texts": 0, "nothing": 0}
    if whisper_installed():  # else the next line says so
        beside(task, lambda: importlib.import_module(f"{PACKAGE}.transcribe"))  # takes seconds
    place = whispers.place_of(whisper)
    with (
        _named(whisper, place),
        Transcriber(place, lambda done, total, _: task.progress(done, total, loading), task.check) as transcriber,
    ):
        if language is not None:
            transcriber.check_language(language)
        if chapters:
            listener = Listener(place, keep=False, loaded=transcriber.loaded)
            for id in chapters:
                with contextlib.suppress(Missing):  # deleted meanwhile
                    done["clips"] += _cut_chapter(project, id, language, listener, task)
        _, silent = unheard(project)
        for number, (shelf, id) in enumerate(silent):
            with contextlib.suppress(Missing):
                task.progress(number, len(silent), str(shelf.notes(id).get("name") or ""))
                text, _ = transcriber.transcribe(shelf.sound(id), language)
                done["texts" if text else "nothing"] += 1
                if text:
                    found, _ = check(shelf.sound(id), text)
                    with lock:
                        if not shelf.notes(id).get("text"):  # nobody has typed one meanwhile
                            shelf.change(id, text=text, text_by="whisper", check=found.content())
        task.progress(len(silent), len(silent))
    return done


def language_of(project: Project) -> str | None:
    """For a Whisper; None where it must find out."""
    language = project.info().get("language")
    return None if language in (None, SYLLABLES) else language


def whisper_of(person: Person) -> str:
    """The Whisper that a person has chosen, a directory or hub id."""
    return person.settings().get("whisper") or WHISPER_MODEL


def whisper_installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


@contextlib.contextmanager
def _named(whisper: str, place: str) -> Iterator[None]:
    """A block whose errors name a Whisper as the person typed it, not by its path in the cache. Raises DataError."""
    try:
        yield
    except DataError as e:
        if place == whisper or place not in str(e):
            raise
        raise DataError(str(e).replace(place, whisper)) from None


def _cut_chapter(project: Project, id: str, language: str | None, listener: Listener, task: Task) -> int:
    shelf = Shelf(project.uploads)
    notes, path = shelf.notes(id), shelf.sound(id)

    def progress(items: Iterable, total: int, what: str) -> Iterator:
        for number, item in enumerate(items):
            task.progress(number, total, str(notes.get("name")))
            yield item

    try:
        chapter = cut_chapter(path, notes["text"], language, listener, _OPTIONS, progress)
    except AudioError as e:
        _refused(shelf, id, e, notes["text"])
        return 0
    return _keep(project, id, path, chapter.plan, chapter.texts, task, notes["text"])


def _keep(project: Project, id: str, path: Path, plan: Plan, texts: list[Any], task: Task, cut_by: str | None) -> int:
    """Write the clips of a plan, one after the other, then note that it is done; returns how many.

    Args:
        cut_by: text of the recording that the plan was made with. Where it has another one by now, nothing is kept: it
            is still to be cut, by that one.

    Raises:
        Missing: the recording was deleted meanwhile; its clips are, too.
    """
    clips, uploads = Shelf(project.clips), Shelf(project.uploads)
    try:
        name = uploads.notes(id).get("name")
        clips.folder.mkdir(parents=True, exist_ok=True)
        for number, (piece, text) in enumerate(zip(plan.pieces, texts, strict=True), 1):
            task.check()
            stem = f"{id}~{number:03d}"
            try:
                written = write_pieces(path, dataclasses.replace(plan, pieces=[piece]), clips.folder, stem)[0]
            except AudioError:
                uploads.sound(id)
                raise
            sound = clips.folder / written.name
            found, _ = check(sound, text)
            own = {"upload": id, "name": f"{name} {number}", "start": written.start, "seconds": found.seconds}
            by = {"text": text, "text_by": "file" if text else None}
            drawn = wave(sound, found.seconds)
            clips.keep_notes(stem, {**own, **by, "suffix": sound.suffix, "check": found.content(), "peaks": drawn})
        with lock:
            if uploads.notes(id).get("text") == cut_by:
                clips.remove_clips_of(id, len(plan.pieces))  # of an earlier cut that was not finished
                uploads.change(id, cut=len(plan.pieces))
                return len(plan.pieces)
        clips.remove_clips_of(id)
    except Missing:
        clips.remove_clips_of(id)
        raise
    return 0


def _refused(shelf: Shelf, id: str, error: AudioError, cut_by: str | None) -> None:
    """Note that nothing can be cut from a recording by its text, and why."""
    reasons: dict[str, str] = {"text-differs": "other_text", "no-speech": "no_words"}
    if error.reason in reasons:
        found = Check(BAD, (Finding(reasons[error.reason], BAD),))
    else:
        found, _ = check(shelf.sound(id), whole=False)
    with lock:
        if shelf.notes(id).get("text") == cut_by:
            shelf.change(id, cut=0, check=found.content())
