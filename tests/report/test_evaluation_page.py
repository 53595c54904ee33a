"""An evaluation's page: the verdict first, raw values folded."""

import math
import re

import pytest
from report_pages import Page, tone

from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.measure import Change, Evaluation, Interval, Measured
from mlx_voxclone.report.evaluation_page import evaluation_page

MEANS = {"similarity": 0.75, "wer": 12.5, "cer": 4.0, "pitch_hz": 200.0, "pesq": 2.5, "estoi": 0.5}


@pytest.fixture
def made(tmp_path):
    """Page (parsed) of two cases with sounds, and what of it is shown without opening anything."""
    for name in ("output", "original"):
        tone(tmp_path / f"{name}.wav")

    def make(changes=None, means=MEANS):
        about = {"voxclone": "1", "cases": 2, "speaker_model": None, "whisper_model": "tiny"}
        summary = {name: Interval(mean, 0.9 * mean, 1.1 * mean, 2) for name, mean in means.items()}
        cases = [
            Case(f"c{k}", tmp_path / "output.wav", original=tmp_path / "original.wav", text="<x>") for k in range(2)
        ]
        measured = [Measured(case.id, {"wer": 10.0 * k}) for k, case in enumerate(cases)]
        path = tmp_path / "index.html"
        path.write_text(evaluation_page(Evaluation(about, measured, summary), cases, tmp_path, changes))
        page = Page(path)
        return page, re.sub(r"<details.*?</details>", "", page.source.partition("<h1>")[2], flags=re.S)

    return make


def change(before, after, verdict):
    return Change(before, after, Interval(after - before, 0, 0, 2), verdict)


def test_the_figures_that_matter_come_first_and_keys_are_folded(made):
    page, shown = made()
    titles = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd><dd[^>]*>(.*?)</dd>", shown)
    assert titles == [
        ("Speaker similarity (higher is better)", "0.75", "0.675 to 0.825, 2 cases"),
        ("Word error rate (lower is better)", "12.5 %", "11.2 to 13.8, 2 cases"),
        ("Character error rate (lower is better)", "4 %", "3.6 to 4.4, 2 cases"),
        ("PESQ, wide band (higher is better)", "2.5", "2.25 to 2.75, 2 cases"),
    ]
    assert shown.index("<dt>") < shown.index("<audio") < shown.index("<h2>Figures</h2>")
    assert shown.count("<audio") == 4
    assert 'class="plot"' not in shown
    assert "whisper model" not in shown
    assert ["whisper model", "tiny"] in page.rows
    assert ["speaker model", "none"] in page.rows


def test_one_case_has_no_interval(tmp_path):
    """Neither has its change: no figure stands for one, in the tables, in the sentence or in the plot."""
    none = Interval(0.75, math.nan, math.nan, 1)
    few = {"similarity": Change(0.5, 0.75, Interval(0.25, math.nan, math.nan, 1), "too few cases")}
    path = tmp_path / "one.html"
    about = {"speaker_model": "ge2e", "whisper_model": None}
    evaluation = Evaluation(about, [Measured("a", {"similarity": 0.75})], {"similarity": none})
    path.write_text(evaluation_page(evaluation, [], tmp_path, few))
    page = Page(path)
    assert "no interval, 1 case; before: 0.5" in page.source
    assert "Too few cases: speaker similarity." in page.source
    assert "nan" not in re.sub(r"<(style|script).*?</\1>", "", page.source, flags=re.S)
    assert ["speaker similarity", "cosine", "0.75", "1"] in page.rows  # empty cells are left out


@pytest.mark.slow
def test_what_has_changed_is_a_sentence(made):
    better, worse = change(10, 12.5, "worse"), change(0.5, 0.75, "better")
    changes = {"similarity": worse, "wer": better, "pitch_hz": change(1, 2, "changed")}
    changes["pesq"] = change(2, 2, "no clear difference")
    page, shown = made(changes)
    assert "Better: speaker similarity. Worse: word error rate. No clear difference: PESQ, wide band." in page.words
    assert "11.2 to 13.8, 2 cases; before: 10" in page.words
    assert shown.index("Better: ") < shown.index("<audio") < shown.index("<h2>Before and after</h2>")


@pytest.mark.slow
def test_an_evaluation_without_any_of_them_has_no_verdict(made):
    page, _ = made(means={"pitch_hz": 200.0})
    assert "In short" not in page.words
    assert ["median pitch", "Hz", "200", "180", "220", "2"] in page.rows
