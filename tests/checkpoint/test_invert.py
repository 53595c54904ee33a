"""Inverting a voice: the codes that made it, or the plain statement that they were not found; never wrong ones."""

import time

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_voxclone.checkpoint.dtypes import bfloat16_to_float32, float32_to_bfloat16
from mlx_voxclone.checkpoint.invert import TABLE, CodeTable, invert, rounding_error
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.miniature.micro import make_micro

SIZES = (130, *[23] * 36)
FULL_SIZES = (8194, *[23] * 36)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    return bfloat16_to_float32(float32_to_bfloat16(values))


def random_table(sizes, dim: int, seed: int, cosine: float = 0.0) -> np.ndarray:
    """BF16 values; `cosine` between neighbouring levels of each acoustic codebook; unused rows at the end."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((-(-sum(sizes) // 128) * 128, dim), dtype=np.float32)
    start = sizes[0]
    for size in sizes[1:]:
        for level in range(start + 1, start + size):
            table[level] = cosine * table[level - 1] + (1 - cosine**2) ** 0.5 * table[level]
        start += size
    return to_bfloat16(table)


def random_codes(sizes, frames: int, seed: int) -> np.ndarray:
    """0-based `[codebooks, frames]`."""
    rng = np.random.default_rng([seed, 1])
    return np.stack([rng.integers(0, size - 2, frames) for size in sizes])


def sums(table: np.ndarray, sizes, codes: np.ndarray) -> np.ndarray:
    """The rows that `voice_embedding` makes (without the END row), by the definition; unrounded."""
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return sum(table[offset + 2 + row].astype(np.float64) for offset, row in zip(offsets, codes)).astype(np.float32)


def assert_all_found(found, codes):
    assert found.status == ["exact"] * codes.shape[1]
    assert found.codes.dtype == np.int32
    np.testing.assert_array_equal(found.codes, codes)


@pytest.fixture(scope="module")
def wide():
    """A table wider than the acoustic codebooks' degrees of freedom, as the release's is."""
    table = random_table(SIZES, 900, 0, cosine=0.95)
    return table, CodeTable(table, SIZES)


@pytest.fixture(scope="module")
def narrow():
    table = random_table(SIZES, 128, 0)
    return table, CodeTable(table, SIZES)


# ---- found ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), noise=st.sampled_from([0.0, 1.0, 8.0]), frames=st.integers(1, 12))
def test_every_code_of_a_wide_correlated_table(wide, seed, noise, frames):
    """`noise`: Gaussian, in multiples of the rounding error, before the rounding."""
    table, prepared = wide
    codes = random_codes(SIZES, frames, seed)
    rows = sums(table, SIZES, codes)
    disturbance = np.random.default_rng(seed).standard_normal(rows.shape) * noise * rounding_error(rows)[:, None]
    rows = to_bfloat16((rows + disturbance).astype(np.float32))
    found = invert(prepared, rows, tolerance=2 * (1 + noise))
    assert_all_found(found, codes)
    np.testing.assert_allclose(found.residuals, (1 + noise**2) ** 0.5, rtol=0.2)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_every_code_of_a_narrow_table(narrow, seed):
    """128 columns for 36 * 22 acoustic degrees of freedom: no linear estimate can, propagation does."""
    table, prepared = narrow
    codes = random_codes(SIZES, 2, seed)
    rows = to_bfloat16(sums(table, SIZES, codes))
    first = prepared.linear(rows.astype(np.float64), np.square(rounding_error(rows)).mean())
    assert (first != codes.T + 2).any()
    assert_all_found(invert(prepared, rows), codes)


def test_pair_moves_leave_a_minimum_of_single_moves(wide):
    """Two codebooks whose differences nearly cancel: from there, one change at a time only makes it worse."""
    table = wide[0].copy()
    a, b = SIZES[0] + 2, SIZES[0] + 23 + 2
    table[b + 1] = to_bfloat16(table[b] - (table[a + 1] - table[a]) + np.float32(0.05) * table[-1])
    prepared = CodeTable(table, SIZES)
    codes = random_codes(SIZES, 1, 3)
    codes[1:3] = 1  # levels a + 1 and b + 1
    row = to_bfloat16(sums(table, SIZES, codes))[0].astype(np.float64)
    start = codes[:, 0] + 2
    start[1:3] -= 1  # levels a and b
    np.testing.assert_array_equal(prepared.descend(row[None], start[None])[0], start)
    np.testing.assert_array_equal(prepared.descend_pairs(row, start), codes[:, 0] + 2)


def test_float32_rows_are_taken_too(wide):
    table, prepared = wide
    codes = random_codes(SIZES, 3, 0)
    found = invert(prepared, sums(table, SIZES, codes))
    assert_all_found(found, codes)
    assert found.residuals.max() < 0.01


@pytest.mark.slow
def test_the_small_miniature_gives_back_its_voices(tmp_path):
    release = Release(make_micro(tmp_path / "small", preset="small"))
    sizes = release.config.codec.code_sizes
    table = release.tensors.numpy(TABLE)
    rows = np.array(release.voice("casual_female").astype(mx.float32))
    found = invert(CodeTable(table, sizes), rows)
    assert found.status == ["exact"] * (len(rows) - 1) + ["END"]
    np.testing.assert_array_equal(to_bfloat16(sums(table, sizes, found.codes[:, :-1])), rows[:-1])


@pytest.mark.slow
@pytest.mark.parametrize(("cosine", "bar"), [(0.0, 1.0), (0.95, 0.999)])
def test_full_size(cosine, bar):
    """The bars of the release's shape: all codes (correlated levels: 99.9 %), under a minute on two cores."""
    table, codes = random_table(FULL_SIZES, 3072, 0, cosine), random_codes(FULL_SIZES, 200, 0)
    assert table.shape == (9088, 3072)
    rows = to_bfloat16(sums(table, FULL_SIZES, codes))
    start = time.perf_counter()
    found = invert(CodeTable(table, FULL_SIZES), rows)
    assert time.perf_counter() - start < 60
    assert (found.codes == codes).mean() >= bar


