"""Plots: what they show of sounds and curves, and the scales that they share."""

import json
import re

import numpy as np
import pytest
from report_pages import PNG, tone

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.report.plots import Series, curves_figure, png, sound_figure
from mlx_voxclone.report.run_report import write_report


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
