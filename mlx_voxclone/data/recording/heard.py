"""How good a user's recordings are: one line of all, the worst by name."""

import dataclasses
import heapq
from array import array
from typing import Any

import numpy as np

from mlx_voxclone.audio.measure.quality import Quality

_WORST = 3  # recordings that are named
_FAULTY = 0.5  # faults (see `Quality.faults`) from which on one is named


class Heard:
    """Takes the figures of recordings in; memory is 20 bytes a recording."""

    def __init__(self) -> None:
        self._figures = array("f")
        self._worst: list[tuple[float, int, str, Quality]] = []  # the number keeps equal ones apart

    def add(self, name: str, quality: Quality) -> None:
        """One more recording, by the name to show."""
        room = np.nan if quality.reverberation is None else quality.reverberation
        self._figures.extend((quality.snr, quality.bandwidth, room, quality.clipped, quality.sample_rate))
        if quality.faults >= _FAULTY:
            heapq.heappush(self._worst, (quality.faults, len(self._figures), name, quality))
            if len(self._worst) > _WORST:
                heapq.heappop(self._worst)

    def lines(self) -> list[str]:
        """`your recordings: 31 dB over noise, ...` (medians), and the worst ones; nothing of nothing."""
        if not self._figures:
            return []
        figures = np.array(self._figures, np.float64).reshape(-1, 5)
        snr, bandwidth, rate = (float(np.median(figures[:, column])) for column in (0, 1, 4))
        rooms = figures[np.isfinite(figures[:, 2]), 2]
        room = float(np.median(rooms)) if len(rooms) else None
        whole = Quality(snr, bandwidth, room, float(figures[:, 3].mean()), round(rate))
        count = len(figures)
        lines = [f"your recording{'s' * (count > 1)}: {whole.line()}"]
        if count > 1 and self._worst:
            named = sorted(self._worst, key=lambda one: (-one[0], one[2]))
            lines.append("the worst: " + "; ".join(f"{name} ({quality.line()})" for _, _, name, quality in named))
        return lines


def as_json(name: str, quality: Quality) -> dict[str, Any]:
    """A line of `quality.jsonl`."""
    return {"source": name, **dataclasses.asdict(quality)}
