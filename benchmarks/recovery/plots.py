"""Figures of the recovery benchmark: agreement over training time, and bars with the spread over seeds."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.recovery.score import POOLED
from benchmarks.recovery.tables import DECODED, REAL, Metric, recipes_of, values
from benchmarks.recovery.training import STEPS, TIME
from mlx_voxclone.report.plots import INK, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by colour-blind eyes too (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933", INK)
_SHOWN = (*(REAL[k] for k in (0, 1, 3, 5)), *(DECODED[k] for k in (0, 2)))


def write_plots(results: dict, directory: Path) -> list[Path]:
    """`equal-steps.png`, `equal-time.png`, `over-time.png`: what was compared."""
    figures = {f"equal-{what}": bars(results, what) for what in (STEPS, TIME) if recipes_of(results, what)}
    if recipes_of(results, TIME):
        figures["over-time"] = over_time(results)
    paths = []
    for name, figure in figures.items():
        paths.append(directory / f"{name}.png")
        paths[-1].write_bytes(png(figure))
    return paths


def over_time(results: dict) -> "Figure":
    """A panel per metric: mean over seeds against seconds of training, the band from the smallest to the largest."""
    figure, axes = _panels()
    recipes = recipes_of(results, TIME)
    marks = results["runs"][0]["points"][-1]["score"][POOLED]
    for axis, metric in zip(axes, _SHOWN):
        for colour, (name, runs) in zip(_colours(recipes), recipes.items()):
            seconds = [point["seconds"] for point in runs[0]["points"]]
            rows = np.array([[metric.of(p["score"][POOLED]) for p in run["points"]] for run in runs], dtype=float)
            axis.plot(seconds, rows.mean(axis=0), color=colour, marker="o", markersize=3, label=name)
            axis.fill_between(seconds, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        _mark(axis, metric, marks)
        axis.set_xlabel("seconds of training", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def bars(results: dict, what: str) -> "Figure":
    """A panel per metric: mean over seeds of each recipe, with the range over seeds."""
    figure, axes = _panels()
    recipes = recipes_of(results, what)
    marks = results["runs"][0]["points"][-1]["score"][POOLED]
    for axis, metric in zip(axes, _SHOWN):
        rows = [np.array(values(runs, metric), dtype=float) for runs in recipes.values()]
        means = np.array([row.mean() for row in rows])
        spread = np.abs(np.array([[row.min() for row in rows], [row.max() for row in rows]]) - means)
        axis.bar(range(len(rows)), means, color=_colours(recipes), yerr=spread, capsize=3, ecolor=INK)
        axis.set_xticks(range(len(rows)), recipes, rotation=30 if len(rows) > 4 else 0, fontsize=7)
        _mark(axis, metric, marks)
    figure.suptitle(f"at equal {what}", fontsize=10, color=INK)
    return figure


def _colours(recipes: Collection) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(len(recipes))]


def _panels() -> tuple["Figure", Sequence["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(2, 3).reshape(-1)
    for axis, metric in zip(axes, _SHOWN):
        where = "original audio" if metric.section == "real" else "decoded audio"
        axis.set_title(f"{metric.title}, {where}", fontsize=9, color=INK)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _mark(axis: "Axes", metric: Metric, score: dict) -> None:
    """A dotted line at the hidden encoder's own figure."""
    if metric.section == "decoded":
        mark = score["hidden"][metric.name]
    elif metric.name.endswith("_ratio"):
        mark = 1.0
    else:
        return  # its codes of original audio are right by definition
    axis.axhline(mark, color=INK, linestyle=":", linewidth=1)
