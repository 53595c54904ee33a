"""The look that the report and the studio share (stub until the branch `look` lands)."""

import html

CSS = ""
PLAYER_JS = ""


def player(src: str, label: str, peaks=(), seconds: float = 0.0) -> str:
    return f'<audio controls preload="none" src="{html.escape(src)}" aria-label="{html.escape(label)}"></audio>'


def peaks(samples, points: int = 400) -> list[float]:
    return []
