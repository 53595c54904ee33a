"""The page of a request that is refused before any page is made: how to get in, or what was wrong with it."""

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response

from mlx_voxclone.studio.web.access import Message, Refusal, is_entering
from mlx_voxclone.studio.web.languages import chosen, words_in
from mlx_voxclone.studio.web.pages import environment


def closed(scope: Message, refusal: Refusal) -> Response:
    """A page in the browser's language which holds nothing of anybody's; to htmx only its sentence."""
    headers = Headers(scope=scope)
    lang = chosen(None, headers.get("accept-language", ""))
    t = words_in(lang)
    line = t(f"access.{refusal.key}", **refusal.values)
    template = "parts/notice.html" if headers.get("hx-request") else "access/closed.html"
    again = refusal.status == 401 and is_entering(scope)
    content = environment().get_template(template).render(t=t, lang=lang, line=line, status=refusal.status, again=again)
    answer = HTMLResponse(content, refusal.status)
    if refusal.status == 401 and headers.get("hx-request"):
        answer.headers["hx-refresh"] = "true"  # the whole page says how to get in
    return answer
