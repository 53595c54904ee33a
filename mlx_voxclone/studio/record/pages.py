"""Pages of this step: a new voice with its consent, and the microphone. Files have their own (`file_pages.py`)."""

import contextlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio.home import ID, Person, Project, new_id
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.model.choice import chosen
from mlx_voxclone.studio.record import file_pages
from mlx_voxclone.studio.record.checks import BAD
from mlx_voxclone.studio.record.consent import LONGEST_NAME, consent, given, line, require
from mlx_voxclone.studio.record.listing import recorded
from mlx_voxclone.studio.record.prompts import LANGUAGES, RIGHT_TO_LEFT, SYLLABLES
from mlx_voxclone.studio.record.shared import FULL, findings, serve_sound, values
from mlx_voxclone.studio.record.takes import LARGEST_TAKE, LONGEST_TAKE, PLAN, DamagedPlan, Slot, Take, Takes
from mlx_voxclone.studio.troubles import cause_of, refusals
from mlx_voxclone.studio.web.languages import languages, words_in
from mlx_voxclone.studio.web.pages import (
    check_token,
    form_of,
    is_htmx,
    language_of,
    page,
    part,
    person_of,
    project_of,
    words_of,
)
from mlx_voxclone.studio.web.paging import paged

_SHOWN = ("all", "bad")  # takes that are listed


def routes() -> list[Route]:
    at = "/voices/{project}/record"
    return [
        Route("/voices/new", _new),
        Route("/voices/new", _begin, methods=["POST"]),
        Route(at, _record),
        Route(f"{at}/consent", _consent, methods=["POST"]),
        Route(f"{at}/takes", _take, methods=["POST"]),
        Route(f"{at}/takes/{{take}}/text", _text, methods=["POST"]),
        Route(f"{at}/takes/{{take}}/delete", _delete, methods=["POST"]),
        Route(f"{at}/skip", _skip, methods=["POST"]),
        Route(f"{at}/unskip", _unskip, methods=["POST"]),
        Route(f"{at}/own", _own, methods=["POST"]),
        Route(f"{at}/sounds/{{shelf}}/{{id}}", _sound),
        *file_pages.routes(),
    ]


# A new voice, and its consent


async def _new(request: Request) -> Response:
    return page(request, "record/new.html", **_new_values(request, {}))


async def _begin(request: Request) -> Response:
    form = await form_of(request)
    typed = _given(form)
    try:
        title = line("title", typed["title"], LONGEST_NAME)
        if typed["language"] not in LANGUAGES:
            raise Mistake("language", "record.wrong.language")
        agreed, person = _agreed(typed), person_of(request)
        with refusals("title"):
            project = _begun(person, typed["id"], title, typed["language"], agreed)
            person.change_settings(voice=project.id)
    except Mistake as mistake:
        return page(request, "record/new.html", mistake=mistake, **_new_values(request, typed))
    return RedirectResponse(f"/voices/{project.id}/record", 303)


def _begun(person: Person, id: str, title: str, language: str, agreed: dict[str, str]) -> Project:
    """A new voice; the one that the same form has begun already, as of a second click.

    Args:
        id: that the form has brought for the voice. Sent again with something else in it, it asks for another one.
    """
    project = Project(person, id if ID.fullmatch(id) else new_id())
    if project.folder.exists():
        with contextlib.suppress(CheckpointError):
            info = project.info()
            there = info.get("consent") if isinstance(info.get("consent"), dict) else {}
            if (info.get("title"), info.get("language")) == (title, language) and _unlike(there, agreed) <= {"when"}:
                return project
        project = Project(person, new_id())
    person.new_project(title, language, project.id)
    project.change(consent=agreed)
    return project


def _unlike(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in {*one, *other} if one.get(key) != other.get(key)}


async def _consent(request: Request) -> Response:
    project, typed = project_of(request), _given(await form_of(request))
    try:
        with refusals("agreed"):
            project.change(consent=_agreed(typed))
    except Mistake as mistake:
        return page(request, "record/consent.html", mistake=mistake, given=typed, **values(request, project))
    return RedirectResponse(f"/voices/{project.id}/record", 303)


def _given(form: FormData) -> dict[str, str]:
    names = ("title", "language", "who", "purpose", "agreed", "statement_in", "id")
    return {name: value if isinstance(value := form.get(name, ""), str) else "" for name in names}


def _agreed(typed: dict[str, str]) -> dict[str, str]:
    """The consent of a form, with the statement in the language in which it was shown. Raises Mistake."""
    shown = typed["statement_in"] if typed["statement_in"] in languages() else "en"
    statement = f"{words_in(shown)('record.consent.statement')} {words_in(shown)('record.consent.agreed')}"
    return consent(typed["who"], typed["purpose"], statement, typed["agreed"] == "yes")


def _new_values(request: Request, typed: dict[str, str]) -> dict[str, Any]:
    own, model = language_of(request), chosen(person_of(request))
    usual = SYLLABLES if model and model.rehearses else own if own in LANGUAGES else "en"
    first = typed.get("language") or usual
    return {
        "given": {**_given(FormData()), **typed},
        "id": typed.get("id") or new_id(),
        "spoken": LANGUAGES,
        "first": first,
    }


# The microphone


async def _record(request: Request) -> Response:
    project = project_of(request)
    if given(project) is None:
        return page(request, "record/consent.html", given=_given(FormData()), **values(request, project))
    return page(request, "record/takes.html", **await _desk(request, project))


