"""How a studio is visited: its pages as a browser's client, the studio on a port, a task until its end."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator

from starlette.testclient import TestClient

from mlx_voxclone.process.network import take_port
from mlx_voxclone.studio.server import Served
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.web.tokens import Tokens


class Browser(TestClient):
    """A client with the token of our forms."""

    def csrf(self) -> str:
        return re.search(r'name="csrf" content="([0-9a-f]+)"', self.get("/tasks").text)[1]

    def submit(self, address: str, data=None, **keywords):
        """POST a form as our page does; redirects are not followed."""
        keywords.setdefault("follow_redirects", False)
        return self.post(address, data={"csrf": self.csrf(), **(data or {})}, **keywords)


def enter(browser: Browser, tokens: Tokens, name: str) -> Browser:
    """A browser that has opened the address with a token."""
    assert browser.get(f"/?token={tokens.by_name[name]}", follow_redirects=False).status_code == 303
    return browser


def ended(task, seconds=300.0):
    """A task, once it has ended, or after `seconds`."""
    until = time.monotonic() + seconds
    while task.open and time.monotonic() < until:
        time.sleep(0.01)
    return task


@contextlib.contextmanager
def on_a_port(studio: Studio, tokens: Tokens | None = None) -> Iterator[str]:
    """The address of a studio that serves, which computes in a thread of its own. It has cleared its folder by then."""
    ready = threading.Event()
    with take_port("127.0.0.1", 0) as taken:
        served = Served(studio, taken, "127.0.0.1", tokens)
        thread = threading.Thread(target=lambda: served.run(ready.set), daemon=True)
        thread.start()
        try:
            assert ready.wait(60)
            yield f"http://127.0.0.1:{served.port}"
        finally:
            served.close()
            thread.join(60)
            assert not thread.is_alive()
