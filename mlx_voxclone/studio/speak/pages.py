"""Pages of this step: the form, what is spoken, the history, voices that are brought as files."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.pairs.prompts import LANGUAGES
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.model.amounts import typed
from mlx_voxclone.studio.speak import sound
from mlx_voxclone.studio.speak.begin import KIND, asked_for, beginning, begun, idle, spoken_now, started
from mlx_voxclone.studio.speak.history import Asked, Speech, speeches
from mlx_voxclone.studio.speak.view import ROWS, View, task_of, view_of
from mlx_voxclone.studio.speak.voices import FILES, MOST_BYTES, bring, take_away, voices_of
from mlx_voxclone.studio.speak.wanted import GUIDANCE, RELEASED, STEPS, random_seed, wanted
from mlx_voxclone.studio.web.languages import Words
from mlx_voxclone.studio.web.pages import form_of, is_htmx, language_of, page, part, person_of, studio_of, words_of
from mlx_voxclone.studio.web.sounds import sound_response

_AT_ONCE = 4  # sentences that are announced at once


def routes() -> list[Route]:
    return [
        Route("/speak", _page),
        Route("/speak", _speak, methods=["POST"]),
        Route("/speak/voices", _bring, methods=["POST"]),
        Route("/speak/voices/delete", _take_away, methods=["POST"]),
        Route("/speak/{speech}", _speech),
        Route("/speak/{speech}/stream", _stream),
        Route("/speak/{speech}/rows", _rows),
        Route("/speak/{speech}/takes/{file}", _take),
        Route("/speak/{speech}/sound.{kind}", _sound),
        Route("/speak/{speech}/cancel", _cancel, methods=["POST"]),
        Route("/speak/{speech}/again", _again, methods=["POST"]),
        Route("/speak/{speech}/use", _use, methods=["POST"]),
        Route("/speak/{speech}/go-on", _go_on, methods=["POST"]),
        Route("/speak/{speech}/repeat", _repeat, methods=["POST"]),
        Route("/speak/{speech}/delete", _delete, methods=["POST"]),
    ]


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _page(request: Request) -> Response:
    """The form, what is spoken now, the history."""
    tasks = studio_of(request).tasks.shown(person_of(request), kind=KIND)
    view = None
    for task in sorted(tasks, key=lambda task: task.state != "running"):  # before those that wait for it
        speech = Speech(person_of(request), str(task.result.get("speech", "")))
        if task.open and speech.there:
            view = view_of(speech, studio_of(request).tasks)
            break
    return page(request, "speak/index.html", **_values(request, view, _defaults(request)))


def _speech(request: Request) -> Response:
    """A speech: the whole page, or for htmx its part of it where something has changed."""
    view = _view(request)
    if is_htmx(request):
        if request.query_params.get("rev") == view.revision:
            return Response(status_code=204)
        return _panel(request, view)
    return page(request, "speak/index.html", **_values(request, view, _again_the_same(view.asked, words_of(request))))


def _rows(request: Request) -> Response:
    """More sentences of a long text."""
    first = _number(request.query_params.get("first"))
    return part(request, "speak/rows.html", view=_view(request), first=first, rows=ROWS)


def _stream(request: Request) -> Response:
    """The next sentences for a listener who has had `from` of them, and whether there will be more."""
    view = view_of(asked_for(request), studio_of(request).tasks, with_sound=False)
    first, found = _number(request.query_params.get("from")), []
    for one in view.sentences[first:]:
        if one.take is None or len(found) == _AT_ONCE:
            break
        found.append({"number": one.number + 1, "text": one.text, "src": _address(view.speech, one.take.file)})
    return JSONResponse({"sentences": found, "open": view.open, "total": len(view.sentences)})


def _take(request: Request) -> Response:
    speech = asked_for(request)
    return sound_response(speech.takes / request.path_params["file"], speech.takes)


def _sound(request: Request) -> Response:
    """All of it: `wav` to be played or saved, `mp3`, `srt`."""
    speech, kind = asked_for(request), request.path_params["kind"]
    sentences = speech.sentences()
    stem = re.sub(r"[^\w-]+", "-", speech.asked().text[:40]).strip("-") or "speech"
    attachment = {"content-disposition": f"attachment; filename*=UTF-8''{quote(stem)}.{kind}"}
    joined = sound.joined(speech, sentences)
    if joined is None or kind not in ("wav", "mp3", "srt"):
        raise Missing("there is no such sound")
    if kind == "srt":
        return Response(sound.subtitles(sentences), media_type="application/x-subrip", headers=attachment)
    if kind == "mp3":
        return StreamingResponse(sound.mp3(joined.path), media_type="audio/mpeg", headers=attachment)
    return sound_response(joined.path, speech.folder, f"{stem}.wav" if "save" in request.query_params else None)


# ---- what is done ----------------------------------------------------------------------------------------------------


async def _speak(request: Request) -> Response:
    """Speak a text. A mistake is answered with the form alone: what was spoken before stays on the page."""
    form = await form_of(request)
    try:
        typed = bool(form.get("seed"))
        speech = await run_in_threadpool(lambda: begun(request, wanted(person_of(request), form), typed=typed))
    except Mistake as mistake:
        values = _values(request, None, form)
        if is_htmx(request):
            return part(request, "speak/form.html", mistake=mistake, **values)
        return page(request, "speak/index.html", mistake=mistake, **values)
    return await run_in_threadpool(_shown, request, speech, form)


async def _repeat(request: Request) -> Response:
    """Speak a text of the history once more, with the same seed or another one."""
    form = await form_of(request)
    asked = asked_for(request).asked()
    same = form.get("seed") == "same"
    anew = replace(asked, seed=asked.seed if same else random_seed(), created=time.time())
    return await _unless_mistaken(request, lambda: begun(request, anew, typed=same))


async def _go_on(request: Request) -> Response:
    """Speak the sentences that are missing."""
    await form_of(request)

    def begin() -> Speech:
        with beginning:
            if (speech := spoken_now(request, None)) is not None:
                return speech
            speech = idle(request)
            missing = any(one.take is None for one in speech.sentences())
            return started(request, speech, None) if missing else speech

    return await _unless_mistaken(request, begin)


async def _again(request: Request) -> Response:
    """Say one sentence again, with the next seed."""
    number = _number((await form_of(request)).get("sentence"))

    def begin() -> Speech:
        with beginning:
            if (speech := spoken_now(request, number)) is not None:
                return speech
            speech = idle(request)
            sentences = speech.sentences()
            if number >= len(sentences) or sentences[number].take is None:
                raise Missing("there is no such sentence")
            return started(request, speech, number)

    return await _unless_mistaken(request, begin)


async def _use(request: Request) -> Response:
    """Have another take of a sentence heard."""
    form = await form_of(request)
    speech = asked_for(request)
    speech.use(_number(form.get("sentence")), _number(form.get("take"), -1))
    return await run_in_threadpool(_shown, request, speech)


async def _stopped(request: Request) -> Speech:
    """The speech that a form is about, which is spoken no further."""
    await form_of(request)
    speech = asked_for(request)
    task = task_of(speech, studio_of(request).tasks)
    if task is not None:
        task.cancel()
    return speech


async def _cancel(request: Request) -> Response:
    speech = await _stopped(request)
    return await run_in_threadpool(_shown, request, speech)


async def _delete(request: Request) -> Response:
    """Remove a speech and all that was spoken for it."""
    speech = await _stopped(request)
    speech.delete()
    return RedirectResponse("/speak", 303)


async def _bring(request: Request) -> Response:
    """Keep a voice's file; it is then chosen in the form."""
    form = await form_of(request, files=1)
    given = form.get("file")
    try:
        if not isinstance(given, UploadFile) or not given.filename:
            raise Mistake("file", "speak.file_missing")
        content = await given.read(MOST_BYTES + 1)
        voice = bring(person_of(request), given.filename, lambda file: file.write(content))
    except Mistake as mistake:
        values = _values(request, None, _defaults(request))
        if is_htmx(request):
            return part(request, "speak/bring.html", mistake=mistake, **values)
        return page(request, "speak/index.html", mistake=mistake, **values)
    values = _values(request, None, _defaults(request) | {"voice": voice.key})
    if is_htmx(request):
        return part(request, "speak/brought.html", **values)
    return RedirectResponse(f"/speak?voice={quote(voice.key)}", 303)


