"""What stands before the page's web server: which names it answers to, how much it reads, what it does not serve.

A page of somebody else's can give its own name the address 127.0.0.1 (DNS rebinding), and a browser then takes the demo
for a part of it. The browser still says which name it asked for, so only the demo's own names are answered.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from mlx_voxclone.demo.inputs import LIMIT_MB, UPLOAD_LIMIT
from mlx_voxclone.process.network import Names, host_of, origin_of

BODY_LIMIT = 2_000_000  # bytes of anything that is no upload
_AROUND = 100_000  # bytes of an upload's form beside the file
_API = "/gradio_api/"
# Parts of Gradio that the page does not use: they read, write, fetch or run things for whoever asks.
_UNUSED = (
    "component_server",
    "deep_link",
    "process_recording",
    "proxy=",
    "run-history",
    "undo-vibe",
    "vibe-",
    "stream/",
)

Message = MutableMapping[str, Any]
Receive, Send = Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware. Refused: with 403 other names in `Host` and `Origin`, with 404 what the page does not use, with
    413 what is too large, without reading it."""

    def __init__(self, app: Callable, names: Names, upload_limit: int = UPLOAD_LIMIT) -> None:
        self._app, self._names, self._upload_limit = app, names, upload_limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], scope["headers"]
        limit = self._upload_limit + _AROUND if path.startswith(f"{_API}upload") else BODY_LIMIT
        if (refusal := self._refusal(path, headers, limit)) is not None:
            await _answer(scope["type"], send, *refusal)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._bounded(scope, receive, send, limit)

    def _refusal(self, path: str, headers: Iterable[tuple[bytes, bytes]], limit: int) -> tuple[int, str] | None:
        """Status and reason, by what stands in the header; None: go on."""
        hosts = [host_of(value) for value in _values(headers, b"host")]
        if len(hosts) != 1 or hosts[0] not in self._names:
            return 403, "this page is not served under that name; open it under the address that the demo has printed"
        for origin in _values(headers, b"origin"):
            if origin_of(origin) not in self._names:
                return 403, "another page may not use this one"
        if path.removeprefix(_API).startswith(_UNUSED) and path.startswith(_API):
            return 404, "not served"
        sizes = _values(headers, b"content-length")
        if any(not size.isdecimal() for size in sizes):
            return 400, "a Content-Length that is no number"
        if any(len(size) > 18 or int(size) > limit for size in sizes):
            return 413, self._too_large(limit)
        return None

    async def _bounded(self, scope: Message, receive: Receive, send: Send, limit: int) -> None:
        """Pass on a request of no stated length until it becomes too long."""
        read, answered = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if read > limit:  # whatever the application makes of it
                return
            answered = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except Exception:
            if read <= limit:
                raise
        if read > limit and not answered:
            await _answer("http", send, 413, self._too_large(limit))

    def _too_large(self, limit: int) -> str:
        if limit > self._upload_limit:
            return f"the file is larger than {LIMIT_MB} MB; cut it to 3 to 25 s"
        return f"the request is larger than {limit // 1_000_000} MB"


class _TooLargeError(Exception):
    pass


async def _answer(kind: str, send: Send, status: int, reason: str) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    body = f"{reason}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]
