"""The style sheet and the script, for pages of one file; a server serves the files of `FOLDER`."""

import base64
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent  # holds `look.css`, `player.js` and `icon.svg`


@cache
def style() -> str:
    """`look.css`, for a `<style>` element."""
    return (FOLDER / "look.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """`player.js`, for a `<script>` element at the end of a page."""
    return (FOLDER / "player.js").read_text(encoding="utf-8")


@cache
def icon() -> str:
    """`icon.svg` as an address, for `<link rel="icon" href="...">`."""
    return "data:image/svg+xml;base64," + base64.b64encode((FOLDER / "icon.svg").read_bytes()).decode()
