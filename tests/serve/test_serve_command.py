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

import numpy as np
import pytest
import yaml
from places import ROOT
from waiting import wait_for

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.serve.jobs import Job
from mlx_voxclone.serve.server import Server
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.text.forms import as_said

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
        (["--bits", 5], "--bits: choose 8, 6 or 4; got 5"),
        (["--group-size", 32], "give --bits 8, 6 or 4"),
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


def test_quantised(argv, adapters, monkeypatch):
    """With `--bits` it says what `say --bits` says, with adapters of one voice on top."""
    said = []

    def run(server, ready):
        jobs = [
            Job("papa", server.voices.rows_of(voice), Kept(), adapters=server.voices.adapters_of(voice))
            for voice in ("casual_male", "casual_female")
        ]
        for job in jobs:
            server.engine.submit(job)
        threading.Thread(target=lambda: ([job.listener.ended.wait(120) for job in jobs], server.close())).start()
        server.engine.run()
        said.extend(job.codes[0] for job in jobs)

    monkeypatch.setattr("mlx_voxclone.serve.jobs.MAX_SECONDS", 0.4)
    monkeypatch.setattr(Server, "run", run)
    options = ["--bits", "4", "--group-size", "32", "--voice-adapters", f"casual_female={adapters}", "--device", "cpu"]
    assert voxclone([*argv, *options]) == 0
    text = as_said("papa", "en")
    for voice, changes, codes in zip(("casual_male", "casual_female"), ((), adapters), said, strict=True):
        speaker = Speaker.load(argv[2], quantisation=Quantisation(4, 32), adapters=changes)
        np.testing.assert_array_equal(codes, speaker.say(text, voice, max_seconds=0.4).codes)
        plain = Speaker.load(argv[2], adapters=changes).say(text, voice, max_seconds=0.4)
        assert not np.array_equal(codes, plain.codes)


class Kept:
    """A listener that lets the samples go."""

    gone = behind = False

    def __init__(self):
        self.ended = threading.Event()

    def put(self, samples):
        pass

    def finish(self):
        self.ended.set()

    def fail(self, error):
        self.ended.set()


@pytest.fixture
def started(argv, tmp_path):
    """`started(options)`: the process once it listens, and its port."""
    processes = []

    def start(*options, before="") -> tuple[subprocess.Popen, int]:
        code = f"{before}\nfrom mlx_voxclone.cli import main; raise SystemExit(main())"
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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 0), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
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
    wait_for(lambda: b"voxclone_speaking 0.0" not in metrics(port))
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    thread.join()
    assert process.returncode == code
    assert answers == [(503, "shutting_down")]
    lines = [line for line in errors.splitlines() if not re.match(r"(GET|POST) /\S+ \d+ ", line)]
    assert lines == ["ended"]


ENDLESS = """
import mlx.core as mx
from mlx_voxclone.model.config import END_CODE
from mlx_voxclone.model.flow_head import FlowMatchingHead
logits = FlowMatchingHead.semantic_logits
def endless(self, hidden):
    found = logits(self, hidden)
    return mx.where(mx.arange(found.shape[-1]) == END_CODE, -1e4, found)
FlowMatchingHead.semantic_logits = endless
"""


@pytest.mark.slow
def test_it_ends_while_it_streams(started):
    """Who hears a stream sees it broken off, events end in an error, and nobody who does not read holds it up."""
    process, port = started(before=ENDLESS)
    answers = []
    for more in ({"response_format": "wav"}, {"stream_format": "sse", "response_format": "pcm"}, {}):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        body = {"input": "papa mino", "voice": "casual_male", "stream": True} | more
        connection.request("POST", "/v1/audio/speech", json.dumps(body))
        answers.append(connection)
    streams = [connection.getresponse() for connection in answers]
    assert [stream.status for stream in streams] == [200] * 3
    assert all(stream.read(44) for stream in streams[:2])
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    with pytest.raises(http.client.IncompleteRead) as broken:
        streams[0].read()
    assert 0 < len(broken.value.partial) < 60 * 48_000
    events = streams[1].read().decode().strip().split("\n\n")
    last = json.loads(events[-1].removeprefix("data: "))
    assert (last["type"], last["error"]["code"]) == ("error", "shutting_down")
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