async def _take_away(request: Request) -> Response:
    take_away(person_of(request), str((await form_of(request)).get("voice", "")))
    return RedirectResponse("/speak", 303)


# ---- answers ---------------------------------------------------------------------------------------------------------


async def _unless_mistaken(request: Request, begin: Callable[[], Speech]) -> Response:
    try:
        return await run_in_threadpool(lambda: _shown(request, begin()))
    except Mistake as mistake:
        line = words_of(request)(mistake.key, **mistake.values)
        if not is_htmx(request):
            return page(request, "error.html", status=422, line=line)
        answer = part(request, "speak/mistake.html", status=422, line=line)
        answer.headers["hx-retarget"], answer.headers["hx-reswap"] = "#speech-mistake", "outerHTML"
        return answer


def _shown(request: Request, speech: Speech, form: Mapping[str, Any] | None = None) -> Response:
    """A speech after something was done with it: its part of the page, or a way to its page."""
    address = f"/speak/{speech.id}"
    if not is_htmx(request):
        return RedirectResponse(address, 303)
    view = view_of(speech, studio_of(request).tasks)
    new = view.first_time
    answer = _panel(request, view, begin=new, form=form if new else None)
    answer.headers["hx-retarget"], answer.headers["hx-reswap"] = "#speech", "outerHTML"
    if urlsplit(request.headers.get("hx-current-url", "")).path != address:  # or Back would have to be pressed twice
        answer.headers["hx-push-url"] = address
    return answer


