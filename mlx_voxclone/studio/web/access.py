"""What stands before the pages: names that are answered, whose part a request sees, how much is read and how long.

A page of somebody else's can make a browser ask the studio for anything: only the studio's own names are answered, what
changes something comes from its own pages alone, and what other pages embed is refused. Every form carries a token
besides (`pages.form_of`).
"""

import asyncio
import contextlib
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Send

from mlx_voxclone.process.network import Names, header_values, host_of, origin_of
from mlx_voxclone.serve.web.body import Body, TooLargeError
from mlx_voxclone.studio.web.here import PROXIED, is_forwarded
from mlx_voxclone.studio.web.tokens import ME, Tokens

FORM_LIMIT = 200_000  # bytes of a form without files
SPEECH_LIMIT = 8_000_000  # of a text to be spoken, as a form writes it: up to twelve bytes a letter
LIMITS = (  # bytes of a request, by its path
    (re.compile(r"/voices/[^/]+/record/files(/(one|cut))?"), 2_000_000_000),
    (re.compile(r"/voices/[^/]+/record/takes"), 40_000_000),
    (re.compile(r"/voices/import|/speak/voices"), 40_000_000),
    (re.compile(r"/speak(/.*)?"), SPEECH_LIMIT),
)
_AROUND = 50_000  # bytes of a form beside its content
_LONGEST_RANGE = 200  # characters: of a longer one, no player's, much would have to be sorted
CSP = (
    "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; object-src 'none'; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # without any, a browser says `Origin: null` of our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(self)",
    "cache-control": "no-store",
}
TOKEN = "token"  # in the printed address
READS = ("GET", "HEAD")
_OPEN = ("/static/", "/look.css", "/player.js", "/favicon.ico")  # the same for everybody, without a token
_COOKIE_SECONDS = 90 * 24 * 3600
_ENTERING_SECONDS = 60


class Refusal(Exception):
    """A request that is not passed on: status, and the key of the sentence in `[access]` with its values."""

    def __init__(self, status: int, key: str, **values: object) -> None:
        super().__init__(key)
        self.status, self.key, self.values = status, key, values


@dataclass(frozen=True)
class Patience:
    """Seconds: in which a form must have come, between two parts of an upload, and that a client which is being refused
    may go on sending, so that it reads why."""

    form: float = 60.0
    stall: float = 60.0
    linger: float = 10.0


def plain(scope: Message, refusal: Refusal) -> Response:
    """A refusal without a page around it."""
    return PlainTextResponse(f"the studio refuses this: {refusal.key}", refusal.status)


class Access:
    """ASGI middleware around the application. It sets `scope["person"]`, a name, and `scope["csrf"]`.

    Args:
        names: those that are answered.
        tokens: who is let in; None: everybody, as `me`. Where a proxy passes requests on, that would be the whole
            network: then they are refused.
        proxied: whether an https proxy stands before the studio; no request counts as local then.
        tell: makes the answer to a refused request.
        sleep: waits, where a wrong token costs time.
    """

    def __init__(
        self,
        app: Callable,
        names: Names,
        tokens: Tokens | None = None,
        *,
        tell: Callable[[Message, Refusal], Response] = plain,
        patience: Patience | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        proxied: bool = False,
    ) -> None:
        self._app, self.names, self.tokens, self.tell = app, names, tokens or Tokens(None), tell
        self.patience, self.wrong, self.sleep = patience or Patience(), WrongTokens(), sleep
        self.proxied = proxied

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def admit(self, scope: Message) -> Response | None:
        """Whose part a request sees, in its scope; or an answer that ends it. Raises Refusal."""
        scope[PROXIED] = self.proxied
        self._check_origin(scope)
        if not self.tokens.needed and is_forwarded(scope):
            raise Refusal(403, "proxy")
        name = ME
        if self.tokens.needed:
            given = _token_of(scope) if scope["method"] in READS else None
            known = [self.tokens.name_of(token) for token in (_cookies(scope) if given is None else [given])]
            name = next((one for one in known if one is not None), "")
            if name and given is not None:
                return _entered(scope, given)
            if not name and (given is not None or not is_open(scope["path"])):
                if known:
                    await self._slow(scope)
                raise Refusal(401, "closed")
        if name:
            scope["person"], scope["csrf"] = name, self.tokens.form_token(name)
        return None

    async def _slow(self, scope: Message) -> None:
        """Let a wrong token cost time. Raises Refusal: too many of them wait already."""
        client = scope.get("client")
        with self.wrong.waiting(client[0] if client else "") as seconds:
            await self.sleep(seconds)

    def _check_origin(self, scope: Message) -> None:
        hosts, origins = header_values(scope, b"host"), header_values(scope, b"origin")
        site, mode = header_values(scope, b"sec-fetch-site"), header_values(scope, b"sec-fetch-mode")
        if len(hosts) != 1 or host_of(hosts[0]) not in self.names:
            raise Refusal(403, "host")
        reading = scope["method"] in READS
        foreign = any(
            origin_of(origin) not in self.names if reading else not _is_of(origin, hosts[0]) for origin in origins
        )
        embedded = any(one not in ("same-origin", "none") for one in site) and not (reading and mode == ["navigate"])
        if foreign or embedded:
            raise Refusal(403, "origin")


