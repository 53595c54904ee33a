"""Pages and parts of pages, forms, and what a handler needs to know of its request."""

import hmac
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from mlx_voxclone.process.amounts import format_bytes
from mlx_voxclone.report.look import ENGLISH, icon, player
from mlx_voxclone.studio.home import Person, Project
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.model.amounts import about, decimal, gigabytes
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.troubles import cause_of, cause_of_line
from mlx_voxclone.studio.web import here
from mlx_voxclone.studio.web.access import SPEECH_LIMIT, limit_of
from mlx_voxclone.studio.web.languages import Words, chosen, failed, languages, now, told, words_in

CSRF = "csrf"
STEPS = ("model", "record", "train", "listen", "speak", "keep")


def studio_of(request: Request) -> Studio:
    return request.app.state.studio


def person_of(request: Request) -> Person:
    """Whose part of the studio this request sees."""
    return studio_of(request).home.person(request.scope["person"])


def project_of(request: Request) -> Project:
    """The voice that the address names. Raises Missing."""
    project = person_of(request).project(request.path_params["project"])
    request.state.project = project
    return project


def is_here(request: Request) -> bool:
    """Whether the browser runs on this machine: then paths mean something to it."""
    return here.is_here(request.scope)


def is_htmx(request: Request) -> bool:
    """Whether htmx sent a request, which takes parts of a page, and no redirects."""
    return "hx-request" in request.headers


def words_of(request: Request) -> Words:
    """`t(key, **values)` in the page's language."""
    return words_in(language_of(request))


def language_of(request: Request) -> str:
    """Code of the page's language: what the person has chosen, or the browser's."""
    wanted = person_of(request).settings().get("language") if "person" in request.scope else None
    return chosen(wanted, request.headers.get("accept-language", ""))


async def form_of(request: Request, files: int = 0, fields: int = 50) -> FormData:
    """The form of a POST from our own page.

    Args:
        files: how many may come with it.

    Raises:
        HTTPException: it does not come from our own page (403), or is no form (400).
    """
    most = min(limit_of(request.url.path)[0], SPEECH_LIMIT)  # bytes of a field as it is sent
    form = await request.form(max_files=files, max_fields=fields, max_part_size=most)
    check_token(request, request.headers.get("x-csrf") or form.get(CSRF))
    return form


def check_token(request: Request, given: object) -> None:
    """Refuse what does not come from our own page, by the token of its form or its header. Raises HTTPException."""
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), request.scope["csrf"].encode()):
        raise HTTPException(403, "open the page again: this form is an old one")


def page(
    request: Request, template: str, *, status: int = 200, mistake: Mistake | None = None, **values: Any
) -> Response:
    """A whole page. `mistake` is shown beside its field (`field_error`)."""
    return _answer(request, template, status, mistake, values)


def part(
    request: Request, template: str, *, status: int = 200, mistake: Mistake | None = None, **values: Any
) -> Response:
    """A part of a page, for htmx."""
    return _answer(request, template, status, mistake, values)


def render(request: Request, template: str, mistake: Mistake | None = None, **values: Any) -> str:
    """A template as text."""
    t = words_of(request)
    person = person_of(request)
    project = getattr(request.state, "project", None) or _current(person)
    return (
        environment()
        .get_template(template)
        .render(
            t=t,
            lang=language_of(request),
            languages=languages(),
            request=request,
            csrf_token=request.scope["csrf"],
            mistake=mistake,
            mistake_text=t(mistake.key, **mistake.values) if mistake else "",
            person=person,
            current=project,
            steps=STEPS,
            player=player_in(t),
            **{name: _as_it_is(value, t) for name, value in values.items()},
        )
    )


def _as_it_is(value: Any, t: Words) -> Any:
    """A value for a template: tasks become snapshots with their texts in the page's language."""
    if isinstance(value, Task):
        task = value.as_it_is()
        task.title, task.what = told(task.named, t) or task.title, now(task.what, t)
        return task
    return [_as_it_is(one, t) for one in value] if isinstance(value, list) else value


@cache
def environment() -> jinja2.Environment:
    """Templates; all that is put in is escaped, and what is missing is an error."""
    folder = resources.files("mlx_voxclone.studio") / "templates"
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(folder)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["icon"] = icon()
    made.filters["clock"] = clock
    made.filters["about"], made.filters["gigabytes"], made.filters["decimal"] = about, gigabytes, decimal
    made.filters["bytes"], made.filters["day"] = _bytes, day
    made.filters["told"], made.filters["now"], made.filters["failed"] = told, now, failed
    made.filters["cause"] = lambda of: cause_of_line(of) if isinstance(of, str) else cause_of(of)
    return made


def clock(seconds: float | None) -> str:
    """Minutes and seconds: 75 -> 1:15."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def day(moment: str, t: Words) -> str:
    """The day of a moment (`2026-05-02...`), in the page's language: `02.05.2026`."""
    year, month, number = moment[:4], moment[5:7], moment[8:10]
    return t("common.day", year=year, month=month, day=number)


@jinja2.pass_context
def _bytes(context: jinja2.runtime.Context, size: float) -> str:
    """A size as people read it, in the page's language: `5.00 MB`, `5,00 MB`."""
    return format_bytes(size).replace(".", context["t"]("common.point"))


def _answer(request: Request, template: str, status: int, mistake: Mistake | None, values: dict[str, Any]) -> Response:
    content = render(request, template, mistake, **values).encode("utf-8", "backslashreplace")  # names of files, too
    return HTMLResponse(content, 422 if mistake and status == 200 else status)


def player_in(t: Words) -> Callable[..., Markup]:
    """`report.look.player` with its texts in the language of `t`; the same arguments."""
    words = {key: t(f"player.{key}") for key in ENGLISH}
    return lambda *arguments, **keywords: Markup(player(*arguments, words=words, **keywords))


def _current(person: Person) -> Project | None:
    """The voice that the navigation leads to: the one last opened, or the newest."""
    projects = person.projects()
    last = person.settings().get("voice")
    return next((project for project in projects if project.id == last), projects[0] if projects else None)
