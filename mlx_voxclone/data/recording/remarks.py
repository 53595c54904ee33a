"""What is odd about recordings that are kept: one line for each kind, with names."""

from collections.abc import Sequence

from mlx_voxclone.data.ingest import NOTES, TOGETHER, Plan
from mlx_voxclone.process.amounts import format_seconds

_NAMED = 3  # of each kind


class Remarks:
    """Collects the remarks of plans; memory grows with their number only."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._short: list[tuple[str, float]] = []  # parts that were left out: of which recording, seconds

    def add(self, name: str, plan: Plan, parts: Sequence[str] = ()) -> None:
        """One more recording, by the name to show.

        Args:
            parts: names of its clips, where it has several.
        """
        self._short += [(name, end - start) for start, end in plan.short]
        for key in plan.notes:
            self._names.setdefault(key, []).append(name)
        for part in plan.together:
            self._names.setdefault(TOGETHER, []).append(parts[part] if len(parts) > 1 else name)

    def lines(self) -> list[str]:
        """Such as `2 recordings: one of the two channels is silent ... (a.wav, b.wav)`."""
        return [*(_line(key, names) for key, names in sorted(self._names.items())), *self._about_short()]

    def _about_short(self) -> list[str]:
        if not self._short:
            return []
        count, seconds = len(self._short), sum(part for _, part in self._short)
        what = "1 part" if count == 1 else f"{count} parts"
        names = _some(list(dict.fromkeys(name for name, _ in self._short)))
        return [f"{what}, {format_seconds(seconds)}, shorter than --min-seconds: left out ({names})"]


def _line(key: str, names: list[str]) -> str:
    what = "recording" if key != TOGETHER else "clip"
    return f"{len(names)} {what}{'s' * (len(names) > 1)}: {NOTES[key]} ({_some(names)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
