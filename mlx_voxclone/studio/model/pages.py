"""Step 1: which model, and what this machine can do with it."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.model import choice, machine
from mlx_voxclone.studio.model.fetch import KIND, fetch, is_fetched
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.train.plan import profile
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.pages import form_of, is_here, is_htmx, page, part, person_of, studio_of, words_of

_PAGE, _PART, _MACHINE = "model/index.html", "model/choices.html", "model/machine.html"


def routes() -> list[Route]:
    return [
        Route("/model", _page),
        Route("/model/rehearsal", _rehearsal, methods=["POST"]),
        Route("/model/folder", _folder, methods=["POST"]),
        Route("/model/hub", _hub, methods=["POST"]),
        Route("/model/download", _download),
        Route("/model/machine", _machine),
        Route("/model/forecast", _forecast, methods=["POST"]),
    ]


async def _page(request: Request) -> Response:
    return page(request, _PAGE, **await run_in_threadpool(_values, request))


async def _rehearsal(request: Request) -> Response:
    await form_of(request)
    person = person_of(request)
    chosen = await run_in_threadpool(choice.rehearsal, person.home)
    choice.choose(person, chosen)
    return await _answer(request)


async def _folder(request: Request) -> Response:
    typed = str((await form_of(request)).get("folder") or "")
    try:
        _check_here(request, "folder")
        chosen = await run_in_threadpool(choice.folder, typed)
        with refusals("folder"):
            choice.choose(person_of(request), chosen)
    except Mistake as mistake:
        return await _answer(request, mistake, folder=typed)
    return await _answer(request)


async def _hub(request: Request) -> Response:
    """Fetch a model, or choose it at once where it is there already."""
    typed = str((await form_of(request)).get("hub") or "")
    person = person_of(request)
    try:
        model = choice.hub_id(typed)
        _check_here(request, "hub")
        if await run_in_threadpool(is_fetched, model):
            await run_in_threadpool(choice.check, model, "hub")
            with refusals("hub"):
                choice.choose(person, choice.Chosen(choice.HUB, model))
            return await _answer(request)
    except Mistake as mistake:
        return await _answer(request, mistake, hub=typed)
    try:
        with refusals("hub"):
            _start_download(request, model)
    except Mistake as mistake:
        return await _answer(request, mistake.beside("hub"), hub=typed)
    return await _answer(request)


def _start_download(request: Request, model: str) -> None:
    """Queue it, one at a time. Raises Mistake."""
    person, tasks = person_of(request), studio_of(request).tasks
    if tasks.same(person, KIND, model) is None and any(task.open for task in tasks.list(person, KIND)):
        raise Mistake("hub", "model.mistake.downloads")
    title = words_of(request)("model.download", model=model)
    tasks.start(person, KIND, title, lambda task: fetch(task, model), lane="files", once=model)


async def _download(request: Request) -> Response:
    """How far a download is; asked for again and again."""
    values = await run_in_threadpool(_values, request)
    return part(request, "model/download.html", **{**values, "polled": True})


async def _machine(request: Request) -> Response:
    """What the machine can do, while it is being tried."""
    return part(request, _MACHINE, **await run_in_threadpool(_values, request))


async def _forecast(request: Request) -> Response:
    await form_of(request)
    person, studio = person_of(request), studio_of(request)
    chosen = _tried(choice.chosen(person))
    mistake = None
    if not chosen.rehearses and not any(task.open for task in studio.tasks.list(person, machine.KIND)):
        title, here = words_of(request)("model.forecast.title"), await run_in_threadpool(this_machine)

        def work(task: Task) -> dict:
            return machine.forecast(task, chosen, here, person.folder)

        try:
            with refusals("trial"):
                studio.tasks.start(person, machine.KIND, title, work, lane="files", once="")
        except Mistake as e:
            mistake = e.beside("trial")
    if is_htmx(request):
        return part(request, _MACHINE, mistake=mistake, **await run_in_threadpool(_values, request))
    return await _answer(request, mistake)


async def _answer(request: Request, mistake: Mistake | None = None, **typed: str) -> Response:
    """The choices as they are now: a part for htmx, else the page."""
    if mistake is None and not is_htmx(request):
        return RedirectResponse("/model", 303)
    values = await run_in_threadpool(_values, request)
    shown = part if is_htmx(request) else page
    template = _PART if is_htmx(request) else _PAGE
    return shown(request, template, mistake=mistake, **{**values, "typed": typed})


def _check_here(request: Request, field: str) -> None:
    """What is read and fetched here is for who sits here, and not for everybody who has a token. Raises Mistake."""
    if not is_here(request):
        raise Mistake(field, "model.not_here")


def _values(request: Request) -> dict:
    person, studio = person_of(request), studio_of(request)
    chosen, here = choice.chosen(person), this_machine()
    downloads = studio.tasks.shown(person, KIND)
    forecasts = studio.tasks.shown(person, machine.KIND)
    tried = _tried(chosen).model
    done = (task for task in forecasts if task.state == "done" and task.result.get("model") == tried)
    trial = forecasts[0] if forecasts else None
    return {
        "chosen": chosen,
        "typed": {},
        "official": choice.OFFICIAL,
        "fetched": is_fetched(choice.OFFICIAL),
        "download": downloads[0] if downloads else None,
        "ahead": studio.tasks.ahead_of(downloads[0]) if downloads else 0,
        "here": here,
        "profile": profile(here).replace("-", "_"),
        "enough": here.memory >= machine.LEAST,
        "free": machine.free_space(person.home.path),
        "trial": trial,
        "trial_ahead": studio.tasks.ahead_of(trial) if trial else 0,
        "forecast": next((task.result for task in done), None),
        "polled": False,
    }


def _tried(chosen: choice.Chosen | None) -> choice.Chosen:
    """The model that the machine is tried with: the released one, as long as none is chosen."""
    return chosen or choice.Chosen(choice.HUB, choice.OFFICIAL)
