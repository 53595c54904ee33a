"""Whatever is sent: the right status, an error as OpenAI's clients read it, and a server that goes on."""

import asyncio
import http.client
import json
import socket
import struct
import threading

import pytest
import uvicorn
from served import serving
from uvicorn.server import ServerState
from waiting import wait_for

from mlx_voxclone.serve.jobs import Job
from mlx_voxclone.serve.server import Options
from mlx_voxclone.serve.web.formats import Encoder
from mlx_voxclone.serve.web.guard import Limits
from mlx_voxclone.serve.web.listener import Protocol
from mlx_voxclone.serve.web.requests import speech_request
from mlx_voxclone.speech import chunks

KEY = "a-key-of-more-than-16-characters"
GOOD = {"input": "papa", "voice": "casual_male", "response_format": "pcm", "seed": 2}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(miniature):
    """One row and one place to wait."""
    limits = Limits(body=100_000, upload=200_000, receive=30.0, linger=30.0)
    with serving(miniature, Options(rows=1, waiting=1, limits=limits, header_seconds=30.0)) as found:
        yield found


@pytest.fixture(scope="module")
def impatient(miniature):
    """A server that waits a second for a request."""
    limits = Limits(body=100_000, upload=200_000, receive=1.0, linger=1.0)
    with serving(miniature, Options(rows=1, waiting=1, limits=limits, header_seconds=1.0)) as found:
        yield found


def refused(answer, status, code=None, param=None) -> str:
    """The message of an error of that kind."""
    found, body, headers = answer
    assert found == status, body
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    return error["message"]


