"""The page of files: uploads, their texts, and the tasks that cut long recordings and make texts."""

import contextlib
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.model import whispers
from mlx_voxclone.studio.record import long
from mlx_voxclone.studio.record.consent import given, line, require
from mlx_voxclone.studio.record.listing import is_bad, is_silent, is_uncut, recorded
from mlx_voxclone.studio.record.prompts import RIGHT_TO_LEFT, SYLLABLES
from mlx_voxclone.studio.record.shared import FULL, arriving, body, findings, shelf_of, values
from mlx_voxclone.studio.record.shelf import Item, Shelf
from mlx_voxclone.studio.record.uploads import ACCEPTED, LARGEST_FILE, Received, Uploads
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.pages import (
    check_token,
    form_of,
    is_here,
    is_htmx,
    page,
    part,
    person_of,
    project_of,
    studio_of,
    words_of,
)
from mlx_voxclone.studio.web.paging import paged

PREPARE, FETCH = "prepare", whispers.KIND  # kinds of tasks
_MOST_FILES = 200  # of a form without JavaScript
_LARGEST_FORM = 2_000_000_000  # bytes of one
_LONGEST_NAME = 1000  # characters of a file's name in an address
_SHOWN = ("all", "silent", "bad")  # files that are listed: all, without a text, not usable
_FEW = 8  # clips of a recording that are listed with it; more have pages of their own
_UNKNOWN = dict.fromkeys(("text", "text_by", "long", "cut", "check", "like", "heard", "peaks"))
_UNKNOWN |= {"name": "?", "seconds": 0.0}


def routes() -> list[Route]:
    at = "/voices/{project}/record"
    return [
        Route(f"{at}/files", _files),
        Route(f"{at}/files", _upload, methods=["POST"]),
        Route(f"{at}/files/one", _upload_one, methods=["POST"]),
        Route(f"{at}/files/cut", _cut, methods=["POST"]),
        Route(f"{at}/files/texts", _make_texts, methods=["POST"]),
        Route(f"{at}/sounds/{{shelf}}/{{id}}/text", _text, methods=["POST"]),
        Route(f"{at}/sounds/{{shelf}}/{{id}}/delete", _delete, methods=["POST"]),
    ]


async def _files(request: Request) -> Response:
    project = project_of(request)
    if given(project) is None:
        return RedirectResponse(f"/voices/{project.id}/record", 303)
    return page(request, "record/files.html", **await _shown(request, project))


async def _upload_one(request: Request) -> Response:
    """One file, as the body of the request, its name in the address; answered with a sentence."""
    project = project_of(request)
    check_token(request, request.headers.get("x-csrf"))
    name, size = request.query_params.get("name", "")[-_LONGEST_NAME:], request.headers.get("content-length", "")
    uploads = Uploads(project)
    try:
        uploads.check_name(name, int(size) if size.isdecimal() and len(size) < 18 else None)
        with arriving(project.uploads, int(size) if size.isdecimal() else 0) as place:
            with place.open("wb") as file:
                await body(request, file, LARGEST_FILE)
            with refusals("files", FULL):
                received = await run_in_threadpool(uploads.add, name, place)
    except Mistake as mistake:
        return part(request, "record/mistake.html", mistake=mistake)
    await _begin_cutting_now_or_later(request, project, [received])
    return part(request, "record/received.html", received=[received], refused=[])


async def _upload(request: Request) -> Response:
    """The form of files, sent as a whole by a browser without JavaScript."""
    project = project_of(request)
    size = request.headers.get("content-length", "")
    if not size.isdecimal() or len(size) > 18 or int(size) > _LARGEST_FORM:
        raise HTTPException(413, f"at most {_LARGEST_FORM // 1_000_000} MB at once")
    try:
        form = await form_of(request, files=_MOST_FILES)
    except HTTPException as e:
        if not e.detail.startswith("Too many files"):
            raise
        mistake = Mistake("files", "record.wrong.many_files", most=_MOST_FILES)
        return page(request, "record/files.html", mistake=mistake, **await _shown(request, project))
    files = [file for file in form.getlist("files") if isinstance(file, UploadFile) and file.filename]
    received: list[Received] = []
    refused: list[tuple[str, str]] = []
    for file in files:
        try:
            received.append(await run_in_threadpool(_taken_in, project, file))
        except Mistake as mistake:
            refused.append((words_of(request)(mistake.key, **mistake.values), mistake.line))
    await _begin_cutting_now_or_later(request, project, received)
    mistake = None if files else Mistake("files", "record.wrong.no_file")
    shown = await _shown(request, project, received=received, refused=refused)
    return page(request, "record/files.html", mistake=mistake, **shown)


