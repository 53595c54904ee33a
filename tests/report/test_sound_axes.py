"""The axes of a sound's figure: frequencies in Hz where they are, one time axis and scale for what is compared."""

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.spectral.plain import mel_band_of, mel_filterbank
from mlx_voxclone.report.plots import common_axes, sound_figure


def sine(hertz, seconds=0.4, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(
        np.float32
    )


def test_a_frequency_lies_where_its_band_peaks():
    n_fft = 16384
    peaks = np.argmax(np.array(mel_filterbank(SAMPLE_RATE, n_fft, 80)), axis=1) * SAMPLE_RATE / n_fft
    for band, hertz in enumerate(peaks):
        assert mel_band_of(hertz, SAMPLE_RATE, 80) == pytest.approx(band, abs=0.05)


@pytest.mark.parametrize("hertz", [500, 1000, 4000])
def test_a_tone_is_drawn_at_its_name(hertz):
    axis = sound_figure(sine(hertz)).axes[1]
    (image,) = axis.images
    loudest = int(np.argmax(image.get_array().mean(axis=1)))  # row: its middle is half above
    named = dict(zip((tick.get_text() for tick in axis.get_yticklabels()), axis.get_yticks()))
    assert axis.get_ylabel() == "Hz"
    assert named[str(hertz)] == pytest.approx(loudest + 0.5, abs=0.6)


def test_what_is_compared_has_the_same_axes():
    sounds = [sine(300, 0.2, 0.1), sine(300, 0.5, 0.8), np.zeros(0, np.float32)]
    axes = common_axes(sounds)
    assert axes == {"scale": pytest.approx(0.8, abs=1e-3), "seconds": 0.5}
    figures = [sound_figure(samples, **axes) for samples in sounds[:2]]
    for place in range(2):
        assert {figure.axes[place].get_xlim() for figure in figures} == {(0.0, 0.5)}
    assert len({figure.axes[0].get_ylim() for figure in figures}) == 1
    assert figures[0].axes[1].images[0].get_extent()[1] == pytest.approx(0.2)  # not stretched
    assert common_axes([]) == {"scale": 1.0, "seconds": 0.0}
    assert sound_figure(sounds[1]).axes[0].get_xlim() == (0.0, 0.5)
