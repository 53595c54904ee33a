"""Pairs moved in code space: the formula, new voices' range, and that the written pairs are exact pairs."""

import json

import numpy as np
import pytest
import soundfile
from commands import tree
from pairs_made import refused
from pairs_on_disk import random_codes

from mlx_voxclone.checkpoint.digests import decoder_digest
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.errors import DataError
from mlx_voxclone.pairs import files as pair_files
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import MOVED, SpokenPair, read_shard, write_pairs
from mlx_voxclone.pairs.moved import BEYOND, DEVIATIONS, UNCHANGED, Mover, VoiceSpread, move_pairs, moved_codes

pytest_plugins = ["commands"]
LEVELS = 21
VOICES = ("ann", "bob", "ann", "cid", "bob", "ann")
FRAMES = (9, 7, 4, 8, 5, 6)


@pytest.fixture(scope="module")
def codec(miniature):
    return load_model(Release(miniature), parts=["codec"]).audio_tokenizer


def coded(config, k: int) -> np.ndarray:
    """Codes whose levels lie and spread otherwise for each voice."""
    codes = random_codes(config, FRAMES[k], k)
    place = "abc".index(VOICES[k][0])
    codes[1:] = np.clip((codes[1:] - 10) // (place + 1) + 7 + 3 * place, 0, LEVELS - 1)
    return codes


def write(miniature, codec, directory, count=6, voices=VOICES):
    """Pairs in shards of two."""
    listed = [
        SpokenPair(f"{k:03d}", codes, 0.3 * codec.decode_audio(codes), f"text {k}", voices[k], "en")
        for k, codes in ((k, coded(codec.config, k)) for k in range(count))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_files, "SHARD_SENTENCES", 2)
        write_pairs(directory, listed, {"codec": decoder_digest(Release(miniature).tensors)})
    return directory


@pytest.fixture(scope="module")
def source(miniature, codec, tmp_path_factory):
    return write(miniature, codec, tmp_path_factory.mktemp("pairs") / "pairs")


@pytest.fixture(scope="module")
def moved(codec, source, tmp_path_factory):
    """Two copies of each pair, by one undisturbed run. Read it only."""
    output = tmp_path_factory.mktemp("moved") / "moved"
    assert move_pairs(codec, source, output, 2, settings={"of": "pairs"}) == 12
    return output


def stored(directory) -> dict[str, tuple[dict, np.ndarray]]:
    """Lines and codes of all pairs, by id."""
    found = {}
    for path in sorted(directory.glob("pairs-*.safetensors")):
        file, lines, _ = read_shard(path)
        found |= {line["id"]: (line, file.numpy(line["id"])) for line in lines}
    return found


# --- the formula ------------------------------------------------------------------------------------------------------


def test_codes_are_moved_value_by_value():
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.integers(0, 500, (1, 9)), rng.integers(0, LEVELS, (4, 9))]).astype(np.int32)
    own, new = (
        (rng.uniform(-0.3, 0.3, 4), rng.uniform(0.1, 0.5, 4)),
        (rng.uniform(-0.5, 0.5, 4), rng.uniform(0.1, 0.9, 4)),
    )
    found = moved_codes(codes, own, new, LEVELS)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[0], codes[0])
    for book in range(4):
        for frame in range(9):
            value = 2 * codes[1 + book, frame] / 20 - 1
            value = (value - own[0][book]) / own[1][book] * new[1][book] + new[0][book]
            assert found[1 + book, frame] == round((min(1.0, max(-1.0, value)) + 1) / 2 * 20)
    assert {found[1:].min(), found[1:].max()} == {0, 20}  # clipped at both ends
    np.testing.assert_array_equal(moved_codes(codes, own, own, LEVELS), codes)


