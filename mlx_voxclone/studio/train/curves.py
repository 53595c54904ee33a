"""Curves of a training as drawings on the page (SVG without style or script), each with a table of the same figures."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_voxclone.studio.train.watch import Stage

_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 14, 14, 42  # beside it: labels as wide as "-37.5 %"
_MOST = 160  # points of a line; more are averaged
_ROWS = 16  # of a table
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """Points (step, value) under a name. `dots`: they are measurements, each shown as a dot."""

    name: str
    points: Points
    dots: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing: its title, its lines, whether its values are percentages, and what stands before their decimals."""

    title: str
    lines: tuple[Line, ...]
    percent: bool = False
    point: str = "."

    @property
    def table(self) -> list[tuple[int, list[float | None]]]:
        """Rows (step, value of each line); of many steps the measured ones, or some spread evenly."""
        measured = sorted({int(x) for line in self.lines if line.dots for x, _ in line.points})
        steps = measured or sorted({int(x) for line in self.lines for x, _ in line.points})
        if len(steps) > _ROWS:
            steps = [steps[round(k * (len(steps) - 1) / (_ROWS - 1))] for k in range(_ROWS)]
        values = [dict(line.points) for line in self.lines]
        return [(step, [one.get(step) for one in values]) for step in steps]

    def text(self, value: float | None) -> str:
        if value is None:
            return ""
        return self._told(f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if self.percent else f"{value:.4g}")

    def tick(self, value: float) -> str:
        return self._told(f"{100 * value:g}\N{NARROW NO-BREAK SPACE}%" if self.percent else f"{value:g}")

    def _told(self, number: str) -> str:
        return number.replace(".", self.point).replace("-", "\N{MINUS SIGN}")


def plots(stage: Stage, names: dict[str, str], point: str = ".") -> list[Plot]:
    """The curves of a stage: what is still to be learnt; similarity and errors where they are measured.

    Args:
        names: texts by `loss`, `training`, `heldout`, `similarity`, `errors`, `measured`.
        point: what stands before the decimals of numbers.
    """
    heldout = [(m.step, m.metrics["loss"]) for m in stage.measured if "loss" in m.metrics]
    lines = [Line(names["training"], stage.losses), Line(names["heldout"], heldout, dots=True)]
    found = [Plot(names["loss"], tuple(line for line in lines if line.points), point=point)]
    for key, title in (("_similarity", names["similarity"]), ("cer", names["errors"])):
        points = [(m.step, value) for m in stage.measured for name, value in m.metrics.items() if name.endswith(key)]
        if points:
            found.append(Plot(title, (Line(names["measured"], points, dots=True),), percent=True, point=point))
    return [plot for plot in found if plot.lines]


def svg(plot: Plot, total: int, step_name: str) -> str:
    """The drawing, `total` steps wide, so that it does not move while they come.

    Args:
        step_name: what the horizontal axis counts.
    """
    values = [y for line in plot.lines for _, y in line.points]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    ticks = [tick for tick in _ticks(low, high) if tick >= 0 or low < 0]
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    across, up = max(1, total), (high - low) or 1.0

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(step, across) / across

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (value - low) / up

    parts = [
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(_said(plot))}">'
    ]
    for tick in ticks:
        place = y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {place:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{place + 5:.1f}" text-anchor="end">{plot.tick(tick)}</text>')
    for step in _whole_ticks(across):
        anchor = "start" if step == 0 else "end" if step == across else "middle"
        parts.append(f'<text x="{x(step):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="{anchor}">{step}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(step_name)}</text>')
    for number, line in enumerate(plot.lines):
        points = _thinned(line.points) if not line.dots else line.points
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
        parts.append(f'<path class="line line-{number + line.dots * (number == 0)}" d="M{path}"/>')
        if line.dots:
            dots = (f'<circle class="dot" cx="{x(a):.1f}" cy="{y(b):.1f}" r="4"/>' for a, b in points)
            parts.extend(dots)
    return "".join([*parts, "</svg>"])


def _said(plot: Plot) -> str:
    """The drawing in words: first and last value of each line."""
    ends = (
        f"{line.name}: {plot.text(line.points[0][1])} → {plot.text(line.points[-1][1])}"
        for line in plot.lines
        if line.points
    )
    return f"{plot.title}. {'; '.join(ends)}"


def _thinned(points: Points) -> Points:
    """Means over stretches of a long line."""
    size = -(-len(points) // _MOST)
    if size < 2:
        return points
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [tuple(sum(values) / len(group) for values in zip(*group)) for group in groups]  # type: ignore[misc]


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from at most `low` to at least `high`."""
    span = high - low
    if span <= 0:
        span = abs(high) or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * m for m in (1, 2, 2.5, 5, 10) if magnitude * m >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(k * step, 10) for k in range(first, last + 1)]


def _whole_ticks(total: int) -> list[int]:
    return sorted({round(k * total / 4) for k in range(5)})