def _panel(request: Request, view: View, *, begin: bool = False, form: Mapping[str, Any] | None = None) -> Response:
    """The part of the page that shows a speech; with the history where that has changed, and the form after it was
    taken."""
    on_first_page = "page=" not in request.headers.get("hx-current-url", "")
    with_history = on_first_page and (form is not None or not view.open)
    values: dict[str, Any] = {"view": view, "first": 0, "rows": ROWS, "with_form": form is not None}
    if form is not None or with_history:
        values = _values(request, view, form or {}) | values
    return part(request, "speak/panel.html", **values | {"begin": begin, "with_history": with_history})


def _values(request: Request, view: View | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the whole page needs."""
    person, number, t = person_of(request), _number(request.query_params.get("page"), 1), words_of(request)
    usual = {"seed": "", "steps": str(RELEASED), "guidance": typed(GUIDANCE, t)}
    listed, pages = speeches(person, number)
    shown = []
    for speech in listed:
        try:
            shown.append(view_of(speech, studio_of(request).tasks, with_sound=False))
        except VoxcloneError:  # damaged: it can be deleted
            shown.append(speech)
    return {
        "view": view,
        "begin": False,
        "first": 0,
        "with_form": False,
        "with_history": False,
        "given": _defaults(request) | {name: value for name, value in given.items() if isinstance(value, str)},
        "unusual": any(given.get(name, value) != value for name, value in usual.items()),
        "voices": voices_of(person),
        "spoken_languages": LANGUAGES,
        "steps_offered": STEPS,
        "files_group": FILES,
        "rows": ROWS,
        "history": [one for one in shown if isinstance(one, View)],
        "damaged": [one for one in shown if not isinstance(one, View)],
        "number": min(max(number, 1), pages),
        "pages": pages,
    }


def _defaults(request: Request) -> dict[str, str]:
    """An empty form: with the voice and the language that were used last."""
    settings = person_of(request).settings()
    chosen = request.query_params.get("voice") or settings.get("speak_voice")
    voices = voices_of(person_of(request))
    known = {voice.key: voice for voice in voices}
    voice = known.get(chosen) or (voices[0] if voices else None)
    language = (voice.language if voice else None) or settings.get("speak_language") or language_of(request)
    return {
        "text": "",
        "voice": voice.key if voice else "",
        "language": language if language in LANGUAGES else "en",
        "seed": "",
        "steps": str(RELEASED),
        "guidance": typed(GUIDANCE, words_of(request)),
    }


def _again_the_same(asked: Asked, t: Words) -> dict[str, str]:
    return {
        "text": asked.text,
        "voice": asked.voice,
        "language": asked.language,
        "seed": str(asked.seed),
        "steps": str(asked.steps),
        "guidance": typed(asked.guidance, t),
    }


def _view(request: Request) -> View:
    return view_of(asked_for(request), studio_of(request).tasks)


def _address(speech: Speech, file: str) -> str:
    return f"/speak/{speech.id}/takes/{file}"


def _number(text: object, otherwise: int = 0) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 10 else otherwise
