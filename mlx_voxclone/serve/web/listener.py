"""The web server, in a thread of its own: the main thread computes, and Ctrl-C reaches it."""

import asyncio
import logging
import socket
import struct
import sys
import threading
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.process.limits import allow_open_files
from mlx_voxclone.serve.errors import ApiError

HEADER_SECONDS = 15.0  # in which a client must have said what it wants
STALL_SECONDS = 60.0  # in which a client must have taken what fills the buffers
CONNECTIONS = 1024  # at once; more are hung up on, as fewer are where few files may be open
OTHER_FILES = 1024  # that may be open beside
ENDING_SECONDS = 5.0  # that responses have to end
_NO_HTTP = {
    400: "this is no HTTP request",
    431: "the head of the request is too large; 64 kB are possible",
    501: "a transfer encoding other than chunked is not possible",
}


class Protocol(H11Protocol):
    """Hangs up on who says nothing or says it endlessly slowly, and on who does not take what it has asked for.

    What is no HTTP is answered as all else is. A request's `state` has `cut`, which breaks the connection off in such a
    way that its client sees an error.
    """

    header_seconds, stall_seconds, connections_at_once = HEADER_SECONDS, STALL_SECONDS, CONNECTIONS
    _refused = False
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.app_state = {**self.app_state, "cut": self._cut}
        super().connection_made(transport)
        if len(self.connections) > self.connections_at_once:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._go_on()
        super().connection_lost(exc)
        # These refer to this; it would stay, with its buffers, until Python looks for such circles among old objects.
        self.app_state, self.scope, self.cycle = {}, None, None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._go_on()
        self._stalled = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with the bytes that came; what still comes is read for a while, or nobody would listen."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer is being sent already
            self.transport.close()
            return
        if self.cycle is not None and not self.cycle.response_complete:  # of this very request
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._refused = True
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)  # of h11, whose error is being handled
        status = hint if hint in _NO_HTTP else 400
        content = ApiError(status, _NO_HTTP[status], None, "invalid_http").content()
        headers = [("content-type", "application/json"), ("content-length", str(len(content))), ("connection", "close")]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._waiting is None:
            self._wait()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:  # a request's head is complete
            self._stop_waiting()
        elif self._waiting is None and (cycle is None or cycle.response_complete):
            self._wait()

    def _cut(self) -> None:
        found = self.transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _go_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.header_seconds, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class WebServer:
    """Serves an ASGI application on a socket.

    Args:
        taken: bound, see `take_port`; closed with the server.
        header_seconds: in which a client must have said what it wants.

    Raises:
        ConfigError: another program listens there already.
    """

    def __init__(self, app: Any, taken: socket.socket, header_seconds: float = HEADER_SECONDS) -> None:
        try:
            taken.listen(128)
        except OSError as e:
            place = taken.getsockname()[:2]
            taken.close()
            reason = (e.strerror or str(e)).lower()
            raise ConfigError(f"port {place[1]} on {place[0]} cannot be used ({reason}); choose another") from None
        self._socket = taken
        most = min(CONNECTIONS, allow_open_files(CONNECTIONS + OTHER_FILES) // 2)
        protocol = type("Patient", (Protocol,), {"header_seconds": header_seconds, "connections_at_once": most})
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(ENDING_SECONDS),
        )
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "python_multipart"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it is told by the guard
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End: requests that are being answered have some seconds."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(2 * ENDING_SECONDS)
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
