"""What is odd about recordings that are kept: one line for each kind, with names."""

from collections.abc import Sequence

from mlx_voxclone.data.ingest import NOTES, TOGETHER, Plan

_NAMED = 3  # of each kind


class Remarks:
    """Collects the remarks of plans; memory grows with their number only."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, name: str, plan: Plan, parts: Sequence[str] = ()) -> None:
        """One more recording, by the name to show.

        Args:
            parts: names of its clips, where it has several.
        """
        for key in plan.notes:
            self._names.setdefault(key, []).append(name)
        for part in plan.together:
            self._names.setdefault(TOGETHER, []).append(parts[part] if len(parts) > 1 else name)

    def lines(self) -> list[str]:
        """Such as `2 recordings: one of the two channels is silent ... (a.wav, b.wav)`."""
        return [_line(key, names) for key, names in sorted(self._names.items())]


def _line(key: str, names: list[str]) -> str:
    some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    what = "recording" if key != TOGETHER else "clip"
    return f"{len(names)} {what}{'s' * (len(names) > 1)}: {NOTES[key]} ({some})"
