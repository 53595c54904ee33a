"""Markdown and HTML taken out of a text that is spoken, as mlx-audio and vLLM-Omni's demo do it."""

import re
from html import unescape

_FENCES = re.compile(r"```[\s\S]*?```|~~~[\s\S]*?~~~")
_NUMBERED = re.compile(r"^\s*\d{1,4}[.)]\s+", re.MULTILINE)
_AFTER_FENCES = [
    (re.compile(r"(?i)<br\s*/?>"), " "),
    (re.compile(r"!\[([^\]]*)\]\(([^)]*)\)"), lambda match: match[1].strip() or "image"),
    (re.compile(r"\[([^\]]+)\]\(([^)]*)\)"), r"\1"),
    (re.compile(r"<https?://[^>]+>"), "link"),
    (re.compile(r"https?://\S+"), "link"),
    (re.compile(r"`([^`]+)`"), r"\1"),
    (re.compile(r"^\s{0,3}#{1,6}\s*", re.MULTILINE), ""),
    (re.compile(r"^\s*[-*+]\s+", re.MULTILINE), ""),
]
_LAST = [
    (re.compile(r"^\s{0,3}>\s?", re.MULTILINE), ""),
    (re.compile(r"</?[a-zA-Z][^>]*>"), " "),
]
_FEWEST_NUMBERED = 2  # lines; a single one may begin with a year or a date: "3. Oktober"


def without_markup(text: str, english: bool = True) -> str:
    """A text without Markdown and HTML; its lines stay lines.

    Numbers of a list go where two lines have one. (The servers take a number with a dot from the beginning of any
    line, so that "3. Oktober" loses its day.)

    Args:
        english: say that code was left out, in English.
    """
    text = unescape(_FENCES.sub(" Code example omitted. " if english else " ", text))
    for pattern, by in _AFTER_FENCES:
        text = pattern.sub(by, text)
    if len(_NUMBERED.findall(text)) >= _FEWEST_NUMBERED:
        text = _NUMBERED.sub("", text)
    for pattern, by in _LAST:
        text = pattern.sub(by, text)
    return text
