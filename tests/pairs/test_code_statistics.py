"""Statistics of codes against plain numpy and scipy, their bounds, their chance level, and those of presets."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from mlx_voxclone.checkpoint.invert import TABLE, invert
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.pairs import statistics as code_statistics
from mlx_voxclone.pairs.statistics import CodeStatistics, preset_statistics

K, A, L = 128, 36, 21  # of the miniature


@pytest.fixture(scope="module")
def config(miniature):
    return Release(miniature).config.codec


def random_codes(frames: int, seed: int, alpha: float = 0.5) -> np.ndarray:
    """Codes `[37, frames]` of unequal odds."""
    rng = np.random.default_rng(seed)
    odds = [rng.dirichlet(np.full(size, alpha)) for size in (K, *[L] * A)]
    return np.stack([rng.choice(len(p), frames, p=p) for p in odds]).astype(np.int32)


def small(semantic, levels) -> CodeStatistics:
    return CodeStatistics(np.array(semantic, dtype=np.int64), np.array(levels, dtype=np.int64))


def drawn(frames: int, odds, seed) -> CodeStatistics:
    rng = np.random.default_rng(seed)
    return CodeStatistics(rng.multinomial(frames, odds[0]), np.stack([rng.multinomial(frames, p) for p in odds[1]]))


def odds_of(seed: int, k: int = 1000, books: int = 4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(k, 0.3)), rng.dirichlet(np.full(L, 2.0), books)


# ---- counting --------------------------------------------------------------------------------------------------------


def test_counts_equal_bincount_whatever_the_pieces(config):
    codes = random_codes(200, 0)
    whole = CodeStatistics.from_codes([codes], config)
    np.testing.assert_array_equal(whole.semantic, np.bincount(codes[0], minlength=K))
    for book in range(A):
        np.testing.assert_array_equal(whole.levels[book], [(codes[1 + book] == level).sum() for level in range(L)])
    pieces = [codes[:, :70].astype(np.int16), codes[:, 70:70], codes[:, 70:]]
    apart = CodeStatistics.from_codes(pieces[:2], config) + CodeStatistics.from_codes(pieces[2:], config)
    for own in (CodeStatistics.from_codes(iter(pieces), config), apart):
        np.testing.assert_array_equal(own.semantic, whole.semantic)
        np.testing.assert_array_equal(own.levels, whole.levels)
    assert whole.semantic.dtype == whole.levels.dtype == np.int64
    assert whole.frames == 200


def test_usage_and_entropies(config):
    codes = random_codes(300, 1)
    own = CodeStatistics.from_codes([codes], config)
    assert own.usage == len(set(codes[0])) / K
    assert own.entropy_bits == pytest.approx(entropy(np.bincount(codes[0]), base=2))
    each = [entropy(np.bincount(row), base=2) for row in codes[1:]]
    assert own.level_entropy_bits == pytest.approx(np.mean(each))
    np.testing.assert_allclose(own.semantic_share, np.bincount(codes[0], minlength=K) / 300)
    np.testing.assert_allclose(own.level_shares.sum(axis=1), 1)
    np.testing.assert_allclose(own.level_shares[5], np.bincount(codes[6], minlength=L) / 300)


def test_no_frames_at_all(config):
    none = CodeStatistics.from_codes([], config)
    assert (none.frames, none.usage) == (0, 0.0)
    assert np.isnan([none.entropy_bits, none.level_entropy_bits]).all()
    np.testing.assert_allclose(none.semantic_share, 1 / K)
    np.testing.assert_allclose(none.level_shares, 1 / L)
    some = CodeStatistics.from_codes([random_codes(50, 2)], config)
    np.testing.assert_array_equal((none + some).levels, some.levels)
    assert 0 < none.divergence(some).semantic <= 1
    assert none.chance_divergence(some) == none.divergence(some)
    assert none.divergence(none).semantic == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda codes: codes[:-1],
        lambda codes: codes[0],
        lambda codes: codes.astype(np.float32),
        lambda codes: codes - 200,
        lambda codes: codes + 10_000,
        lambda codes: np.where(np.arange(37)[:, None] == 36, L, codes),
    ],
)
def test_codes_that_are_none_are_refused(config, change):
    with pytest.raises(ValueError, match="code"):
        CodeStatistics.from_codes([change(random_codes(4, 0))], config)


# ---- divergence ------------------------------------------------------------------------------------------------------

counts = st.lists(st.integers(0, 50), min_size=6, max_size=6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(a=counts, b=counts)
def test_the_divergence_is_symmetric_bounded_and_that_of_scipy(a, b):
    one, other = small(a, [a, b]), small(b, [b, b])
    found = one.divergence(other)
    smoothed = [(np.array(x) + 1 / 6) / (sum(x) + 1) for x in (a, b)]
    expected = jensenshannon(*smoothed, base=2) ** 2
    assert found.semantic == pytest.approx(expected, abs=1e-9)
    assert found.levels == pytest.approx(expected / 2, abs=1e-9)
    assert 0 <= found.semantic <= 1
    assert other.divergence(one).semantic == pytest.approx(found.semantic, abs=1e-12)
    assert one.divergence(one).semantic == one.divergence(one).levels == 0


def test_its_ends():
    apart = small([10_000, 0, 0], [[10_000, 0], [5, 5]]), small([0, 0, 10_000], [[0, 10_000], [5, 5]])
    found = apart[0].divergence(apart[1])
    assert 0.99 < found.semantic < 1
    assert 0.49 < found.levels < 0.5
    huge = small([10**12, 0], [[1, 0]]), small([0, 10**12], [[1, 0]])
    assert huge[0].divergence(huge[1]).semantic <= 1


@pytest.mark.parametrize("sizes", [(100, 100), (100, 5000), (3000, 300), (3000, 3000)])
def test_samples_of_one_source_diverge_as_chance_says(sizes):
    """The mean over 20 pairs of samples; raw, it is far from 0."""
    odds = odds_of(0)
    pairs = [(drawn(sizes[0], odds, [s, 0]), drawn(sizes[1], odds, [s, 1])) for s in range(20)]
    found = [a.divergence(b) for a, b in pairs]
    chance = [a.chance_divergence(b) for a, b in pairs]
    raw = np.mean([f.semantic for f in found])
    assert raw > 0.05
    assert abs(raw - np.mean([c.semantic for c in chance])) < 0.02
    levels = [np.mean([d.levels for d in side]) for side in (found, chance)]
    np.testing.assert_allclose(levels[0], levels[1], rtol=0.1)


def test_samples_of_two_sources_diverge_more():
    a, b = drawn(400, odds_of(0), 0), drawn(5000, odds_of(1), 1)
    found, chance = a.divergence(b), a.chance_divergence(b)
    assert found.semantic > chance.semantic + 0.15
    assert found.levels > 5 * chance.levels


def test_the_chance_level_is_the_same_at_every_call():
    a, b = drawn(200, odds_of(0), 0), drawn(300, odds_of(1), 1)
    assert a.chance_divergence(b) == a.chance_divergence(b)
    assert a.chance_divergence(b).semantic == pytest.approx(b.chance_divergence(a).semantic, abs=0.02)


def test_codebooks_of_other_sizes_do_not_compare():
    one, other = small([1, 2], [[1, 2]]), small([1, 2, 0], [[1, 2]])
    for call in (one.divergence, one.chance_divergence, one.__add__):
        with pytest.raises(ValueError, match="other sizes"):
            call(other)


def test_metrics_for_the_log(config):
    own, prior = (CodeStatistics.from_codes([random_codes(n, n)], config) for n in (80, 400))
    alone = own.metrics()
    assert alone == {
        "semantic_codes_used": own.usage,
        "semantic_entropy_bits": own.entropy_bits,
        "level_entropy_bits": own.level_entropy_bits,
    }
    beside = own.metrics(prior, "heldout_")
    assert {key: beside.pop(f"heldout_{key}") for key in alone} == alone
    found, chance = own.divergence(prior), own.chance_divergence(prior)
    assert beside == {
        "heldout_semantic_divergence_bits": found.semantic,
        "heldout_semantic_divergence_by_chance": chance.semantic,
        "heldout_level_divergence_bits": found.levels,
        "heldout_level_divergence_by_chance": chance.levels,
    }
    assert {type(value) for value in (*alone.values(), *beside.values())} == {float}


# ---- on the disk -----------------------------------------------------------------------------------------------------


def test_saved_and_loaded(config, tmp_path):
    own = CodeStatistics.from_codes([random_codes(60, 3)], config)
    path = tmp_path / "statistics.safetensors"
    for _ in range(2):  # the second time over the first
        own.save(path)
    back = CodeStatistics.load(path, config)
    np.testing.assert_array_equal(back.semantic, own.semantic)
    np.testing.assert_array_equal(back.levels, own.levels)
    assert (back + own).frames == 120


def test_files_that_are_refused(config, tmp_path):
    good = {"semantic": np.zeros(K, np.int64), "levels": np.zeros((A, L), np.int64)}
    uneven = good["levels"].copy()
    uneven[0, 0] = 1
    negative = good["semantic"].copy()
    negative[:2] = 1, -1
    bad = {
        "another model's": ({"semantic": np.zeros(K + 1, np.int64)}, "another model"),
        "floats": ({"semantic": np.zeros(K, np.float32)}, "F32"),
        "transposed": ({"levels": np.zeros((L, A), np.int64)}, "another model"),
        "uneven": ({"levels": uneven}, "contradict"),
        "negative": ({"semantic": negative}, "contradict"),
    }
    for name, (change, text) in bad.items():
        save_tensors(tmp_path / f"{name}.safetensors", good | change)
        with pytest.raises(CheckpointError, match=text):
            CodeStatistics.load(tmp_path / f"{name}.safetensors", config)
    save_tensors(tmp_path / "half.safetensors", {"semantic": good["semantic"]})
    with pytest.raises(CheckpointError, match="levels"):
        CodeStatistics.load(tmp_path / "half.safetensors", config)
    with pytest.raises(CheckpointError, match="no such file"):
        CodeStatistics.load(tmp_path / "gone.safetensors", config)


# ---- presets ---------------------------------------------------------------------------------------------------------


class FakeRelease:
    """A release with a wide table, whose voices can be inverted in no time."""

    path = "fake"

    def __init__(self, config, voices: dict):
        rng = np.random.default_rng(0)
        self.config = SimpleNamespace(codec=config)
        self.table = rng.standard_normal((sum(config.code_sizes), 850)).astype(np.float32)
        self.tensors = SimpleNamespace(numpy={TABLE: self.table}.__getitem__)
        self._voices = {name: self.rows(value) for name, value in voices.items()}

    def rows(self, codes) -> np.ndarray:
        if isinstance(codes, Exception):
            return codes
        places = np.array(self.config.codec.code_offsets)[:, None] + codes + 2
        end = np.array(self.config.codec.code_offsets)
        end[0] += 1
        return np.concatenate([self.table[places].sum(axis=0), self.table[end].sum(axis=0)[None]])

    def voices(self) -> list[str]:
        return list(self._voices)

    def voice(self, name):
        rows = self._voices[name]
        if isinstance(rows, Exception):
            raise rows
        return mx.array(rows).astype(mx.bfloat16)


@pytest.fixture(scope="module")
def presets(config):
    codes = {"ann": random_codes(12, 7), "bob": random_codes(3, 8)}
    return codes, FakeRelease(config, codes | {"broken": CheckpointError("broken.pt: unreadable")})


def test_statistics_of_presets(presets, config):
    codes, release = presets
    heard = []
    found = preset_statistics(release, progress=heard.append)
    expected = CodeStatistics.from_codes(codes.values(), config)
    np.testing.assert_array_equal(found.statistics.semantic, expected.semantic)
    np.testing.assert_array_equal(found.statistics.levels, expected.levels)
    assert found.explained == {"ann": 12, "bob": 3}
    assert found.skipped == {"broken": "broken.pt: unreadable"}
    assert heard == [1, 1, 1]
    assert preset_statistics(release, ["bob"]).statistics.frames == 3
    with pytest.raises(CheckpointError, match="no voice called 'eve'; there are: ann, bob, broken"):
        preset_statistics(release, ["ann", "eve"])


def test_rows_that_are_no_sums_are_left_out(presets, config):
    codes, release = presets
    rows = release.rows(codes["ann"])
    rows[[2, 7]] = np.random.default_rng(1).standard_normal((2, 850)) * 6
    changed = FakeRelease(config, {})
    changed._voices = {"ann": rows, "noise": np.random.default_rng(2).standard_normal((9, 850)) * 6}
    found = preset_statistics(changed)
    assert found.explained == {"ann": 10}
    assert list(found.skipped) == ["noise"]
    assert "none of its frames could be explained" in found.skipped["noise"]
    kept = np.delete(codes["ann"], [2, 7], axis=1)
    np.testing.assert_array_equal(found.statistics.levels, CodeStatistics.from_codes([kept], config).levels)


def test_a_voice_that_begins_with_what_cannot_be_explained_is_not_searched_on(presets, monkeypatch):
    codes, release = presets
    rows = release.rows(codes["ann"])
    rows[:4] = np.random.default_rng(3).standard_normal((4, 850)) * 6
    changed, tried = FakeRelease(release.config.codec, {}), []
    changed._voices = {"ann": rows}

    def counting(table, rows):
        tried.append(len(rows))
        return invert(table, rows)

    monkeypatch.setattr(code_statistics, "invert", counting)
    assert preset_statistics(changed).statistics.frames == 0
    assert tried == [4]


def test_a_table_too_narrow_to_search_gives_nothing_and_says_so(miniature, config):
    release = Release(miniature)
    found = preset_statistics(release, release.voices()[:1])
    assert found.statistics.frames == 0
    assert list(found.skipped) == release.voices()[:1]


def test_a_release_without_voices_has_none(config):
    assert preset_statistics(FakeRelease(config, {})) is None
