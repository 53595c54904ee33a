"""Pages of the blind test: begin, listen, answer, and what came of it.

What is sent about a pair is the same whatever A, B and X are: names and addresses count pairs and letters, sounds of a
pair have one size and no header that differs by what is in them.
"""

import hashlib
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.evaluate.blind import PAIRS
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.listen.blind import (
    SLOTS,
    BlindTest,
    blind_test,
    blind_tests,
    earlier_tests,
    make,
    refresh_report,
    variants_of,
)
from mlx_voxclone.studio.listen.speaking import Bench
from mlx_voxclone.studio.listen.voices import Heard, heard
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.pages import form_of, is_htmx, page, part, person_of, project_of, studio_of, words_of

KIND, REPORT = "blind", "report"  # of tasks
_NO_DATE = "Thu, 01 Jan 1970 00:00:00 GMT"


def routes(place: str) -> list[Route]:
    return [
        Route(f"{place}/blind", _page),
        Route(f"{place}/blind", _begin, methods=["POST"]),
        Route(f"{place}/blind/now", _now),
        Route(f"{place}/blind/{{test}}/answer", _answer, methods=["POST"]),
        Route(f"{place}/blind/{{test}}/{{pair:int}}/{{slot}}", _sound),
    ]


async def _page(request: Request) -> Response:
    project = project_of(request)
    return page(request, "listen/blind.html", **await _values(request, project))


async def _now(request: Request) -> Response:
    project = project_of(request)
    return part(request, "listen/blind_now.html", **await _values(request, project))


async def _begin(request: Request) -> Response:
    project, form = project_of(request), await form_of(request)
    found = await run_in_threadpool(heard, project.run)
    try:
        with refusals(""):
            _start(request, project, found, form)
    except Mistake as e:
        values = await _values(request, project, form)
        if is_htmx(request):
            return part(request, "listen/blind_now.html", mistake=e, **values)
        return page(request, "listen/blind.html", mistake=e, **values)
    return await _again(request, project)


def _start(request: Request, project: Project, found: Heard | None, form: Any) -> None:
    """Queue the sounds of a test. Raises Mistake."""
    if found is None or found.default_pair() is None or not found.sentences:
        raise Mistake("", "listen.mistake.untrained")
    first, second = variants_of(found, form.get("first"), form.get("second"))
    tasks, person, once = studio_of(request).tasks, person_of(request), f"{first.name} {second.name}"
    if tasks.same(person, KIND, once, project) is None and _task(request, project, KIND, open_only=True):
        raise Mistake("", "listen.mistake.busy")
    language, models = found.language or project.info().get("language"), studio_of(request).models
    t = words_of(request)

    def work(task: Task) -> dict[str, str]:
        def progress(done: int, total: int) -> None:
            task.progress(done, total, t("listen.task.sentences"))

        bench = Bench(models, lambda done, total, _: task.progress(done, total, t("listen.task.loading")))
        return {"test": make(bench, found, first, second, project.listening, progress, language=language)}

    tasks.start(person, KIND, t("listen.task.blind"), work, project=project, once=once)


async def _answer(request: Request) -> Response:
    """Keep an answer, then show the next pair, or the end."""
    project, form = project_of(request), await form_of(request)
    test = blind_test(project.listening, request.path_params["test"])
    number = str(form.get("pair") or "")
    if not number.isascii() or not number.isdecimal() or len(number) > 6:
        raise Missing("there is no such pair")
    await run_in_threadpool(test.answer, int(number), str(form.get("answer") or ""))
    return await _again(request, project)


async def _again(request: Request, project: Project) -> Response:
    if is_htmx(request):
        return part(request, "listen/blind_now.html", **await _values(request, project))
    return RedirectResponse(f"/voices/{project.id}/listen/blind", 303)


async def _sound(request: Request) -> Response:
    """A sound, with headers that tell nothing about it."""
    project, number, slot = project_of(request), request.path_params["pair"], request.path_params["slot"]
    test = blind_test(project.listening, request.path_params["test"])
    path = test.sound(number, slot)
    if not path.is_file():
        raise Missing("there is no such sound")
    tag = hashlib.sha256(f"{test.id} {number} {slot}".encode()).hexdigest()[:16]
    return FileResponse(path, media_type="audio/wav", headers={"last-modified": _NO_DATE, "etag": f'"{tag}"'})


async def _values(request: Request, project: Project, form: Any = None) -> dict[str, Any]:
    """What the page shows; the disk is not waited for where other pages are answered."""
    return await run_in_threadpool(_read, request, project, form)


def _read(request: Request, project: Project, form: Any) -> dict[str, Any]:
    """The newest test, or how to begin one."""
    found = heard(project.run)
    tests = [one for one in blind_tests(project.listening) if one.is_of(project.run)]
    test = tests[0] if tests else None
    trouble = _settle(request, project, test) if test else None
    default = (found.default_pair() if found else None) or ("", "")
    return {
        "project": project,
        "heard": found,
        "distinct": min(PAIRS, len({one.text for one in found.sentences})) if found else 0,
        "pairs": PAIRS,
        "first": str(form.get("first")) if form else default[0],
        "second": str(form.get("second")) if form else default[1],
        "test": test,
        "slots": SLOTS,
        "before": earlier_tests(project.listening, project.run),
        "trouble": trouble,
        "has_report": (project.run / "report" / "index.html").is_file(),
        "task": _task(request, project, KIND),
        "report": _task(request, project, REPORT),
    }


def _settle(request: Request, project: Project, test: BlindTest) -> VoxcloneError | None:
    """Keep a test that has ended with the run, and refresh the report; returns why that is not possible."""
    try:
        if not test.keep(project.run):
            return None
    except VoxcloneError as e:
        return e
    title = words_of(request)("listen.task.report")
    studio_of(request).tasks.start(
        person_of(request),
        REPORT,
        title,
        lambda task: {"report": refresh_report(project.run).name},
        project=project,
        limited=False,
    )
    return None


def _task(request: Request, project: Project, kind: str, *, open_only: bool = False) -> Task | None:
    """The newest task of a kind if it is open, or, unless `open_only`, has failed."""
    tasks = studio_of(request).tasks.shown(person_of(request), kind, project)
    newest = next((task for task in tasks if task.open), tasks[0] if tasks else None)
    shown = newest and (newest.open or (newest.state == "failed" and not open_only))
    return newest if shown else None
