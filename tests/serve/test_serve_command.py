"""`voxclone serve` itself: what it refuses to start with, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import yaml
from places import ROOT

from mlx_voxclone.cli import main as voxclone

pytest_plugins = ["baking"]


@pytest.fixture
def argv(miniature):
    return ["serve", "--model", str(miniature), "--port", "0"]


@pytest.fixture
def refused(argv, capsys):
    """`refused(options)`: the one line in which the command says why it does not start."""

    def run(*options) -> str:
        assert voxclone([*argv, *map(str, options)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        *rest, line = captured.err.splitlines()
        assert rest in ([], [f"loading {argv[2]}"])
        assert line.startswith("error: ")
        return line

    return run


def test_a_port_in_use(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} on 127.0.0.1 cannot be used" in refused("--port", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_key(refused, host):
    assert "give --api-key FILE" in refused("--host", host)


def test_a_host_that_is_none(refused):
    assert "not an address of this machine" in refused("--host", "no such host")


@pytest.mark.parametrize(
    "content", [b"", b"# a comment\n\n", b"short\n", b"a key with blanks in it\n", b"\xff" * 40, None]
)
def test_key_files(refused, tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    assert f"--api-key {path}: " in refused("--api-key", path)


def test_options_out_of_their_bounds(refused, tmp_path):
    for options, words in (
        (["--batch", 0], "--batch must be from 1"),
        (["--queue", -1], "--queue must be from 0"),
        (["--max-characters", 0], "--max-characters must be from 1"),
        (["--port", 70000], "a port from 0 to 65535"),
        (["--voice-adapters", "ann"], "NAME=DIR is expected"),
    ):
        assert words in refused(*options)
    (tmp_path / "file").write_text("")
    assert "cannot be used" in refused("--voices", tmp_path / "file")


def test_adapters_of_no_voice_or_of_another_model(refused, adapters, tmp_path):
    assert "adapters for nobody: no such voice" in refused("--voice-adapters", f"nobody={adapters}")
    assert "adapter_config.json: not found" in refused("--voice-adapters", f"casual_male={tmp_path / 'none'}")


def test_a_package_that_is_missing(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'mlx-voxclone[serve]'" in refused()


@pytest.fixture
def started(argv, tmp_path):
    """`started(options)`: the process once it listens, and its port."""
    processes = []

    def start(*options) -> tuple[subprocess.Popen, int]:
        code = "from mlx_voxclone.cli import main; raise SystemExit(main())"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *argv, *map(str, options)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        processes.append(process)
        for line in process.stderr:
            if found := re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)/v1 \(Ctrl-C ends it\)\n", line):
                return process, int(found[1])
        raise AssertionError("it does not listen")

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_ends_in_one_line_and_tells_who_waits(started, number, code):
    process, port = started()
    answers = []

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        text = "papa mino lesu tara koni sewu, " * 300
        body = {"input": text, "voice": "casual_male", "stream": False}
        connection.request("POST", "/v1/audio/speech", json.dumps(body))
        answer = connection.getresponse()
        answers.append((answer.status, json.loads(answer.read())["error"]["code"]))

    thread = threading.Thread(target=ask)
    thread.start()
    while b"voxclone_speaking 0.0" in metrics(port):
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    thread.join()
    assert process.returncode == code
    assert answers == [(503, "shutting_down")]
    lines = [line for line in errors.splitlines() if not re.match(r"(GET|POST) /\S+ \d+ ", line)]
    assert lines == ["ended"]


def metrics(port) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def test_the_compose_file_for_more_than_one_machine():
    """It serves a baked checkpoint, read-only and to its own machine alone."""
    service = yaml.safe_load((ROOT / "examples" / "vllm-omni" / "compose.yaml").read_text())["services"]["speech"]
    assert [*service["entrypoint"], *service["command"][:2]] == ["vllm", "serve", "/model", "--omni"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume.endswith(":/model:ro") for volume in service["volumes"])
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
