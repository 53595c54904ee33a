"""Servers and archives that have no end, or more in them than anybody can list: one line, and nothing is left."""

import io
import json
import os
import tarfile
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.shards import connection, data, fetch, recordings, scan, tar
from mlx_voxclone.data.shards.fetch import Most
from mlx_voxclone.data.shards.index import ShardIndex
from mlx_voxclone.errors import DataError

pytest_plugins = ["shards_fixtures"]
LIMIT = 3 << 20
BLOCK = b'{"shard": "x.tar", "bytes": 1, "sha256": null}\n' * 4000


@pytest.fixture
def endless(monkeypatch):
    """`endless(length)`: the address of a server that sends for ever, and states that length (None: none); and a list
    that holds the bytes it has sent."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "WAITS", (0.01,))
    monkeypatch.setattr(data, "MOST_OF_INDEX", Most(1 << 40, LIMIT))
    monkeypatch.setattr(scan, "MOST_OF_SHARD", Most(1 << 40, LIMIT))
    servers = []

    def start(length):
        sent = [0]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                try:
                    while sent[0] < 100 * LIMIT:
                        self.wfile.write(BLOCK)
                        sent[0] += len(BLOCK)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", sent

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("length", "message"),
    [(None, "came without an end"), (10**15, "up to .* GB are taken"), ((1 << 40) - 1, "no space left")],
)
@pytest.mark.parametrize("what", ["index", "shard"])
def test_a_server_that_sends_for_ever(endless, tmp_path, monkeypatch, what, length, message):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))
    address, sent = endless(length)
    (tmp_path / "out").mkdir()
    arguments = (tmp_path / "out", PrepareOptions(), tmp_path / "cache", lambda places, total, unit: places)
    read = {
        "index": lambda: data._fetched_index(f"{address}/index.jsonl", tmp_path / "cache"),
        "shard": lambda: scan.scan([f"{address}/x.tar"], *arguments),
    }
    with pytest.raises(DataError, match=message) as error:
        read[what]()
    assert "\n" not in str(error.value)
    assert files(tmp_path / "cache") == []
    assert sent[0] < 8 * LIMIT  # and what the sockets between hold


@pytest.mark.parametrize("what", ["content", "headers"])
def test_a_server_that_sends_too_slowly_is_not_waited_for(tmp_path, monkeypatch, what):
    monkeypatch.setattr(fetch, "WAITS", (0.01,))
    monkeypatch.setattr(connection, "SLOW", 0.3)
    monkeypatch.setattr(connection, "TIMEOUT", 0.3 if what == "headers" else 30.0)
    asked = []

    def slowly(handler):
        asked.append(handler.path)
        if what == "content":
            handler.send_response(200)
            handler.send_header("Content-Length", "10000000")
            handler.end_headers()
        for _ in range(600):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    match = "sends less than [0-9.]+ kB a second; tried 2 times"
    with served(slowly) as address, pytest.raises(DataError, match=match) as caught:
        get(f"{address}/x.tar", tmp_path / "x.tar")
    assert "\n" not in str(caught.value)
    assert asked == ["/x.tar"] * 2


def test_a_damaged_shard_is_named_by_its_address(tmp_path):
    def cut(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(tarfile.TarInfo("a.wav").tobuf()[:300])

    with served(cut) as address, pytest.raises(DataError, match=f"^{address}/x.tar: not a readable tar file"):
        prepare(f"{address}/x.tar", tmp_path / "out", PrepareOptions(), cache=tmp_path / "cache")


def test_a_server_that_is_fast_enough_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SLOW", 0.1)
    monkeypatch.setattr(connection, "LEAST", 2)

    def steadily(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "20")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b"x")
            time.sleep(0.02)

    with served(steadily) as address:
        get(f"{address}/x.tar", tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == b"x" * 20


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1:9/x", "data:text/plain,x"])
def test_a_server_leads_to_servers_alone(tmp_path, monkeypatch, place):
    monkeypatch.setattr(fetch, "WAITS", ())

    def elsewhere(handler):
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.end_headers()

    with (
        served(elsewhere) as address,
        pytest.raises(DataError, match="is not allowed|unknown url type|refuses it|refused the request"),
    ):
        get(f"{address}/x.tar", tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == b""


@contextmanager
def served(answer):
    """The address of a server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(OSError):
                answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def get(address, path):
    with path.open("wb") as file:
        fetch.fetch(address, file, None, None)


