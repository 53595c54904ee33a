"""Word of a run's end: a notification on the desktop, or a request to an address of the user's own."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import StoppedError
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.version import __version__

DESKTOP = "desktop"
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"
PATIENCE = 10  # seconds that a notification may take
TITLE = "mlx_voxclone"


@contextmanager
def told_at_end(
    targets: Sequence[str], task: str, run_dir: Path, say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Tell each of the targets how this block ends. A notification that fails is a warning.

    Args:
        targets: `desktop`, or http(s) addresses.
        task, run_dir: of the run; of the directory the last part is told.
        say: receives warnings.
    """
    if not targets:
        yield
        return
    began, outcome = time.monotonic(), FAILED
    try:
        yield
        outcome = FINISHED
    except (KeyboardInterrupt, StoppedError):
        outcome = INTERRUPTED
        raise
    finally:
        news = {
            "run": run_dir.name,
            "task": task,
            "outcome": outcome,
            "seconds": round(time.monotonic() - began),
            "voxclone": __version__,
        }
        for target in targets:
            try:
                _on_desktop(news) if target == DESKTOP else _post(target, news)
            except Exception as e:  # a desktop or a network in whatever state: the run has ended either way
                where = target if target == DESKTOP else "the address"
                say(f"warning: notify: {where} was not told ({type(e).__name__}: {' '.join(str(e).split())[:120]})")


def sentence(news: dict[str, Any]) -> str:
    """The news as one line."""
    return f"{news['run']} ({news['task']}) {news['outcome']} after {format_seconds(news['seconds'])}"


def _on_desktop(news: dict[str, Any]) -> None:
    """Notification Center on macOS, `notify-send` elsewhere. Raises OSError where there is neither."""
    text = sentence(news)
    if sys.platform == "darwin":
        # The text is an argument of the script, not a part of it.
        script = "on run argv\ndisplay notification (item 1 of argv) with title (item 2 of argv)\nend run"
        command = ["osascript", "-e", script, text, TITLE]
    else:
        program = shutil.which("notify-send")
        if program is None:
            raise OSError("notify-send is not installed")
        command = [program, "--app-name", TITLE, "--", TITLE, text]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The address that was asked for, and no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(address: str, news: dict[str, Any]) -> None:
    """POST the news as JSON. `text` is what Slack and Mattermost show, `content` what Discord does."""
    body = json.dumps({**news, "text": sentence(news), "content": sentence(news)}).encode()
    headers = {"Content-Type": "application/json", "User-Agent": f"mlx_voxclone/{__version__}"}
    request = urllib.request.Request(address, body, headers, method="POST")
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=PATIENCE) as answer:
        answer.read(1 << 16)
