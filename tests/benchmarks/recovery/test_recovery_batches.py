"""Batches for the recovery benchmark's codec: crops, their labels, and what disturbs them."""

import mlx.core as mx
import numpy as np
from recovery_corpus import TINY_CODEC, heard_states

from benchmarks.recovery.batches import DISTURBED_DB, Crops, disturbance
from benchmarks.recovery.corpus import FRAME, units_of
from benchmarks.recovery.heard import crop_of
from benchmarks.recovery.student import disturbed


def test_crops_have_the_states_of_their_own_frames(corpus):
    states = np.arange(12, dtype=np.float16)[:, None] * np.ones(2, np.float16)
    np.testing.assert_array_equal(crop_of(states, 2 * FRAME, 3)[:, 0], [2, 3, 4])
    np.testing.assert_array_equal(crop_of(states, 2 * FRAME + FRAME // 2, 2)[:, 0], [2.5, 3.5])
    np.testing.assert_array_equal(crop_of(states, 10 * FRAME, 4)[:, 0], [10, 11, 0, 0])
    heard = heard_states(corpus)
    batch = Crops(corpus, TINY_CODEC, 16, 3, 0, heard=heard).batch(0)
    assert batch["heard"].shape == (16, 3, 5)
    known = np.array(mx.abs(batch["heard"]).sum(axis=(1, 2)) > 0)
    assert 0 < known.sum() < 16
    assert "heard" not in Crops(corpus, TINY_CODEC, 4, 3, 0).batch(0)


def test_crops_depend_on_seed_and_number_and_carry_their_labels(corpus):
    crops = Crops(corpus, TINY_CODEC, 6, 3, seed=9)
    one, again, next_one = crops.batch(4), Crops(corpus, TINY_CODEC, 6, 3, seed=9).batch(4), crops.batch(5)
    for name in ("waves", "units", "hiss"):
        np.testing.assert_array_equal(np.array(one[name]), np.array(again[name]))
    np.testing.assert_array_equal(np.array(one["noise"].offset), np.array(again["noise"].offset))
    assert not np.array_equal(np.array(one["waves"]), np.array(next_one["waves"]))
    found = 0
    for wave, units in zip(np.array(one["waves"]), np.array(one["units"])):
        for clip in corpus.split("train"):
            whole = clip.read()
            for first in range(0, len(whole) - 3 * FRAME + 1, 240):
                piece = whole[first : first + 3 * FRAME]
                gain = (wave @ piece) / (piece @ piece)
                if np.abs(wave - gain * piece).max() < 1e-3 * np.abs(wave).max():
                    np.testing.assert_array_equal(units, units_of(clip.track, first // 240, 3))
                    found += 1
    assert found == 6


def test_crops_start_on_their_grid(corpus):
    whole = {clip.id: clip.read() for clip in corpus.split("train")}
    crops = Crops(corpus, TINY_CODEC, 6, 2, seed=1, grid=FRAME)
    for number in range(3):
        for wave in np.array(crops.batch(number)["waves"]):
            unit = wave / np.abs(wave).max()
            places = [
                start
                for samples in whole.values()
                for start in range(0, max(1, len(samples) - 2 * FRAME + 1), FRAME)
                if np.allclose(unit, _to_one(samples[start : start + 2 * FRAME]), atol=2e-3)
            ]
            assert places


def _to_one(samples):
    return np.pad(samples / max(np.abs(samples).max(), 1e-9), (0, 2 * FRAME - len(samples)))


def test_a_disturbance_is_heard_as_nothing_much():
    """Against numpy's own filtering; magnitudes stay within the stated decibels, the waveform does not stay."""
    rng, size, rate = np.random.default_rng(3), 4800, 24000
    waves = rng.standard_normal((3, size)).astype(np.float32)
    filters = np.stack([disturbance(np.random.default_rng(k), size, rate) for k in range(3)])
    assert filters.shape == (3, size + 1)
    gains = 20 * np.log10(np.abs(filters))
    assert np.abs(gains).max() <= DISTURBED_DB + 1e-6
    padded = np.fft.rfft(np.pad(waves, ((0, 0), (0, size))))
    expected = np.fft.irfft(padded * filters)[:, :size] + 0.25
    found = np.array(disturbed(mx.array(waves), mx.array(filters), mx.full(waves.shape, 0.25)))
    assert np.abs(found - expected).max() < 1e-4
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.98 for a, b in zip(found, waves))
