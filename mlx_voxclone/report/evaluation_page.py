"""An evaluation to look at and listen to: figures, before and after, outputs beside what they are measured by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.measure import METRICS, Change, Evaluation, Measured
from mlx_voxclone.report.page import ORIGINAL, escaped, html_page, image, players, table
from mlx_voxclone.report.plots import changes_figure, png

if TYPE_CHECKING:
    from mlx_voxclone.evaluate.measure import Interval

SHOWN = 12  # cases with players: the worst ones first
_WORST_BY = (
    "wer",
    "similarity",
    "ge2e_similarity",
    "spectral_similarity",
    "mel_distance",
)  # the first one that there is


def evaluation_page(
    evaluation: Evaluation, cases: Sequence[Case], place: Path, changes: Mapping[str, Change] | None = None
) -> str:
    """The HTML; `place`: the directory in which it will lie."""
    parts = ["<h2>Measured with</h2>", table(["", ""], [[k.replace("_", " "), v] for k, v in _about(evaluation)])]
    parts += ["<h2>Figures</h2>", "<p>Means with 95 % bootstrap intervals.</p>", _summary(evaluation.summary)]
    if changes:
        drawn = {METRICS[name].title: change for name, change in changes.items() if METRICS[name].better}
        parts += ["<h2>Before and after</h2>", image(png(changes_figure(drawn)), "before and after")] if drawn else []
        parts.append(_changes(changes))
    parts += _listening(evaluation, cases, place)
    return html_page("Evaluation", parts)


def _about(evaluation: Evaluation) -> list[tuple[str, object]]:
    return [(key, "none" if value is None else value) for key, value in evaluation.about.items()]


def _summary(summary: "Mapping[str, Interval]") -> str:
    rows = [
        [METRICS[name].title, METRICS[name].unit, interval.mean, interval.low, interval.high, interval.n]
        for name, interval in summary.items()
    ]
    return table(["metric", "unit", "mean", "from", "to", "cases"], rows)


def _changes(changes: Mapping[str, Change]) -> str:
    rows = [
        [METRICS[name].title, c.before, c.after, c.difference.mean, c.difference.low, c.difference.high, c.verdict]
        for name, c in changes.items()
    ]
    return table(["metric", "before", "after", "difference", "from", "to", ""], rows)


def worst_first(cases: Sequence[Measured]) -> list[Measured]:
    """By the first metric of `_WORST_BY` that any of them has; those without it come first."""
    name = next((name for name in _WORST_BY if any(name in case.metrics for case in cases)), None)
    if name is None:
        return list(cases)
    sign = -1 if METRICS[name].better == "lower" else 1
    return sorted(cases, key=lambda case: (name in case.metrics, sign * case.metrics.get(name, 0.0)))


def _listening(evaluation: Evaluation, cases: Sequence[Case], place: Path) -> list[str]:
    by_id = {case.id: case for case in cases}
    heard = [case for case in evaluation.cases if case.id in by_id]  # drift has nothing to listen to
    shown = worst_first(heard)[:SHOWN]
    parts = [f"<h2>Outputs</h2><p>{len(shown)} of {len(heard)}, the worst first.</p>"] if heard else []
    for measured in shown:
        case = by_id[measured.id]
        parts.append(f"<h3>{escaped(case.id)}</h3>")
        if case.text:
            parts.append(f"<blockquote>{escaped(case.text)}</blockquote>")
        if measured.heard is not None:
            parts.append(f"<p>Heard: {escaped(measured.heard)}</p>")
        parts += [f"<p>{escaped(note)}</p>" for note in measured.notes]
        rows = [[METRICS[name].title, value, METRICS[name].unit] for name, value in measured.metrics.items()]
        sounds = (("reference", case.reference), (ORIGINAL, case.original), ("output", case.output))
        parts += [table(["", "", ""], rows), players([(label, path) for label, path in sounds if path], place)]
    return parts
