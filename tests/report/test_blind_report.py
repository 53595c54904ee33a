"""The part of the report on blind tests."""

import json

import pytest
from report_pages import Page

from mlx_voxclone.evaluate.blind import keep_test
from mlx_voxclone.report.run_report import write_report


def a_test(correct, pairs=10, **more):
    listed = [
        {"text": f"<i>{k}</i>", "a": "original", "b": "adapted", "x": "adapted", "answer": answer}
        for k, answer in enumerate(["adapted"] * correct + ["original"] * (pairs - correct))
    ]
    sides = {"first": {"name": "original", "title": "Original recording"}, "second": {"title": "Adapted model"}}
    return {"id": str(correct), **sides, "seed": 7, "ended": "2026-11-30T10:00:00Z", "pairs": listed, **more}


@pytest.mark.parametrize(
    ("correct", "words"),
    [
        (9, "The two can be told apart."),
        (8, "does not show whether the two can be told apart. 10 pairs show little: only 9 right answers or more"),
        (4, "could not be told apart: whoever listened is right in less than 75 %"),
        (0, "taken the wrong way round"),
    ],
)
def test_a_test_is_told_in_words_and_figures(tmp_path, correct, words):
    keep_test(tmp_path, a_test(correct))
    page = Page(write_report(tmp_path))
    assert words in page.words
    assert f"Original recording or Adapted model: {correct} of 10 right" in page.words
    assert "<i>0</i>" in page.words  # as text
    assert sum(row[-1:] == ["right"] for row in page.rows) == correct


def test_the_newest_comes_first_and_what_is_damaged_is_left_out(tmp_path):
    (tmp_path / "abx.json").write_text(
        json.dumps({"tests": [a_test(3), {}, {"pairs": 3}, {"pairs": [{}, 1]}, None, a_test(9)]})
    )
    words = Page(write_report(tmp_path)).words
    assert words.index("9 of 10") < words.index("3 of 10")
    (tmp_path / "abx.json").write_text("nonsense")
    assert "Blind listening test" not in Page(write_report(tmp_path)).words
