"""A run directory with everything in it, and reports without plots."""

import json

import pytest
from matplotlib.figure import Figure
from report_pages import tone
from runs_made import write_log

ORIGINAL_SOUND = {"file": "originals/sentence.wav", "same_text": True}


@pytest.fixture
def run(tmp_path):
    """A clone's run directory with everything in it."""
    write_log(tmp_path / "encoder", ["l1", "mel"])
    write_log(tmp_path / "speaker", ["semantic", "flow"], end=False)
    for step in (0, 6):
        tone(tmp_path / "encoder" / "samples" / f"step-{step}" / "clip-1-original.wav")
        tone(tmp_path / "encoder" / "samples" / f"step-{step}" / "clip-1-reconstructed.wav", level=0.1)
    tone(tmp_path / "originals" / "sentence.wav")
    tone(tmp_path / "samples" / "before-1.wav")
    tone(tmp_path / "samples" / "after-1.wav", level=0.2)
    before, after = ({"file": f"samples/{w}-1.wav", "frames": 4, "ended": w == "after"} for w in ("before", "after"))
    summary = {
        "task": "clone",
        "run_dir": "runs/x",
        "data": {"hours": 0.25, "train_clips": 1200, "speakers": ["ann", "bob"]},
        "results": {"encoder": {"steps": 6}},
        "baked": {
            "path": "runs/x/baked",
            "voice": "<x>",
            "reference": "mine.wav + yours.wav",
            "fold_error": 0.00123456,
        },
        "speech": [{"text": "A <b>cup</b> & tea", "original": ORIGINAL_SOUND, "before": before, "after": after}],
        "seconds": 12.5,
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "config.yaml").write_text("task: clone  # <tag>\n")
    return tmp_path


@pytest.fixture
def no_plots(monkeypatch):
    """For tests of the words: plots take most of a report's time."""
    for name in ("page.sound_figure", "run_report.curves_figure", "run_report.usage_figure"):
        monkeypatch.setattr(f"mlx_voxclone.report.{name}", lambda *_, **__: Figure(figsize=(0.1, 0.1)))
