"""Long recordings and missing texts: cut at pauses, cut with a text, and heard by a Whisper, as `prepare` does it.

Each is a task that can be cancelled and begun again: what is done already stays, the rest is still to do. Only what
needs a Whisper runs where MLX computes. What is heard is kept nowhere but in the voice's own folder.
"""

import contextlib
import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.hearing.chapters import cut_chapter
from mlx_voxclone.data.ingest import Plan, examine, write_pieces
from mlx_voxclone.data.options import WHISPER_MODEL, PrepareOptions
from mlx_voxclone.data.transcribe import PACKAGE, Transcriber
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.studio.home import Person, Project
from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.record.checks import BAD, Check, Finding, check, wave
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf, lock
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.whisper.hearing import Listener
from mlx_voxclone.whisper.model import CONFIG, WEIGHTS

_OPTIONS = PrepareOptions(speech_detector="levels")
_FETCH = "import sys; from mlx_voxclone.whisper.model import WhisperFiles; WhisperFiles(sys.argv[1]).check()"
_LOOK_EVERY = 0.2  # seconds
Item = tuple[Shelf, str]


def uncut(project: Project) -> list[str]:
    """Long recordings without a text that no clip was cut from yet: a Whisper is not needed for them."""
    found = Shelf(project.uploads).items()
    return [id for id, notes in found if notes.get("long") and notes.get("cut") is None and not notes.get("text")]


def unheard(project: Project) -> tuple[list[str], list[Item]]:
    """What a Whisper is needed for: long recordings with a text that are not cut, and recordings without a text."""
    uploads, clips = Shelf(project.uploads), Shelf(project.clips)
    chapters = [
        id for id, notes in uploads.items() if notes.get("long") and notes.get("cut") is None and notes.get("text")
    ]
    silent: list[Item] = []
    for shelf in (uploads, clips):
        for id, notes in shelf.items():
            if not notes.get("long") and not notes.get("text") and (notes.get("check") or {}).get("state") != BAD:
                silent.append((shelf, id))
    return chapters, silent


def cut_at_pauses(project: Project, task: Task) -> dict[str, Any]:
    """Cut all `uncut` recordings into clips of up to 20 s. Any thread.

    Returns:
        `clips`, how many.
    Raises:
        Cancelled: what was cut so far stays.
    """
    shelf, count, done = Shelf(project.uploads), 0, 0
    while ids := uncut(project):  # more may come meanwhile, or some be deleted
        with contextlib.suppress(Missing):
            path = shelf.sound(ids[0])
            task.progress(done, done + len(ids), str(shelf.notes(ids[0]).get("name")))
            try:
                plan = examine(path, False, _OPTIONS, task.check)
            except AudioError as e:
                _refused(shelf, ids[0], e, None)
            else:
                count += _keep(project, ids[0], path, plan, [None] * len(plan.pieces), task, None)
        done += 1
    return {"clips": count}


def make_texts(project: Project, task: Task, whisper: str) -> dict[str, Any]:
    """Cut long recordings with their texts, and hear what has none. On the thread that computes.

    Args:
        whisper: directory or hub id.
    Returns:
        `clips` that were cut, `texts` that were made, and `nothing` for those in which no word was understood.
    Raises:
        Cancelled: what was made so far stays.
        DataError: mlx-whisper is not installed, the model cannot be used, or does not know the language.
    """
    chapters, _ = unheard(project)
    language = language_of(project)
    done = {"clips": 0, "texts": 0, "nothing": 0}
    with Transcriber(whisper) as transcriber:
        if language is not None:
            transcriber.check_language(language)
        if chapters:
            listener = Listener(whisper, keep=False, loaded=transcriber.loaded)
            for id in chapters:
                with contextlib.suppress(Missing):  # deleted meanwhile
                    done["clips"] += _cut_chapter(project, id, language, listener, task)
        _, silent = unheard(project)
        for number, (shelf, id) in enumerate(silent):
            with contextlib.suppress(Missing):
                task.progress(number, len(silent), str(shelf.notes(id).get("name") or ""))
                text, _ = transcriber.transcribe(shelf.sound(id), language)
                done["texts" if text else "nothing"] += 1
                if text and not shelf.notes(id).get("text"):  # nobody has typed one meanwhile
                    found, _ = check(shelf.sound(id), text)
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


def at_hand(whisper: str) -> bool:
    """Whether a Whisper's files are on this machine, so that nothing need be fetched."""
    if Path(expanded(whisper)).exists():
        return True
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> bool:
        return isinstance(try_to_load_from_cache(whisper, name), str)

    try:
        return cached(CONFIG) and any(cached(name) for name in WEIGHTS)
    except ValueError:  # no name that the hub could have
        return True  # which loading it then tells


def fetch(whisper: str, task: Task, command: list[str] | None = None) -> dict[str, Any]:
    """Fetch a Whisper from the hub in a process of its own, which is ended when the task is cancelled.

    Raises:
        Cancelled: what has arrived stays in the hub's cache.
        DataError: it is not to be had.
    """
    process = subprocess.Popen(
        command or [sys.executable, "-c", _FETCH, whisper], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while True:
            task.progress(0, None, whisper)
            try:
                _, said = process.communicate(timeout=_LOOK_EVERY)
                break
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        raise DataError(f"{whisper}: not fetched ({last.rpartition('Error: ')[2][:300]})")
    return {}


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
                uploads.change(id, cut=len(plan.pieces))
                return len(plan.pieces)
        _drop(clips, id)
    except Missing:
        _drop(clips, id)
        raise
    return 0


def _drop(clips: Shelf, id: str) -> None:
    """Delete the clips of a recording."""
    for clip in [clip for clip in clips.ids() if clip.partition("~")[0] == id]:
        clips.remove(clip)


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
