"""The report, parsed as a browser would."""

import base64
import json
import re

import pytest
from report_pages import Page, tone
from runs_made import MEASURED, summarised, write_log

from mlx_voxclone.report.page import NOTICE
from mlx_voxclone.report.run_report import write_report

ORIGINAL_SOUND = {"file": "originals/sentence.wav", "same_text": True}


@pytest.mark.slow
def test_the_whole_report(run):
    path = write_report(run)
    assert path == run / "report" / "index.html"
    page = Page(path)
    assert page.images.keys() == {
        "curves of stage encoder",
        "curves of stage speaker",
        "waveform and spectrogram: original recording",
        "waveform and spectrogram: before (did not end, cut off)",
        "waveform and spectrogram: after",
        "waveform and spectrogram: original",
        "waveform and spectrogram: through the codec, step 0",
        "waveform and spectrogram: through the codec, step 6",
    }
    assert all(drawing["viewbox"] for drawing in page.images.values())
    assert len(page.audio) == 6
    decoded = base64.b64decode(page.audio[1].removeprefix("data:audio/wav;base64,"))
    assert decoded == (run / "samples" / "before-1.wav").read_bytes()
    assert NOTICE in page.words
    assert "consent" in NOTICE
    assert "CC BY-NC 4.0" in NOTICE
    assert "6 steps, stopped early; the best model is that of step 3; 9 s, peak memory 0.50 GB; 1 steps" in page.words
    assert "6 steps, not finished" in page.words
    assert ["metric", "start (step 0)", "best (step 3)", "last (step 6)"] in page.rows
    assert ["semantic accuracy", "0", "0.3", "0.6"] in page.rows
    for row in (["baked: fold error", "0.001235"], ["data: train clips", "1,200"], ["data: speakers", "ann, bob"]):
        assert row in page.rows
    assert ["time taken", "12.5 s"] in page.rows
    assert ["data: speech", "15 min 00 s"] in page.rows
    assert not any("steps" in row for row in page.rows)
    assert page.source.count("http") == 0, "nothing is loaded from elsewhere"


def test_text_of_the_user_is_escaped(run, no_plots):
    source = write_report(run).read_text()
    assert "A &lt;b&gt;cup&lt;/b&gt; &amp; tea" in source
    assert "Voice &lt;x&gt;" in source
    assert "# &lt;tag&gt;" in source


def test_a_second_report_replaces_the_first(tmp_path):
    write_log(tmp_path, ["l1"])
    first = write_report(tmp_path).read_text()
    assert f"<h1>Run {tmp_path.name}</h1>" in first
    (tmp_path / "summary.json").write_text('{"baked": {"voice": "two"}}')
    assert "<h1>Voice two</h1>" in write_report(tmp_path).read_text()
    assert [p.name for p in (tmp_path / "report").iterdir()] == ["index.html"]


def test_one_stage_in_the_run_directory_itself(tmp_path):
    write_log(tmp_path, ["l1"])
    page = Page(write_report(tmp_path))
    assert list(page.images) == ["curves of stage training"]
    assert "Stage: training" in page.words
    (tmp_path / "summary.json").write_text('{"task": "encoder"}')
    assert "Stage: encoder" in Page(write_report(tmp_path)).words


ROUND = {"encoder": "encoder", "heldout_nats": 2.5, "clips": 40, "left_out": 1, "confidence": 0.75}
ROUND |= {"changed_semantic": 0.5, "text_gain": None}


def test_what_was_delivered_and_why(tmp_path):
    delivered = {"name": "adapted", "why": "nothing <became> worse", "measured": MEASURED}
    page = summarised(tmp_path, task="clone", delivered=delivered, rounds=[ROUND, ROUND | {"encoder": "encoder-2"}])
    assert "Delivered: adapted; nothing <became> worse." in page.words
    assert page.words.index("Delivered") < page.words.index("Details")
    rows = {row[0].split(" (")[0]: row[1:] for row in page.rows}
    assert rows["measured on held-out sentences"] == ["better", "zero-shot", "adapted (delivered)"]
    assert rows["loss of the codes of held-out recordings"] == ["lower", "3.5", "3.25"]
    assert rows["sentences that did not end"] == ["lower", "25", "0"]
    assert rows["of what was said, not explained by its text"] == ["lower", "12.5", "not measured"]
    assert rows["voice distance to the recordings"] == ["lower", "0.5", "0.75"]
    assert rows["similarity to the recordings"] == ["higher", "0.875", "0.75"]
    assert rows["characters misheard"] == ["lower", "6.25", "not measured"]
    assert page.rows[-3:-1] == [
        ["encoder", "2.5", "40", "1", "75", "50", "not measured"],
        ["encoder-2", "2.5", "40", "1", "75", "50", "not measured"],
    ]