def test_a_voice_is_mean_and_deviation_over_all_its_frames():
    rng = np.random.default_rng(1)
    codes = {name: [rng.integers(0, LEVELS, (4, n)) for n in (3, 5)] for name in ("bob", "ann")}
    codes["ann"][0][2], codes["ann"][1][2] = 7, 7  # a dimension that never moves
    spread = VoiceSpread.of(codes, LEVELS)
    assert spread.names == ("ann", "bob")
    for row, name in enumerate(spread.names):
        for book in range(3):
            values = [2 * int(code) / 20 - 1 for part in codes[name] for code in part[1 + book]]
            assert spread.means[row, book] == pytest.approx(np.mean(values))
            expected = max(np.std(values), DEVIATIONS[0])
            assert np.exp(spread.log_deviations[row, book]) == pytest.approx(expected)


def test_new_voices_lie_on_the_lines_through_two_voices():
    rng = np.random.default_rng(2)
    spread = VoiceSpread(tuple("abcde"), rng.uniform(-0.3, 0.3, (5, 3)), np.log(rng.uniform(0.1, 0.4, (5, 3))))
    places = []
    for k in range(400):
        mean, deviation = spread.draw(np.random.default_rng(k))
        found = []
        for a in range(5):
            for b in range(5):
                if a != b:
                    across = spread.means[a] - spread.means[b]
                    weight = (mean - spread.means[b]) @ across / (across @ across)
                    line = weight * spread.log_deviations[a] + (1 - weight) * spread.log_deviations[b]
                    off = np.abs(weight * across + spread.means[b] - mean).max()
                    if off < 1e-9 and np.allclose(deviation, np.exp(line).clip(*DEVIATIONS)):
                        found.append(weight)
        assert found
        places += found
    assert -BEYOND <= min(places) < -0.9 * BEYOND
    assert 1 + 0.9 * BEYOND < max(places) <= 1 + BEYOND
    wide = VoiceSpread(("a", "b"), np.zeros((2, 1)), np.array([[-9.0], [4.0]]))
    limits = [wide.draw(np.random.default_rng(k))[1][0] for k in range(50)]
    assert (min(limits), max(limits)) == DEVIATIONS


# --- on the disk ------------------------------------------------------------------------------------------------------


def test_copies_are_exact_pairs_of_other_voices(codec, source, moved):
    before, after = stored(source), stored(moved)
    assert list(after) == [f"{name}-{k}" for name in before for k in range(2)]
    for name, (line, codes) in after.items():
        own_line, own = before[name[:3]]
        assert (line["text"], line["language"], line["frames"]) == (own_line["text"], "en", own_line["frames"])
        assert line["voice"] == MOVED + own_line["voice"]
        np.testing.assert_array_equal(codes[0], own[0])
        assert not np.array_equal(codes, own)
        audio, _ = soundfile.read(moved / line["audio"])
        np.testing.assert_allclose(audio, codec.decode_audio(codes), atol=1.01 / 2**24)
    assert not np.array_equal(after["000-0"][1], after["000-1"][1])
    for k in range(3):  # a shard of copies for each shard of pairs
        assert len(TensorFile(moved / f"pairs-{k:05d}.safetensors").names()) == 4


def test_a_copy_follows_from_its_pair_and_all_voices(codec, source, moved):
    """The place of a pair in its directory decides nothing."""
    mover = Mover(source, LEVELS)
    (line, codes) = mover.shards[1][1]
    for k, copy in enumerate(mover.copies(line, codes, 2)):
        np.testing.assert_array_equal(copy, stored(moved)[f"{line['id']}-{k}"][1])
    other = Mover(source, LEVELS, seed=1).copies(line, codes, 1)[0]
    assert not np.array_equal(other, stored(moved)[f"{line['id']}-0"][1])


def test_every_copy_of_every_pair_has_a_voice_of_its_own(source, monkeypatch):
    drawn, draw = [], VoiceSpread.draw
    monkeypatch.setattr(VoiceSpread, "draw", lambda self, rng: drawn.append(draw(self, rng)) or drawn[-1])
    mover = Mover(source, LEVELS)
    for line, codes in (pair for shard in mover.shards for pair in shard):
        mover.copies(line, codes, 2)
    assert len({tuple(mean) for mean, _ in drawn}) == len(drawn) >= 12


