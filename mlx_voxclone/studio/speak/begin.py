"""Tasks that speak: a text, its missing sentences, one sentence again; identical requests share one task."""

import contextlib
import hashlib
import threading
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.speak import sound, work
from mlx_voxclone.studio.speak.history import Asked, Speech, new_speech, speech_of
from mlx_voxclone.studio.speak.view import excerpt, task_of
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.pages import person_of, studio_of, words_of

KIND = "speak"  # of the task
_FULL = "speak.disk_full_start"  # said of a full disk
beginning = threading.Lock()  # of what may be begun once: two tabs, a double click


def begun(request: Request, asked: Asked, *, typed: bool) -> Speech:
    """A speech in progress: a new one, or the open one of an identical request. Raises Mistake.

    Args:
        typed: whether the person typed the seed; a random seed does not make a request different.
    """
    once = repr(replace(asked, created=0.0, title="", seed=asked.seed if typed else -1))
    once = hashlib.sha256(once.encode()).hexdigest()
    with beginning:
        if (task := studio_of(request).tasks.same(person_of(request), KIND, once)) is not None:
            return Speech(person_of(request), str(task.result.get("speech", "")))
        with refusals("", _FULL):
            speech = new_speech(person_of(request), asked)
        try:
            started(request, speech, None, once)
        except VoxcloneError:
            with contextlib.suppress(OSError):
                speech.delete()
            raise
    with contextlib.suppress(VoxcloneError):  # it would only be remembered
        person_of(request).change_settings(speak_voice=asked.voice, speak_language=asked.language)
    return speech


def started(request: Request, speech: Speech, number: int | None, once: str | None = None) -> Speech:
    """Queue the speaking of all that is missing, or of one sentence again. Raises Mistake."""
    t, models = words_of(request), studio_of(request).models

    def speaking(task: Task) -> dict[str, Any]:
        def progress(done: int, total: int | None, what: str) -> None:
            task.progress(done, total, t(f"speak.{what}"))

        if number is None:
            work.speak(speech, models, progress)
        else:
            work.again(speech, number, models, progress)
        with contextlib.suppress(OSError, VoxcloneError):  # else it is joined, or said why not, when it is looked at
            sound.joined(speech, speech.sentences())
        return {"speech": speech.id}

    title = t("speak.task", text=excerpt(speech.asked().text))
    with refusals("", _FULL):
        task = studio_of(request).tasks.start(person_of(request), KIND, title, speaking, once=once)
        task.result = {"speech": speech.id}
        speech.change_state(task=task.id, again=number)
    return speech


def spoken_now(request: Request, number: int | None) -> Speech | None:
    """The speech that the address names, if just this is being done with it: all of it spoken, or a sentence again."""
    speech = asked_for(request)
    task = task_of(speech, studio_of(request).tasks)
    same = task is not None and task.open and not task.cancelling and speech.state().get("again") == number
    return speech if same else None


def idle(request: Request) -> Speech:
    """The speech that the address names. Raises Mistake: it is being spoken."""
    speech = asked_for(request)
    task = task_of(speech, studio_of(request).tasks)
    if task is not None and task.open:
        raise Mistake("", "speak.busy")
    return speech


def asked_for(request: Request) -> Speech:
    return speech_of(person_of(request), request.path_params["speech"])