class WrongTokens:
    """What wrong tokens cost: for an address twice the time with each, forgotten after ten minutes.

    A right one costs nothing, whoever else has tried before.
    """

    first, longest, memory = 0.25, 8.0, 600.0  # seconds
    at_once, most = 8, 4096  # that wait, of one address; addresses that are remembered

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count: dict[str, tuple[int, float]] = {}  # address -> wrong ones, when the last came
        self._waiting: dict[str, int] = {}

    def cost(self, client: str) -> float:
        """Count one more of an address; the seconds that its answer has to wait."""
        now = self._clock()
        count, last = self._count.pop(client, (0, now))
        count = 1 if now - last > self.memory else count + 1
        self._count[client] = count, now
        if len(self._count) > self.most:
            del self._count[next(iter(self._count))]
        return min(self.longest, self.first * 2 ** min(count - 1, 20))

    @contextlib.contextmanager
    def waiting(self, client: str) -> Iterator[float]:
        """A block in which an answer waits for so many seconds. Raises Refusal: too many of the address's do."""
        if self._waiting.get(client, 0) >= self.at_once:
            raise Refusal(429, "too_many")
        self._waiting[client] = self._waiting.get(client, 0) + 1
        try:
            yield self.cost(client)
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client]


class _Exchange:
    """One request and its response."""

    def __init__(self, access: Access, scope: Message, receive: Receive, send: Send) -> None:
        self._access, self._scope, self._receive_, self._send_ = access, scope, receive, send
        self._patience = access.patience
        self._limit, self._upload = limit_of(scope["path"])
        self._body, self._began = Body(receive, self._limit), time.monotonic()
        self._begun = False  # the response
        self._refusal: Refusal | None = None

    async def run(self) -> None:
        answer = None
        try:
            if any(len(value) > _LONGEST_RANGE for value in header_values(self._scope, b"range")):
                self._scope["headers"] = [item for item in self._scope["headers"] if item[0] != b"range"]
            answer = await self._access.admit(self._scope)
            if answer is None:
                self._check_size()
                await self._access._app(self._scope, self._receive, self._send)
        except Refusal as refusal:
            self._refusal = refusal
        except ClientDisconnect:
            return
        except Exception as error:  # of ours; the application has answered it
            traceback.print_exception(error)
        if self._refusal is not None and not self._begun:
            answer = self._access.tell(self._scope, self._refusal)
            if self._refusal.status == 401:
                _leave(self._scope, answer)
        if answer is not None and not self._begun:
            self._refusal = None
            if not self._body.complete and self._scope["method"] not in READS:
                answer.headers["connection"] = "close"
            await answer(self._scope, self._receive_, self._send)

    def _check_size(self) -> None:
        sizes = header_values(self._scope, b"content-length")
        if any(len(size) > 18 or int(size) > self._limit for size in sizes if size.isdecimal()):
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal(413, "too_large", megabytes=max(1, self._limit // 1_000_000))

    async def _receive(self) -> Message:
        """What comes of the request, within its limits. Raises Refusal."""
        left = self._patience.stall if self._upload else self._began + self._patience.form - time.monotonic()
        try:
            return await self._body.receive(left)
        except TimeoutError:
            self._refusal = Refusal(408, "slow")
        except TooLargeError:
            self._refusal = self._too_large()
        raise self._refusal

    async def _send(self, message: Message) -> None:
        """Send a part of a response, unless the request is refused by now."""
        if self._refusal is not None:
            return
        if message["type"] == "http.response.start":
            self._begun = True
            given = {name.lower() for name, _ in message["headers"]}
            added = [(name.encode(), value.encode()) for name, value in _headers(self._scope["path"]).items()]
            message = {**message, "headers": [*message["headers"], *(one for one in added if one[0] not in given)]}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and not self._body.complete and self._scope["method"] not in READS:  # not read to its end
            await self._send_({**message, "more_body": True})
            await self._body.drain(self._patience.linger)
            message = {"type": "http.response.body", "body": b""}
        await self._send_(message)


def limit_of(path: str) -> tuple[int, bool]:
    """Bytes that a request to a path may have, and whether it is an upload, which may take its time."""
    for pattern, limit in LIMITS:
        if pattern.fullmatch(path):
            return limit + _AROUND, True
    return FORM_LIMIT + _AROUND, False


def is_open(path: str) -> bool:
    """Whether a path is the same for everybody: styles and scripts."""
    return path.startswith(_OPEN[0]) or path in _OPEN[1:]


def cookie_name(scope: Message) -> str:
    """Of the cookie that holds the token: browsers keep one jar for all ports of a machine."""
    server = scope.get("server")
    return f"studio_{server[1] if server else 0}"


def is_entering(scope: Message) -> bool:
    """Whether this browser has just opened the address with a token from a page of somebody else's, such as a mail: it
    then leaves the strict cookie out, until a page of our own asks."""
    return bool(_cookies(scope, "_entering"))


def _entered(scope: Message, token: str) -> Response:
    """Keep the token in a cookie, and go to the address without it."""
    query = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1"), True) if pair[0] != TOKEN]
    path = "/" + scope["path"].lstrip("/\\")
    answer = RedirectResponse(path + (f"?{urlencode(query)}" if query else ""), 303)
    _set(scope, answer, "", token, "strict", _COOKIE_SECONDS)
    _set(scope, answer, "_entering", "1", "lax", _ENTERING_SECONDS)
    return answer


def _leave(scope: Message, answer: Response) -> None:
    """Drop what no longer lets in."""
    stale = _token_of(scope) is None and not is_entering(scope)
    for what in ("", "_entering"):
        if _cookies(scope, what) and (what or stale):
            answer.delete_cookie(f"{cookie_name(scope)}{what}", httponly=True, samesite="lax" if what else "strict")


def _set(scope: Message, answer: Response, what: str, value: str, same_site: Any, seconds: int) -> None:
    name, secure = f"{cookie_name(scope)}{what}", bool(scope.get(PROXIED))
    answer.set_cookie(name, value, max_age=seconds, httponly=True, samesite=same_site, secure=secure)


def _token_of(scope: Message) -> str | None:
    """The token in the address; None: there is none."""
    try:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), True, max_num_fields=50)
    except ValueError:
        return None
    return next((value for name, value in pairs if name == TOKEN), None)


def _cookies(scope: Message, what: str = "") -> list[str]:
    wanted = f"{cookie_name(scope)}{what}"
    pairs = (part.strip().partition("=") for value in header_values(scope, b"cookie") for part in value.split(";"))
    return [value for name, _, value in pairs if name == wanted and value][:4]


def _headers(path: str) -> dict[str, str]:
    return HEADERS | ({"cache-control": "no-cache"} if is_open(path) else {})


def _is_of(origin: str, host: str) -> bool:
    """Whether an `Origin` is that of the `Host` which was asked, port and all."""
    scheme, _, place = origin.lower().partition("://")
    ports = {"http": ":80", "https": ":443"}
    return scheme in ports and place.removesuffix(ports[scheme]) == host.lower().removesuffix(ports[scheme])
