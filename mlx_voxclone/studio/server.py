"""A studio on a port: the main thread computes, another one serves the pages."""

import functools
import socket
from collections.abc import Callable

from mlx_voxclone.process.network import Names
from mlx_voxclone.serve.web.listener import WebServer
from mlx_voxclone.studio import temporary
from mlx_voxclone.studio.leftovers import clear
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.tokens import Tokens


class Served:
    """A studio on a socket.

    Args:
        taken: a bound socket, see `take_port`.
        host: that it listens on; beside localhost the one name that is answered.
        tokens: who is let in; None: everybody, as `me`.
        proxy: name under which a proxy shows the studio to others, by https; None: there is none.

    Raises:
        ConfigError: another program listens there already.
    """

    def __init__(
        self,
        studio: Studio,
        taken: socket.socket,
        host: str,
        tokens: Tokens | None = None,
        proxy: str | None = None,
    ) -> None:
        self.studio = studio
        tell = functools.partial(closed, home=studio.home)
        door = Access(application(studio), Names(host, proxy), tokens, tell=tell, proxied=proxy is not None)
        self._web = WebServer(door, taken)

    @property
    def port(self) -> int:
        return self._web.port

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `close` is called in another thread, or an exception such as Ctrl-C ends it. What an earlier end
        has left in the folder is deleted first."""
        clear(self.studio.home)
        with temporary.kept_in(self.studio.home):
            self._web.start()
            self.studio.trainings.watch()
            try:
                ready()
                self.studio.tasks.run()
            finally:
                self.studio.trainings.close()
                self.studio.tasks.close()
                self._web.close()

    def close(self) -> None:
        """End `run`; any thread."""
        self.studio.tasks.close()
