"""Does the server hold many clients at once, and what do they gain by it?

    python -m benchmarks.serving                       # 32 clients for five minutes, after one for a minute

`voxclone serve` runs in a process of its own, with the miniature that can speak, on loopback. First one client asks for
one text after the other, then many do. Every client asks for random texts with random voices and seeds, in PCM, as a
stream. Told are errors, audio per second and per second of the server's CPU (a busy machine does not move the latter),
the time to the first sound, and the server's anonymous memory from minute to minute.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlx_voxclone.miniature.micro import SPEAKING, make_micro
from mlx_voxclone.miniature.synth import random_text

CODE = "from mlx_voxclone.cli import main; raise SystemExit(main())"
BYTES_PER_SECOND = 48_000  # of PCM
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Load:
    """What clients saw, and what it cost.

    Attributes:
        clients: at once.
        seconds: from the first request to the end of the last.
        audio: seconds of speech.
        cpu: seconds of the server's.
        first: seconds to the first sound of each request.
        errors: what went wrong.
        memory: (seconds since the beginning, MB of the server).
    """

    clients: int
    seconds: float = 0.0
    audio: float = 0.0
    cpu: float = 0.0
    first: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def by_minute(self) -> list[float]:
        """The largest memory of every minute, MB."""
        minutes = sorted({int(at // 60) for at, _ in self.memory})
        return [max(mb for at, mb in self.memory if int(at // 60) == minute) for minute in minutes]


class ServerProcess:
    """`voxclone serve` of a model; a context manager.

    Attributes:
        port: that it listens on.
        voices: of the model.
    """

    def __init__(self, model: Path, *options: str) -> None:
        argv = [sys.executable, "-c", CODE, "serve", "--model", str(model), "--port", "0", *options]
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        for line in self._process.stderr:
            if found := re.search(r"listening on http://\S+:(\d+)/v1", line):
                self.port = int(found[1])
                break
        else:
            raise OSError("the server does not start")
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()
        self.voices = [voice["id"] for voice in json.loads(self.get("/v1/audio/voices"))["data"]]

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._reader.join(10)
        self._process.stderr.close()

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", path)
        return connection.getresponse().read()

    def cpu(self) -> float:
        """Seconds that it has computed."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """MB of anonymous memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1000


def load(server: ServerProcess, clients: int, seconds: float, seed: int = 0) -> Load:
    """Have clients ask for so long; each ends what it has begun."""
    found, began, until = Load(clients), time.monotonic(), time.monotonic() + seconds
    spent = server.cpu()

    def client(number: int) -> None:
        rng = np.random.default_rng([seed, clients, number])
        while time.monotonic() < until:
            try:
                first, audio = ask(server, rng)
            except Exception as error:  # of any kind: it is what is counted
                found.errors.append(repr(error)[:200])
            else:
                found.first.append(first)
                found.audio += audio

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found.memory.append((time.monotonic() - began, server.memory()))
        time.sleep(0.5)
    found.seconds, found.cpu = time.monotonic() - began, server.cpu() - spent
    return found


def ask(server: ServerProcess, rng: np.random.Generator) -> tuple[float, float]:
    """One request; seconds to its first sound, and of audio."""
    body = {
        "input": random_text(rng, int(rng.integers(3, 9))),
        "voice": str(rng.choice(server.voices)),
        "seed": int(rng.integers(1 << 30)),
        "response_format": "pcm",
    }
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    began = time.monotonic()
    try:
        connection.request("POST", "/v1/audio/speech", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"{answer.status} {answer.read()[:200]!r}")
        head = answer.read(1)
        first = time.monotonic() - began
        return first, (len(head) + len(answer.read())) / BYTES_PER_SECOND
    finally:
        connection.close()


def table(loads: list[Load]) -> str:
    """Markdown."""
    lines = [
        "| clients | requests | errors | audio, s/s | audio, s per CPU s | first sound, median | 95th percentile |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for one in loads:
        median, late = statistics.median(one.first), float(np.quantile(one.first, 0.95))
        lines.append(
            f"| {one.clients} | {len(one.first)} | {len(one.errors)} | {one.audio / one.seconds:.2f} |"
            f" {one.audio / one.cpu:.2f} | {median:.2f} s | {late:.2f} s |"
        )
    lines += [
        "",
        *(f"{one.clients} clients, MB by minute: {', '.join(f'{mb:.0f}' for mb in one.by_minute())}" for one in loads),
        *(f"error: {error}" for one in loads for error in one.errors[:5]),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the load; one client asks a fifth as long")
    parser.add_argument("--model", type=Path, help="a checkpoint; without: the miniature that can speak")
    parser.add_argument("--batch", default="8", help="of voxclone serve")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = options.model or make_micro(Path(place, "model"), SPEAKING)
        with ServerProcess(model, "--batch", options.batch) as server:
            alone = load(server, 1, options.seconds / 5)
            print(table([alone, load(server, options.clients, options.seconds)]))


if __name__ == "__main__":
    main()
