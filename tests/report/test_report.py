"""The report: parsed as a browser would, whole and with every part missing in turn."""

import base64
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_pages import PNG, Page, tone

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.errors import DataError
from mlx_voxclone.report.page import NOTICE
from mlx_voxclone.report.plots import Series, curves_figure, png, sound_figure
from mlx_voxclone.report.run_report import write_report


def log_lines(terms, steps=6, end=True):
    yield {"event": "start", "step": 0, "task": "t"}
    for step in range(steps + 1):
        value = 2.0 - step / 10
        if step:
            head = {"step": step, "epoch": 0, "lr": 1e-4, "loss": value, "grad_norm": 1.0, "items_per_s": 3.0}
            yield {**head, **dict.fromkeys(terms, value), "seconds": 1.5 * step, "peak_memory_gb": 0.5, "skipped": 1}
        if step % 3 == 0:
            metrics = {"loss": value + 1, **dict.fromkeys(terms, value + 1), "semantic_accuracy": step / 10}
            yield {"event": "eval", "step": step, "metrics": metrics, "best": step < 6}
    yield {"event": "skip", "step": steps, "items": ["a"], "sums": {}, "grad_norm": "nan"}
    if end:
        yield {"event": "end", "step": steps, "stopped_early": True, "best": 3}


def write_log(directory, *args, **keywords):
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) for line in log_lines(*args, **keywords)]
    (directory / "log.jsonl").write_text("\n".join(lines) + "\n")


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


@pytest.fixture
def no_plots(monkeypatch):
    """For tests of the words: plots take most of a report's time."""
    for name in ("page.sound_figure", "run_report.curves_figure", "run_report.usage_figure"):
        monkeypatch.setattr(f"mlx_voxclone.report.{name}", lambda *_, **__: Figure(figsize=(0.1, 0.1)))


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


# --- what is delivered ------------------------------------------------------------------------------------------------

MEASURED = [
    {"name": "zero-shot", "voice": "a.wav", "code_loss": 3.5, "not_ended": 0.25, "unexplained": 0.125}
    | {"voice_distance": 0.5, "dissimilarity": 0.125, "error_rate": 0.0625},
    {"name": "adapted", "voice": "b.wav + c.wav", "code_loss": 3.25, "not_ended": 0.0, "unexplained": float("nan")}
    | {"voice_distance": 0.75, "dissimilarity": 0.25},
]
ROUND = {"encoder": "encoder", "heldout_nats": 2.5, "clips": 40, "left_out": 1, "confidence": 0.75}
ROUND |= {"changed_semantic": 0.5, "text_gain": None}


def summarised(directory, **entries):
    (directory / "summary.json").write_text(json.dumps(entries))
    return Page(write_report(directory))


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


def test_all_rounds_of_the_encoder_are_stages_in_order(tmp_path, no_plots):
    for name in ("speaker", "encoder-10", "encoder-2", "encoder", "encoder-x"):
        write_log(tmp_path / name, ["l1"])
    (tmp_path / "encoder-3").mkdir()  # nothing trained there yet
    page = Page(write_report(tmp_path))
    stages = [text.removeprefix("Stage: ") for text in page.text if text.startswith("Stage: ")]
    assert stages == ["encoder", "encoder-2", "encoder-10", "speaker"]
    assert page.words.count("Use of the codes") == 3  # of every encoder


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


def test_plots_that_are_compared_have_the_same_axes(tmp_path, monkeypatch):
    """Original, before and after of one sentence: time to the longest, level to the loudest, frequencies in Hz."""
    figures = []
    monkeypatch.setattr(
        "mlx_voxclone.report.page.sound_figure", lambda *a, **k: figures.append(sound_figure(*a, **k)) or figures[-1]
    )
    sounds = {"original": (0.3, 0.2), "before": (0.7, 0.1), "after": (0.5, 0.4)}
    for name, (seconds, level) in sounds.items():
        tone(tmp_path / f"{name}.wav", seconds, level)
    (tmp_path / "summary.json").write_text(json.dumps({"speech": [{n: {"file": f"{n}.wav"} for n in sounds}]}))
    source = write_report(tmp_path).read_text()
    assert len(figures) == 3
    for figure in figures:
        wave, spectrum = figure.axes
        assert wave.get_xlim() == spectrum.get_xlim() == pytest.approx((0, 0.7))
        assert wave.get_ylim() == pytest.approx((-0.4, 0.4), abs=1e-3)
        assert spectrum.get_ylabel() == "Hz"
    assert len({(tuple(figure.get_size_inches()), figure.axes[1].get_ylim()) for figure in figures}) == 1
    heights = [
        max(map(int, re.findall(r"v(\d+)", wave)))
        for wave in re.findall(r'<path d="(M[^"]*v[^"]*)"/></svg></div>', source)
    ]
    assert heights == pytest.approx([0.5 * 96, 0.25 * 96, 96], abs=2)  # of the players' own waveforms, too
    times = [float(seconds) for seconds in re.findall(r'<voice-player seconds="([\d.]+)"', source)]
    assert times == [seconds for seconds, _ in sounds.values()]


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


