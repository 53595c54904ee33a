"""The style sheet, the script and the icon as texts: for pages of one file, and for the studio to serve."""

import base64
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_STYLES = ("look.css", "player.css", "media.css")  # in the order in which their rules count


@cache
def style() -> str:
    """The rules of all style sheets, for a `<style>` element."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _STYLES)


@cache
def script() -> str:
    """`player.js`, for a `<script>` element at the end of a page."""
    return (_FOLDER / "player.js").read_text(encoding="utf-8")


@cache
def icon() -> str:
    """`icon.svg` as an address, for `<link rel="icon" href="...">`."""
    return "data:image/svg+xml;base64," + base64.b64encode((_FOLDER / "icon.svg").read_bytes()).decode()
