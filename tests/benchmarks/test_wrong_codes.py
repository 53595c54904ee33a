"""Wrong codes among those that the speaking miniature is given while it is trained."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.speaking.wrong_codes import disturbed

CODEC = SimpleNamespace(semantic_codebook_size=128, acoustic_codebook_size=21)


def test_codes_are_wrong_as_often_as_asked():
    rng = np.random.default_rng(0)
    before = np.concatenate([rng.integers(2, 130, (400, 1)), rng.integers(2, 23, (400, 36))], axis=1)
    before[100] = [1] + [0] * 36  # END
    after = disturbed(before, 0.2, 0.5, CODEC, rng)
    frames = before[:, 0] != 1
    np.testing.assert_array_equal(before[~frames], after[~frames])
    assert (before[frames, 0] != after[frames, 0]).mean() == pytest.approx(0.2, abs=0.06)
    steps = (after - before)[frames, 1:]
    assert set(np.unique(steps)) == {-1, 0, 1}
    assert (steps != 0).mean() == pytest.approx(0.5 * 20 / 21, abs=0.03)  # at the ends, half of the moves lead nowhere
    assert after[frames].min() >= 2
    assert after[:, 0].max() < 130
    assert after[:, 1:].max() < 23
    every = disturbed(before, 1.0, 0.0, CODEC, rng)
    np.testing.assert_array_equal(before[:, 1:], every[:, 1:])
    assert (before[frames, 0] != every[frames, 0]).mean() > 0.95
