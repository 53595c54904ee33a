"""Step 3: a training from its beginning to what it delivers.

The page's frame changes with the state of the training. Within a state a small part asks every two seconds how far it
is; curves and samples come with its answers when there are new ones, so that what is being played is left alone.
"""

import base64
import hashlib
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.model.choice import HUB, chosen
from mlx_voxclone.studio.model.fetch import is_fetched
from mlx_voxclone.studio.record.listing import progress
from mlx_voxclone.studio.train import plan
from mlx_voxclone.studio.train.curves import plots, svg
from mlx_voxclone.studio.train.former import former
from mlx_voxclone.studio.train.outcome import outcome, reason, spectral
from mlx_voxclone.studio.train.sounds import drawn
from mlx_voxclone.studio.train.trainings import State
from mlx_voxclone.studio.train.watch import BASE, PARTS, Look, Sample, Stage
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.files import found_within
from mlx_voxclone.studio.web.languages import Words
from mlx_voxclone.studio.web.pages import form_of, is_htmx, page, part, person_of, project_of, studio_of, words_of
from mlx_voxclone.studio.web.sounds import sound_response

_PAGE, _PART, _STATUS = "train/index.html", "train/training.html", "train/status.html"
_BARE = ("none", "cancelled", "waiting")  # states whose page has neither curves nor samples
_asking = threading.Lock()  # two tabs, a double click
_SAMPLES = 12  # that are shown, the newest ones
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def routes() -> list[Route]:
    place = "/voices/{project}/train"
    return [
        Route(place, _page),
        Route(f"{place}/status", _status),
        Route(f"{place}/start", _start, methods=["POST"]),
        Route(f"{place}/pause", _pause, methods=["POST"]),
        Route(f"{place}/cancel", _cancel, methods=["POST"]),
        Route(f"{place}/log", _log),
        Route(f"{place}/run/{{path:path}}", _file),
    ]


async def _page(request: Request) -> Response:
    project = project_of(request)
    return page(request, _PAGE, **await run_in_threadpool(_values, request, project))


async def _status(request: Request) -> Response:
    """How far it is, and what is new; the whole part where the training is in another state than the page shows."""
    project = project_of(request)
    values = await run_in_threadpool(_values, request, project)
    seen = request.query_params
    if seen.get("state") != values["shown"]:
        answer = part(request, _PART, **{**values, "announced": True})
        answer.headers["hx-retarget"], answer.headers["hx-reswap"] = "#training", "innerHTML"
        return answer
    if values["state"].name in _BARE:
        return Response(status_code=204)
    known = seen.get("samples", "")
    new = [sample for sample in values["samples"] if _mark(sample) > known]
    redrawn = seen.get("curves") != values["curves_at"]
    return part(
        request, _STATUS, **values, curves_new=redrawn, new=new, drawings=[] if redrawn else values["curves"][:1]
    )


async def _start(request: Request) -> Response:
    """Train, go on with what was paused or failed, or train anew (`again`)."""
    form, project = await form_of(request), project_of(request)
    try:
        with refusals(""):
            person_of(request).change_settings(voice=project.id)
            await run_in_threadpool(_ask_once, request, project, form.get("how"), form.get("judged") == "yes")
    except Mistake as mistake:
        return await _answer(request, project, mistake)
    return await _answer(request, project)


def _ask_once(request: Request, project: Project, how: object, judged: bool) -> None:
    with _asking:
        _ask(request, project, how, judged)


def _ask(request: Request, project: Project, how: object, judged: bool) -> None:
    trainings, person = studio_of(request).trainings, person_of(request)
    state = trainings.state(project)
    if state.name in ("waiting", "running"):  # a second click
        return
    if state.name == "done" and how == "resume":  # a page from before its end
        return
    if state.open:
        raise Mistake("", "train.mistake.busy")
    trainings.check_room(person)
    if how != "resume" or not (project.run / "config.yaml").is_file():
        model = chosen(person)
        if model is None:
            raise Mistake("", "train.mistake.model")
        if model.kind == HUB and not is_fetched(model.model):  # the cache was emptied
            raise Mistake("", "train.mistake.gone")
        plan.write(project, model, this_machine(), trainings.configuration(project), judged=judged)
        trainings.put_aside(project)  # not before it is known that a new one can be trained
        studio = studio_of(request)
        studio.tasks.between(lambda: studio.models.forget(project.run))  # the training needs the memory
    try:
        trainings.ask(project)
    except VoxcloneError:
        with suppress(OSError, VoxcloneError):  # a full disk: the next start does it
            trainings.put_back(project)
        raise


async def _pause(request: Request) -> Response:
    await form_of(request)
    project = project_of(request)
    await run_in_threadpool(studio_of(request).trainings.pause, project)
    return await _answer(request, project)


async def _cancel(request: Request) -> Response:
    await form_of(request)
    project = project_of(request)
    await run_in_threadpool(studio_of(request).trainings.cancel, project)
    return await _answer(request, project)


async def _log(request: Request) -> Response:
    """What the command has said, to be saved."""
    project = project_of(request)
    path = studio_of(request).trainings.output(project)
    if not path.is_file():
        raise Missing("there is no log yet")
    return FileResponse(path, media_type="text/plain; charset=utf-8", filename="training.log")


