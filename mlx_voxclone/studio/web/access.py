"""Who may see what: names that are answered, whose part a request sees, forms that come from our own pages."""

import hmac
import secrets
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.responses import PlainTextResponse

from mlx_voxclone.process.network import Names, host_of, origin_of

ME = "me"  # the person of a studio without tokens
FORM_LIMIT = 200_000  # bytes of a form without files
CSP = (
    "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; object-src 'none'; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

Message = MutableMapping[str, Any]


class Access:
    """ASGI middleware: what is asked under another name, or by a page of somebody else's, is refused with 403.

    Args:
        names: those that are answered.
    """

    def __init__(self, app: Callable, names: Names) -> None:
        self._app, self._names = app, names
        self._secret = secrets.token_bytes(32)

    async def __call__(self, scope: Message, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return
        hosts = [host_of(value) for value in _values(scope, b"host")]
        origins = [origin_of(value) for value in _values(scope, b"origin")]
        if len(hosts) != 1 or hosts[0] not in self._names or any(origin not in self._names for origin in origins):
            await PlainTextResponse("the studio does not answer to that name", 403)(scope, receive, send)
            return
        scope["person"] = ME
        scope["csrf"] = hmac.digest(self._secret, scope["person"].encode(), "sha256").hex()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in given),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)


def _values(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
