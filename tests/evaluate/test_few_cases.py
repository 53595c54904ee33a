"""Few cases: intervals that are wide enough, none where nothing can be told, and few claims that are false."""

import json
import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from mlx_voxclone.evaluate.intelligibility import Errors
from mlx_voxclone.evaluate.measure import Evaluation, Interval, Measured, compare, summarise

NO_CLAIM = ("no clear difference", "too few cases")


def evaluation(cases):
    return Evaluation({"speaker_model": None, "whisper_model": None}, cases, summarise(cases))


def similar(values):
    return evaluation([Measured(str(k), {"similarity": float(value)}) for k, value in enumerate(values)])


def misheard(wrong, words=10):
    """One text of `words` words for each number of wrong ones."""
    return evaluation([Measured(str(k), errors=Errors(int(n), words, int(n), words)) for k, n in enumerate(wrong)])


def check_claims(metric, draw, comparisons):
    """Of comparisons of what differs by chance alone, 5 % are to claim a difference, give or take 2.5 deviations."""
    verdicts = [compare(draw(), draw())[metric].verdict for _ in range(comparisons)]
    false, expected = sum(verdict not in NO_CLAIM for verdict in verdicts), 0.05 * comparisons
    assert false <= expected + 2.5 * math.sqrt(expected * 0.95)


@pytest.mark.parametrize("cases", range(2, 10))
def test_no_difference_is_seldom_taken_for_one(cases):
    rng = np.random.default_rng(cases)
    check_claims("similarity", lambda: similar(rng.normal(0.7, 0.05, cases)), 500)


@pytest.mark.parametrize("cases", range(2, 10))
def test_neither_are_words_that_are_counted(cases):
    """Counts are often all alike, which is chance."""
    rng = np.random.default_rng(cases)
    check_claims("wer", lambda: misheard(rng.binomial(10, 0.1, cases)), 300)


@pytest.mark.parametrize("cases", [2, 5, 9])
def test_the_interval_of_few_pairs_is_student_s(cases):
    rng = np.random.default_rng(0)
    before, after = rng.normal(0.7, 0.05, cases).round(6), rng.normal(0.8, 0.05, cases).round(6)
    found = compare(similar(before), similar(after))["similarity"].difference
    wanted = ttest_rel(after, before).confidence_interval()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_a_rate_of_few_texts_has_the_interval_of_its_variance_by_cochran():
    """By hand: 1, 2, 0 of 10, 20, 5 words; rate 3/35, residuals e = wrong - rate * words, t of 2 degrees 4.3027."""
    wrong, words = np.array([1, 2, 0]), np.array([10, 20, 5])
    found = summarise(
        [Measured(str(k), errors=Errors(*map(int, (w, n, w, n)))) for k, (w, n) in enumerate(zip(wrong, words))]
    )
    rate, e = 3 / 35, wrong - 3 / 35 * words
    half = 4.302653 * math.sqrt((e**2).sum() / 2 / 3) / words.mean()
    assert (found["wer"].low, found["wer"].high) == pytest.approx((100 * (rate - half), 100 * (rate + half)), rel=1e-5)


def test_a_true_difference_of_few_cases_is_found():
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, 3)
    assert compare(similar(base), similar(base + 0.3 + rng.normal(0, 0.01, 3)))["similarity"].verdict == "better"
    assert compare(misheard([1] * 6), misheard([0] * 6))["wer"].verdict == "better"


def test_one_case_and_few_that_are_alike_tell_no_interval():
    for before, after in (([0.5], [0.9]), ([0.5] * 5, [0.6] * 5), ([0.7, 0.8], [0.8, 0.9])):
        change = compare(similar(before), similar(after))["similarity"]
        assert change.verdict == "too few cases"
        assert math.isnan(change.difference.low)
        assert math.isnan(change.difference.high)
    one = summarise([Measured("a", {"similarity": 0.7})])["similarity"]
    assert (one.mean, one.n, one.ends(".3g")) == (0.7, 1, "no interval")
    assert Interval(1.0, 0.5, 1.5, 9).ends(".3g") == "0.5 to 1.5"


def test_no_interval_survives_its_file(tmp_path):
    (tmp_path / "evaluation.json").write_text(similar([0.7]).to_json())
    assert json.loads((tmp_path / "evaluation.json").read_text())["summary"]["similarity"]["low"] is None
    assert Evaluation.load(tmp_path).summary["similarity"].ends(".3g") == "no interval"