def _taken_in(project: Project, file: UploadFile) -> Received:
    uploads, name = Uploads(project), (file.filename or "")[-_LONGEST_NAME:]
    uploads.check_name(name, file.size)
    with arriving(project.uploads, file.size or 0) as place, refusals("files", FULL):
        with place.open("wb") as target:
            while chunk := file.file.read(1 << 20):
                target.write(chunk)
        return uploads.add(name, place)


async def _text(request: Request) -> Response:
    project, form = project_of(request), await form_of(request)
    text, id = str(form.get("text", "")), request.path_params["id"]
    shelf = _brought(request, project)
    try:
        require(project)
        brought = shelf.folder == project.uploads
        with refusals(""):
            await run_in_threadpool(Uploads(project).set_text if brought else Uploads(project).set_clip_text, id, text)
        if brought:
            await _begin_cutting_now_or_later(request, project)
    except Mistake as mistake:
        if is_htmx(request):
            return part(request, "record/mistake.html", mistake=mistake)
        return page(request, "record/files.html", mistake=mistake, **await _shown(request, project))
    if is_htmx(request):
        found = findings(words_of(request), shelf.notes(id).get("check"))
        return part(request, "record/saved.html", found=found)
    return RedirectResponse(_place(request, project, f"#file-{id}"), 303)


async def _delete(request: Request) -> Response:
    project, id = project_of(request), request.path_params["id"]
    await form_of(request)
    shelf = _brought(request, project)
    await run_in_threadpool(Uploads(project).remove if shelf.folder == project.uploads else shelf.remove, id)
    if is_htmx(request):
        return part(request, "record/file_list.html", **await _shown(request, project))
    return RedirectResponse(_place(request, project), 303)


def _place(request: Request, project: Project, anchor: str = "") -> str:
    """The address of the page that a form was on: the same part of the list."""
    kept = {key: request.query_params[key] for key in ("of", "show", "page") if key in request.query_params}
    return f"/voices/{project.id}/record/files{'?' if kept else ''}{urlencode(kept)}{anchor}"


def _brought(request: Request, project: Project) -> Shelf:
    """The folder that the address names; takes have addresses of their own. Raises Missing."""
    if request.path_params["shelf"] == "takes":
        raise Missing("there is no such file")
    return shelf_of(project, request.path_params["shelf"])


# Tasks


async def _cut(request: Request) -> Response:
    project = project_of(request)
    await form_of(request)
    try:
        with refusals(""):
            await _begin_cutting(request, project)
    except Mistake as mistake:
        return page(request, "record/files.html", mistake=mistake, **await _shown(request, project))
    return RedirectResponse(f"/voices/{project.id}/record/files", 303)


async def _begin_cutting(request: Request, project: Project) -> None:
    """Cut what is long and has no text; once, however many tabs ask for it. Raises Mistake."""
    if await run_in_threadpool(long.uncut, project):
        title, person = words_of(request)("record.files.cut_task"), person_of(request)
        work = lambda task: long.cut_at_pauses(project, task)  # noqa: E731
        studio_of(request).tasks.start(person, PREPARE, title, work, project=project, lane="files", once="cut")


async def _begin_cutting_now_or_later(
    request: Request, project: Project, received: list[Received] | None = None
) -> None:
    """The same after something else was done, which stays done where there are too many tasks: the page then offers
    the cutting. Of files that were `received` only long ones begin it."""
    if received is None or any(one.key == "long" for one in received):
        with contextlib.suppress(Mistake), refusals(""):
            await _begin_cutting(request, project)


