"""A server on loopback with the miniature, in a thread, and clients of it (a pytest plugin)."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from mlx_voxclone.process.network import take_port
from mlx_voxclone.serve.server import Options, Server
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.text.forms import as_said

SECONDS = 2.4  # at which a short text is cut off


class Served:
    """A server that runs.

    Attributes:
        server: in its own thread.
        log: its lines.
    """

    def __init__(self, server: Server, log: list[str]) -> None:
        self.server, self.log = server, log

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/v1"

    def client(self, key: str = "none is needed") -> openai.OpenAI:
        """OpenAI's own."""
        return openai.OpenAI(base_url=self.base, api_key=key, max_retries=0, timeout=300)

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of an answer."""
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The engine computes nothing and takes nothing up until the end of the block."""
        holds, released = threading.Event(), threading.Event()
        self.server.engine.call(lambda: (holds.set(), released.wait()))
        try:
            assert holds.wait(60)
            yield
        finally:
            released.set()

    def say(self, text: str, voice: str, seed: int):
        """What `say` says of a text alone, while the server runs; keep it short."""
        speaker = self.server.engine.speaker
        line = as_said(text, "en")
        return self.server.engine.call(lambda: speaker.say(line, voice, seed=seed, max_seconds=SECONDS)).result(300)


@contextlib.contextmanager
def serving(model: Path, options: Options | None = None, encoder: Path | None = None) -> Iterator[Served]:
    """Serve a model until the end of the block."""
    started, found, log = threading.Event(), [], []

    def run() -> None:
        try:
            with take_port("127.0.0.1", 0) as taken:
                speaker = Speaker.load(model, encoder=encoder)
                found.append(Server(speaker, "miniature", taken, options or Options(), log.append))
                found[0].run(started.set)
        except BaseException as error:
            found.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="engine", daemon=True)
    with pytest.MonkeyPatch.context() as patch:  # of this thread: undone also where the server does not end
        patch.setattr("mlx_voxclone.serve.jobs.MAX_SECONDS", SECONDS)
        patch.setattr("mlx_voxclone.speech.narration.MAX_SECONDS", 1.0)
        patch.setattr("mlx_voxclone.serve.jobs.TRIES", 1)
        thread.start()
        try:
            assert started.wait(300)
            if isinstance(found[-1], BaseException):
                raise found[-1]
            yield Served(found[0], log)
        finally:
            if found and isinstance(found[0], Server):
                found[0].close()
            thread.join(60)
            assert not thread.is_alive()
