"""Silence trimming and cutting at pauses: levels, thresholds, and the bounds every cut must keep."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_voxclone.audio import segment
from mlx_voxclone.audio.io import normalise_level
from mlx_voxclone.audio.segment import FRAME_SECONDS, Span, cut_at_pauses, frame_levels, soft_speech, speech_mask, trim

RATE = 24_000


def talk(*parts: float, level: float = -20.0, noise: float = -90.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Noise bursts ("speech") and silences in turn; a positive number is seconds of speech, a negative of silence."""
    rng = np.random.default_rng(seed)
    out = [rng.normal(size=int(abs(p) * rate)) * 10 ** ((level if p > 0 else noise) / 20) for p in parts]
    return np.concatenate(out).astype(np.float32)


def levels_and_mask(samples: np.ndarray, rate: int = RATE) -> tuple[np.ndarray, np.ndarray]:
    levels = frame_levels([samples], rate)
    return levels, speech_mask(levels)


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100])
def test_levels_are_those_of_each_frame_and_do_not_depend_on_the_blocks(rate):
    rng = np.random.default_rng(1)
    samples = (rng.normal(size=rate * 2 + 777) * np.linspace(0.01, 0.3, rate * 2 + 777)).astype(np.float32)
    whole = frame_levels([samples], rate)
    assert len(whole) == int(np.ceil(len(samples) / rate / FRAME_SECONDS))
    edges = np.rint(np.arange(200) * rate * FRAME_SECONDS).astype(int)
    centred = samples.astype(np.float64) - samples.mean(dtype=np.float64)
    expected = [10 * np.log10(np.mean(centred[a:b] ** 2)) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(whole[:199], expected, atol=1e-3)
    cuts = np.sort(rng.integers(0, len(samples), 40))
    np.testing.assert_allclose(frame_levels(np.split(samples, cuts), rate), whole, atol=1e-4)


def test_level_of_a_full_scale_square_wave_is_zero():
    assert frame_levels([np.tile(np.float32([1, -1]), 1200)], RATE) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("noise", [-90.0, -60.0, -45.0])
@pytest.mark.parametrize("level", [-12.0, -24.0])
def test_trimming_keeps_speech_and_a_short_margin_at_any_noise(noise, level):
    span = trim(levels_and_mask(talk(-1.0, 2.0, -0.5, 1.0, -2.0, level=level, noise=noise))[1])
    assert 0.85 <= span.start * FRAME_SECONDS <= 0.95
    assert 4.55 <= span.end * FRAME_SECONDS <= 4.65


def test_mask_is_the_same_at_another_gain():
    samples = talk(-1, 1.5, -0.4, 0.7, -1.2, noise=-55)
    np.testing.assert_array_equal(levels_and_mask(samples)[1], levels_and_mask(samples * 0.25)[1])


def test_hysteresis_keeps_a_weak_word_ending_but_not_lone_noise_as_weak():
    """8 dB above the floor is under the start threshold (10) and over the one for going on (5)."""
    fade = talk(1.0, level=-52.0, seed=3)
    samples = np.concatenate(
        [talk(-2.0, noise=-60), talk(1.0), fade, talk(-2.0, noise=-60), fade, talk(-2.0, noise=-60)]
    )
    mask = levels_and_mask(samples)[1]
    assert mask[310:390].all()  # the fading word
    assert not mask[610:690].any()  # the same noise alone


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE, np.float32), talk(-3.0, noise=-80), np.zeros(0, np.float32), np.full(RATE + 7, 0.3, np.float32)],
    ids=["digital silence", "quiet noise", "nothing", "constant"],
)
def test_silence_is_silence(samples):
    levels, mask = levels_and_mask(samples)
    assert not mask.any()
    assert trim(mask) is None
    assert cut_at_pauses(levels, mask) == []