async def _make_texts(request: Request) -> Response:
    """Make texts with a Whisper; one that is not on this machine is fetched first."""
    project, form, person = project_of(request), await form_of(request), person_of(request)
    t, tasks = words_of(request), studio_of(request).tasks
    try:
        require(project)
        whisper = line("whisper", str(form.get("whisper", "")), 500)
        if whisper != long.whisper_of(person) and not is_here(request):  # what is read and fetched is chosen here alone
            raise Mistake("whisper", "model.not_here")
        with refusals("whisper"):
            person.change_settings(whisper=whisper)
    except Mistake as mistake:
        return page(request, "record/files.html", mistake=mistake, **await _shown(request, project))

    def listen(task: Task) -> dict[str, Any]:
        return long.make_texts(project, task, whisper, t("record.files.loading_task"))

    def begin(limited: bool = True) -> None:
        title = t("record.files.make_texts_task")
        tasks.start(person, PREPARE, title, listen, project=project, once="texts", limited=limited)

    def fetch(task: Task) -> None:
        whispers.fetch(task, whisper)
        begin(limited=False)

    try:
        if not any(task.open for task in _tasks(request, project) if task.lane == "compute" or task.kind == FETCH):
            with refusals(""):
                if whispers.at_hand(whisper):
                    begin()
                else:
                    title = t("record.files.fetch_task")
                    tasks.start(person, FETCH, title, fetch, project=project, lane="files", once="")
    except Mistake as mistake:
        return page(request, "record/files.html", mistake=mistake, **await _shown(request, project))
    return RedirectResponse(f"/voices/{project.id}/record/files", 303)


def _tasks(request: Request, project: Project) -> list[Task]:
    """The tasks of this page, the newest first."""
    found = studio_of(request).tasks.shown(person_of(request), project=project)
    return [task for task in found if task.kind in (PREPARE, FETCH)]


async def _shown(
    request: Request,
    project: Project,
    *,
    received: list[Received] | None = None,
    refused: list[tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """What the page of files shows."""
    tasks, asked = _tasks(request, project), request.query_params

    def read() -> dict[str, Any]:
        there = recorded(project)
        clips: dict[str, list[Item]] = {}
        for id, notes in there.clips.items:
            clips.setdefault(str(notes.get("upload")), []).append((id, {**_UNKNOWN, **notes}))
        files = {id: {**_UNKNOWN, **notes} for id, notes in reversed(there.uploads.items)}
        of, shown = asked.get("of", ""), asked.get("show", "")
        of, shown = of if of in files else "", shown if shown in _SHOWN else "all"
        listed = [one for one in (clips.get(of, []) if of else files.items()) if _is_shown(one[1], shown)]
        uncut = [notes for notes in files.values() if is_uncut(notes)]
        whisper = long.whisper_of(person_of(request))
        language = project.info().get("language")
        return {
            **values(request, project, there),
            "listed": paged(listed, asked.get("page"), {"of": of, "show": shown if shown != "all" else ""}),
            "total": len(clips.get(of, [])) if of else len(files),
            "of": (of, files[of]) if of else None,
            "shown": shown,
            "choices": _SHOWN,
            "clips": clips,
            "few": _FEW,
            "waiting": Uploads(project).waiting(),
            "tasks": [task for number, task in enumerate(tasks) if task.open or number == 0],
            "uncut": any(not notes["text"] for notes in uncut),
            "chapters": sum(bool(notes["text"]) for notes in uncut),
            "silent": sum(is_silent(notes) for _, notes in (*there.uploads.items, *there.clips.items)),
            "whisper": whisper,
            "at_hand": whispers.at_hand(whisper),
            "installed": long.whisper_installed(),
            "can_hear": language != SYLLABLES,
            "accepted": ",".join(ACCEPTED),
            "received": received or [],
            "refused": refused or [],
            "direction": "rtl" if language in RIGHT_TO_LEFT else "ltr",
            "tongue": language if language != SYLLABLES else "und",
        }

    return await run_in_threadpool(read)


def _is_shown(notes: dict[str, Any], shown: str) -> bool:
    return {"all": True, "silent": is_silent(notes), "bad": is_bad(notes)}[shown]
