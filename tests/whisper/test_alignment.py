"""The soft alignment of Whisper's tokens with audio, against definitions, Whisper's own filter and closed forms."""

import numpy as np
import pytest
from scipy.signal import medfilt

from mlx_voxclone.whisper.alignment import (
    attention_within,
    crop_states,
    encoder_frames,
    latent_frames,
    median_over_time,
    monotone_share,
    over_tokens,
    smoothed_attention,
    to_latent_frames,
    token_scores,
    token_weights,
)

RNG = np.random.default_rng(7)
TEXT, ALL = slice(1, 5), slice(None)  # of six positions those of the tokens; all of them


def softmax(row):
    odds = np.exp(row - row.max())
    return odds / odds.sum()


def definition(scores, predicting, frames, width):
    """Each head, position and frame on its own, as the docstrings have it."""
    heads, positions, _ = scores.shape
    rows = np.array([[softmax(row[:frames].astype(np.float64)) for row in head] for head in scores])
    for h in range(heads):
        for t in range(frames):
            column = rows[h, :, t].copy()
            rows[h, :, t] = (column - column.mean()) / np.sqrt(((column - column.mean()) ** 2).mean())
    smooth, half = np.zeros((heads, positions, frames)), width // 2
    for h in range(heads):
        for n in range(positions):
            padded = np.pad(rows[h, n], half, mode="reflect")
            smooth[h, n] = [np.median(padded[t : t + width]) for t in range(frames)]
    return smooth.mean(axis=0)[predicting]


def test_the_alignment_is_its_definition():
    scores = (3 * RNG.standard_normal((3, 6, 1500))).astype(np.float32)
    for frames, width in ((200, 7), (53, 3), (9, 7), (1500, 1)):
        expected = definition(scores, TEXT, frames, width)
        np.testing.assert_allclose(token_scores(scores, TEXT, frames, width), expected, rtol=1e-9, atol=1e-12)
        weights = token_weights(scores, TEXT, frames, width)
        assert weights.shape == (4, frames)
        np.testing.assert_allclose(weights, np.stack([softmax(c) for c in expected.T], axis=1), rtol=1e-9)
        np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-12)


def test_attention_to_the_padding_counts_for_nothing():
    """A 4 s clip has 200 of Whisper's 1500 frames; most attention may lie on the other 1300."""
    scores = RNG.standard_normal((2, 5, 1500)).astype(np.float32)
    other = scores.copy()
    other[..., 200:] = 50 * RNG.standard_normal((2, 5, 1300))
    np.testing.assert_array_equal(token_weights(scores, ALL, 200, 7), token_weights(other, ALL, 200, 7))
    np.testing.assert_allclose(attention_within(other, 200).sum(axis=-1), 1, rtol=1e-12)


def test_all_of_the_30_s_squeezed_onto_the_clip_is_something_else():
    """The mistake: softmax over 1500 frames, stretched over the clip. A clip's words then pile up at its beginning."""
    frames, tokens = 200, 10
    scores = np.full((1, tokens, 1500), -8.0, np.float32)
    for n in range(tokens):
        scores[0, n, 20 * n : 20 * n + 20] = 0
    right = token_weights(scores, ALL, frames, 7)
    np.testing.assert_array_equal(right.argmax(axis=0), np.repeat(np.arange(tokens), 20))
    whole = over_tokens(smoothed_attention(scores, 1500, 7)[0])
    squeezed = whole[:, np.linspace(0, 1499, frames).astype(int)]
    assert (squeezed.argmax(axis=0) == right.argmax(axis=0)).mean() < 0.2


@pytest.mark.parametrize("width", [3, 7, 11])
def test_the_median_filter_is_whispers_own(width):
    weights = RNG.random((2, 3, 60))
    half = width // 2
    padded = np.pad(weights, ((0, 0), (0, 0), (half, half)), mode="reflect")
    np.testing.assert_array_equal(median_over_time(weights, width), medfilt(padded, (1, 1, width))[..., half:-half])


