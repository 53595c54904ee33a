"""What stands before the paths: who is answered, how much is read and for how long, and what an error looks like.

Without a key, only requests under this machine's own names are answered, and none that another page makes: a page of
somebody else's could otherwise use the server through a visitor's browser.
"""

import hmac
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

from mlx_voxclone.process.network import Names, header_values, host_of, origin_of
from mlx_voxclone.serve.errors import ApiError
from mlx_voxclone.serve.metrics import Metrics
from mlx_voxclone.serve.web.body import Body, TooLargeError
from mlx_voxclone.serve.web.response import BrokenOffError

VOICES = "/v1/audio/voices"
OPEN = ("/health",)  # without a key
PATHS = ("/v1/audio/speech", VOICES, "/v1/audio/models", "/v1/models", "/metrics", "/health")
UPLOAD_MB = 25  # of a clip: two minutes of CD quality, of which at most one is taken
_AROUND = 100_000  # bytes of an upload's form beside the file


@dataclass(frozen=True)
class Limits:
    """How patient the server is.

    Attributes:
        body: bytes of a request that is no upload.
        upload: bytes of an upload.
        receive: seconds in which a request must have come.
        linger: seconds that a client which is being refused may go on sending, so that it reads why.
    """

    body: int
    upload: int = UPLOAD_MB * 1_000_000 + _AROUND
    receive: float = 60.0
    linger: float = 10.0


class Guard:
    """ASGI middleware around the application.

    Args:
        keys: one of which every request must bring (`Authorization: Bearer KEY`); none: nobody needs one.
        names: those that are answered where there is no key.
        log: called with a line for every answer.
    """

    def __init__(
        self,
        app: Callable,
        *,
        limits: Limits,
        names: Names,
        keys: Collection[str] = (),
        metrics: Metrics,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._app, self._limits, self._names, self._metrics, self._log = app, limits, names, metrics, log
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def refusal(self, scope: Message, limit: int) -> ApiError | None:
        """Why a request is not even read; None: it is."""
        if self._keys and scope["path"] not in OPEN:
            given = header_values(scope, b"authorization")
            if len(given) != 1 or not self._known(given[0]):
                return ApiError(
                    401, "wrong or missing API key; send Authorization: Bearer KEY", None, "invalid_api_key"
                )
        if not self._keys:
            hosts = [host_of(value) for value in header_values(scope, b"host")]
            if len(hosts) != 1 or hosts[0] not in self._names:
                return ApiError(403, "this server does not answer to that name", None, "unknown_host")
            if any(origin_of(origin) not in self._names for origin in header_values(scope, b"origin")):
                return ApiError(403, "another page may not use this server", None, "foreign_origin")
        sizes = header_values(scope, b"content-length")
        if any(len(size) > 18 or int(size) > limit for size in sizes if size.isdecimal()):
            return self.too_large(limit)
        return None

    def limit_of(self, scope: Message) -> int:
        upload = scope["method"] == "POST" and scope["path"] == VOICES
        return self._limits.upload if upload else self._limits.body

    def too_large(self, limit: int) -> ApiError:
        hint = f"cut the clip to 3 to 25 s; {UPLOAD_MB} MB are possible" if limit == self._limits.upload else "split it"
        return ApiError(413, f"the request is too large; {hint}", None, "request_too_large")

    def _known(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        given = key.strip().encode("latin-1", "replace")
        found = [hmac.compare_digest(given, known) for known in self._keys]  # all of them: it takes the same time
        return scheme.lower() == "bearer" and any(found)


class _Exchange:
    """One request and its response."""

    def __init__(self, guard: Guard, scope: Message, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._send_ = guard, scope, send
        self._limits, self._limit = guard._limits, guard.limit_of(scope)
        self._body = Body(receive, self._limit)
        self._status: int | None = None  # of the response, once it has begun
        self._refusal: ApiError | None = None  # of what is still coming
        self._began = time.monotonic()

    async def run(self) -> None:
        try:
            self._refusal = self._guard.refusal(self._scope, self._limit)
            if self._refusal is None:
                await self._guard._app(self._scope, self._receive, self._send)
        except BrokenOffError:
            if self._scope["http_version"] == "1.0":  # its streams have no mark of their end but the connection's
                self._scope["state"]["cut"]()
        except (ApiError, ClientDisconnect):
            pass  # what is to be said of it has been said, or is said below
        except Exception as error:  # of ours; the application has answered it
            traceback.print_exception(error)
        try:
            if self._refusal is not None and self._status is None:
                await self._refuse(self._refusal)
        finally:
            self._tell()

    async def _receive(self) -> Message:
        """What comes of the request, within its limits. Raises ApiError."""
        try:
            return await self._body.receive(self._began + self._limits.receive - time.monotonic())
        except TimeoutError:
            self._refusal = ApiError(408, "the request did not come in time", None, "request_timeout")
        except TooLargeError:
            self._refusal = self._guard.too_large(self._limit)
        raise self._refusal

    async def _send(self, message: Message) -> None:
        """Send a part of the application's response, unless the request is refused."""
        if self._refusal is not None:
            return
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not self._body.complete:  # answered without having been read to its end
            await self._part({**message, "more_body": True})
            await self._body.drain(self._limits.linger)
            message = {"type": "http.response.body", "body": b""}
        await self._part(message)

    async def _part(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send_(message)

    async def _refuse(self, error: ApiError) -> None:
        """Answer without the request having been read."""
        content = error.content()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if not self._body.complete:
            headers.append((b"connection", b"close"))
        await self._part({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._part({"type": "http.response.body", "body": content, "more_body": True})
        await self._body.drain(self._limits.linger)
        await self._part({"type": "http.response.body", "body": b""})

    def _tell(self) -> None:
        path = self._scope["path"]
        known = next((one for one in PATHS if path == one or path.startswith(f"{one}/")), "other")
        self._guard._metrics.requests.labels(known, self._status or 0).inc()
        seconds = time.monotonic() - self._began
        self._guard._log(f"{self._scope['method'][:20]} {known} {self._status or 'no answer'} {seconds:.2f} s")
