"""The web server alone: what of a connection is left behind."""

import gc
import http.client
import socket
import time

import pytest

from mlx_voxclone.serve.web.listener import WebServer


async def answers(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"ok"
    connection.close()


def kept(web) -> int:
    """Connections of a server that are still in memory."""
    return sum(isinstance(one, web._server.config.http) for one in gc.get_objects())


def test_a_server_has_no_more_connections_than_files_allow(monkeypatch):
    """Those above are hung up on at once, those below are answered."""
    monkeypatch.setattr("mlx_voxclone.serve.web.listener.allow_open_files", lambda wanted: 4)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    web = WebServer(answers, taken)
    web.start()
    try:
        with socket.create_connection(("127.0.0.1", web.port), 60) as silent:
            ask(web.port)
            lost = pytest.raises((ConnectionError, http.client.HTTPException))
            with socket.create_connection(("127.0.0.1", web.port), 60), lost:
                ask(web.port)
            silent.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert silent.makefile("rb").read().endswith(b"ok")
    finally:
        web.close()


def test_nothing_is_kept_of_a_connection_that_is_closed():
    """Without Python's search for circles, which may come after hundreds of them."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    web = WebServer(answers, taken)
    web.start()
    gc.disable()
    try:
        for _ in range(5):
            ask(web.port)
        until = time.monotonic() + 20
        while kept(web) and time.monotonic() < until:  # the server sees the end a little later
            time.sleep(0.05)
        assert kept(web) == 0
    finally:
        gc.enable()
        web.close()
