"""Signs of a line in the form that the servers give them: brackets and dashes, dots, marks, an end.

mlx-audio does this to every text for Voxtral before the tokenizer, and so does vLLM-Omni's demo; vLLM-Omni's endpoint
does not. No letter and no digit of a text is lost.
"""

import re
from collections.abc import Callable

_DASHES = "-\u2013\u2212"
_BEFORE_AMOUNTS = "0123456789$\u20ac\u00a3\u00a5\u20b9\u00a2"  # a dash before one of these is a minus
_ENDS = ".!?\u2026\u061f\u3002\uff01\uff1f"
_BRACKETS = re.compile(r"\s*\(([^()]+)\)\s*")
_AMOUNT = re.compile(r"\s*[$\u20ac\u00a3\u00a5\u20b9\u00a2]?\s*[+\-\u2212\u2013]?\d+(?:[.,]\d+)?\s*%?\s*")
_CHANGES = [
    (re.compile("[\u2010\u2011]"), "-"),
    (re.compile(r"\.{3,}"), "..."),
    (re.compile(r"([!?])\1+"), r"\1"),
    (re.compile(f"[{re.escape(_DASHES)}]{{2,}}"), "\u2014"),
]
_LONE_DASH = re.compile(rf"(?<=\s)[{re.escape(_DASHES)}](?=\s+(\S))")


def as_servers(line: str, inside: Callable[[str], str] = str) -> str:
    """A line with the servers' signs.

    Args:
        line: tidy (`files.texts.tidy`), not empty.
        inside: what is done to the words in brackets, which become an aside between dashes.
    """

    def aside(match: re.Match[str]) -> str:
        content = match[1].strip()
        if not content or _AMOUNT.fullmatch(content):
            return match[0]
        return f"\u2014{' '.join(inside(content).split())}\u2014"

    line = _BRACKETS.sub(aside, line)
    for pattern, sign in _CHANGES:
        line = pattern.sub(sign, line)
    line = _LONE_DASH.sub(lambda match: match[0] if match[1] in _BEFORE_AMOUNTS else "\u2014", line)
    line = " ".join(line.split())
    return line if line.endswith(tuple(_ENDS)) else f"{line}."
