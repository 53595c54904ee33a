"""The application: pages of all steps, tasks, static files, and pages for what goes wrong."""

import re
import traceback
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.staticfiles import StaticFiles

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.report import look
from mlx_voxclone.studio.keep import pages as keep
from mlx_voxclone.studio.listen import pages as listen
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.model import pages as model
from mlx_voxclone.studio.record import pages as record
from mlx_voxclone.studio.speak import pages as speak
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.train import pages as train
from mlx_voxclone.studio.troubles import DISK, RIGHTS, cause_of
from mlx_voxclone.studio.web.closed import bare
from mlx_voxclone.studio.web.languages import DEFAULT, languages, texts, words_in
from mlx_voxclone.studio.web.pages import form_of, is_htmx, page, part, person_of, studio_of, words_of

_WORDS = {403: "common.old_form", 404: "common.missing", 413: "common.too_large"}  # texts by status
_OTHERWISE = "common.not_understood"
_OF_PAGES = {"project", "speech"}  # what addresses of whole pages name; others are of parts and sounds


def application(studio: Studio) -> Starlette:
    """The application of a studio, without what stands before it (`access.py`)."""
    static = StaticFiles(directory=str(resources.files("mlx_voxclone.studio") / "static"))
    routes = [
        Route("/", _start),
        Route("/look.css", _look_css),
        Route("/player.js", _player_js),
        Route("/language", _language, methods=["POST"]),
        Route("/tasks", _tasks),
        Route("/tasks/{task}", _task),
        Route("/tasks/{task}/cancel", _cancel, methods=["POST"]),
        Mount("/static", static),
        *(route for step in (model, record, train, listen, speak, keep) for route in step.routes()),
    ]
    handlers = {
        HTTPException: _http_error,
        Missing: _missing,
        VoxcloneError: _refused,
        OSError: _of_system,
        Exception: _defect,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.studio = studio
    return app


async def _start(request: Request) -> Response:
    """To the step that comes next."""
    person = person_of(request)
    if "model" not in person.settings():
        return RedirectResponse("/model", 303)
    projects = person.projects()
    return RedirectResponse("/voices" if projects else "/voices/new", 303)


async def _look_css(request: Request) -> Response:
    return Response(look.style(), media_type="text/css")


async def _player_js(request: Request) -> Response:
    return Response(look.script(), media_type="text/javascript")


async def _language(request: Request) -> Response:
    code = (await form_of(request)).get("language")
    if code in languages():
        person_of(request).change_settings(language=code)
    came_from, host = request.headers.get("referer", ""), request.headers["host"]
    own = re.match(rf"https?://{re.escape(host)}/", came_from, re.IGNORECASE)  # never to another site
    return RedirectResponse(came_from if own else "/", 303)


async def _tasks(request: Request) -> Response:
    studio, person = studio_of(request), person_of(request)
    return page(request, "tasks.html", tasks=studio.tasks.shown(person), turns=studio.trainings.turns(person))


async def _task(request: Request) -> Response:
    """A task's progress, asked for again and again."""
    task = studio_of(request).tasks.get(person_of(request), request.path_params["task"]).as_it_is()
    answer = part(request, "parts/task.html", task=task, ahead=studio_of(request).tasks.ahead_of(task))
    if not task.open:
        answer.headers["hx-trigger"] = "task-ended"
    return answer


async def _cancel(request: Request) -> Response:
    await form_of(request)
    task = studio_of(request).tasks.get(person_of(request), request.path_params["task"])
    task.cancel()
    if is_htmx(request):
        return part(request, "parts/task.html", task=task, ahead=0)
    return RedirectResponse("/tasks", 303)


async def _http_error(request: Request, error: Exception) -> Response:
    """A refusal, by its status; `detail` may be the key of a text that says more."""
    status, detail = getattr(error, "status_code", 500), str(getattr(error, "detail", ""))
    if status == 405 and (above := _above(request)):
        return RedirectResponse(above, 303)
    return _told(request, status, detail if detail in texts(DEFAULT) else _WORDS.get(status, _OTHERWISE))


async def _missing(request: Request, error: Exception) -> Response:
    if above := _above(request):
        return RedirectResponse(above, 303)
    return _told(request, 404, _WORDS[404])


def _above(request: Request) -> str | None:
    """The page of a form, by the address that the form is sent to; None: it is no such address, or a page, too.

    The answer to a form with a mistake is a page, too; another language chosen there asks for its address.
    """

    def taken(path: str, method: str) -> Route | None:
        scope = {**request.scope, "path": path, "method": method}
        found = (route for route in request.app.routes if route.matches(scope)[0] == Match.FULL)
        return next((route for route in found if isinstance(route, Route)), None)

    path, form = request.url.path, taken(request.url.path, "POST")
    own = taken(path, "GET")
    if request.method not in ("GET", "HEAD") or form is None or (own is not None and own.path == form.path):
        return None
    while path := path.rpartition("/")[0]:
        if (page := taken(path, "GET")) and page.param_convertors.keys() <= _OF_PAGES:
            return path
    return "/"


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, Mistake):
        return _told(request, 422, error.key, error.line, **error.values)
    return _told(request, 422, f"trouble.do.{cause_of(error)}", str(error))


async def _of_system(request: Request, error: Exception) -> Response:
    """What the system refuses: a full or read-only disk is no fault of the studio's."""
    cause = cause_of(error)
    if cause in (DISK, RIGHTS):
        return _told(request, 422, f"trouble.do.{cause}", str(error))
    traceback.print_exception(error)
    return await _defect(request, error)


async def _defect(request: Request, error: Exception) -> Response:
    """An internal error: only the terminal shows the traceback."""
    return _told(request, 500, "trouble.do.defect")


def _told(request: Request, status: int, key: str, technical: str = "", **values: object) -> Response:
    """A page with the text `key` in its language; below it the library's own message (`technical`)."""
    if "person" not in request.scope:  # of a style or a script, which need no token
        return PlainTextResponse(words_in(DEFAULT)(key, **values), status)
    template = "parts/notice.html" if is_htmx(request) else "error.html"
    try:
        line = words_of(request)(key, **values)
        answer = page(request, template, status=status, line=line, technical=technical)
        answer.headers["hx-retarget"], answer.headers["hx-reswap"] = "#refused", "innerHTML"  # the page stays as it is
        return answer
    except VoxcloneError as e:  # a file that every page needs is damaged: it says which
        return bare(request.scope, 500, f"trouble.do.{cause_of(e)}", str(e))
    except Exception as e:
        traceback.print_exception(e)
        return bare(request.scope, 500, "trouble.do.defect")
