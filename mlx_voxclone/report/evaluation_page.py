"""An evaluation to look at and listen to: figures, before and after, outputs beside what they are measured by."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.measure import METRICS, Change, Evaluation, Measured
from mlx_voxclone.report.page import ORIGINAL, escaped, facts, folded, html_page, players, table
from mlx_voxclone.report.plots import changes_figure
from mlx_voxclone.report.vector import drawing

if TYPE_CHECKING:
    from mlx_voxclone.evaluate.measure import Interval

SHOWN = 12  # cases with players: the worst ones first
_SIMILARITIES = ("similarity", "ge2e_similarity", "spectral_similarity")
_WORST_BY = ("wer", *_SIMILARITIES, "mel_distance")  # the first one that there is
_FIRST = (*_SIMILARITIES, "wer", "cer", "pesq", "estoi", "mel_distance", "preset_drift")  # figures beside the verdict
_MOST = 4  # of them
_WAYS = {
    "better": "Better",
    "worse": "Worse",
    "no clear difference": "No clear difference",
    "too few cases": "Too few cases",
}


def evaluation_page(
    evaluation: Evaluation, cases: Sequence[Case], place: Path, changes: Mapping[str, Change] | None = None
) -> str:
    """The HTML; `place`: the directory in which it will lie."""
    parts = _verdict(evaluation, changes or {})
    parts += _listening(evaluation, cases, place)
    if changes:
        drawn = {METRICS[name].title: change for name, change in changes.items() if METRICS[name].better}
        parts += ["<h2>Before and after</h2>", drawing(changes_figure(drawn), "before and after")] if drawn else []
        parts.append(_changes(changes))
    parts += [
        "<h2>Figures</h2>",
        "<p>Means with 95 % intervals; few cases tell none.</p>",
        _summary(evaluation.summary),
    ]
    about = [[key.replace("_", " "), value] for key, value in _about(evaluation)]
    parts += folded("Details", [table(["", ""], about, "Measured with")], raw=True)
    return html_page("Evaluation", parts)


def _verdict(evaluation: Evaluation, changes: Mapping[str, Change]) -> list[str]:
    """What became better or worse, in a sentence; the figures that matter most, with what they were before."""
    said = []
    for way, title in _WAYS.items():
        named = [
            METRICS[name].title for name, change in changes.items() if change.verdict == way and METRICS[name].better
        ]
        said += [f"{title}: {', '.join(named)}."] if named else []
    shown = [_fact(name, evaluation, changes) for name in _FIRST if name in evaluation.summary][:_MOST]
    if not said and not shown:
        return []
    sentence = [f'<p class="verdict lead">{escaped(" ".join(said))}</p>'] if said else []
    return ['<section class="card"><h2>In short</h2>', *sentence, *([facts(shown)] if shown else []), "</section>"]


def _fact(name: str, evaluation: Evaluation, changes: Mapping[str, Change]) -> tuple[str, str, str]:
    metric, found = METRICS[name], evaluation.summary[name]
    way = f" ({metric.better} is better)" if metric.better else ""
    more = f"{found.ends('.3g')}, {found.n} case{'s' * (found.n > 1)}"
    if name in changes:
        more += f"; before: {changes[name].before:.3g}"
    unit = f" {metric.unit}" if metric.unit in ("%", "nats", "dB") else ""
    title = metric.title[0].upper() + metric.title[1:]
    return f"{title}{way}", f"{found.mean:.3g}{unit}", more


def _about(evaluation: Evaluation) -> list[tuple[str, object]]:
    return [(key, "none" if value is None else value) for key, value in evaluation.about.items()]


def _summary(summary: "Mapping[str, Interval]") -> str:
    rows = [
        [METRICS[name].title, METRICS[name].unit, interval.mean, *_ends(interval), interval.n]
        for name, interval in summary.items()
    ]
    return table(["metric", "unit", "mean", "from", "to", "cases"], rows)


def _ends(interval: "Interval") -> list[float | None]:
    """Where it begins and ends; empty cells where there is none."""
    return [None if math.isnan(end) else end for end in (interval.low, interval.high)]


def _changes(changes: Mapping[str, Change]) -> str:
    rows = [
        [METRICS[name].title, c.before, c.after, c.difference.mean, *_ends(c.difference), c.verdict]
        for name, c in changes.items()
    ]
    return table(["metric", "before", "after", "difference", "from", "to", ""], rows, "Before and after")


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
        parts.append(f'<section class="card"><h3>{escaped(case.id)}</h3>')
        if case.text:
            parts.append(f"<blockquote>{escaped(case.text)}</blockquote>")
        if measured.heard is not None:
            parts.append(f"<p>Heard: {escaped(measured.heard)}</p>")
        parts += [f"<p>{escaped(note)}</p>" for note in measured.notes]
        sounds = (("reference", case.reference), (ORIGINAL, case.original), ("output", case.output))
        parts.append(players([(label, path) for label, path in sounds if path], place, plots_folded=True))
        rows = [[METRICS[name].title, value, METRICS[name].unit] for name, value in measured.metrics.items()]
        figures = table(["", "", ""], rows, f"Figures of {case.id}")
        parts += [f"<details><summary>Figures</summary>{figures}</details>", "</section>"]
    return parts
