"""Pages of this step: all voices, one voice to take away, published, deleted; and the files of these."""

import asyncio
import shutil
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.files.atomic import free_bytes
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.keep import exports, publishing, removal
from mlx_voxclone.studio.keep.cards import card, cards, plain_title, rename
from mlx_voxclone.studio.keep.made import made_of
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.speak.voices import FILES, bring, take_away, voices_of
from mlx_voxclone.studio.tasks import Task, Work
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.files import file_answer, found_within
from mlx_voxclone.studio.web.pages import form_of, is_here, page, person_of, project_of, studio_of, words_of

DELETED, RENAMED, BROUGHT = "deleted", "renamed", "brought"
_DONE = (DELETED, RENAMED, BROUGHT)  # what a page may say that has just been done


def routes() -> list[Route]:
    voice = "/voices/{project}"
    return [
        Route("/voices", _index),
        Route("/voices/import", _import, methods=["POST"]),
        Route("/voices/brought/delete", _take_away, methods=["POST"]),
        Route(voice, _voice),
        Route(f"{voice}/rename", _rename, methods=["POST"]),
        Route(f"{voice}/bake", _bake, methods=["POST"]),
        Route(f"{voice}/exports/delete", _delete_export, methods=["POST"]),
        Route(f"{voice}/publish", _publish_page),
        Route(f"{voice}/publish", _look, methods=["POST"]),
        Route(f"{voice}/publish/now", _publish, methods=["POST"]),
        Route(f"{voice}/delete", _delete_page),
        Route(f"{voice}/delete", _delete, methods=["POST"]),
        Route("/files/voices/{project}/sample.wav", _sample),
        Route("/files/voices/{project}/{export}/{name:path}", _file),
        Route("/files/brought/{name}", _brought_file),
    ]


# ---- all voices ----------------------------------------------------------------------------------------------------


async def _index(request: Request) -> Response:
    return await asyncio.to_thread(_all_voices, request)


def _all_voices(request: Request, mistake: Mistake | None = None) -> Response:
    person = person_of(request)
    removal.clear(person)
    done = request.query_params.get("done")
    shown, damaged = cards(person, studio_of(request).trainings)
    return page(
        request,
        "keep/index.html",
        mistake=mistake,
        cards=shown,
        damaged=damaged,
        brought=[voice for voice in voices_of(person) if voice.group == FILES],
        done=done if done in _DONE else None,
    )


async def _import(request: Request) -> Response:
    file = (await form_of(request, files=1)).get("file")
    try:
        if not isinstance(file, UploadFile) or not file.filename:
            raise Mistake("file", "keep.wrong.no_file")
        with refusals("file"):
            await asyncio.to_thread(
                bring, person_of(request), file.filename, lambda target: shutil.copyfileobj(file.file, target)
            )
    except Mistake as mistake:
        return await asyncio.to_thread(_all_voices, request, mistake)
    return RedirectResponse(f"/voices?done={BROUGHT}", 303)


async def _take_away(request: Request) -> Response:
    key = (await form_of(request)).get("voice")
    take_away(person_of(request), str(key))
    return RedirectResponse(f"/voices?done={DELETED}", 303)


# ---- one voice -----------------------------------------------------------------------------------------------------


async def _voice(request: Request) -> Response:
    return await asyncio.to_thread(_one_voice, request)


def _one_voice(request: Request, mistake: Mistake | None = None, typed: str | None = None) -> Response:
    project = project_of(request)
    exports.clear_trash(project.exports)
    found = card(project, studio_of(request).trainings)
    there = exports.exports_of(project) if found.made is not None else []
    to_bake = []
    if found.made is not None and found.made.baked is not None:
        taken = {one.bits for one in there if one.kind == exports.MLX_AUDIO}
        to_bake = [(bits, exports.needed(found.made, bits)) for bits in exports.BITS if bits not in taken]
    tasks = studio_of(request).tasks.shown(project.person, kind=exports.BAKE, project=project)
    done = request.query_params.get("done")
    return page(
        request,
        "keep/voice.html",
        mistake=mistake,
        card=found,
        exports=there,
        to_bake=to_bake,
        free=free_bytes(project.folder),
        tasks=[task for task in tasks[:3] if task.open or task.state in ("failed", "cancelled")],
        here=is_here(request),
        typed=found.title if typed is None else typed,
        done=done if done in _DONE else None,
    )