def test_a_server_that_states_what_it_sends_is_taken_up_to_its_length(tmp_path):
    most = Most(1000, 10)
    with (tmp_path / "file").open("wb") as file:
        assert most.limit("here", 1000, file) == 1000
        assert most.limit("here", None, file) == 10
        with pytest.raises(DataError, match="here: the server states"):
            most.limit("here", 1001, file)


def test_names_of_a_shard_are_unique_and_made_in_one_pass():
    names: dict[str, int] = {}
    made = [recordings.unique_name(key, names) for key in ["a", "A", "a_2", "a", "ä/!", "b", "a_2", "?", "a"]]
    assert made == ["a", "A_2", "a_2_2", "a_3", "ä", "b", "a_2_3", "clip", "a_4"]
    steps = [0]

    class Counting(dict):
        def __contains__(self, key):
            steps[0] += 1
            return super().__contains__(key)

    counted = Counting()
    many = [recordings.unique_name("?" * (k % 7 + 1), counted) for k in range(3000)]
    assert len(set(many)) == 3000
    assert steps[0] < 10_000


def test_a_shard_of_very_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_MOST_MEMBERS", 50)
    path = tmp_path / "t" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for k in range(50):
            archive.addfile(tarfile.TarInfo(f"{k}.txt"), io.BytesIO())
    assert len(list(tar.members(path))) == 50
    with tarfile.open(path, "a") as archive:
        archive.addfile(tarfile.TarInfo("one more.txt"), io.BytesIO())
    with pytest.raises(DataError, match="more than 50 files in one shard"):
        prepare(path.parent, tmp_path / "i")


NOT_UTF8 = [b"caf\xe9.flac", b"\xff\xfe/\x80.flac", b"\xc3\x28.flac", "ü\udcff.flac".encode("utf-8", "surrogateescape")]


def test_a_number_without_end_in_a_header(tmp_path):
    """Older Pythons look for a word behind it at each of its digits."""
    for digits, told in ((900_000, "a number of hundreds of digits"), (200, None)):
        path, info = tmp_path / f"{digits}.tar", tarfile.TarInfo("a.wav")
        info.pax_headers = {"comment": "9" * digits}
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(info, io.BytesIO())
        if told is None:
            assert [member.name for member in tar.members(path)] == ["a.wav"]
            continue
        with pytest.raises(DataError, match=told):
            list(tar.members(path))


def test_names_that_are_not_utf8_are_indexed(tmp_path, shards):
    """Their bytes are written out; the clip is there, and so is its text."""
    folder = tmp_path / "t"
    folder.mkdir()
    flac = next(iter(audio_of(shards)))
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for name in NOT_UTF8:
            text = name.decode("utf-8", "surrogateescape")
            for member, content in ((text, flac), (text.replace(".flac", ".txt"), b"a text")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    report = prepare(folder, tmp_path / "i", PrepareOptions(heldout=0, min_seconds=0.01, trim_silence=False))
    assert report.clips["train"] + sum(report.rejected.values()) == len(NOT_UTF8)
    for line in (tmp_path / "i" / "index.jsonl").read_bytes().splitlines():
        json.loads(line)


def audio_of(shards: Path):
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".flac"):
                    yield archive.extractfile(member).read()


def test_an_index_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "index.jsonl")
    with pytest.raises(DataError, match="not a plain file"):
        ShardIndex(tmp_path / "index.jsonl")