def test_a_constant_offset_changes_nothing():
    samples = talk(-1, 1.5, -0.4, 0.7, -1.2, noise=-55)
    levels, mask = levels_and_mask(samples + np.float32(0.25))
    np.testing.assert_allclose(levels, levels_and_mask(samples)[0], atol=0.01)
    np.testing.assert_array_equal(mask, levels_and_mask(samples)[1])


def test_a_click_is_no_speech():
    samples = talk(-2, 1.5, -2)
    samples[RATE // 2 : RATE // 2 + 100] = 0.9
    assert trim(levels_and_mask(samples)[1]).start * FRAME_SECONDS > 1.8


def test_speech_level_is_that_of_the_speech_alone():
    levels, mask = levels_and_mask(talk(-5, 2, -5, level=-20))
    assert segment.speech_level(levels, mask) == pytest.approx(-20, abs=0.5)


@pytest.mark.parametrize("level", [-45, -20, -8])
def test_normalising_is_by_the_speech_not_by_the_silence_around_it(level):
    samples = talk(-5, 2, -5, level=level)
    normal = normalise_level(samples)
    levels, mask = levels_and_mask(normal)
    assert segment.speech_level(levels, mask) == pytest.approx(-23, abs=0.5)
    np.testing.assert_allclose(normal / normal.max(), samples / samples.max(), atol=1e-6)


def test_normalising_stops_at_full_scale_and_leaves_silence_alone():
    samples = talk(2, level=-50)
    samples[100] = 0.5
    assert np.abs(normalise_level(samples)).max() == pytest.approx(0.99)
    np.testing.assert_array_equal(normalise_level(talk(-2.0, noise=-80)), talk(-2.0, noise=-80))
    assert len(normalise_level(np.zeros(0, np.float32))) == 0


def check_pieces(pieces: list[Span], mask: np.ndarray, shortest: float, longest: float) -> None:
    covered = np.zeros(len(mask), bool)
    for piece in pieces:
        assert 0 <= piece.start < piece.end <= len(mask)
        assert piece.seconds <= longest + 1e-6
        assert piece.seconds >= min(shortest, len(mask) * FRAME_SECONDS) - 1e-6
        assert not covered[piece.start : piece.end].any()
        covered[piece.start : piece.end] = True
    assert [p.start for p in pieces] == sorted(p.start for p in pieces)
    assert covered[mask].all()


@pytest.mark.slow
@given(
    runs=st.lists(st.tuples(st.integers(1, 700), st.integers(1, 900)), min_size=1, max_size=25),
    lead=st.integers(0, 1500),
    bounds=st.sampled_from([(2.0, 20.0), (1.0, 5.0), (0.5, 8.0)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_pieces_keep_their_bounds_and_cover_all_speech(runs, lead, bounds, seed):
    mask = np.concatenate([np.zeros(lead, bool), *[np.repeat([True, False], pair) for pair in runs]])
    mask = mask[: max(1, len(mask) - seed * 9)]  # sometimes ends in the middle of speech
    levels = np.where(mask, -20, -70) + np.random.default_rng(seed).normal(size=len(mask))
    pieces = cut_at_pauses(levels, mask, *bounds)
    check_pieces(pieces, mask, *bounds)
    assert pieces == cut_at_pauses(levels, mask, *bounds)


def test_cuts_fall_into_the_pauses():
    phrases = [3.0, -0.4, 6.0, -0.8, 5.0, -0.3, 7.0, -1.5, 4.0, -0.5, 8.0, -0.6, 2.5]
    levels, mask = levels_and_mask(talk(-1, *phrases, -1))
    pieces = cut_at_pauses(levels, mask)
    check_pieces(pieces, mask, 2, 20)
    assert len(pieces) >= 2
    for piece in pieces:
        assert not mask[[piece.start, piece.end - 1]].any()


@pytest.mark.parametrize(("gap", "is_pause"), [(5, False), (14, False), (15, True), (40, True)])
def test_a_pause_lasts_150_ms(gap, is_pause):
    """A shorter gap is a stop consonant: not there, but where it is quietest is the speech cut."""
    mask, levels = np.ones(1200 + gap, bool), np.full(1200 + gap, -20.0)
    mask[600 : 600 + gap] = False
    levels[400:410] = -60.0
    pieces = cut_at_pauses(levels, mask, 2.0, 10.0)
    assert len(pieces) == 2
    if is_pause:
        assert 600 <= pieces[0].end <= pieces[1].start <= 600 + gap
    else:
        assert 400 <= pieces[0].end <= 410


@pytest.mark.parametrize("gaps", [(20, 60), (60, 20)])
def test_of_two_pauses_the_longer_one_is_cut(gaps):
    mask = np.repeat([True, False, True, False, True], [500, gaps[0], 400, gaps[1], 500])
    first, second = cut_at_pauses(np.where(mask, -20.0, -70.0), mask, 2.0, 10.0)
    start = 500 if gaps[0] > gaps[1] else 900 + gaps[0]
    assert start <= first.end <= second.start <= start + max(gaps)


def test_speech_without_a_pause_is_cut_where_it_is_quietest():
    samples = talk(30.0)
    for dip in (9.0, 17.0):
        samples[int(dip * RATE) : int((dip + 0.08) * RATE)] *= 0.1
    levels = frame_levels([samples], RATE)
    pieces = cut_at_pauses(levels, np.ones(len(levels), bool))
    check_pieces(pieces, np.ones(len(levels), bool), 2, 20)
    cuts = [piece.end * FRAME_SECONDS for piece in pieces[:-1]]
    assert cuts
    assert all(min(abs(cut - dip) for dip in (9.04, 17.04)) < 0.06 for cut in cuts)


def test_long_silences_fall_out():
    levels, mask = levels_and_mask(talk(5, -10, 4, -30, 6))
    assert sum(piece.seconds for piece in cut_at_pauses(levels, mask)) < 16
    # 4 s and 4 s are pleasanter together, but not with 3 s of nothing between them.
    for silence, count in ((0.6, 1), (3.0, 2)):
        pieces = cut_at_pauses(*levels_and_mask(talk(4, -silence, 4)))
        assert len(pieces) == count
        assert sum(piece.seconds for piece in pieces) < 8.7


def test_three_hours_are_cut_in_seconds():
    rng = np.random.default_rng(0)
    runs = rng.integers([20, 15], [300, 80], size=(5000, 2))
    mask = np.concatenate([np.repeat([True, False], pair) for pair in runs])[: 3 * 360_000]
    levels = np.where(mask, -20.0, -60.0) + rng.normal(size=len(mask))
    start = time.perf_counter()
    pieces = cut_at_pauses(levels, mask)
    assert time.perf_counter() - start < 10
    check_pieces(pieces, mask, 2, 20)


@pytest.mark.parametrize("bounds", [(11, 10), (0, 10), (0.2, 0.9)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="must be at least"):
        cut_at_pauses(np.zeros(10), np.ones(10, bool), *bounds)


def lost(pieces: list[Span], mask: np.ndarray, shortest: float) -> int:
    """Frames of speech in pieces that are too short."""
    return sum(int(mask[p.start : p.end].sum()) for p in pieces if p.seconds < shortest - 1e-6)


def least_lost(runs: list[tuple[int, int]], n_frames: int, shortest: int, longest: int) -> int:
    """Of every way to join neighbouring runs of speech into pieces, what the best one loses; by trying all of them."""
    best, margin = 10**9, 10
    gaps = [b - a for a, b in zip([0, *(end for _, end in runs)], [*(start for start, _ in runs), n_frames])]
    for cuts in itertools.product([False, True], repeat=len(runs) - 1):
        edges = [0, *(k + 1 for k, cut in enumerate(cuts) if cut), len(runs)]
        loss = 0
        for i, j in itertools.pairwise(edges):
            left, right = (gaps[k] if k in (0, len(runs)) else gaps[k] // 2 for k in (i, j))
            speech = runs[j - 1][1] - runs[i][0]
            if speech + min(margin, left) + min(margin, right) > longest:
                loss = 10**9
            elif speech + left + right < shortest:
                loss += sum(end - start for start, end in runs[i:j])
        best = min(best, loss)
    return best


@given(
    lengths=st.lists(st.tuples(st.integers(20, 900), st.integers(20, 900)), min_size=1, max_size=9),
    lead=st.integers(0, 900),
    bounds=st.sampled_from([(5.5, 20.0), (8.0, 10.0), (9.0, 12.0), (15.0, 20.0), (9.9, 10.0)]),
)
@settings(max_examples=150, deadline=None)
def test_where_the_bounds_lie_close_together_as_little_is_lost_as_can_be(lengths, lead, bounds):
    mask = np.concatenate([np.zeros(lead, bool), *[np.repeat([True, False], pair) for pair in lengths]])
    starts = lead + np.cumsum([0, *(sum(pair) for pair in lengths[:-1])])
    runs = [(int(start), int(start) + pair[0]) for start, pair in zip(starts, lengths)]
    pieces = cut_at_pauses(np.where(mask, -20.0, -70.0), mask, *bounds)
    check_pieces(pieces, mask, 0, bounds[1])
    assert lost(pieces, mask, bounds[0]) <= least_lost(runs, len(mask), *(round(100 * bound) for bound in bounds))


@pytest.mark.parametrize(
    ("bounds", "most_lost"), [((5.5, 20.0), 0.0), ((15.0, 20.0), 0.0), ((8.0, 10.0), 0.0), ((19.9, 20.0), 0.5)]
)
def test_speech_that_runs_on_is_cut_between_bounds_that_lie_close_together(bounds, most_lost):
    mask = np.concatenate([np.repeat([True, False], (size, 20)) for size in (700, 300, 650, 100, 900, 2000) * 20])
    levels = np.where(mask, -20.0, -70.0) + np.random.default_rng(0).normal(size=len(mask))
    start = time.perf_counter()
    pieces = cut_at_pauses(levels, mask, *bounds)
    assert time.perf_counter() - start < 10
    check_pieces(pieces, mask, 0, bounds[1])
    assert lost(pieces, mask, bounds[0]) <= most_lost * mask.sum()


@pytest.mark.parametrize("softer", [36, 40, 50])
@pytest.mark.parametrize("first", [True, False])
def test_soft_speech_at_an_end_is_found_beside_loud_speech(softer, first):
    soft = np.concatenate([talk(0.3, -0.15, 0.4, -0.1, 0.5, -0.2, 0.4, level=-20 - softer), talk(-0.3)])
    loud = np.concatenate([talk(-0.3), talk(1.0, -0.2, 1.5), talk(-0.3)])
    samples = np.concatenate([soft[::-1], loud] if first else [loud, soft])
    levels, mask = levels_and_mask(samples)
    whole, spoken = trim(soft_speech(levels, mask)), trim(mask)
    assert abs(spoken.seconds - 2.9) < 0.25
    assert whole.seconds > spoken.seconds + 1.8


@pytest.mark.parametrize("noise", [-90.0, -60.0, -50.0])
def test_noise_clicks_and_fading_are_no_soft_speech(noise):
    rng = np.random.default_rng(0)
    samples = talk(-2.0, 1.0, -0.2, 1.5, -2.0, noise=noise)
    samples[2000:2200] = 0.01
    fade = slice(int(4.7 * RATE), int(4.9 * RATE))
    samples[fade] += rng.normal(size=fade.stop - fade.start) * 0.1 * 10 ** (-np.arange(fade.stop - fade.start) / 2400)
    levels, mask = levels_and_mask(samples)
    assert abs(trim(soft_speech(levels, mask)).seconds - trim(mask).seconds) < 0.2
    assert soft_speech(np.zeros(0, np.float32), np.zeros(0, bool)).tolist() == []
