"""Pages that show no person's data: how to get in, what is wrong with a request, an internal error."""

import contextlib

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import Message

from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.web.access import Refusal, is_entering
from mlx_voxclone.studio.web.languages import chosen, words_in
from mlx_voxclone.studio.web.pages import environment


def closed(scope: Message, refusal: Refusal, home: Home | None = None) -> Response:
    """A refused request's page; to htmx only its sentence.

    Args:
        home: whose people have chosen languages; None: the browser's is taken.
    """
    again = refusal.status == 401 and is_entering(scope)
    lang = _language(scope, home)
    answer = bare(scope, refusal.status, f"access.{refusal.key}", lang=lang, again=again, **refusal.values)
    if refusal.status == 401 and "hx-request" in Headers(scope=scope):
        answer.headers["hx-refresh"] = "true"  # the whole page says how to get in
    return answer


def bare(
    scope: Message,
    status: int,
    key: str,
    technical: str = "",
    *,
    lang: str | None = None,
    again: bool = False,
    **values: object,
) -> Response:
    """A page without the steps and without a person.

    Args:
        key: of its sentence, filled with `values`. technical: the library's own message.
        lang: code of its language; None: the browser's. again: the page reloads at once.
    """
    headers = Headers(scope=scope)
    lang = lang or chosen(None, headers.get("accept-language", ""))
    t = words_in(lang)
    template = "parts/notice.html" if headers.get("hx-request") else "access/closed.html"
    told = {"t": t, "lang": lang, "line": t(key, **values), "technical": technical, "status": status, "again": again}
    return HTMLResponse(environment().get_template(template).render(**told), status)


def _language(scope: Message, home: Home | None) -> str:
    """The person's language, if the request has a person by now; else the browser's."""
    wanted = None
    if home is not None and "person" in scope:
        with contextlib.suppress(Exception):  # a damaged file: its own page reports it
            wanted = home.person(scope["person"]).settings().get("language")
    return chosen(wanted, Headers(scope=scope).get("accept-language", ""))
