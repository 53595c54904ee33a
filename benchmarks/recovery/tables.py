"""Figures of all runs, put together: mean and spread over seeds, as Markdown tables."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.recovery.score import POOLED
from benchmarks.recovery.training import STEPS, TIME


@dataclass(frozen=True)
class Metric:
    """A figure of a score: section and name in `Reference.score`'s result, and how it is shown."""

    section: str
    name: str
    title: str
    digits: int = 1

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    def of(self, score: dict) -> float | None:
        """The figure in one kind's (or the pooled) part of a score."""
        return score[self.section].get(self.name)

    def show(self, values: Sequence[float | None]) -> str:
        """Mean and, where there are several, smallest and largest."""
        known = [value for value in values if value is not None]
        if not known:
            return "-"
        mean, low, high = (f"{value:.{self.digits}f}" for value in (sum(known) / len(known), min(known), max(known)))
        return mean if low == high else f"{mean} ({low}..{high})"


REAL = (
    Metric("real", "semantic", "semantic %"),
    Metric("real", "units", "units %"),
    Metric("real", "unit_error", "unit error %"),
    Metric("real", "level_error", "level error", 2),
    Metric("real", "level_exact", "level exact %"),
    Metric("real", "mel_ratio", "mel ratio", 2),
    Metric("real", "stft_ratio", "STFT ratio", 2),
    Metric("real", "codes_used", "codes used %"),
    Metric("real", "code_entropy", "code entropy", 2),
)
DECODED = (
    Metric("decoded", "semantic", "semantic %"),
    Metric("decoded", "units", "units %"),
    Metric("decoded", "level_error", "level error", 2),
    Metric("decoded", "level_exact", "level exact %"),
)
_AGREEMENT = ("semantic", "units", "level_error", "level_exact")


def recipes_of(results: dict, what: str) -> dict[str, list[dict]]:
    """Trainings that are compared at equal `what`, by recipe, in the order in which they came."""
    found: dict[str, list[dict]] = {}
    for run in results["runs"]:
        if run["equal"] == what:
            found.setdefault(run["recipe"], []).append(run)
    return found


def values(runs: Sequence[dict], metric: Metric, kind: str = POOLED) -> list[float | None]:
    """A metric at the end of each run; `kind`: of one kind of clips alone."""
    return [metric.of(_part(run, kind)) for run in runs]


def _part(run: dict, kind: str) -> dict:
    score = run["points"][-1]["score"]
    return score[POOLED] if kind == POOLED else score["kinds"][kind]


def markdown(results: dict) -> str:
    """All tables as one document."""
    seeds = {run["seed"] for run in results["runs"]}
    any_score = results["runs"][0]["points"][-1]["score"]
    lines = ["# Recovery of a hidden encoder", "", *_gates(results["gates"]), ""]
    spread = f"mean of {len(seeds)} seeds (smallest..largest)" if len(seeds) > 1 else "one seed"
    apart = [kind for kind, score in any_score["kinds"].items() if not score["pooled"]]
    but = f" but {', '.join(apart)}" if apart else ""
    lines += [f"Held-out speakers, all kinds of audio{but}; {spread}.", ""]
    compared = [what for what in (STEPS, TIME) if recipes_of(results, what)]
    for what in compared:
        title = f"equal {what}"
        lines += [f"## Original audio, {title}", "", *_table(results, what, REAL, _real_marks), ""]
        lines += [f"## Decoded audio, {title}", "", *_table(results, what, DECODED, _decoded_marks), ""]
    for kind, score in any_score["kinds"].items():
        what = compared[-1]
        title = f"## {kind}: {score['clips']} clips, {score['frames']} frames, original audio, equal {what}"
        lines += [title, "", *_table(results, what, REAL, _real_marks, kind), ""]
    if results.get("baseline"):
        title = "## Without an encoder: latents optimised through the decoder, original audio"
        lines += [title, "", *_baseline(results["baseline"]), ""]
    return "\n".join(lines)


def _gates(gates: dict) -> Iterator[str]:
    faults = "; ".join(gates["faults"])
    yield f"Gates of the codec: {f'NOT passed, so no figure below counts: {faults}' if faults else 'passed'}."


def _table(results: dict, what: str, metrics: Sequence[Metric], marks: Callable, kind: str = POOLED) -> Iterator[str]:
    yield "| recipe | steps | s | " + " | ".join(metric.title for metric in metrics) + " |"
    yield "|---|" + "---|" * (len(metrics) + 2)
    recipes = recipes_of(results, what)
    for name, runs in recipes.items():
        point = runs[0]["points"][-1]
        shown = [metric.show(values(runs, metric, kind)) for metric in metrics]
        head = [f"{name}: {runs[0]['title']}", str(point["step"]), f"{point['seconds']:.0f}"]
        yield "| " + " | ".join([*head, *shown]) + " |"
    for title, figures in marks([_part(run, kind) for runs in recipes.values() for run in runs]):
        shown = [metric.show([figures.get(metric.name)]) for metric in metrics]
        yield f"| {title} | | | " + " | ".join(shown) + " |"


def _real_marks(scores: list[dict]) -> Iterator[tuple[str, dict]]:
    """Rows to compare with: the hidden encoder (its codes are right here) and the best chance of any recipe."""
    own = {name: value for name, value in scores[0]["hidden"].items() if name not in _AGREEMENT}
    right = {"semantic": 100.0, "units": 100.0, "level_error": 0.0, "level_exact": 100.0}
    yield "the hidden encoder", {**own, **right, "mel_ratio": 1.0, "stft_ratio": 1.0}
    yield "chance", _best([score["chance"] for score in scores])


def _decoded_marks(scores: list[dict]) -> Iterator[tuple[str, dict]]:
    yield "the hidden encoder again", {name: scores[0]["hidden"][name] for name in _AGREEMENT}
    yield "chance", _best([score["chance_decoded"] for score in scores])


def _best(chances: list[dict]) -> dict:
    return {n: (min if n == "level_error" else max)(chance[n] for chance in chances) for n in _AGREEMENT}


def _baseline(baseline: dict) -> Iterator[str]:
    yield "| clips | semantic % | units % | level error | mel ratio | STFT ratio | seconds per second of audio |"
    yield "|---|---|---|---|---|---|---|"
    names = (("semantic", 1), ("units", 1), ("level_error", 2), ("mel_ratio", 2), ("stft_ratio", 2))
    shown = [f"{baseline['real'][name]:.{digits}f}" for name, digits in names]
    yield f"| {baseline['clips']} | " + " | ".join(shown) + f" | {baseline['cost']:.0f} |"
