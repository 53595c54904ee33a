"""The parts of a run's report on what it delivers, and on the rounds of its encoder.

Both come from `summary.json` (`delivered`, `rounds`; see `train/run.py: RunSummary`). What is missing there, or is not
what it should be, is left out or shown as not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_voxclone.files.plain import is_number
from mlx_voxclone.report.page import escaped, facts, folded, table

_NOT_MEASURED = "not measured"
_LOWER, _HIGHER = "lower", "higher"


@dataclass(frozen=True)
class _Figure:
    """A figure of the summary as the page shows it: `offset + scale * value`, with `short` for where there is little
    room and `unit` behind it there."""

    key: str
    title: str
    better: str = ""
    scale: float = 1.0
    offset: float = 0.0
    short: str = ""
    unit: str = ""

    def of(self, entry: Mapping[str, Any]) -> float | int | str:
        value = entry.get(self.key)
        if not is_number(value):
            return _NOT_MEASURED
        return value if (self.scale, self.offset) == (1.0, 0.0) else self.offset + self.scale * value

    def briefly(self, entry: Mapping[str, Any]) -> str:
        value = self.of(entry)
        return value if isinstance(value, str) else f"{value:.3g}{self.unit}"


_SIMILARITY = "similarity to the recordings (1 = the same voice)"
_DISTANCE = "voice distance to the recordings (standard deviations)"
_DELIVERED = (
    _Figure("code_loss", "loss of the codes of held-out recordings (code loss, weighted)", _LOWER),
    _Figure("not_ended", "sentences that did not end (%)", _LOWER, 100.0, short="Sentences without an end", unit=" %"),
    _Figure("unexplained", "of what was said, not explained by its text (%)", _LOWER, 100.0),
    _Figure("voice_distance", _DISTANCE, _LOWER, short="Distance to the voice (0 = the same)"),
    _Figure("dissimilarity", _SIMILARITY, _HIGHER, -1.0, 1.0, short="Similarity to the voice (1 = the same)"),
    _Figure("error_rate", "characters misheard (%)", _LOWER, 100.0, short="Characters misheard", unit=" %"),
)
_ALWAYS = ("code_loss", "not_ended", "unexplained", "voice_distance")  # the others need models of their own
_SHOWN = ("dissimilarity", "voice_distance", "error_rate", "not_ended")  # beside the verdict, in this order
_ROUNDS = (
    _Figure("heldout_nats", "held-out codes (nats per frame)"),
    _Figure("clips", "clips judged"),
    _Figure("left_out", "left out"),
    _Figure("confidence", "mean confidence (%)", scale=100.0),
    _Figure("changed_semantic", "semantic codes changed (%)", scale=100.0),
    _Figure("text_gain", "explained by the texts (%)", scale=100.0),
)


def verdict_parts(delivered: Any) -> list[str]:
    """HTML of the section "Verdict": the candidate, the reason, its figures beside the others'."""
    if (name := _delivered_name(delivered)) is None:
        return []
    why = delivered.get("why")
    sentence = f"Delivered: {name}" + (f"; {why}." if isinstance(why, str) and why else ".")
    candidates = _candidates(delivered)
    shown = [facts(_facts(one, candidates)) for one in candidates if one["name"] == name][:1]
    sections = ['<section class="card"><h2>Verdict</h2>', f'<p class="verdict lead">{escaped(sentence)}</p>']
    return [*sections, *(part for part in shown if "<dt>" in part), "</section>"]


def _facts(chosen: Mapping[str, Any], candidates: list[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Of the chosen candidate, those figures that were measured; the others' follow."""
    shown = []
    for figure in (figure for key in _SHOWN for figure in _DELIVERED if figure.key == key):
        if is_number(chosen.get(figure.key)):
            others = (f"{one['name']}: {figure.briefly(one)}" for one in candidates if one is not chosen)
            shown.append((figure.short, figure.briefly(chosen), ", ".join(others)))
    return shown


def _candidates(delivered: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in _mappings(delivered.get("measured")) if isinstance(one.get("name"), str)]


def measured_parts(delivered: Any) -> list[str]:
    """HTML of the folded part "What was measured": the figures of all candidates beside each other."""
    if (name := _delivered_name(delivered)) is None:
        return []
    candidates = _candidates(delivered)
    if not candidates:
        return []
    titles = [one["name"] + (" (delivered)" if one["name"] == name else "") for one in candidates]
    shown = [f for f in _DELIVERED if f.key in _ALWAYS or any(is_number(one.get(f.key)) for one in candidates)]
    rows = [[f.title, f.better, *(f.of(one) for one in candidates)] for f in shown]
    if any(one.get("voice") for one in candidates):
        rows.append(["recordings of the voice prompt", "", *(str(one.get("voice") or "") for one in candidates)])
    return folded(
        "What was measured", [table(["measured on held-out sentences", "better", *titles], rows, "What was measured")]
    )


def _delivered_name(delivered: Any) -> str | None:
    name = delivered.get("name") if isinstance(delivered, Mapping) else None
    return name if isinstance(name, str) and name else None


def rounds_parts(rounds: Any) -> list[str]:
    """HTML of the folded part "Rounds": a row for each encoder that the run has trained on its recordings."""
    rounds = _mappings(rounds)
    if not rounds:
        return []
    rows = [[str(one.get("encoder") or ""), *(f.of(one) for f in _ROUNDS)] for one in rounds]
    about = (
        "After the first, each encoder is trained on the codes that the language model judged in the round before. Its"
        " own codes of held-out recordings are to have fewer nats than those before; a round without that is the last."
    )
    return folded("Rounds", [f"<p>{about}</p>", table(["encoder", *(f.title for f in _ROUNDS)], rows, "Rounds")])


def _mappings(entries: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
