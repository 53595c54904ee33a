"""The style sheet and the script, for pages of one file; a server hands out the files of `FOLDER`."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent  # holds `look.css` and `player.js`


@cache
def style() -> str:
    """`look.css`, for a `<style>` element."""
    return (FOLDER / "look.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """`player.js`, for a `<script>` element at the end of a page."""
    return (FOLDER / "player.js").read_text(encoding="utf-8")
