"""What answers of a blind test show, against figures computed another way."""

from math import comb

import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.evaluate.blind import ABX_FILE, Outcome, keep_test, outcome_of, read_tests


def tail(k, n, share):
    """Probability of k or more right of n."""
    return sum(comb(n, j) * share**j * (1 - share) ** (n - j) for j in range(k, n + 1))


@pytest.mark.parametrize("pairs", [1, 10, 23])
def test_interval_and_p_are_those_of_the_binomial_distribution(pairs):
    """Clopper and Pearson's ends are where 2.5 % lie beyond what was seen, found here by bisection."""
    for k in range(pairs + 1):
        outcome = Outcome(k, pairs)
        low, high = outcome.interval
        assert outcome.p == pytest.approx(tail(k, pairs, 0.5))
        assert outcome.interval == pytest.approx(binomtest(k, pairs).proportion_ci(0.95, method="exact"))
        assert low == pytest.approx(brentq(lambda s, k=k: tail(k, pairs, s) - 0.025, 0, 1) if k else 0.0)
        assert high == pytest.approx(
            brentq(lambda s, k=k: 1 - tail(k + 1, pairs, s) - 0.025, 0, 1) if k < pairs else 1.0
        )
        assert low <= k / pairs <= high


def test_reference_values_of_ten_pairs():
    """From tables: 9 of 10 are 55.50 to 99.75 %, 5 of 10 are 18.71 to 81.29 %."""
    assert Outcome(9, 10).interval == pytest.approx((0.5550, 0.9975), abs=5e-5)
    assert Outcome(5, 10).interval == pytest.approx((0.1871, 0.8129), abs=5e-5)
    assert Outcome(8, 10).p == pytest.approx(56 / 1024)


def test_what_is_said_is_no_more_than_what_is_shown():
    verdicts = [Outcome(k, 10).verdict for k in range(11)]
    assert verdicts == ["swapped"] * 2 + ["alike"] * 3 + ["unclear"] * 4 + ["apart"] * 2
    assert Outcome(8, 10).needed == 9
    assert Outcome(50, 100).verdict == "alike"
    assert Outcome(1, 1).verdict == "unclear"
    assert Outcome(1, 1).needed == 2  # one pair never tells
    for correct, pairs in ((1, 0), (0, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError):
            Outcome(correct, pairs)


def test_tests_are_kept_one_after_the_other(tmp_path):
    assert read_tests(tmp_path) == []
    pairs = [{"x": "a", "answer": "a"}, {"x": "a", "answer": "b"}, {"x": "b"}]
    assert outcome_of(pairs) == Outcome(1, 2)
    keep_test(tmp_path, {"id": "1", "pairs": pairs})
    keep_test(tmp_path, {"id": "2", "pairs": []})
    keep_test(tmp_path, {"id": "1", "pairs": pairs[:2]})
    assert [(one["id"], len(one["pairs"])) for one in read_tests(tmp_path)] == [("2", 0), ("1", 2)]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tests": 3}', "no JSON"])
def test_a_damaged_file_is_left_as_it_is(tmp_path, content):
    (tmp_path / ABX_FILE).write_text(content)
    assert read_tests(tmp_path) == []
    with pytest.raises(CheckpointError, match="move it away"):
        keep_test(tmp_path, {"id": "1", "pairs": []})
    assert (tmp_path / ABX_FILE).read_text() == content
