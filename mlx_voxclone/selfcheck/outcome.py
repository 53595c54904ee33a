"""What came of a check, in words and figures that may be shown to anybody."""

import contextlib
import getpass
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELD, SHORT, NOT_HERE, CRASHED = "held", "fell short", "not here", "crashed"
VERDICTS = (HELD, SHORT, NOT_HERE, CRASHED)
_PATH = re.compile(r"(?<![\w<])~?(?:/[^\s/:,;'\"()]+)+/?")


@dataclass(frozen=True)
class Outcome:
    """Of one check.

    Attributes:
        verdict: one of `VERDICTS`; `not here` says that it could not be tried, and is no fault.
        told: a line: what was seen, what fell short by how much, or why not.
        figures: by name, JSON-ready.
    """

    verdict: str
    told: str
    figures: dict[str, Any] = field(default_factory=dict)


def not_here(why: str) -> Outcome:
    """It cannot be tried on this machine."""
    return Outcome(NOT_HERE, why)


class Findings:
    """Figures of a check, and which of them are beyond their limits."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.short: list[str] = []

    def note(self, name: str, value: Any) -> None:
        """A figure that has no limit."""
        self.figures[name] = value

    def at_most(self, name: str, value: float, limit: float) -> None:
        """A figure with a limit; what is not a number is beyond any."""
        self.figures[name] = float(value)
        if not value <= limit:
            self.short.append(f"{name} {value:.3g}, at most {limit:g} expected")

    def must(self, holds: bool, what: str) -> None:
        """A promise without a figure; `what` says how it was broken."""
        if not holds:
            self.short.append(what)

    def outcome(self, told: str) -> Outcome:
        """`told`: what is said where everything held."""
        if self.short:
            return Outcome(SHORT, "; ".join(self.short), self.figures)
        return Outcome(HELD, told, self.figures)


def without_private(text: str) -> str:
    """One line of an error without paths, and without the names of the user and the machine."""
    line = " ".join(text.split())
    names = {Path.home().name, socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError):
        names.add(getpass.getuser())
    line = _PATH.sub("<path>", line)
    for name in sorted(filter(lambda name: len(name) > 1, names), key=len, reverse=True):
        line = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", line)
    return line[:300]
