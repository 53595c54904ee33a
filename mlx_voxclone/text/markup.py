"""Markdown and HTML taken out of a text that is spoken, as mlx-audio and vLLM-Omni's demo do it."""

import re
from html import unescape

# Lengths are bounded, and blanks at the start of a line end with it: no text takes longer than its length.
_FENCES = re.compile(r"```[\s\S]*?```|~~~[\s\S]*?~~~")
_AFTER_FENCES = [
    (re.compile(r"(?i)<br\s*/?>"), " "),
    (re.compile(r"!\[([^\]]{0,300})\]\(([^)]{0,2000})\)"), lambda match: match[1].strip() or "image"),
    (re.compile(r"\[([^\]]{1,300})\]\(([^)]{0,2000})\)"), r"\1"),
    (re.compile(r"<https?://[^>]{1,2000}>"), "link"),
    (re.compile(r"https?://\S+"), "link"),
    (re.compile(r"`([^`]+)`"), r"\1"),
    (re.compile(r"^[^\S\n]{0,3}#{1,6}[^\S\n]*", re.MULTILINE), ""),
    (re.compile(r"^[^\S\n]*[-*+]\s+", re.MULTILINE), ""),
]
_LAST = [
    (re.compile(r"^[^\S\n]{0,3}>[^\S\n]?", re.MULTILINE), ""),
    (re.compile(r"</?[a-zA-Z][^>]{0,2000}>"), " "),
]


def without_markup(text: str, english: bool = True) -> str:
    """A text without Markdown and HTML; its lines stay lines.

    Numbers of a list stay, in texts of any length: who hears a list wants to know which item it is. (The servers take a
    number with a dot from the beginning of any line, so that "3. Oktober" loses its day.)

    Args:
        english: say that code was left out, in English.
    """
    text = unescape(_FENCES.sub(" Code example omitted. " if english else " ", text))
    for pattern, by in _AFTER_FENCES:
        text = pattern.sub(by, text)
    for pattern, by in _LAST:
        text = pattern.sub(by, text)
    return text