async def _take(request: Request) -> Response:
    """A take, as the body of the request: on the disk and checked before the next sentence is shown."""
    project = project_of(request)
    check_token(request, request.headers.get("x-csrf"))
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_TAKE:
            raise HTTPException(413, f"more than {LARGEST_TAKE // 1_000_000} MB")
    slot = request.query_params.get("slot", "")
    try:
        with refusals("take", FULL):
            take = await run_in_threadpool(Takes(project).record, slot, bytes(content))
    except Mistake as mistake:
        kept = mistake.__cause__ is not None  # by the browser, which sends it again: the disk refuses
        return part(request, "record/mistake.html", mistake=mistake, status=507 if kept else 422)
    except CheckpointError as e:
        t = words_of(request)
        told = f"{t('trouble.failed.take')} {t(f'trouble.do.{cause_of(e)}')}"
        return part(request, "parts/notice.html", status=507, line=told)
    return part(request, "record/desk.html", **await _desk(request, project, last=take))


async def _skip(request: Request) -> Response:
    project, form = project_of(request), await form_of(request)
    return await _planned(request, project, lambda takes: takes.skip(_field(form, "slot")))


async def _unskip(request: Request) -> Response:
    project = project_of(request)
    await form_of(request)
    return await _planned(request, project, Takes.unskip)


async def _own(request: Request) -> Response:
    project, form = project_of(request), await form_of(request)
    text = _field(form, "text")
    return await _planned(request, project, lambda takes: takes.add_own(text), typed=text)


async def _planned(request: Request, project: Project, change: Callable[[Takes], Any], typed: str = "") -> Response:
    """Change what comes next, and show it; a slot that `change` returns comes at once."""
    try:
        with refusals("text" if typed else ""):
            slot = await run_in_threadpool(change, Takes(project))
    except Mistake as mistake:
        return await _after(request, project, mistake=mistake, typed=typed)
    except DamagedPlan:
        mistake = Mistake("text" if typed else "", "record.wrong.damaged_plan", file=f"takes/{PLAN}")
        return await _after(request, project, mistake=mistake, typed=typed)
    return await _after(request, project, slot=slot)


async def _text(request: Request) -> Response:
    project, form = project_of(request), await form_of(request)
    id, text = request.path_params["take"], _field(form, "text")
    try:
        require(project)
        with refusals(""):
            checked = await run_in_threadpool(Takes(project).set_text, id, text)
    except Mistake as mistake:
        if not is_htmx(request):
            return page(request, "record/takes.html", mistake=mistake, **await _desk(request, project))
        return part(request, "record/mistake.html", mistake=mistake)
    if not is_htmx(request):
        return RedirectResponse(_place(request, project, f"#take-{id}"), 303)
    return part(request, "record/saved.html", found=findings(words_of(request), checked))


async def _delete(request: Request) -> Response:
    project = project_of(request)
    await form_of(request)
    await run_in_threadpool(Takes(project).remove, request.path_params["take"])
    return await _after(request, project)


async def _sound(request: Request) -> Response:
    project = project_of(request)
    return await run_in_threadpool(serve_sound, project, request.path_params["shelf"], request.path_params["id"])


async def _after(
    request: Request,
    project: Project,
    *,
    mistake: Mistake | None = None,
    slot: Slot | None = None,
    typed: str = "",
) -> Response:
    """The desk again: its parts alone for htmx, else the page."""
    if mistake is None and not is_htmx(request):
        return RedirectResponse(_place(request, project), 303)
    template = "record/desk.html" if is_htmx(request) else "record/takes.html"
    return page(request, template, mistake=mistake, **await _desk(request, project, slot=slot, typed=typed))


async def _desk(
    request: Request, project: Project, *, last: Take | None = None, slot: Slot | None = None, typed: str = ""
) -> dict[str, Any]:
    """What the page of the microphone shows."""

    def read() -> dict[str, Any]:
        there = recorded(project)
        taken, wanted = there.taken, slot
        if wanted is None and last is None and request.method == "GET":
            with contextlib.suppress(Missing):  # the address asks for none that there is
                wanted = taken.slot(request.query_params.get("slot", ""))
        if wanted is None and last is not None and last.check.state == BAD:
            wanted = taken.slot(last.slot)
        now, shown = wanted or taken.next(), request.query_params.get("show", "")
        shown = shown if shown in _SHOWN else "all"
        listed = [take for take in taken.takes[::-1] if shown == "all" or take.check.state == BAD]
        return {
            **values(request, project, there),
            "slot": now,
            "again": any(take.slot == now.key for take in taken.takes),
            "takes": paged(listed, request.query_params.get("page"), {"show": shown if shown != "all" else ""}),
            "total": len(taken.takes),
            "shown": shown,
            "choices": _SHOWN,
            "last": last or (taken.takes[-1] if taken.takes else None),
            "skipped": len(taken.skipped),
            "typed": typed,
            "longest": LONGEST_TAKE,
            "direction": "rtl" if taken.language in RIGHT_TO_LEFT else "ltr",
            "tongue": taken.language if taken.language != SYLLABLES else "und",
        }

    return await run_in_threadpool(read)


def _place(request: Request, project: Project, anchor: str = "") -> str:
    """The address of the page that a form was on: the same part of the list."""
    kept = {key: request.query_params[key] for key in ("show", "page") if key in request.query_params}
    return f"/voices/{project.id}/record{'?' if kept else ''}{urlencode(kept)}{anchor}"


def _field(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""
