"""The report of a run of which parts are missing, damaged or of another shape."""

import json

import pytest
from report_pages import Page, tone
from runs_made import MEASURED, summarised, write_log

from mlx_voxclone.errors import DataError
from mlx_voxclone.report.run_report import write_report


def test_an_empty_run_says_so(tmp_path):
    page = Page(write_report(tmp_path))
    assert "No training log here" in page.words
    assert not page.images


@pytest.mark.parametrize(
    "content", ["", "not json", "[1]", '{"speech": 3, "baked": [1]}', '{"speech": [3, {}, {"before": 1}]}']
)
def test_a_summary_that_is_none(content, tmp_path):
    write_log(tmp_path, ["l1"])
    (tmp_path / "summary.json").write_text(content)
    assert "Stage: training" in Page(write_report(tmp_path)).words


@pytest.mark.parametrize(
    "delivered",
    [None, 3, [], {}, {"name": 3}, {"name": ""}, {"why": "x", "measured": MEASURED}],
)
def test_a_delivery_that_is_none(delivered, tmp_path):
    assert "Delivered" not in summarised(tmp_path, delivered=delivered, rounds={"encoder": 1}).words


@pytest.mark.parametrize("measured", [None, 3, {"name": "adapted"}, [3, None, {}, {"name": 3}]])
def test_measurements_that_are_none(measured, tmp_path):
    page = summarised(tmp_path, delivered={"name": "adapted", "why": 3, "measured": measured}, rounds=[3, {}])
    assert "Delivered: adapted." in page.words
    assert "code loss" not in page.words
    assert page.rows[-1] == ["not measured"] * 6  # a round without figures, behind an empty cell
    odd = {"name": "adapted", "measured": [{"name": "adapted", "code_loss": "x", "not_ended": [1], "voice": 3}]}
    assert "not measured" in summarised(tmp_path, delivered=odd).words


@pytest.mark.parametrize(
    "lines", [[], ['{"event": "start", "step": 0}'], ['{"event": "start", "step": 0}', '{"step": 1, "lo']]
)
def test_a_log_without_steps(lines, tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    page = Page(write_report(tmp_path))
    assert "The log holds no training step yet." in page.words
    assert "No held-out measurement yet." in page.words


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    lines = [{"step": 1, "loss": "nan", "lr": 1e-4}, {"step": 2, "loss": 1.0, "lr": 1e-4}]
    lines.append({"event": "eval", "step": 2, "metrics": {"loss": "inf"}, "best": False})
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = Page(write_report(tmp_path))
    assert "curves of stage training" in page.images
    assert ["loss", "inf"] in page.rows


def test_sound_files_that_are_gone_broken_or_long(run, monkeypatch, no_plots):
    (run / "samples" / "before-1.wav").unlink()
    (run / "samples" / "after-1.wav").write_bytes(b"RIFF")
    page = Page(write_report(run))
    assert "before-1.wav is missing or cannot be read" in page.words
    assert "after-1.wav is missing or cannot be read" in page.words
    monkeypatch.setattr("mlx_voxclone.report.page._EMBED_LIMIT", 10)
    assert "../encoder/samples/step-0/clip-1-original.wav" in Page(write_report(run)).audio


def test_text_that_no_file_can_hold(tmp_path, no_plots):
    said = {"text": "half \ud800 a character", "before": {"file": "a\0b.wav"}}
    (tmp_path / "summary.json").write_text(json.dumps({"speech": [said]}))
    assert "half ? a character" in Page(write_report(tmp_path)).words


def test_links_to_files_of_any_name(tmp_path, monkeypatch, no_plots):
    monkeypatch.setattr("mlx_voxclone.report.page._EMBED_LIMIT", 10)
    tone(tmp_path / "samples" / 'a#b %41?"<.wav')
    (tmp_path / "summary.json").write_text(json.dumps({"speech": [{"before": {"file": 'samples/a#b %41?"<.wav'}}]}))
    assert Page(write_report(tmp_path)).audio == ["../samples/a%23b%20%2541%3F%22%3C.wav"]


def test_no_such_run(tmp_path):
    with pytest.raises(DataError, match="no such run directory"):
        write_report(tmp_path / "gone")
