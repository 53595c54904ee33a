"""A sound on a page: a native player with its waveform, which `player.js` turns into the player of `player.css`."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

# What `player.js` says, by key; `{time}` and `{duration}` stand for times as 0:03.
ENGLISH = {
    "play": "Play",
    "pause": "Pause",
    "seek": "Position",
    "position": "{time} of {duration}",
    "failed": "This sound cannot be played.",
}
_POINTS = 160  # bars of a waveform: 2 pixels each on a phone
_COLUMN, _HEIGHT = 3, 100  # of the drawing's own units


def peaks(samples: np.ndarray, points: int = _POINTS, *, scale: float | None = None) -> list[float]:
    """The waveform of a sound as `player` draws it.

    Args:
        samples: [S] or [channels, S], float.
        points: how many values; fewer for a sound of fewer samples.
        scale: the level that becomes 1; give sounds that are compared the same. None: the sound's own peak.

    Returns:
        The largest absolute sample of each stretch of time, 0 to 1, to 3 decimals; empty for a sound without samples.
    """
    level = np.nan_to_num(np.abs(np.asarray(samples, dtype=np.float32)), nan=0.0, posinf=1.0)
    level = level.reshape(-1) if level.ndim < 2 else level.max(axis=0)
    if not len(level):
        return []
    starts = np.linspace(0, len(level), min(points, len(level)), endpoint=False).astype(np.int64)
    columns = np.maximum.reduceat(level, starts)
    full = scale or float(columns.max()) or 1.0
    return np.clip(columns / full, 0.0, 1.0).round(3).tolist()


def player(
    src: str,
    label: str,
    peaks: Sequence[float],
    seconds: float,
    *,
    file: str | None = None,
    words: Mapping[str, str] = ENGLISH,
) -> str:
    """HTML of `<voice-player>`: everything escaped, no inline style or script, always of one height.

    Args:
        src: address of the sound, relative, absolute or `data:`.
        label: what it is, shown above the waveform and read by screen readers.
        peaks: of the function `peaks`; empty: no waveform is drawn.
        seconds: its length; 0 if it is not known yet (the attribute `seconds` may be set later).
        file: its name for paper, where nothing can be played.
        words: the texts of `ENGLISH` in the page's language.
    """
    said = "".join(f' data-{key}="{html.escape(words[key])}"' for key in ENGLISH)
    length = seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    on_paper = f'<small class="player-file">{html.escape(file)}</small>' if file else ""
    return (
        f'<voice-player seconds="{length:.3f}"{said}>'
        f'<p class="player-head"><span class="player-label">{html.escape(label)}</span>'
        f'<span class="player-time">{_clock(length) if length else ""}</span></p>'
        f'<div class="player-body"><audio controls preload="none" src="{html.escape(src)}"'
        f' aria-label="{html.escape(label)}"></audio>{_wave(peaks)}</div>{on_paper}</voice-player>'
    )


def _clock(seconds: float) -> str:
    """0:03, 12:34 or 1:02:03, as the player shows it: never less than a second."""
    whole = max(1, math.floor(seconds + 0.5))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _wave(peaks: Sequence[float]) -> str:
    """A bar for each value, at least as high as it is wide."""
    bars = "".join(_bar(place, value) for place, value in enumerate(peaks))
    width = _COLUMN * max(1, len(peaks))
    return (
        f'<svg class="wave" viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="{bars}"/></svg>'
    )


def _bar(place: int, value: float) -> str:
    half = max(1, round(min(max(float(value), 0.0), 1.0) * (_HEIGHT / 2 - 2)))
    return f"M{_COLUMN * place + 1.5:g} {_HEIGHT // 2 - half}v{2 * half}"
