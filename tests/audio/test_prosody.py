"""The pitch is found block by block: the same as all at once, in memory that does not grow with the recording."""

import tracemalloc

import numpy as np
import pytest
from speech_made import speech

from mlx_voxclone.audio import prosody
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.prosody import fundamental

FRAME, NEED = 240, 1360  # samples from frame to frame; that the first one takes


@pytest.fixture(scope="module")
def wave():
    """Voices with pauses and noise between them, about 12 s."""
    noise = 0.02 * np.random.default_rng(0).standard_normal(12000)
    return np.concatenate([part for k in range(5) for part in (speech(k, k), noise)]).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 127, 128, 129, 256, 257, None])
def test_blocks_change_nothing(wave, frames, monkeypatch):
    samples = wave if frames is None else wave[: NEED + (frames - 1) * FRAME + 100]
    found, loud = fundamental(samples)
    monkeypatch.setattr(prosody, "BLOCK", 1_000_000)
    whole, whole_loud = fundamental(samples)
    assert len(found) == len(loud) == 1 + (len(samples) - NEED) // FRAME
    np.testing.assert_array_equal(loud, whole_loud)
    np.testing.assert_allclose(found, whole, rtol=1e-12)
    assert frames == 1 or np.isfinite(found).any()


def test_memory_does_not_grow_with_the_recording(wave):
    def peak(seconds):
        samples = np.resize(wave, round(seconds * SAMPLE_RATE))
        tracemalloc.start()
        try:
            found = fundamental(samples)
            return tracemalloc.get_traced_memory()[1], sum(part.nbytes for part in found)
        finally:
            tracemalloc.stop()

    (short, small), (long, large) = peak(3), peak(30)
    assert long - short < 4 * (large - small)
    assert long < 30e6
