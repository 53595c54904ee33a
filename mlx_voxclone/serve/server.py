"""A server put together: the engine in this thread, the web server in another."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlx_voxclone.adapters.lora import AdapterSwitch
from mlx_voxclone.adapters.mix import AdapterSource, mix_adapters
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.plain import read_plain, reason_of
from mlx_voxclone.process.network import Names, reached_from_outside
from mlx_voxclone.serve.engine import ROWS, WAITING, Engine
from mlx_voxclone.serve.voices import Voices
from mlx_voxclone.serve.web.app import Service, application
from mlx_voxclone.serve.web.guard import Guard, Limits
from mlx_voxclone.serve.web.listener import HEADER_SECONDS, WebServer
from mlx_voxclone.serve.web.requests import MOST_CHARACTERS
from mlx_voxclone.speech.speaker import Speaker

SHORTEST_KEY = 16  # characters
_MOST_KEYS = 1 << 20  # bytes of their file
_ESCAPED = 12  # bytes that a character may have in JSON
_AROUND = 64_000  # bytes of a request beside its text


@dataclass(frozen=True)
class Options:
    """How a server behaves.

    Attributes:
        host: that it listens on; the one name beside localhost that is answered without a key.
        keys: one of which every request must bring; none: nobody needs one.
        voices: folder of voices that come and go.
        adapters: all voices are spoken with these.
        voice_adapters: by name of a voice: it is spoken with these instead.
        rows: utterances at once.
        waiting: texts that may wait.
        most_characters: of a text.
        limits: None: those for `most_characters`.
    """

    host: str = "127.0.0.1"
    keys: Sequence[str] = ()
    voices: Path | None = None
    adapters: Sequence[AdapterSource] = ()
    voice_adapters: Mapping[str, Sequence[AdapterSource]] = field(default_factory=dict)
    rows: int = ROWS
    waiting: int = WAITING
    most_characters: int = MOST_CHARACTERS
    limits: Limits | None = None
    header_seconds: float = HEADER_SECONDS


class Server:
    """Serves a checkpoint.

    Args:
        speaker: loaded, without adapters.
        name: of the model, for clients.
        taken: a bound socket, see `take_port`.
        log: called with a line for every answer; None: nobody reads them.

    Raises:
        ConfigError: what `Voices` and `WebServer` refuse. CheckpointError: what `mix_adapters` refuses.
    """

    def __init__(
        self,
        speaker: Speaker,
        name: str,
        taken: socket.socket,
        options: Options,
        log: Callable[[str], None] | None = None,
    ) -> None:
        fingerprint = speaker.release.fingerprint() if options.adapters or options.voice_adapters else ""
        switch = AdapterSwitch(speaker.model)
        sets = dict(options.voice_adapters) | ({None: options.adapters} if options.adapters else {})
        for key, sources in sets.items():
            switch.add(key, mix_adapters(sources, fingerprint, speaker.release.path).changes)
        self.engine = Engine(speaker, switch, rows=options.rows, waiting=options.waiting)
        self.voices = Voices(speaker, options.voices, {key: key for key in options.voice_adapters})
        service = Service(self.engine, self.voices, name, options.most_characters)
        guard = Guard(
            application(service),
            limits=options.limits or Limits(_ESCAPED * options.most_characters + _AROUND),
            names=Names(options.host),
            keys=options.keys,
            metrics=self.engine.metrics,
            log=log or (lambda line: None),
        )
        self._web = WebServer(guard, taken, options.header_seconds)

    @property
    def port(self) -> int:
        return self._web.port

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `close` is called in another thread, or an exception such as Ctrl-C ends it.

        Args:
            ready: called when requests are taken.
        """
        self._web.start()
        try:
            ready()
            self.engine.run()
        finally:
            self.engine.close()
            self._web.close()

    def close(self) -> None:
        """End `run`; any thread."""
        self.engine.close()


def read_keys(path: str | Path) -> list[str]:
    """The keys in a file, one a line; empty lines and those that begin with # do not count.

    Raises:
        ConfigError: unreadable, none in it, or one that is too short or no plain text.
    """
    path = Path(path)
    try:
        lines = read_plain(path, _MOST_KEYS).decode("ascii").splitlines()
    except (OSError, ValueError) as e:
        reason = "not plain ASCII" if isinstance(e, UnicodeDecodeError) else reason_of(e).lower()
        raise ConfigError(f"--api-key {path}: cannot be read ({reason}); it holds a key a line") from None
    keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
    for key in keys or [""]:
        if len(key) < SHORTEST_KEY or not key.isprintable() or " " in key:
            raise ConfigError(
                f"--api-key {path}: a key has {SHORTEST_KEY} characters or more and no blank; make one with:"
                " openssl rand -hex 32"
            )
    return keys


def readable_by_others(path: str | Path) -> bool:
    """Whether other users of this machine may read a file."""
    return bool(os.stat(path).st_mode & 0o077)


def check_reach(taken: socket.socket, keys: Sequence[str]) -> None:
    """Refuse to be reached from other machines without a key. Raises ConfigError."""
    address = reached_from_outside(taken)
    if not keys and address is not None:
        raise ConfigError(
            f"--host {address}: other machines could speak with these voices; give --api-key FILE, or listen on"
            " 127.0.0.1"
        )