# ---- not found -----------------------------------------------------------------------------------------------------


def test_a_row_that_is_no_sum_is_reported_with_its_residual(wide):
    table, prepared = wide
    codes = random_codes(SIZES, 4, 0)
    rows = sums(table, SIZES, codes)
    rows[2] += np.random.default_rng(0).standard_normal(900).astype(np.float32)
    rows = to_bfloat16(rows)
    found = invert(prepared, rows)
    assert found.status == ["exact", "exact", "unexplained", "exact"]
    assert (found.rows("unexplained"), found.rows("exact", "END")) == ([2], [0, 1, 3])
    best = sums(table, SIZES, found.codes)[2]
    assert found.residuals[2] == pytest.approx(np.sqrt(np.square(rows[2] - best).mean()) / rounding_error(rows)[2])
    assert found.residuals[2] > 20
    np.testing.assert_array_equal(found.codes[:, [0, 1, 3]], codes[:, [0, 1, 3]])


def test_the_tiny_miniature_is_too_narrow_and_says_so(miniature):
    """64 columns: a row is left unexplained or right; codes that do not make the row are never called exact."""
    release = Release(miniature)
    table, sizes = release.tensors.numpy(TABLE), release.config.codec.code_sizes
    codes = random_codes(sizes, 3, 0)
    found = invert(CodeTable(table, sizes), to_bfloat16(sums(table, sizes, codes)))
    assert set(found.status) <= {"exact", "unexplained"}
    for i in found.rows("exact"):
        np.testing.assert_array_equal(found.codes[:, i], codes[:, i])
    assert all(found.residuals[i] > 2 for i in found.rows("unexplained"))


# ---- ambiguous -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [900, 128])
@pytest.mark.parametrize("case", ["one", "two", "semantic"])
def test_a_row_with_two_explanations_is_ambiguous(case, dim):
    """Two equal rows in a codebook, or two pairs of rows with equal sums; the other frames are not affected."""
    table = random_table(SIZES, dim, 0)
    a, b = SIZES[0] + 2, SIZES[0] + 23 + 2
    codes = random_codes(SIZES, 2, 0)
    codes[:3, 0], codes[:3, 1] = 0, 5
    if case == "one":
        table[a + 1] = table[a]
    elif case == "semantic":
        table[3] = table[2]
    else:
        table[b + 1] = table[b] - (table[a + 1] - table[a])
    rows = to_bfloat16(sums(table, SIZES, codes))
    found = invert(CodeTable(table, SIZES), rows)
    assert found.status == ["ambiguous", "exact"]
    np.testing.assert_array_equal(found.codes[:, 1], codes[:, 1])


def test_uniqueness_is_proven_for_a_wide_table_only(wide, narrow):
    for (_, prepared), expected in ((wide, True), (narrow, False)):
        assert prepared.proven_unique(random_codes(SIZES, 2, 0).T + 2, np.full(2, 1e-3)).tolist() == [expected] * 2
    assert not wide[1].proven_unique(random_codes(SIZES, 2, 0).T + 2, np.full(2, 1e3)).any()


# ---- frames that are no audio, and bad input -----------------------------------------------------------------------


def test_end_and_special_rows_are_told_apart(wide):
    table, prepared = wide
    codes = random_codes(SIZES, 3, 0)
    codes[:, 1] = -2
    codes[0, 1] = -1  # END: [1, 0, 0, ...] in the LM's counting
    codes[4, 2] = -2  # EMPTY among levels
    found = invert(prepared, to_bfloat16(sums(table, SIZES, codes)))
    assert found.status == ["exact", "END", "special"]
    np.testing.assert_array_equal(found.codes, codes)


def test_no_rows_and_a_row_of_zeros(wide):
    found = invert(wide[1], np.zeros((0, 900)))
    assert (found.codes.shape, found.status) == ((37, 0), [])
    assert invert(wide[1], np.zeros((1, 900))).status == ["unexplained"]


def test_bad_input(wide):
    table, prepared = wide
    for rows, text in ((np.zeros((2, 899)), "900 wide"), (np.full((1, 900), np.nan), "finite")):
        with pytest.raises(ValueError, match=text):
            invert(prepared, rows)
    broken = table.copy()
    broken[3, 3] = np.inf
    for weights, sizes, text in (
        (table[:500], SIZES, "codebooks of 958"),
        (table, (10,), "equal acoustic"),
        (table, (10, 3, 4), "equal acoustic"),
        (broken, SIZES, "finite"),
    ):
        with pytest.raises(ValueError, match=text):
            CodeTable(weights, sizes)


def test_rounding_error_is_that_of_bfloat16():
    rows = np.random.default_rng(0).standard_normal((3, 20000)).astype(np.float32) * [[1], [1e-3], [50]]
    rows = rows.astype(np.float32)
    measured = np.sqrt(np.square(to_bfloat16(rows) - rows).mean(axis=1))
    np.testing.assert_allclose(rounding_error(rows), measured, rtol=0.05)
