"""Pages of step 4: one sentence side by side. The blind test is in `blind_pages.py`."""

from collections.abc import Callable
from typing import Any

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.report.vector import in_language
from mlx_voxclone.speech.side_by_side import MAX_SECONDS
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.listen import blind_pages
from mlx_voxclone.studio.listen.comparison import compare, comparisons, drawn, folder_of, seed_of, text_to_say
from mlx_voxclone.studio.listen.speaking import Bench
from mlx_voxclone.studio.listen.voices import NAMES, Heard, Sentence, heard
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.results import is_of
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.pages import form_of, is_htmx, page, part, person_of, project_of, studio_of, words_of
from mlx_voxclone.studio.web.sounds import sound_response

KIND = "listen"  # of tasks
_SHOWN = 30  # held-out sentences to choose from
_AXES = {"level": "level", "seconds": "seconds", "none": "no sound"}  # texts of a drawing


def routes() -> list[Route]:
    place = "/voices/{project}/listen"
    return [
        Route(place, _page),
        Route(f"{place}/speak", _speak, methods=["POST"]),
        Route(f"{place}/result", _result),
        Route(f"{place}/sounds/{{comparison}}/{{name}}.wav", _sound),
        *blind_pages.routes(place),
    ]


async def _page(request: Request) -> Response:
    project = project_of(request)
    found = await run_in_threadpool(heard, project.run)
    return page(request, "listen/index.html", **_values(request, project, found))


async def _speak(request: Request) -> Response:
    """Begin to speak; the answer is the form again, with the task or the mistake."""
    project, form = project_of(request), await form_of(request)
    found = await run_in_threadpool(heard, project.run)
    partial, mistake = is_htmx(request), None
    try:
        with refusals(""):
            _start(request, project, found, form)
    except Mistake as e:
        mistake = e
    values = _values(request, project, found, form)
    if partial:
        return part(request, "listen/form.html", mistake=mistake, **values)
    if mistake:
        return page(request, "listen/index.html", mistake=mistake, **values)
    return RedirectResponse(f"/voices/{project.id}/listen", 303)


def _start(request: Request, project: Project, found: Heard | None, form: Any) -> None:
    """Queue what a form asks for. Raises Mistake."""
    if found is None:
        raise Mistake("", "listen.mistake.untrained")
    language = found.language or project.info().get("language")
    own = str(form.get("text") or "").strip()
    sentence = text_to_say(own, language) if own or not found.sentences else _sentence(found, form.get("sentence"))
    wanted, recorded = set(form.getlist("variant")), not isinstance(sentence, str)
    variants = [one for one in found.variants if one.name in wanted and (one.is_spoken or recorded)]
    if not variants:
        raise Mistake("variant", "listen.mistake.none")
    seed, t, models = seed_of(form.get("seed")), words_of(request), studio_of(request).models
    tasks, person = studio_of(request).tasks, person_of(request)
    once = repr((sentence if isinstance(sentence, str) else sentence.text, [one.name for one in variants], seed))
    if tasks.same(person, KIND, once, project) is None and _task(request, project) is not None:
        raise Mistake("", "listen.mistake.busy")

    def work(task: Task) -> dict[str, str]:
        def progress(done: int, total: int | None, what: str = "", seconds: float = 0.0) -> None:
            name = t(f"listen.name.{what}") if what in NAMES else t("listen.task.plots")
            told = t("listen.task.said", name=name, seconds=f"{seconds:.0f}") if seconds else name
            task.progress(done, total, told)

        bench = Bench(models, lambda done, total, _: task.progress(done, total, t("listen.task.loading")))
        place, number, run = project.listening, found.training, found.directory
        return {"comparison": compare(bench, variants, sentence, seed, place, progress, language, number, run)}

    tasks.start(person, KIND, t("listen.task.compare"), work, project=project, once=once)


def _sentence(found: Heard, value: object) -> Sentence:
    text = str(value or "0")
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else len(found.sentences)
    if number >= len(found.sentences):
        raise Mistake("sentence", "listen.mistake.sentence")
    return found.sentences[number]


async def _result(request: Request) -> Response:
    project = project_of(request)
    return part(request, "listen/result.html", **_shown(request, project))


async def _sound(request: Request) -> Response:
    path, place = _file(request, ".wav")
    return sound_response(path, place)


def _file(request: Request, ending: str):
    """A file of a comparison, and the folder that it must lie in."""
    project, name = project_of(request), request.path_params["name"]
    if name not in NAMES:
        raise Missing("there is no such sound")
    folder = folder_of(project.listening, request.path_params["comparison"])
    return folder / f"{name}{ending}", folder


def _values(request: Request, project: Project, found: Heard | None, form: Any = None) -> dict[str, Any]:
    """What the page shows; `form`: what was sent, to be shown again."""
    given = form or {}
    wanted = set(form.getlist("variant")) if form else {one.name for one in found.variants} if found else set()
    return {
        "project": project,
        "heard": found,
        "sentences": list(enumerate(found.sentences[:_SHOWN])) if found else [],
        "chosen": str(given.get("sentence") or "0"),
        "text": str(given.get("text") or ""),
        "seed": str(given.get("seed") or "0"),
        "wanted": wanted,
        "task": _last_task(request, project),
        **_shown(request, project),
    }


def _shown(request: Request, project: Project) -> dict[str, Any]:
    """The comparison that the address names, or the newest of this training, and all the others."""
    listed, run = comparisons(project.listening), project.run
    kept = [one for one in listed if is_of(run, one.get("training"), one["created"])]
    before = [one for one in listed if one not in kept]
    named = request.query_params.get("comparison")
    result = next((one for one in listed if one["id"] == named), kept[0] if kept else None)
    return {
        "project": project,
        "result": result,
        "kept": kept,
        "before": before,
        "is_before": result in before,
        "most_seconds": MAX_SECONDS,
        "plot": _plot(request, project),
    }


def _plot(request: Request, project: Project) -> Callable[[str, str], Markup]:
    """The drawing of a sound of a comparison, in the page's language."""
    t = words_of(request)
    words = {english: t(f"listen.axis.{key}") for key, english in _AXES.items()}
    point = t("common.point")
    return lambda id, name: Markup(in_language(drawn(project.listening, id, name), words, point))


def _task(request: Request, project: Project) -> Task | None:
    """The task that waits or runs."""
    tasks = studio_of(request).tasks.shown(person_of(request), KIND, project)
    return next((task for task in tasks if task.open), None)


def _last_task(request: Request, project: Project) -> Task | None:
    """The task to show: one that is open, or the last one if it failed."""
    tasks = studio_of(request).tasks.shown(person_of(request), KIND, project)
    return tasks[0] if tasks and (tasks[0].open or tasks[0].state == "failed") else None