def test_figures_that_need_judges_are_left_out_without_them(tmp_path):
    plain = [{key: value for key, value in one.items() if key in ("name", "code_loss")} for one in MEASURED]
    page = summarised(tmp_path, delivered={"name": "zero-shot", "measured": plain})
    assert "Delivered: zero-shot." in page.words
    assert "similarity" not in page.words
    assert "misheard" not in page.words
    assert "recordings of the voice prompt" not in page.words


def test_all_rounds_of_the_encoder_are_stages_in_order(tmp_path, no_plots):
    for name in ("speaker", "encoder-10", "encoder-2", "encoder", "encoder-x"):
        write_log(tmp_path / name, ["l1"])
    (tmp_path / "encoder-3").mkdir()  # nothing trained there yet
    page = Page(write_report(tmp_path))
    stages = [text.removeprefix("Stage: ") for text in page.text if text.startswith("Stage: ")]
    assert stages == ["encoder", "encoder-2", "encoder-10", "speaker"]
    assert page.words.count("Use of the codes") == 3  # of every encoder


def test_original_before_and_after_beside_each_other(run, no_plots):
    """Found in the run directory wherever that is, first what the original says too; what is missing is said."""
    summary = json.loads((run / "summary.json").read_text())
    sounds = {when: {"file": f"samples/{when}-1.wav", "ended": True} for when in ("before", "after")}
    other = {"text": "Two", "original": {"file": "originals/voice.wav", "same_text": False}, **sounds}
    summary["speech"].insert(0, other)
    (run / "summary.json").write_text(json.dumps(summary))
    moved = run.rename(run.with_name("moved"))
    source = write_report(moved).read_text()
    first, second = source.split("<blockquote>")[1:]
    assert first.startswith("A &lt;b&gt;")
    assert second.startswith("Two")
    for part, original in ((first, "original recording"), (second, "original voice (saying something else)")):
        titles = re.findall(r'class="player-label">([^<]*)<', part.partition("</section>")[0])
        assert [title.partition(" (did")[0] for title in titles] == [original, "before", "after"]
    assert "voice.wav is missing or cannot be read" in second


def test_audio_and_verdict_first_the_rest_folded(run, no_plots):
    summary = json.loads((run / "summary.json").read_text())
    summary["delivered"] = {"name": "adapted", "why": "it is better", "measured": MEASURED}
    summary["rounds"] = [ROUND]
    (run / "summary.json").write_text(json.dumps(summary))
    source = write_report(run).read_text()
    body = source[source.index("<h1>") :]
    shown, *parts = body.split('<details class="part"><summary>')
    titles = ["What was measured", "Rounds", "Stage: encoder", "Stage: speaker"]
    assert [part.partition("</summary>")[0] for part in parts] == titles
    raw = body.split('<details class="part raw"><summary>')[1:]
    assert [part.partition("</summary>")[0] for part in raw] == ["Details", "Configuration"]
    assert shown.index("Delivered: adapted; it is better.") < shown.index("<audio")
    assert shown.count("<audio") == 3
    assert "<table" not in shown
    plots = shown[shown.index("<details><summary>Waveforms and spectrograms</summary>") : shown.index("</details>")]
    assert shown.count('class="plot"') == plots.count('class="plot"') == 3
    assert body.rindex("</details>") > body.rindex("</pre>")


def test_the_figures_beside_the_verdict_and_of_the_run_have_plain_names(run, no_plots):
    summary = json.loads((run / "summary.json").read_text())
    summary["delivered"] = {"name": "adapted", "measured": MEASURED}
    summary["data"]["heldout_clips"], summary["peak_memory_gb"] = 24, 8.251
    (run / "summary.json").write_text(json.dumps(summary))
    shown = write_report(run).read_text().partition('<details class="part')[0]
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>(?:<dd[^>]*>(.*?)</dd>)?", shown)
    assert found == [
        ("Similarity to the voice (1 = the same)", "0.75", "zero-shot: 0.875"),
        ("Distance to the voice (0 = the same)", "0.75", "zero-shot: 0.5"),
        ("Sentences without an end", "0 %", "zero-shot: 25 %"),
        ("Speech", "15 min 00 s", "1,200 clips to train on, 24 held out"),
        ("Time taken", "12.5 s", ""),
        ("Memory at most", "8.25 GB", ""),
    ]
    assert not re.search(r">[^<]*[a-z]_[a-z]", shown.partition("<h1>")[2]), "no name of a key"


def test_samples_of_a_single_training_are_not_folded(tmp_path, no_plots):
    write_log(tmp_path, ["l1"])
    tone(tmp_path / "samples" / "step-0" / "clip-1-original.wav")
    source = write_report(tmp_path).read_text()
    assert source.count("<audio") == 1
    assert source.index("<audio") < source.index('<details class="part">')
