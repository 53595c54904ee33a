"""Connections to a server of files that end, whatever the server does: it may be down, silent, or slow without end."""

import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse

TIMEOUT = 60.0  # seconds without a byte
SLOW = 30.0  # seconds in which at least so many bytes come, and headers whole
LEAST = 30_000
_BLOCK = 1 << 20


class TooSlow(ConnectionError):
    """A server that sends, but too little to wait for."""

    def __init__(self) -> None:
        super().__init__(f"the server sends less than {LEAST / SLOW / 1000:g} kB a second")


def opened(address: str) -> HTTPResponse:
    """The answer of a server, by HTTP or HTTPS alone: it cannot lead to a file or to FTP.

    Raises:
        OSError, http.client.HTTPException: as `urllib.request.urlopen`; TooSlow.
    """
    request = urllib.request.Request(address, headers={"User-Agent": "mlx-voxclone"})
    director = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler, urllib.request.UnknownHandler, _Http, _Https),
        *(urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler),
        urllib.request.HTTPErrorProcessor,
    ):
        director.add_handler(handler())
    return director.open(request, timeout=TIMEOUT)


def blocks(answer: HTTPResponse) -> Iterator[bytes]:
    """The content as it comes. Raises TooSlow."""
    began, count = time.monotonic(), 0
    while block := answer.read1(_BLOCK):
        count += len(block)
        if (now := time.monotonic()) - began > SLOW:
            if count < LEAST:
                raise TooSlow
            began, count = now, 0
        yield block


@contextmanager
def _in_time(connection: http.client.HTTPConnection) -> Iterator[None]:
    """Ends a connection whose headers do not come, a letter at a time or at all."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(TIMEOUT, SLOW), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise TooSlow from None
        raise
    finally:
        timer.cancel()


class _Connection(http.client.HTTPConnection):
    def getresponse(self) -> HTTPResponse:
        with _in_time(self):
            return super().getresponse()


class _SecureConnection(http.client.HTTPSConnection):
    def getresponse(self) -> HTTPResponse:
        with _in_time(self):
            return super().getresponse()


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, request)