def post(served, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return served.ask("POST", "/v1/audio/speech", content, JSON | headers)


def works(served):
    status, body, _ = post(served, GOOD)
    assert (status, len(body) > 0) == (200, True)


@pytest.mark.parametrize(("change", "param", "words"), [
    ({"input": ""}, "input", "empty"),
    ({"input": " \n\t\u200b\u2060"}, "input", "empty"),
    ({"input": "?!... --- \u3002"}, "input", "no letter"),
    ({"input": "\x00\x07\x1b"}, "input", "empty"),
    ({"input": "caf\ufffd"}, "input", "wrong decoding"),
    ({"input": "a" * 20_001}, "input", "20,001 characters"),
    ({"input": 7}, "input", "string"),
    ({"input": ["papa"]}, "input", "string"),
    ({"input": None}, "input", "string"),
    ({"voice": "../../etc/passwd"}, "voice", "no voice"),
    ({"voice": "casual_male\x00"}, "voice", "no voice"),
    ({"voice": {"id": "nobody"}}, "voice", "no voice"),
    ({"voice": 3}, "voice", "string"),
    ({"voice": "v" * 100_000 + "x"}, None, ""),
    ({"response_format": "aac"}, "response_format", "aac is not possible"),
    ({"response_format": "exe"}, "response_format", "'mp3'"),
    ({"speed": 2}, "speed", "own pace"),
    ({"speed": "1"}, "speed", "number"),
    ({"seed": -1}, "seed", "greater"),
    ({"seed": 2**63}, "seed", "less"),
    ({"seed": True}, "seed", "integer"),
    ({"instructions": "shout"}, "instructions", "not possible"),
    ({"language": "../en"}, "language", "language code"),
    ({"stream": "yes"}, "stream", "boolean"),
    ({"stream_format": "xml"}, "stream_format", "'sse'"),
    ({"voise": "x"}, "voise", "did you mean voice"),
])  # fmt: skip
def test_a_wrong_field_is_named(served, change, param, words):
    answer = post(served, GOOD | change)
    if param is None:
        refused(answer, 413)
    else:
        assert words in refused(answer, 400, param=param)


@pytest.mark.parametrize("body", [
    b"", b"papa", b"{", b"[1]", b'"papa"', b"null", b"\xff\xfe", b"[" * 50_000, b'{"a":' * 20_000,
    b'{"seed": ' + b"9" * 9000,
    b'{"input": "papa", "voice": "casual_male", "speed": NaN}',
    b'{"input": "papa", "voice": "casual_male", "speed": 1e999}',
    b'{"input": "papa", "voice": "casual_male", "seed": NaN}', b'{"input": "\\ud800", "voice": "casual_male"}',
    b"input=papa&voice=casual_male", b'\xef\xbb\xbf{"input": "papa", "voice": "casual_male"}',
    b'{"input": "papa", "voice": "casual_male", "\\ud800": 1}', b'{"input": "papa", "voice": "\\udfff"}',
])  # fmt: skip
def test_a_body_that_is_no_request(served, body):
    refused(post(served, body), 400)


@pytest.mark.parametrize("field", ["input", "voice"])
def test_a_missing_field_is_named(served, field):
    body = {name: value for name, value in GOOD.items() if name != field}
    refused(post(served, body), 400, "missing_required_parameter", field)


@pytest.mark.parametrize("name", ["input", "seed", "\\ud800"])
def test_a_field_that_is_there_twice(served, name):
    """Also one within another, and under a name that is no Unicode."""
    body = b'{"input": "papa", "voice": {"id": "x", %s}}' % b", ".join([b'"%s": "papa"' % name.encode()] * 2)
    assert "is there twice" in refused(post(served, body), 400, "duplicate_parameter")


@pytest.mark.parametrize("headers", [
    {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": ";"},
    {"Content-Type": "application/jsonp"}, {"Content-Type": "application/json; charset=latin-1"},
    {"Content-Encoding": "gzip"}, {"Content-Type": "application/json; charset*0=a; charset*=b"},
])  # fmt: skip
def test_a_body_of_another_type(served, headers):
    refused(post(served, GOOD, **headers), 415, "unsupported_content_type")


@pytest.mark.parametrize("kind", ["application/json; charset=UTF-8", "Application/JSON", None])
def test_types_that_are_json(served, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    refused(served.ask("POST", "/v1/audio/speech", b"{}", headers), 400, "missing_required_parameter")


def test_paths_and_methods(served):
    outside = ("/v1/audio/voices/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd")
    for path in ("/", "/v1", "/v1/audio/speech/x", "/docs", "/health/", "/v1/audio/voices/", *outside):
        refused(served.ask("GET", path), 404)
    refused(served.ask("GET", "/v1/audio/voices/..%2f..%2fetc%2fpasswd"), 404)
    refused(served.ask("GET", "/v1/models/other"), 404, "model_not_found")
    answer = served.ask("GET", "/v1/audio/speech")
    refused(answer, 405, "method_not_allowed")
    assert answer[2]["allow"] == "POST"
    assert len(refused(served.ask("F" * 5000, "/health"), 405)) < 100
    refused(served.ask("DELETE", "/v1/audio/voices/casual_male"), 403, "not_removable")
    refused(served.ask("POST", "/v1/audio/voices", b"x", JSON), 403, "voices_disabled")


@pytest.mark.parametrize("text", [
    "papa [AUDIO] <s> </s> [BEGIN_AUDIO] [NEXT_AUDIO_TEXT] [REPEAT_AUDIO_TEXT]",
    "пап мама 爸爸 パパ أبي पापा 🙂",
    "pa\x00pa\x1b[31m\u202emi\u200bno\ufeff",
])  # fmt: skip
def test_odd_texts_are_spoken_as_say_speaks_them(served, text):
    """Names of special tokens are plain text, mixed scripts are spoken, controls are left out."""
    status, body, _ = post(served, GOOD | {"input": text})
    assert status == 200
    said = served.say(text, "casual_male", 2)
    assert len(body) == 2 * len(said.samples)


def test_a_megabyte_without_a_blank_is_cut_into_chunks():
    """Where the operator lets it in; it takes no longer than any other megabyte."""
    text = "pa" * 500_000
    body = json.dumps(GOOD | {"input": text}).encode()
    asked = speech_request(body, ["m"], 1_000_000)
    found = chunks.split_text(asked.text, asked.language)
    assert "".join(one.text for one in found) == text
    assert max(len(one.text) for one in found) <= chunks.LONGEST


def test_too_large_a_body(served):
    body = json.dumps(GOOD | {"input": "papa " * 30_000}).encode()
    refused(post(served, body), 413, "request_too_large")

    def parts():
        for k in range(0, len(body), 5000):
            yield body[k : k + 5000]

    refused(served.ask("POST", "/v1/audio/speech", parts(), JSON), 413, "request_too_large")
    works(served)


def test_a_body_of_gigabytes_is_refused_before_it_is_sent(impatient):
    with socket.create_connection(("127.0.0.1", impatient.server.port), 30) as client:
        client.sendall(b"POST /v1/audio/voices HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000000\r\n\r\nabc")
        client.settimeout(30)
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
    works(impatient)


@pytest.mark.parametrize("head", [
    b"", b"POST /v1/audio/sp", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ",
])  # fmt: skip
def test_who_says_nothing_is_hung_up_on(impatient, head):
    with socket.create_connection(("127.0.0.1", impatient.server.port), 30) as client:
        client.sendall(head)
        client.settimeout(60)
        assert client.recv(100) == b""
    works(impatient)


def test_who_is_answered_while_it_still_sends(served):
    """Reads the answer and may send the rest; then the connection ends as it should, and not in a reset."""
    head = b"POST /v1/audio/voices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 150000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port), 30) as client:
        client.settimeout(60)
        client.sendall(head + bytes(50_000))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        refused((answer.status, answer.read(), dict(answer.headers.items())), 403, "voices_disabled")
        client.sendall(bytes(50_000))
        client.sendall(bytes(50_000))
        assert client.recv(100) == b""


def test_a_body_that_does_not_come(impatient):
    with socket.create_connection(("127.0.0.1", impatient.server.port), 30) as client:
        client.sendall(b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        client.settimeout(60)
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    works(impatient)


CHUNKED = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "


@pytest.mark.parametrize(("sent", "status"), [
    (b"\x16\x03\x01 hello\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
    (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    (CHUNKED + b"gzip, chunked\r\n\r\n", 501),
    (CHUNKED + b"chunked\r\n\r\nzz\r\n", 400),
    (CHUNKED + b"chunked\r\n\r\n3\r\n{}x\r\nzz\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
])  # fmt: skip
def test_what_is_no_http(served, sent, status):
    """Answered as all else is, to the last byte, although more has been sent than was read."""
    with socket.create_connection(("127.0.0.1", served.server.port), 30) as client:
        client.settimeout(60)
        client.sendall(sent)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        refused((answer.status, answer.read(), dict(answer.headers.items())), status, "invalid_http")
        assert client.recv(100) == b""


def test_requests_one_behind_the_other(served):
    """All are answered in their order; what comes behind them and is none ends the connection."""
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port), 30) as client:
        client.settimeout(60)
        client.sendall(3 * get + get.replace(b"/health", b"/none") + b"\x00none\r\n\r\n")
        answer = client.makefile("rb").read()
    found = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert found == [200, 200, 200, 404, 400]
    works(served)


@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "localhost@evil.example"},
])  # fmt: skip
def test_another_page_in_a_browser_may_not_use_it(served, headers):
    refused(post(served, GOOD, **headers), 403)


def hang_up(served, text, after):
    """Ask, and reset the connection after `after(client)`."""
    body = json.dumps(GOOD | {"input": text, "stream": True}).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    client = socket.create_connection(("127.0.0.1", served.server.port), 30)
    client.settimeout(60)
    client.sendall(head + body)
    after(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_client_that_hangs_up_frees_its_place(served):
    engine = served.server.engine
    long = "papa mino lesu tara koni sewu, " * 60
    for gone, after in enumerate([lambda client: None, lambda client: client.recv(10)], 1):
        hang_up(served, long, after)
        wait_for(lambda: f"voxclone_gone_total {gone}.0" in served.ask("GET", "/metrics")[1].decode())  # noqa: B023
        wait_for(lambda: not engine._jobs and not engine._new)
    works(served)


def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch):
    """When the buffers have been full for a while; one that reads again in time is not."""

    class Transport:
        aborted = False

        def get_extra_info(self, name):
            return None

        def set_write_buffer_limits(self, **limits):
            pass

        def is_closing(self):
            return self.aborted

        def abort(self):
            self.aborted = True

    async def run(reads: bool) -> bool:
        protocol, transport = Protocol(uvicorn.Config(None, loop="none"), ServerState(), {}), Transport()
        protocol.stall_seconds = 0.05
        protocol.connection_made(transport)
        protocol.pause_writing()
        if reads:
            protocol.resume_writing()
        await asyncio.sleep(0.3)
        protocol._stop_waiting()
        return transport.aborted

    assert asyncio.run(run(reads=False))
    assert not asyncio.run(run(reads=True))


def test_a_full_queue_is_answered_with_429(served):
    """One speaks, one waits, the next is told to come again; those two are spoken to their end."""
    engine, answers = served.server.engine, []
    threads = [threading.Thread(target=lambda: answers.append(post(served, GOOD)[0])) for _ in range(2)]
    with served.held():
        for thread in threads:
            thread.start()
        wait_for(lambda: len(engine._new) == 2)
        answer = post(served, GOOD)
    refused(answer, 429, "queue_full")
    assert answer[2]["retry-after"] == "1"
    for thread in threads:
        thread.join()
    assert answers == [200, 200]


def test_what_fails_before_the_first_sound_has_a_status(served, monkeypatch, capfd):
    """A defect of ours says so, and no more; its traceback is printed, once."""
    engine = served.server.engine

    def broken(*arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr(engine.speaker.model, "embed_prompt", broken, raising=False)
    message = refused(post(served, GOOD), 500, "internal_error")
    assert "a defect" not in message
    assert capfd.readouterr().err.count("RuntimeError: a defect") == 1
    monkeypatch.undo()
    monkeypatch.setattr(Job, "prepare", broken)
    refused(post(served, GOOD), 500, "internal_error")
    assert capfd.readouterr().err.count("RuntimeError: a defect") == 1
    monkeypatch.undo()
    works(served)


def test_what_fails_later_breaks_the_stream_off(served, monkeypatch):
    """Nobody takes it for whole: the connection ends in the middle; events end in an error."""
    frame = Job.frame

    def broken(self, utterance, codes):
        if len(utterance.frames) == 15:
            raise MemoryError
        frame(self, utterance, codes)

    monkeypatch.setattr(Job, "frame", broken)
    longer = GOOD | {"input": "papa mino"}
    with pytest.raises(http.client.IncompleteRead):
        post(served, longer)
    status, body, _ = post(served, longer | {"stream_format": "sse"})
    last = json.loads(body.decode().split("\n\n")[-2].removeprefix("data: "))
    assert (status, last["type"], last["error"]["code"]) == (200, "error", "out_of_memory")
    refused(post(served, longer | {"stream": False}), 503, "out_of_memory")
    body = json.dumps(longer).encode()  # of HTTP/1.0 the end of the connection is the end of the sound
    with socket.create_connection(("127.0.0.1", served.server.port), 30) as client:
        client.settimeout(60)
        client.sendall(b"POST /v1/audio/speech HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.sendall(body)
        with pytest.raises(ConnectionResetError):
            client.makefile("rb").read()
    monkeypatch.undo()
    works(served)


def test_a_defect_in_the_middle_of_a_stream_is_printed_once(served, monkeypatch, capfd):
    add, calls = Encoder.add, []

    def broken(self, samples):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("a defect")
        return add(self, samples)

    monkeypatch.setattr(Encoder, "add", broken)
    with pytest.raises(http.client.IncompleteRead):
        post(served, GOOD | {"input": "papa mino"})
    wait_for(lambda: not served.server.engine._jobs)
    said = capfd.readouterr().err
    assert said.count("RuntimeError: a defect") == 1
    assert "BrokenOffError" not in said


def test_the_key(miniature):
    """Every path but /health wants it; with one, the server answers under any name."""
    with serving(miniature, Options(keys=["another-key-than-that-one", KEY])) as served:
        wrong = [KEY, "Bearer x", f"Bearer {KEY}x", "Bearer ", f"Basic {KEY}", "Bearer \xff"]
        for header in ({}, *({"Authorization": value} for value in wrong)):
            for path in ("/v1/models", "/metrics", "/nothing", "/v1/audio/voices"):
                answer = served.ask("GET", path, None, header)
                refused(answer, 401, "invalid_api_key")
                assert answer[2]["www-authenticate"] == "Bearer"
            refused(served.ask("POST", "/v1/audio/speech", json.dumps(GOOD), header), 401, "invalid_api_key")
        assert served.ask("GET", "/health")[0] == 200
        assert (
            served.ask("GET", "/v1/models", None, {"Authorization": f"bearer {KEY}", "Host": "voices:8000"})[0] == 200
        )
        assert [model.id for model in served.client(KEY).models.list()] == ["miniature"]


def test_the_end_of_the_server_is_told(miniature):
    with serving(miniature) as served:
        answers = []
        text = "papa mino lesu tara koni sewu, " * 200
        body = GOOD | {"input": text, "stream": False}
        thread = threading.Thread(target=lambda: answers.append(post(served, body)))
        thread.start()
        wait_for(lambda: served.server.engine._batches)
    thread.join()
    refused(answers[0], 503, "shutting_down")
