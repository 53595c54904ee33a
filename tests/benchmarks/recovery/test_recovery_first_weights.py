"""Where the recovery benchmark's codec starts: filters of bands at both ends, signals of ordinary size between them."""

import mlx.core as mx
import numpy as np
import pytest
from recovery_corpus import TINY_CODEC

from benchmarks.recovery.corpus import FRAME
from benchmarks.recovery.first_weights import band_filters


def test_filters_hear_their_own_band():
    filters = band_filters(32, 1680, 24000)
    assert filters.shape == (32, 1680)
    np.testing.assert_allclose(np.square(filters).sum(axis=1), 1, rtol=1e-5)
    peaks = np.abs(np.fft.rfft(filters[::2], 24000)).argmax(axis=1)  # Hz
    assert (np.diff(peaks) > 0).all()
    levels = []
    for phase in np.linspace(0, np.pi, 9):
        tone = np.cos(2 * np.pi * peaks[9] / 24000 * np.arange(1680) + phase)
        heard = np.square(filters @ tone).reshape(16, 2).sum(axis=1)  # cosine and sine of a band
        assert heard.argmax() == 9
        levels.append(heard[9])
    assert max(levels) / min(levels) < 1.1  # a level, whatever the phase


def test_bands_are_spoken_from_their_frame_on(student):
    """An impulse in one channel at one frame sounds there and in the next frames, with the channel's frequency."""
    heard = np.array(student.codec.input_proj.weight)[20].T.reshape(-1)  # newest sample last
    frames = np.zeros((1, 14, TINY_CODEC.dim), np.float32)
    frames[0, 6, 20] = 1.0
    patches = np.array(student.codec.output_proj(mx.array(frames)))[0]
    energy = np.square(patches).sum(axis=1)
    assert energy[:6].max() == 0
    assert energy[6:10].sum() > 0.99 * energy.sum()
    peaks = [np.abs(np.fft.rfft(wave, 24000)).argmax() for wave in (patches.reshape(-1), heard)]
    assert peaks[0] == pytest.approx(peaks[1], abs=15)  # Hz


def test_first_signals_are_of_ordinary_size_and_the_bands_go_through(student, corpus):
    wave = corpus.clips[0].read()[: 6 * FRAME]
    latents = student.codec.encode_latents(mx.array(wave[None]))
    rms = np.sqrt(np.square(np.array(latents)).mean(axis=(0, 1)))
    assert 0.2 < np.median(rms) < 3
    decoded = np.array(student.codec.decode_latents(student.codec.quantizer.straight_through(latents)[0]))
    assert 0.2 < np.sqrt(np.square(decoded).mean() / np.square(wave).mean()) < 5