async def _rename(request: Request) -> Response:
    project, title = project_of(request), str((await form_of(request)).get("title") or "")
    try:
        with refusals("title"):
            rename(project, title)
    except Mistake as mistake:
        return await asyncio.to_thread(_one_voice, request, mistake, title)
    return RedirectResponse(f"/voices/{project.id}?done={RENAMED}", 303)


async def _bake(request: Request) -> Response:
    project, bits = project_of(request), str((await form_of(request)).get("bits") or "")
    t, tasks = words_of(request), studio_of(request).tasks
    try:
        if not bits:
            raise Mistake("bits", "keep.wrong.no_choice")
        chosen = int(bits) if bits in ("8", "6", "4") else None
        if tasks.same(project.person, exports.BAKE, bits, project) is None:
            if any(task.open for task in tasks.list(project.person, kind=exports.BAKE, project=project)):
                raise Mistake("bits", "keep.wrong.bakes")
            work = await asyncio.to_thread(exports.bake, project, chosen)
            title = t("keep.baking", title=project.info().get("title", ""))
            _started(request, project, exports.BAKE, title, work, once=bits, field="bits")
    except Mistake as mistake:
        return await asyncio.to_thread(_one_voice, request, mistake.beside("bits"))
    return RedirectResponse(f"/voices/{project.id}#take", 303)


async def _delete_export(request: Request) -> Response:
    project = project_of(request)
    key = str((await form_of(request)).get("export") or "")
    await asyncio.to_thread(exports.delete_export, project, key)
    return RedirectResponse(f"/voices/{project.id}?done={DELETED}", 303)


# ---- published -----------------------------------------------------------------------------------------------------


async def _publish_page(request: Request) -> Response:
    return await asyncio.to_thread(_publishing, request, {})


def _publishing(request: Request, typed: dict[str, str], mistake: Mistake | None = None) -> Response:
    project, tasks = project_of(request), studio_of(request).tasks
    looked = uploaded = None
    if asked := request.query_params.get("look") or typed.get("look"):
        looked = tasks.get(project.person, asked)
    if asked := request.query_params.get("upload"):
        uploaded = tasks.get(project.person, asked)
    if any(task is not None and task.project != project.id for task in (looked, uploaded)):
        raise Missing("there is no such task")
    of_look = looked.result if looked is not None and looked.state == "done" else {}
    values = {"consent": publishing.statement_of(project), "repository": "", "public": "", "baked": ""}
    if of_look:
        values |= {"consent": of_look["consent"], "repository": of_look["repository"]}
        values |= {"public": "" if of_look["private"] else "on", "baked": "on" if of_look["baked"] else ""}
    return page(
        request,
        "keep/publish.html",
        mistake=mistake,
        card=card(project, studio_of(request).trainings),
        values=values | typed,
        looked=looked,
        uploaded=uploaded,
        consented=bool(project.info().get("consent")),
        logged_in=publishing.has_token(),
        here=is_here(request),
    )


async def _look(request: Request) -> Response:
    """Find out what would be uploaded."""
    project, form = project_of(request), await form_of(request)
    _check_here(request)
    typed = {name: str(form.get(name) or "") for name in ("repository", "consent", "public", "baked")}
    try:
        wish = publishing.wanted(
            project,
            typed["repository"],
            typed["consent"],
            private=not typed["public"],
            baked=bool(typed["baked"]),
        )
        title = words_of(request)("keep.looking", title=project.info().get("title", ""))
        work = publishing.look(project, wish)
        task = _started(request, project, publishing.LOOK, title, work, once=wish.mark)
    except Mistake as mistake:
        return await asyncio.to_thread(_publishing, request, typed, mistake)
    return RedirectResponse(f"/voices/{project.id}/publish?look={task.id}#look", 303)


