"""The demo's web server: who is answered, how much is read, what can be stopped, what is left on the disk."""

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from places import ROOT

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.demo import session
from mlx_voxclone.demo.guard import BODY_LIMIT, Guard
from mlx_voxclone.demo.session import private_folder, temporary_files_in, uploads
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.process.network import Names, host_of, take_port

PATIENT = {"timeout": 300.0}  # on a busy machine
APP = ROOT / "demo" / "app.py"
LOCAL = ["localhost", "localhost:7860", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:7860", "LOCALHOST"]
FOREIGN = [
    "",
    "evil.example",
    "evil.example:7860",
    "localhost.evil.example",
    "localhost:x",
    "a@localhost",
    "localhost/",
]
FOREIGN += ["127.0.0.1.evil.example", "::1", "[::1", "192.168.0.7", "0.0.0.0", "localhost, evil.example", "localhost."]


# ---- the guard, without a server -------------------------------------------------------------------------------------


def asked(host, *, names="127.0.0.1", path="/", headers=(), body=(), limit=1000):
    """Status and whether the application saw the request; `body`: pieces of no stated length."""
    seen, sent, pieces = [], [], [*body]

    async def application(scope, receive, send):
        while True:
            message = await receive()
            seen.append(len(message.get("body", b"")))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    hosts = [] if host is None else [(b"host", host.encode("latin-1"))]
    given = [(key.encode(), value.encode("latin-1")) for key, value in headers]
    scope = {"type": "http", "path": path, "headers": [*hosts, *given]}
    asyncio.run(Guard(application, Names(names), upload_limit=limit)(scope, receive, send))
    statuses = [message["status"] for message in sent if message["type"] == "http.response.start"]
    assert len(statuses) == 1
    return statuses[0], seen


@pytest.mark.parametrize("host", LOCAL)
def test_this_machines_names_are_answered(host):
    assert asked(host) == (200, [0])


@pytest.mark.parametrize("host", [None, *FOREIGN])
def test_other_names_are_not(host):
    assert asked(host) == (403, [])
    assert asked("localhost", headers=[("host", host or "evil.example")]) == (403, []), "two names"


def test_the_host_that_was_given_is_answered_too():
    assert asked("studio.lan:7860", names="studio.lan") == (200, [0])
    assert asked("studio.lan", names="other.lan") == (403, [])
    assert asked("[fe80::2]", names="[fe80::2]") == (200, [0])
    for host in ("192.168.0.7:7860", "[fe80::2]:1", "127.0.0.1"):  # an address cannot be made to point elsewhere
        assert asked(host, names="0.0.0.0") == (200, [0])
    assert asked("evil.example", names="0.0.0.0") == (403, [])


def test_pages_of_others_may_not_use_it():
    for origin in (
        "http://evil.example",
        "https://evil.example:7860",
        "null",
        "http://[",
        "http://localhost.evil.example",
    ):
        assert asked("localhost", headers=[("origin", origin)]) == (403, [])
    assert asked("localhost:7860", headers=[("origin", "http://localhost:7860")]) == (200, [0])


def test_what_is_too_large_is_not_read():
    def stated(path, size):
        return asked("localhost", path=path, headers=[("content-length", str(size))])[0]

    assert stated("/gradio_api/upload", 1000) == 200
    assert stated("/gradio_api/upload", 300_000_000) == 413
    assert stated("/gradio_api/queue/join", BODY_LIMIT) == 200
    assert stated("/gradio_api/queue/join", BODY_LIMIT + 1) == 413
    assert stated("/", "9" * 5000) == 413
    for odd in ("-1", "x", "1.5", ""):
        assert stated("/", odd) == 400
    piece = b"x" * 500_000
    status, seen = asked("localhost", path="/gradio_api/queue/join", body=[piece] * 100)
    assert status == 413
    assert sum(seen) <= BODY_LIMIT
    assert asked("localhost", path="/gradio_api/queue/join", body=[piece] * 4) == (200, [500_000] * 4)


def test_parts_of_gradio_that_the_page_does_not_use():
    for path in ("proxy=http://x", "process_recording", "component_server", "deep_link", "vibe-edit/", "stream/1"):
        assert asked("localhost", path=f"/gradio_api/{path}") == (404, [])
    assert asked("localhost", path="/gradio_api/file=/x/proxy=y")[0] == 200


def test_hosts_of_headers():
    assert host_of("[FE80::1]:80") == "fe80::1"
    assert host_of("a:80:90") is None
    assert host_of("a:123456") is None


# ---- folder, port, signals -------------------------------------------------------------------------------------------


def test_the_folder_is_private_and_goes(tmp_path):
    with private_folder(tmp_path) as folder, temporary_files_in(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        (uploads(folder) / "a.wav").write_bytes(b"x")
        assert os.environ["GRADIO_TEMP_DIR"].startswith(str(folder))
        with private_folder(tmp_path) as second:
            assert folder.exists(), "of a process that lives"
            assert second != folder
        assert folder.exists()
    assert list(tmp_path.iterdir()) == []
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_folders_of_the_dead_are_cleared(tmp_path, monkeypatch):
    (tmp_path / "voxclone-demo-0").mkdir()
    (tmp_path / "voxclone-demo-0" / "voice.wav").write_bytes(b"x")
    (tmp_path / "voxclone-demo-1").mkdir()
    (tmp_path / "voxclone-demo-1" / "lock").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "voxclone-demo-2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".voxclone-demo-new").mkdir()
    with private_folder(tmp_path) as folder:
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {folder.name, "elsewhere", "voxclone-demo-2", ".voxclone-demo-new"}
        monkeypatch.setattr(session, "_NEW_SECONDS", -1.0)
        session.clear_dead(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == left - {".voxclone-demo-new"}


def test_a_place_without_room_for_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="set TMPDIR"), private_folder(tmp_path / "gone"):
        pass


WAITING = """
import sys, time
from mlx_voxclone.cli.common import entry
from mlx_voxclone.demo.session import private_folder

@entry
def main(argv):
    with private_folder(sys.argv[1]):
        print("ready", flush=True)
        time.sleep(60)

sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_what_is_open(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", WAITING, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    assert [path.name.startswith(session.PREFIX) for path in tmp_path.iterdir()] == [True]
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken():
    with take_port("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            with pytest.raises(ConfigError, match=f"port {port} on {host} cannot be used .*--port"):
                take_port(host, port)
    take_port("127.0.0.1", port).close()
    for host in ("nowhere.invalid", "a" * 300, "..", "[", "203.0.113.1"):
        with pytest.raises(ConfigError, match="--host|cannot be used"):
            take_port(host, port)


# ---- with Gradio -----------------------------------------------------------------------------------------------------

gr = pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def app():
    import importlib.util

    spec = importlib.util.spec_from_file_location("demo_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_port_is_tried_before_a_model_is_loaded(app, monkeypatch, capsys):
    monkeypatch.setattr(app, "open_studio", lambda *_: pytest.fail("loaded"))
    with take_port("127.0.0.1", 0) as taken:
        taken.listen()
        assert app.main(["--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be used" in capsys.readouterr().err
    for port in ("65536", "-1", "x", "1e3"):
        assert app.main([f"--port={port}"]) == 2
        assert "a port from 0 to 65535 expected" in capsys.readouterr().err
    assert app.main(["--baked", "x", "--port", "1"]) == 2
    assert "--baked needs --model" in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_in_use(app, tmp_path, monkeypatch, capsys):
    """Over HTTP: names, an upload, a mistake, a running job that is stopped, and one whose client goes away."""
    from demo_page import FOR_EVER, page_of
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    write_wav(tmp_path / "mine.wav", synthesise("papa mino lesu", SyntheticSpeaker()))
    found = {}

    def status(headers, method="GET", path="/config"):
        connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status

    def wait(condition):
        for _ in range(3000):
            if condition():
                return
            time.sleep(0.02)
        raise TimeoutError

    def visit():
        for host in ("localhost", "evil.example"):
            found[host] = status({"Host": host})
        large = {"Host": "localhost", "Content-Length": "300000000", "Content-Type": "multipart/form-data; boundary=x"}
        found["large"] = status(large, "POST", "/gradio_api/upload")
        client = Client(
            page.local_url, verbose=False, analytics_enabled=False, download_files=False, httpx_kwargs=PATIENT
        )
        values = ["mino", "alto", handle_file(str(tmp_path / "mine.wav")), True, 3]
        found["clip"] = client.predict(*values, api_name="/speak")
        try:
            client.predict("mino", "nobody", None, False, 0, api_name="/speak")
        except AppError as e:
            found["mistake"] = str(e)
        job = client.submit(FOR_EVER, "alto", None, False, 0, api_name="/speak")
        wait(lambda: spoken.begun == 1)
        job.cancel()
        wait(lambda: spoken.stopped == 1)
        found["after"] = client.predict("mino", "alto", None, False, 0, api_name="/speak")
        client.submit(FOR_EVER, "alto", None, False, 0, api_name="/speak")
        wait(lambda: spoken.begun == 2)
        page.leave(client.session_hash)
        wait(lambda: spoken.stopped == 2)

    def visited():
        try:
            visit()
        except BaseException as e:
            found["error"] = e

    visitor = threading.Thread(target=visited)

    def until():
        if visitor.ident is None:
            visitor.start()
        return not visitor.is_alive()

    with private_folder(tmp_path) as folder, temporary_files_in(folder):
        page, thread, spoken = page_of(monkeypatch)
        app.serve(page, thread, "127.0.0.1", 0, until)
        files = {path.suffix for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
        outside = {path.name for path in tmp_path.iterdir()} - {folder.name}
    assert "error" not in found, found["error"]
    assert (found["localhost"], found["evil.example"], found["large"]) == (200, 403, 413)
    assert "Voice: the reference clip, seed 3." in found["clip"][-1]
    assert "nobody" in found["mistake"]
    assert "Voice: alto" in found["after"][-1]
    assert files <= {".wav"}
    assert outside == {"mine.wav"}
    assert {path.name for path in tmp_path.iterdir()} == {"mine.wav"}, "all of it is deleted"
    assert "Traceback" not in capsys.readouterr().err


def test_progress_and_mistakes_leave_the_last_result_alone(monkeypatch):
    from demo_page import page_of

    page, _, _ = page_of(monkeypatch)
    speak = next(d for d in page.get_config_file()["dependencies"] if d["api_name"] == "speak")
    assert len(speak["show_progress_on"]) == 1
    assert not set(speak["show_progress_on"]) & set(speak["outputs"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_the_demo_as_a_process(tmp_path, number, code):
    """Spoken and uploaded, ended by a signal: nothing is left, or nothing after the next start."""
    from gradio_client import Client, handle_file

    write_wav(tmp_path / "mine.wav", synthesise("papa mino lesu tara koni", SyntheticSpeaker()))
    (temporary := tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    argv = [sys.executable, str(APP), "--port", "0", "--device", "cpu"]
    demo = subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in demo.stderr if line.startswith("open "))
        client = Client(
            line.split()[1], verbose=False, analytics_enabled=False, download_files=False, httpx_kwargs=PATIENT
        )
        client.predict("papa.", None, handle_file(str(tmp_path / "mine.wav")), True, 0, api_name="/speak")
        assert len(list(temporary.rglob("*.wav"))) == 2
        demo.send_signal(number)
        assert demo.wait() == code
        assert "Traceback" not in demo.stderr.read()
    finally:
        demo.kill()
        demo.wait()
    if number == signal.SIGKILL:
        with private_folder(temporary):
            pass
    assert list(temporary.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"mine.wav", "tmp"}
