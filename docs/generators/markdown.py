"""Text as Markdown, and where the documentation lies."""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent


def plain(text: str) -> str:
    """Text in which Markdown sees no HTML; what stands between backticks stays."""
    parts = text.split("`")
    return "`".join(p if k % 2 else p.replace("<", "&lt;").replace("*", r"\*") for k, p in enumerate(parts))


def cell(text: str) -> str:
    return plain(text).replace("|", r"\|").replace("\n", " ")
