"""A server on this machine that redirects, lies and never ends; and caches that hold links."""

import hashlib
import http.server
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.campaign.hostile.scene import MADE, PREPARE, TRAIN, Probe, Scene

PATIENT = 120.0  # seconds: what may pass is tried again for 44 s
_SHARD, _INDEX = "x.tar", "index.jsonl"


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers `/ATTACK/NAME` by the attack."""

    protocol_version = "HTTP/1.1"
    home: Path

    def do_GET(self) -> None:
        attack, _, name = self.path.lstrip("/").partition("/")
        self.close_connection = True
        with suppress(OSError):
            ANSWERS[attack.replace("-", " ")](self, name)

    def log_message(self, *_: object) -> None:
        pass

    def head(self, code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def content(self, name: str) -> bytes:
        """What an honest server would send."""
        return shard(self.home) if name == _SHARD else index(shard(self.home))


def shard(home: Path) -> bytes:
    """A tar file of three good recordings."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for path in sorted((home / "recordings").rglob("*.wav"))[:3]:
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            packed.addfile(info, io.BytesIO(path.read_bytes()))
    return file.getvalue()


def index(data: bytes) -> bytes:
    """The index of a shard."""
    lines = [{"shard": _SHARD, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        for number, info in enumerate(packed):
            content = data[info.offset_data : info.offset_data + info.size]
            lines.append({
                "id": f"a{number}", "offset": info.offset_data, "size": info.size, "speaker": "a", "text": "papa mino",
                "sha256": hashlib.sha256(content).hexdigest(), "samples": 36_000,
                "split": "heldout" if number == 0 else "train",
            })  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _whole(handler: _Handler, name: str) -> None:
    data = handler.content(name)
    handler.head(Content_Length=len(data))
    handler.wfile.write(data)


def _moved(handler: _Handler, name: str, place: str) -> None:
    handler.head(302, Location=place.format(outside=handler.home.parent / "outside", name=name), Content_Length=0)


def _endless(handler: _Handler, name: str, block: bytes = bytes(1 << 20)) -> None:
    handler.head()
    while True:
        handler.wfile.write(block)


def _drip(handler: _Handler, name: str) -> None:
    """A byte every second: never silent, never done."""
    data = handler.content(name)
    handler.head(Content_Length=len(data))
    for k in range(len(data)):
        handler.wfile.write(data[k : k + 1])
        handler.wfile.flush()
        time.sleep(1.0)


def _length(handler: _Handler, name: str, change: Callable[[int], object]) -> None:
    data = handler.content(name)
    handler.head(Content_Length=change(len(data)))
    handler.wfile.write(data)


def _many_headers(handler: _Handler, name: str) -> None:
    handler.send_response(200)
    for k in range(100_000):
        handler.send_header(f"X-{k}", "x" * 50)
    handler.end_headers()


def _cookies(handler: _Handler, name: str) -> None:
    if name != "again":
        handler.head(302, Location="again", Set_Cookie="id=1; Path=/", Content_Length=0)
    elif handler.headers.get("Cookie"):
        handler.head(500, Content_Length=0)
    else:
        handler.head(404, Content_Length=0)


def _page(handler: _Handler, name: str) -> None:
    page = b"<!DOCTYPE html><html>\x1b]0;owned\x07 Sign in</html>"
    handler.head(Content_Length=len(page), Content_Type="text/html")
    handler.wfile.write(page)


def _reason(handler: _Handler, name: str) -> None:
    handler.wfile.write(b"HTTP/1.1 403 \x1b]0;owned\x07\x1b[2J\r\nContent-Length: 0\r\n\r\n")


def _packed(handler: _Handler, name: str) -> None:
    import gzip

    data = gzip.compress(bytes(1 << 26)) * 60
    handler.head(Content_Length=len(data), Content_Encoding="gzip")
    handler.wfile.write(data)


ANSWERS: dict[str, Callable[[_Handler, str], None]] = {
    "nothing wrong": _whole,
    "redirect to a file": partial(_moved, place="file://{outside}/secret.txt"),
    "redirect to ftp": partial(_moved, place="ftp://127.0.0.1:9/secret"),
    "redirect to itself": partial(_moved, place="{name}"),
    "redirect to another port": partial(_moved, place="http://127.0.0.1:9/secret"),
    "redirect to orders": partial(_moved, place="\x1b]0;owned\x07"),
    "never ends": _endless,
    "a line that never ends": partial(_endless, block=b"x" * (1 << 20)),
    "a byte a second": _drip,
    "a length too short": partial(_length, change=lambda n: n // 2),
    "a length too long": partial(_length, change=lambda n: n * 2),
    "a length of 10^15": partial(_length, change=lambda n: 10**15),
    "a negative length": partial(_length, change=lambda n: -1),
    "a length that is text": partial(_length, change=lambda n: "many"),
    "a hundred thousand headers": _many_headers,
    "cookies": _cookies,
    "a page of orders": _page,
    "a reason of orders": _reason,
    "packed zeros": _packed,
}


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """The server's address, while the block lasts; `home` has the copy it serves from."""
    handler = type("Handler", (_Handler,), {"home": home})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def servers() -> Iterator[Probe]:
    """Every answer to who fetches a shard, an index, and a shard of an index; and caches with links."""
    for attack in ANSWERS:
        path = attack.replace(" ", "-")
        seconds = 2 * PATIENT if attack == "a byte a second" else PATIENT
        yield Probe(attack, "a shard (prepare)", ("prepare", f"{{server}}/{path}/{_SHARD}", *PREPARE), seconds=seconds)
        argv = (*TRAIN, "--set", f"data.path={{server}}/{path}")
        yield Probe(attack, "an index (train)", argv, seconds=seconds)
    for attack, make in CACHES.items():
        yield Probe(attack, "train", (*TRAIN, "--set", "data.path={server}/nothing-wrong"), make, seconds=PATIENT)


# ---- caches --------------------------------------------------------------------------------------------------------


def _key(scene: Scene) -> str:
    """The name of the shard in the cache."""
    data = shard(scene.place)
    key = f"{scene.server}/nothing-wrong/{_SHARD}\n{len(data)}\n{hashlib.sha256(data).hexdigest()}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _linked(scene: Scene, name: str, target: str) -> None:
    path = scene.place / "cache" / "shards" / name.replace("KEY", _key(scene))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(scene.outside / target)


CACHES: dict[str, Callable[[Scene], None]] = {
    "a half fetched shard is a link to the secret": partial(_linked, name="KEY.partial", target="secret.txt"),
    "a half fetched shard is a link to nothing": partial(_linked, name="KEY.partial", target=MADE),
    "another's half fetched shard is a link to nothing": partial(_linked, name="other.partial", target=MADE),
    "another's half fetched shard is a link to the secret": partial(_linked, name="o.partial", target="secret.txt"),
    "a fetched shard is a link to the secret": partial(_linked, name="KEY.tar", target="secret.txt"),
    "another's shard is a link to the secret": partial(_linked, name="other.tar", target="secret.txt"),
    "kept audio is a link to a folder": partial(_linked, name="kept", target="folder"),
    "a temporary is a link to a folder": partial(_linked, name=".x.999999-0123abcd.partial", target="folder"),
    "a lock is a link to nothing": partial(_linked, name=".lock", target=MADE),
}