def test_pairs_and_copies_are_read_together(miniature, source, moved):
    data = PairData.of_model([source, moved], Release(miniature), heldout=0.3)
    assert len(data.pairs) == 18
    assert {pair.text for pair in data.train}.isdisjoint({pair.text for pair in data.heldout})
    assert {pair.voice for pair in data.pairs if pair.is_moved} == {"moved/ann", "moved/bob", "moved/cid"}
    assert {pair.voice for pair in data.pairs if not pair.is_moved} == {"ann", "bob", "cid"}
    copies = PairData.of_model(moved, Release(miniature), heldout=0.3)
    refused(DataError, "was spoken with moved/ann", lambda: copies.check_voices(Release(miniature)))


def test_a_copy_that_is_its_pair_is_drawn_again_or_left_out(codec, source, tmp_path, monkeypatch):
    spreads, draw = [], VoiceSpread.draw

    def same_first(self, rng):
        """The pair's own voice the first time, for ann."""
        spreads.append(1)
        return (self.means[0], np.exp(self.log_deviations[0])) if len(spreads) == 1 else draw(self, rng)

    monkeypatch.setattr(VoiceSpread, "draw", same_first)
    mover = Mover(source, LEVELS)
    line, codes = mover.shards[0][0]
    assert line["voice"] == "ann"
    assert len(mover.copies(line, codes, 2)) == 2
    assert len(spreads) == 3
    monkeypatch.setattr(VoiceSpread, "draw", lambda self, rng: (self.means[0], np.exp(self.log_deviations[0])))
    output = tmp_path / "moved"
    count = move_pairs(codec, source, output, 2, settings={})
    found = stored(output)
    assert count == len(found) == 3  # bob's and cid's, once each: the second copy would be the first
    assert {line["voice"] for line, _ in found.values()} == {"moved/bob", "moved/cid"}
    rejected = [read_shard(path)[2].get(UNCHANGED, 0) for path in sorted(output.glob("pairs-*.safetensors"))]
    assert sum(rejected) == 12 - 3


def test_interrupted_it_goes_on_after_the_last_shard(codec, source, moved, tmp_path, monkeypatch):
    output, decoded, decode = tmp_path / "moved", [], codec.decode_audio

    def stopping(codes):
        decoded.append(1)
        if len(decoded) == 7:
            raise KeyboardInterrupt
        return decode(codes)

    monkeypatch.setattr(codec, "decode_audio", stopping)
    with pytest.raises(KeyboardInterrupt):
        move_pairs(codec, source, output, 2, settings={"of": "pairs"})
    assert len(list(output.glob("pairs-*.safetensors"))) == 1
    told = []
    assert move_pairs(codec, source, output, 2, settings={"of": "pairs"}, progress=told.append) == 12
    assert len(decoded) == 7 + 8
    assert sum(told) == 12
    assert tree(output) == tree(moved)


def test_one_voice_is_nothing_to_mix(miniature, codec, tmp_path):
    pairs = write(miniature, codec, tmp_path / "pairs", 2, voices=("ann", "ann"))
    call = lambda: move_pairs(codec, pairs, tmp_path / "moved", 1, settings={})  # noqa: E731
    refused(DataError, "pairs of 1 voice", "two or more", call)
    assert not (tmp_path / "moved").exists()


def test_other_pairs_or_settings_are_refused(codec, miniature, source, moved, tmp_path):
    before = tree(moved)
    refused(DataError, "moves changed", lambda: move_pairs(codec, source, moved, 3, settings={"of": "pairs"}))
    fewer = write(miniature, codec, tmp_path / "fewer", 5)
    refused(DataError, "pairs changed", lambda: move_pairs(codec, fewer, moved, 2, settings={"of": "pairs"}))
    assert tree(moved) == before
    assert json.loads((moved / "settings.json").read_text())["beyond"] == BEYOND
