"""The part of a run's report on blind listening tests: what the answers show, in words and figures.

`abx.json` in the run directory (`evaluate/blind.py`) holds the tests; what is not as it should be is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_voxclone.evaluate.blind import Outcome, outcome_of, read_tests
from mlx_voxclone.report.page import escaped, folded, table

_SHOWN = 20  # tests, the newest ones
_VERDICTS = {
    "apart": "The two can be told apart.",
    "swapped": "A difference was heard, and taken the wrong way round: so few right answers are no guessing.",
    "alike": "The two could not be told apart: whoever listened is right in less than 75 % of such pairs.",
    "unclear": "This does not show whether the two can be told apart.",
}
_ABOUT = (
    "In each pair A and B were the two in an order drawn by chance, at one level and of one length, and X was one of "
    "them; the listener said which. The interval (95 %, Clopper-Pearson) is for the share of right answers in pairs "
    "without end; guessing gives 50 %."
)


def blind_parts(run_dir: Path) -> list[str]:
    """HTML of the section "Blind listening test"; empty where there was none."""
    tests = [(test, pairs, outcome) for test in read_tests(run_dir) for pairs, outcome in _answered(test)]
    if not tests:
        return []
    parts = ["<h2>Blind listening test</h2>", f"<p>{escaped(_ABOUT)}</p>"]
    for test, pairs, outcome in reversed(tests[-_SHOWN:]):
        parts.append(f'<p class="verdict">{escaped(_sentence(test, outcome))}</p>')
        rows = [[str(pair.get("text") or ""), *_names(pair), _right(pair)] for pair in pairs]
        head = ["sentence", "A", "B", "X", "answer", ""]
        parts += folded("Answers and models", [table(head, rows), table(["", ""], _facts(test, outcome))])
    return parts


def _answered(test: Mapping[str, Any]) -> list[tuple[Sequence[Mapping[str, Any]], Outcome]]:
    """The pairs of a test and what they show: one entry, or none of what is no test."""
    listed = test.get("pairs")
    pairs = [pair for pair in listed if isinstance(pair, Mapping)] if isinstance(listed, list) else []
    try:
        return [(pairs, outcome_of(pairs))]
    except ValueError:
        return []


def _sentence(test: Mapping[str, Any], outcome: Outcome) -> str:
    low, high = (f"{100 * end:.0f}" for end in outcome.interval)
    first, second = (_title(test, side) for side in ("first", "second"))
    text = (
        f"{first} or {second}: {outcome.correct} of {outcome.pairs} right ({low} to {high} %; guessing does"
        f" as well or better in {_percent(outcome.p)} of such tests). {_VERDICTS[outcome.verdict]}"
    )
    if outcome.verdict == "unclear":
        text += f" {outcome.pairs} pairs show little: only {outcome.needed} right answers or more would tell."
    return text


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %" if p >= 0.095 else f"{100 * p:.1f} %"


def _title(test: Mapping[str, Any], side: str) -> str:
    told = test.get(side)
    return str(told.get("title") or told.get("name") or side) if isinstance(told, Mapping) else side


def _names(pair: Mapping[str, Any]) -> list[str]:
    return [str(pair.get(key) or "") for key in ("a", "b", "x", "answer")]


def _right(pair: Mapping[str, Any]) -> str:
    return "" if not pair.get("answer") else "right" if pair["answer"] == pair.get("x") else "wrong"


def _facts(test: Mapping[str, Any], outcome: Outcome) -> list[list[Any]]:
    rows = [["p, one-sided", outcome.p], ["interval from", outcome.interval[0]], ["interval to", outcome.interval[1]]]
    for side in ("first", "second"):
        told = test.get(side)
        for key, value in told.items() if isinstance(told, Mapping) else ():
            rows.append([f"{_title(test, side)}: {key}", value])
    return [*rows, *([key, test[key]] for key in ("ended", "seed", "sounds") if test.get(key) is not None)]
