"""Word of a run's end: to an address, to the desktop; how runs end, and notifications that fail."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mlx_voxclone.errors import ConfigError, StoppedError
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.tracking import notify
from mlx_voxclone.tracking.notify import told_at_end


@pytest.fixture
def address():
    """An address on loopback; `.news` are what was posted there, `.status` what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.news.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(server.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.news, server.status, server.url = [], 200, f"http://127.0.0.1:{server.server_port}/hook?key=secret"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "finished"),
        (KeyboardInterrupt, "interrupted"),
        (StoppedError("disk full"), "interrupted"),
        (ConfigError("x"), "failed"),
        (MemoryError, "failed"),
    ],
)
def test_an_address_is_told_how_the_run_ended(address, error, outcome):
    lines = []
    if error is None:
        with told_at_end([address.url], "clone", Path("/home/ann/runs/clone-ann"), lines.append):
            pass
    else:
        with (
            pytest.raises(error if isinstance(error, type) else type(error)),
            told_at_end([address.url], "clone", Path("/home/ann/runs/clone-ann"), lines.append),
        ):
            raise error
    ((path, kind, news),) = address.news
    assert (path, kind) == ("/hook?key=secret", "application/json")
    assert (news["run"], news["task"], news["outcome"]) == ("clone-ann", "clone", outcome)
    assert news["text"] == news["content"] == f"clone-ann (clone) {outcome} after 0.00 s"
    assert "home" not in json.dumps(news)
    assert lines == []


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_address_that_fails_is_a_warning_without_its_secret(address, status):
    address.status, lines = status, []
    with told_at_end([address.url], "clone", Path("run"), lines.append):
        pass
    assert len(address.news) == 1  # no redirect is followed
    (line,) = lines
    assert line.startswith("warning: notify: the address was not told (HTTPError: ")
    assert "secret" not in line


def test_nobody_there_is_a_warning():
    lines = []
    with told_at_end(["http://127.0.0.1:9/x"], "clone", Path("run"), lines.append):
        pass
    assert len(lines) == 1
    assert lines[0].startswith("warning: notify: the address was not told (URLError")


@pytest.mark.parametrize(("platform", "program"), [("darwin", "osascript"), ("linux", "notify-send")])
def test_the_desktops_own_program_is_called_with_the_text_as_an_argument(platform, program, tmp_path, monkeypatch):
    called = tmp_path / "called"
    script = tmp_path / program
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {called}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(notify.sys, "platform", platform)
    lines = []
    with told_at_end(["desktop"], "clone", Path('a" & do shell script "x'), lines.append):
        pass
    assert lines == []
    assert 'a" & do shell script "x (clone) finished after 0.00 s' in called.read_text().splitlines()


def test_a_desktop_without_notifications_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(notify.sys, "platform", "linux")
    lines = []
    with told_at_end(["desktop"], "clone", Path("run"), lines.append):
        pass
    assert lines == ["warning: notify: desktop was not told (OSError: notify-send is not installed)"]


@pytest.mark.parametrize("value", ["email", "ftp://a/b", "https://", "file:///etc/passwd"])
def test_what_is_no_target_is_refused(value, tmp_path):
    (tmp_path / "run.yaml").write_text(f"task: speaker\nnotify: ['{value}']\n")
    with pytest.raises(ConfigError, match=r"notify.*expected desktop or an address"):
        load_run_config(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_text("task: speaker\nnotify: [desktop, 'https://a.b/c']\nreport_to: [wandb]\n")
    assert load_run_config(tmp_path / "run.yaml").notify == ["desktop", "https://a.b/c"]