def test_the_median_filter_takes_any_length():
    for frames in range(1, 9):
        filtered = median_over_time(RNG.random((2, 3, frames)), 7)
        assert filtered.shape == (2, 3, frames)
        assert np.isfinite(filtered).all()


def test_frames_that_no_token_attends_to_belong_to_all_alike():
    np.testing.assert_allclose(over_tokens(np.zeros((4, 3))), np.full((4, 3), 0.25))
    scores = np.zeros((1, 4, 1500), np.float32)
    scores[..., 0] = 3e4  # further than any exponential reaches
    assert np.isfinite(token_weights(scores, ALL, 100, 7)).all()


def test_counts_of_frames():
    assert [encoder_frames(n) for n in (1, 480, 481, 720_000)] == [1, 1, 2, 1500]
    assert [latent_frames(n) for n in (1, 1920, 1921, 720_000)] == [1, 1, 2, 375]


@pytest.mark.parametrize("samples", [1, 500, 1920, 1921, 3000, 24000, 24961])
def test_interpolation_to_latent_frames_keeps_what_is_linear_in_time(samples):
    """States that are the time itself: encoder frame j is centred on sample 480 j, latent frame i on 1920 i + 960."""
    n = encoder_frames(samples)
    times = 480.0 * np.arange(n)
    states = np.stack([times, 3 - 2 * times], axis=1)
    expected = np.minimum(1920.0 * np.arange(latent_frames(samples)) + 960, times[-1])
    found = to_latent_frames(states, samples)
    np.testing.assert_allclose(found, np.stack([expected, 3 - 2 * expected], axis=1), rtol=1e-12)


def test_crops_keep_what_is_linear_in_time():
    times = (1920.0 * np.arange(12) + 960)[:, None]
    for start, n in ((0, 12), (1920, 3), (1, 4), (777, 11), (5000, 6), (11 * 1920, 1), (12 * 1920 - 1, 1)):
        expected = np.minimum(start + 1920.0 * np.arange(n) + 960, times[-1, 0])[:, None]
        np.testing.assert_allclose(crop_states(times, start, n), expected, rtol=1e-12)


def test_crops_on_whole_frames_are_slices():
    states = RNG.standard_normal((9, 4)).astype(np.float32)
    crop = crop_states(states, 3 * 1920, 5)
    assert crop.dtype == np.float32
    np.testing.assert_array_equal(crop, states[3:8])
    np.testing.assert_array_equal(crop_states(states[:1], 100, 1), states[:1])


@pytest.mark.parametrize(("start", "n"), [(-1, 2), (9 * 1920, 1), (1920, 9), (8 * 1920 + 1, 2)])
def test_crops_beyond_the_clip_are_refused(start, n):
    with pytest.raises(ValueError, match="do not lie in a clip of 9 frames"):
        crop_states(np.zeros((9, 4), np.float32), start, n)


def by_recursion(weights):
    tokens, frames = weights.shape
    best = np.full((tokens, frames), -np.inf)
    for n in range(tokens):
        for t in range(frames):
            before = [best[a, b] for a, b in ((n - 1, t), (n, t - 1), (n - 1, t - 1)) if a >= 0 and b >= 0]
            best[n, t] = weights[n, t] + (max(before) if before else 0)
    return best[-1, -1] / frames


def test_the_monotone_share_is_that_of_the_best_path():
    weights = over_tokens(RNG.random((5, 7, 23)) ** 4)
    np.testing.assert_allclose(monotone_share(weights), [by_recursion(w) for w in weights], rtol=1e-12)
    np.testing.assert_allclose(monotone_share(weights[:, :1]), 1 * weights[:, 0].mean(axis=-1), rtol=1e-12)


def test_the_monotone_share_tells_alignment_from_rest_and_disorder():
    order = np.repeat(np.arange(8), 10)
    aligned = (order[None] == np.arange(8)[:, None]).astype(float)
    resting = over_tokens(np.ones((8, 80)))  # all tokens attend to the same frames
    assert monotone_share(aligned) == 1
    assert monotone_share(resting) < 1 / 8 + 0.1
    assert monotone_share(aligned[::-1]) < 0.3  # said backwards
