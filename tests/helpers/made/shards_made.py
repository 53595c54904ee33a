"""Shards of noise on a disk and on a server of this machine, for the tests of sharded data."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mlx_voxclone.audio.io import write_flac
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.write import write_shards
from mlx_voxclone.errors import DataError


def noise(seed: int, samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def make_shards(directory: Path, clips: int = 24, heldout: int = 3, size: int = 40_000, samples: int = 3000) -> Path:
    """`clips` of two speakers to train on, and held-out ones; about `size` bytes a shard, a clip is some 9000 bytes."""
    (directory / "clips").mkdir(parents=True)
    listed = []
    for k in range(clips + heldout):
        write_flac(directory / "clips" / f"c{k:03d}.flac", noise(k, samples + 10 * k))
        listed.append({
            "id": f"c{k:03d}", "audio": f"clips/c{k:03d}.flac", "samples": samples + 10 * k, "text": f"text {k}",
            "speaker": f"speaker-{k % 2}", "language": "en", "split": "train" if k < clips else "heldout",
            "reference": None, "source": f"{k}.wav", "start": 0.0,
        })  # fmt: skip
    write_shards(listed, directory, size)
    (directory / "clips").rmdir()
    return directory


def edited(directory: Path, change) -> Path:
    """Change the index: `change(list of objects)` in place."""
    path = directory / "index.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def check_all(data: ShardData) -> None:
    """Every clip of `make_shards` is read as it was written, whole and in part."""
    assert len(data.train) == 24
    for clip in data.clips:
        wave = noise(int(clip.id[1:]), clip.samples)
        np.testing.assert_allclose(clip.read(), wave, atol=2**-23)
        np.testing.assert_array_equal(clip.read(700, 1700), clip.read()[700:1700])


def line_of(function: Callable[[], object]) -> str:
    """The one line of the DataError that a function ends in."""
    with pytest.raises(DataError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Server:
    """Hands out the files of a folder. `failures[name]`: codes to answer with first, or "cut" for a broken transfer."""

    def __init__(self, folder: Path):
        self.folder, self.asked, self.failures = folder, Counter(), {}
        self.gate = threading.Event()  # cleared: answers wait
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                server.asked[name] += 1
                server.gate.wait(20)
                queue = server.failures.get(name, [])
                failure = queue.pop(0) if queue else None
                path = server.folder / name
                if failure == "cut":
                    content = path.read_bytes()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return
                if failure is not None or not path.is_file():
                    self.send_error(failure or 404)
                    return
                content = path.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self):
        self.gate.set()
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()
