"""The web server, in a thread of its own: the main thread computes, and Ctrl-C reaches it."""

import asyncio
import logging
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlx_voxclone.errors import ConfigError

HEADER_SECONDS = 15.0  # in which a client must have said what it wants
STALL_SECONDS = 60.0  # in which a client must have taken what fills the buffers
CONNECTIONS = 1024  # at once; more are hung up on
ENDING_SECONDS = 5.0  # that responses have to end


class Protocol(H11Protocol):
    """Hangs up on who says nothing or says it endlessly slowly, and on who does not take what it has asked for."""

    header_seconds, stall_seconds = HEADER_SECONDS, STALL_SECONDS
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._go_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._go_on()
        self._stalled = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:  # a request's head is complete
            self._stop_waiting()
        elif self._waiting is None and (cycle is None or cycle.response_complete):
            self._wait()

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
        protocol = type("Patient", (Protocol,), {"header_seconds": header_seconds})
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
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
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