async def _publish(request: Request) -> Response:
    """Upload what was looked at, as it was looked at."""
    project, form, tasks = project_of(request), await form_of(request), studio_of(request).tasks
    _check_here(request)
    looked = tasks.get(project.person, str(form.get("look") or ""))
    if looked.kind != publishing.LOOK or looked.project != project.id or looked.state != "done":
        raise Missing("there is no such task")
    try:
        if form.get("confirmed") != "on":
            raise Mistake("confirmed", "keep.wrong.not_confirmed")
        if not publishing.has_token():
            raise Mistake("confirmed", "keep.wrong.no_token")
        task = tasks.same(project.person, publishing.PUBLISH, looked.id, project)
        open_ones = (one for one in tasks.list(project.person, kind=publishing.PUBLISH, project=project) if one.open)
        if task is None and any(open_ones):
            raise Mistake("confirmed", "keep.wrong.uploads")
        asked = looked.result
        wish = publishing.wanted(
            project, asked["repository"], asked["consent"], private=asked["private"], baked=asked["baked"]
        )
        title = words_of(request)("keep.uploading", title=project.info().get("title", ""), repository=wish.repository)
        work = publishing.publish(project, wish)
        task = _started(request, project, publishing.PUBLISH, title, work, once=looked.id, field="confirmed")
    except Mistake as mistake:
        mistake = mistake if mistake.field else mistake.beside("confirmed")
        return await asyncio.to_thread(_publishing, request, {"look": looked.id}, mistake)
    return RedirectResponse(f"/voices/{project.id}/publish?upload={task.id}#upload", 303)


# ---- deleted -------------------------------------------------------------------------------------------------------


async def _delete_page(request: Request) -> Response:
    return await asyncio.to_thread(_deleting, request)


def _deleting(request: Request, mistake: Mistake | None = None, speeches: bool = False, typed: str = "") -> Response:
    project = project_of(request)
    spoken = removal.spoken_with(project)
    parts = removal.belongings(project, spoken)
    busy = None
    try:
        removal.check_idle(project, studio_of(request).tasks, studio_of(request).trainings)
    except Mistake as reason:
        busy = words_of(request)(reason.key, **reason.values)
    return page(
        request,
        "keep/delete.html",
        mistake=mistake,
        card=card(project, studio_of(request).trainings),
        parts=[part for part in parts if part.what != removal.SPEECHES],
        spoken=next((part for part in parts if part.what == removal.SPEECHES), None),
        speeches=speeches,
        typed=typed,
        busy=busy,
    )


async def _delete(request: Request) -> Response:
    project, form = project_of(request), await form_of(request)
    speeches, typed = form.get("speeches") == "on", str(form.get("typed") or "")
    try:
        if plain_title(typed).casefold() != _title(project).casefold():
            raise Mistake("typed", "keep.wrong.typed", title=_title(project))
        with refusals("typed"):
            await asyncio.to_thread(
                removal.delete, project, studio_of(request).tasks, studio_of(request).trainings, speeches=speeches
            )
    except Mistake as mistake:
        return await asyncio.to_thread(_deleting, request, mistake, speeches, typed)
    studio = studio_of(request)
    studio.tasks.between(lambda: studio.models.forget(project.folder))
    return RedirectResponse(f"/voices?done={DELETED}", 303)


# ---- files ---------------------------------------------------------------------------------------------------------


async def _sample(request: Request) -> Response:
    project = project_of(request)
    made = made_of(project)
    if made is None or made.sample is None:
        raise Missing("there is no such sound")
    return file_answer(_inside(project, made.sample))


async def _file(request: Request) -> Response:
    project, name = project_of(request), request.path_params["name"]
    export = exports.export(project, request.path_params["export"])
    if name not in dict(export.files):
        raise Missing("there is no such file")
    root = export.place.parent if export.kind == exports.VOICE else export.place
    path = _inside(project, root / name)
    return file_answer(path, path.name)


async def _brought_file(request: Request) -> Response:
    name = request.path_params["name"]
    if not any(voice.key == f"{FILES}:{name}" for voice in voices_of(person_of(request))):
        raise Missing("there is no such file")
    return file_answer(found_within(person_of(request).folder, f"brought/{name}"), name)


def _inside(project: Project, path: Path) -> Path:
    """A file of a voice's, which no link leads to. Raises Missing."""
    return found_within(project.folder, path.relative_to(project.folder).as_posix())


def _title(project: Project) -> str:
    return plain_title(str(project.info().get("title") or "")) or project.id


def _started(
    request: Request, project: Project, kind: str, title: str, work: Work, *, once: str, field: str = ""
) -> Task:
    """Queue a task of a voice beside those that compute; see `Tasks.start`.

    Raises:
        Mistake: too many are open; or, beside `field`, the disk refuses.
    """
    with refusals(field):
        return studio_of(request).tasks.start(
            project.person, kind, title, work, project=project, lane="files", once=once
        )


def _check_here(request: Request) -> None:
    """Publishing goes with the account of this machine, which is not that of everybody who has a token."""
    if not is_here(request):
        raise HTTPException(403, "keep.not_here")
