"""What leaves the run: numbers. No texts, names, paths or sounds of the user's."""

from collections.abc import Mapping
from typing import Any

from mlx_voxclone.files.plain import is_number


def figures(training: str, record: Mapping[str, Any]) -> tuple[int, dict[str, float]] | None:
    """A record of a run's log as (step, name -> number); None: it has none.

    Args:
        training: prefix of the names, such as `speaker`: names are `speaker/loss` and `speaker/heldout/loss`.
        record: a line of `log.jsonl`: a step, or the event `eval`.
    """
    event, step = record.get("event"), record.get("step")
    if event not in (None, "eval") or not isinstance(step, int):
        return None
    values = record.get("metrics", {}) if event == "eval" else record
    prefix = f"{training}/heldout" if event == "eval" else training
    found = {name: value for name, value in numbers(values, prefix).items() if name != f"{prefix}/step"}
    return (step, found) if found else None


def numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested mappings, names joined by `/`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        name = f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            found |= numbers(value, name)
        elif is_number(value):
            found[name] = float(value)
    return found