@pytest.mark.parametrize("samples", [0, 1, 100, 24000])
def test_sound_figures_of_any_length(samples):
    assert png(sound_figure(np.full(samples, 0.1, np.float32)), dpi=40).startswith(PNG)


def test_the_waveform_keeps_its_peaks_and_its_scale():
    """A single click in a minute of silence is seen, and two sounds at one scale keep their levels apart."""
    samples = np.zeros(60 * SAMPLE_RATE, np.float32)
    samples[700_001] = 0.8
    wave = sound_figure(samples).axes[0]
    drawn = wave.collections[0].get_paths()[0].vertices
    assert drawn[:, 1].max() == pytest.approx(0.8)
    assert drawn[drawn[:, 1].argmax(), 0] == pytest.approx(700_001 / SAMPLE_RATE, abs=0.06)
    assert sound_figure(samples, scale=2.0).axes[0].get_ylim() == (-2.0, 2.0)


def test_a_sound_beside_its_original_shows_the_difference():
    """Half as loud is 6 dB less where something is heard; what is too quiet to be drawn is no difference; one scale."""
    original = np.zeros(12000, np.float32)
    original[:6000] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(6000) / SAMPLE_RATE)
    ours = original / 2
    ours[6000:] += 2e-4 * np.random.default_rng(0).standard_normal(6000)
    plain, compared = sound_figure(original), sound_figure(ours, original=original)
    assert len(plain.axes) == 2
    _, mel, difference, bar = compared.axes
    values, drawn = difference.images[0].get_array(), mel.images[0].get_array()
    assert drawn[:, -10:].min() > -95
    assert drawn[:, -10:].max() < -65
    loudest = np.unravel_index(drawn.argmax(), values.shape)
    assert values[loudest] == pytest.approx(-6.02, abs=0.01)
    assert values.min() > -7  # the noise adds to it or takes away
    assert np.abs(values[:, -10:]).max() == 0
    assert mel.images[0].get_clim() == plain.axes[1].images[0].get_clim() == (-65, 10)
    assert difference.images[0].get_clim() == (-30, 30)
    assert bar.get_xlabel() == "dB"


@pytest.mark.parametrize(("ours", "theirs"), [(3000, 2000), (2000, 3000), (0, 3000), (3000, 0), (1, 1)])
def test_a_sound_of_another_length_than_its_original(ours, theirs):
    figure = sound_figure(np.full(ours, 0.1, np.float32), original=np.full(theirs, 0.1, np.float32))
    assert len(figure.axes) == (4 if min(ours, theirs) else 2)
    if min(ours, theirs):
        assert figure.axes[2].images[0].get_extent()[1] == pytest.approx(min(ours, theirs) / SAMPLE_RATE)
        assert np.abs(figure.axes[2].images[0].get_array()).max() < (1 if ours == theirs else 80)
    assert png(figure, dpi=40).startswith(PNG)


def test_samples_of_an_encoder_are_compared_with_their_original(tmp_path, monkeypatch):
    drawn = []

    def look(samples, **drawing):
        drawn.append((float(np.abs(samples).max()), drawing))
        return sound_figure(samples[:0])

    monkeypatch.setattr("mlx_voxclone.report.page.sound_figure", look)
    (tmp_path / "log.jsonl").write_text("")
    for step, level in ((0, 0.1), (6, 0.2)):
        tone(tmp_path / "samples" / f"step-{step}" / "clip-1-original.wav")
        tone(tmp_path / "samples" / f"step-{step}" / "clip-1-reconstructed.wav", level=level)
    source = write_report(tmp_path).read_text()
    assert [level for level, _ in drawn] == pytest.approx([0.5, 0.1, 0.2], abs=1e-3)
    assert drawn[0][1]["original"] is None
    for _, drawing in drawn[1:]:
        assert np.abs(drawing["original"]).max() == pytest.approx(0.5, abs=1e-3)
    assert len({drawing["scale"] for _, drawing in drawn}) == 1
    row = source[source.index("<p>clip-1</p>") :]
    assert row[: row.index("<figure>")].count('<div class="sound">') == 3, "beside each other"


def test_curves_show_every_panel_and_the_best_step():
    panels = [(f"p{i}", [Series("training", [1, 2], [3.0, 4.0]), Series("held out", [2], [i], True)]) for i in range(4)]
    figure = curves_figure(panels, best_step=2)
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["p0", "p1", "p2", "p3"]
    assert [list(line.get_ydata()) for line in shown[3].lines[:2]] == [[3.0, 4.0], [3]]
    assert list(shown[3].lines[2].get_xdata()) == [2, 2]
