"""The parts of a run's report on what it delivers, and on the rounds of its encoder.

Both come from `summary.json` (`delivered`, `rounds`; see `train/run.py: RunSummary`). What is missing there, or is not
what it should be, is left out or shown as not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_voxclone.report.page import escaped, folded, is_number, table

_NOT_MEASURED = "not measured"
_LOWER, _HIGHER = "lower", "higher"


@dataclass(frozen=True)
class _Figure:
    """A figure of the summary as the page shows it: `offset + scale * value`."""

    key: str
    title: str
    better: str = ""
    scale: float = 1.0
    offset: float = 0.0

    def of(self, entry: Mapping[str, Any]) -> float | int | str:
        value = entry.get(self.key)
        if not is_number(value):
            return _NOT_MEASURED
        return value if (self.scale, self.offset) == (1.0, 0.0) else self.offset + self.scale * value


_DELIVERED = (
    _Figure("code_loss", "loss of the codes of held-out recordings (code loss, weighted)", _LOWER),
    _Figure("not_ended", "sentences that did not end (%)", _LOWER, 100.0),
    _Figure("unexplained", "of what was said, not explained by its text (%)", _LOWER, 100.0),
    _Figure("voice_distance", "voice distance to the recordings (standard deviations)", _LOWER),
    _Figure("dissimilarity", "similarity to the recordings (1 = the same voice)", _HIGHER, -1.0, 1.0),
    _Figure("error_rate", "characters misheard (%)", _LOWER, 100.0),
)
_ALWAYS = ("code_loss", "not_ended", "unexplained", "voice_distance")  # the others need models of their own
_ROUNDS = (
    _Figure("heldout_nats", "held-out codes (nats per frame)"),
    _Figure("clips", "clips judged"),
    _Figure("left_out", "left out"),
    _Figure("confidence", "mean confidence (%)", scale=100.0),
    _Figure("changed_semantic", "semantic codes changed (%)", scale=100.0),
    _Figure("text_gain", "explained by the texts (%)", scale=100.0),
)


def verdict_parts(delivered: Any) -> list[str]:
    """HTML of the section "Delivered": the candidate and the reason, in a sentence."""
    if (name := _delivered_name(delivered)) is None:
        return []
    why = delivered.get("why")
    sentence = f"Delivered: {name}" + (f"; {why}." if isinstance(why, str) and why else ".")
    return ["<h2>Delivered</h2>", f'<p class="verdict">{escaped(sentence)}</p>']


def measured_parts(delivered: Any) -> list[str]:
    """HTML of the folded part "What was measured": the figures of all candidates beside each other."""
    if (name := _delivered_name(delivered)) is None:
        return []
    candidates = [one for one in _mappings(delivered.get("measured")) if isinstance(one.get("name"), str)]
    if not candidates:
        return []
    titles = [one["name"] + (" (delivered)" if one["name"] == name else "") for one in candidates]
    shown = [f for f in _DELIVERED if f.key in _ALWAYS or any(is_number(one.get(f.key)) for one in candidates)]
    rows = [[f.title, f.better, *(f.of(one) for one in candidates)] for f in shown]
    if any(one.get("voice") for one in candidates):
        rows.append(["recordings of the voice prompt", "", *(str(one.get("voice") or "") for one in candidates)])
    return folded("What was measured", [table(["measured on held-out sentences", "better", *titles], rows)])


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
    return folded("Rounds", [f"<p>{about}</p>", table(["encoder", *(f.title for f in _ROUNDS)], rows)])


def _mappings(entries: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
