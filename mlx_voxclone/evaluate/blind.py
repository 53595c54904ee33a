"""A blind A/B/X test: what a listener's answers show, and the file that a run keeps them in.

In each pair the listener hears A and B, which differ, and X, which is one of the two, and says which. Who hears no
difference guesses, and is right half of the time. The interval of the true share is Clopper and Pearson's, which never
claims more than its 95 %; p is how often a guesser has as many right or more.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from scipy.special import bdtrc, betaincinv

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json

ABX_FILE = "abx.json"  # in the run directory
PAIRS, CONFIDENCE = 10, 0.95
THRESHOLD = 0.75  # share of right answers from which a difference counts as heard: half way from guessing to always
Verdict = Literal["apart", "swapped", "alike", "unclear"]


@dataclass(frozen=True)
class Outcome:
    """Right answers of a test.

    Raises:
        ValueError: no pair, or more right answers than pairs.
    """

    correct: int
    pairs: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.pairs or not self.pairs:
            raise ValueError(f"{self.correct} right answers of {self.pairs}")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The true share of right answers, 95 % (Clopper-Pearson: quantiles of two beta distributions)."""
        k, n, beyond = self.correct, self.pairs, (1 - CONFIDENCE) / 2
        low = float(betaincinv(k, n - k + 1, beyond)) if k else 0.0
        high = float(betaincinv(k + 1, n - k, 1 - beyond)) if k < n else 1.0
        return low, high

    @property
    def p(self) -> float:
        """How often a guesser has as many right, or more."""
        return float(bdtrc(self.correct - 1, self.pairs, 0.5)) if self.correct else 1.0

    @property
    def verdict(self) -> Verdict:
        """What is shown: `apart`, the two can be told apart; `swapped`, they can, with the names taken the wrong way
        round; `alike`, whoever listened is right in less than 75 % of all pairs; `unclear`, none of these."""
        low, high = self.interval
        if low > 0.5:
            return "apart"
        if high < 0.5:
            return "swapped"
        return "alike" if high < THRESHOLD else "unclear"

    @property
    def needed(self) -> int:
        """Right answers from which a test of as many pairs shows a difference."""
        enough = (k for k in range(self.pairs + 1) if Outcome(k, self.pairs).verdict == "apart")
        return next(enough, self.pairs + 1)


def read_tests(run_dir: Path) -> list[dict[str, Any]]:
    """The tests that a run keeps, the oldest first; [] where there is no file, or none that can be read."""
    try:
        found = read_json(run_dir / ABX_FILE)
    except (OSError, ValueError):
        return []
    tests = found.get("tests") if isinstance(found, dict) else None
    return [test for test in tests if isinstance(test, dict)] if isinstance(tests, list) else []


def keep_test(run_dir: Path, test: Mapping[str, Any]) -> Path:
    """Add a test to those of a run, or replace the one of the same `id`; the file's path.

    Raises:
        CheckpointError: a file that is there and cannot be read (it is left as it is), or cannot be written.
    """
    path = run_dir / ABX_FILE
    try:
        found = read_json(path)
    except FileNotFoundError:
        found = {"tests": []}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("tests"), list):
        raise CheckpointError(f"{path}: holds no listening tests; move it away to keep new ones there")
    others = [one for one in found["tests"] if not (isinstance(one, dict) and one.get("id") == test["id"])]
    content = {**found, "tests": [*others, dict(test)]}
    write_text_atomic(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return path


def outcome_of(pairs: Sequence[Mapping[str, Any]]) -> Outcome:
    """Of the answered pairs of a test, each with `x` and `answer`. Raises ValueError where there is none."""
    answered = [pair for pair in pairs if pair.get("answer")]
    return Outcome(sum(pair["answer"] == pair.get("x") for pair in answered), len(answered))