async def _file(request: Request) -> Response:
    """The report of a run, and the sounds that it and the page play."""
    project, path = project_of(request), request.path_params["path"]
    if path == "report/index.html":
        return await run_in_threadpool(_report, project.run / "report" / "index.html")
    return sound_response(found_within(project.run, path), project.run)


def _report(path: Path) -> Response:
    """A page that works without a server, too: its styles and scripts are in it, and no others run."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise Missing("there is no report yet") from None
    digests = (hashlib.sha256(script.encode()).digest() for script in _SCRIPT.findall(content))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'"
        " data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return HTMLResponse(content, headers={"content-security-policy": policy})


async def _answer(request: Request, project: Project, mistake: Mistake | None = None) -> Response:
    if not is_htmx(request) and mistake is None:
        return RedirectResponse(f"/voices/{project.id}/train", 303)
    values = await run_in_threadpool(_values, request, project)
    if is_htmx(request):
        return part(request, _PART, mistake=mistake, **{**values, "announced": mistake is None})
    return page(request, _PAGE, mistake=mistake, **values)


# ---- what the templates are given ------------------------------------------------------------------------------------


def _values(request: Request, project: Project) -> dict[str, Any]:
    trainings, person, t = studio_of(request).trainings, person_of(request), words_of(request)
    state = trainings.state(project)
    values: dict[str, Any] = {
        "project": project,
        "title": str(project.info().get("title", "")),
        "state": state,
        "shown": _shown(state),
        "place": f"/voices/{project.id}/train",
        "turns": [turn for turn in trainings.turns(person) if not (turn.project and turn.project.id == project.id)],
        "has_log": trainings.output(project).is_file(),
        "announced": False,
        "resumable": (project.run / "config.yaml").is_file(),
        "former": former(project) is not None,
        "damaged": trainings.damaged(project),
    }
    if state.name in ("none", "cancelled", "failed"):
        values |= _before(request, project)
    look = trainings.look(project) if state.name not in ("none", "cancelled", "waiting") else Look()
    values |= _during(project, look, t, values["place"])
    if state.name == "done":
        values |= _after(project, t, values["place"])
    return values


def _shown(state: State) -> str:
    """What the frame of the page depends on."""
    return f"{state.name}{'-outside' if state.outside else ''}{'-killed' if state.killed else ''}"


def _before(request: Request, project: Project) -> dict[str, Any]:
    model, there = chosen(person_of(request)), progress(project)
    rehearses = model is not None and model.rehearses
    return {
        "model": model,
        "recorded": there,
        "consent": bool(project.info().get("consent")),
        "ready": bool(model and there.recordings >= plan.FEWEST and project.info().get("consent")),
        "rehearses": rehearses,
        "fewest": plan.FEWEST,
        "judges": None if rehearses else plan.judges(),
    }


def _during(project: Project, look: Look, t: Words, place: str) -> dict[str, Any]:
    stage = look.stage
    samples = list(reversed(look.samples[:_SAMPLES]))  # new ones are put behind the others, which stay where they are
    at = f"{stage.name}-{len(stage.measured)}-{bool(stage.losses)}" if stage else ""
    return {
        "look": look,
        "stage": stage,
        "parts": PARTS,
        "part_number": PARTS.index(look.part) if look.part else 0,
        "curves": [_drawings(one, t) for one in reversed(look.stages)],
        "curves_at": at,
        "samples": samples,
        "samples_at": max((_mark(sample) for sample in samples), default=""),
        "sound": lambda sample: _player(project, place, sample.path, _label(sample, t), t),
        "asks": urlencode({"curves": at, "samples": max((_mark(one) for one in samples), default="")}),
    }


def _after(project: Project, t: Words, place: str) -> dict[str, Any]:
    found = outcome(project.run)
    if found is None:
        return {"outcome": None}
    return {
        "outcome": found,
        "why": reason(found.why, t),
        "spectral": spectral(found.speaker_judge),
        "has_report": (project.run / "report" / "index.html").is_file(),
        "play": lambda file, label: _player(project, place, Path(file), label, t),
    }


def _drawings(stage: Stage, t: Words) -> dict[str, Any]:
    names = {
        key: t(f"train.curve.{key}") for key in ("loss", "training", "heldout", "similarity", "errors", "measured")
    }
    total, step = max(stage.total, 1), t("train.curve.step")
    found = [
        (plot, jinja2.utils.markupsafe.Markup(svg(plot, total, step)))
        for plot in plots(stage, names, t("common.point"))
    ]
    number = stage.name.partition("-")[2]
    name = t(f"train.stage.{stage.name.partition('-')[0]}") + (f" ({number})" if number else "")
    return {"name": name, "plots": found, "key": stage.name if stage.name != BASE else "base"}


def _mark(sample: Sample) -> str:
    """Grows with the step of a sample, and with the stage that it is of."""
    stage = {"encoder": "1", "speaker": "3"}.get(sample.stage, f"2{sample.stage.rpartition('-')[2]:>04}")
    return f"{stage}-{sample.step:08d}"


def _label(sample: Sample, t: Words) -> str:
    return t("train.sample.said" if sample.stage == "speaker" else "train.sample.heard", step=sample.step)


def _player(project: Project, place: str, file: Path, label: str, t: Words) -> str:
    address = f"{place}/run/{quote(file.as_posix())}"
    return jinja2.utils.markupsafe.Markup(drawn(project.run / file, address, label, t))
