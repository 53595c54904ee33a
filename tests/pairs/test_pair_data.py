"""Pairs as training reads them: what was written comes back, no sentence is on both sides, damage is refused."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from pairs_made import SETTINGS, SHARD, refused, spoken

from mlx_voxclone.audio.io import write_flac
from mlx_voxclone.checkpoint.digests import decoder_digest
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import SpokenPair, write_pairs

pytest_plugins = ["commands"]


@pytest.fixture(scope="module")
def config(miniature):
    return Release(miniature).config.codec


def several(config, texts: int, voices: int = 2, **more) -> list[SpokenPair]:
    return [
        spoken(config, f"{k}-{v}", f"Sentence {k}.", f"voice {v}", **more) for v in range(voices) for k in range(texts)
    ]


@pytest.fixture
def made(config, tmp_path):
    """Three pairs, one with a second recording."""
    pairs = [spoken(config, "a", "One.", "ann", language="en"), spoken(config, "b", "Two.", "bob", seed=3)]
    pairs.append(spoken(config, "c", "Three.", augmented=spoken(config, "c").samples / 2))
    assert write_pairs(tmp_path / "pairs", pairs, SETTINGS) == 3
    return tmp_path / "pairs", pairs


def rewrite(path: Path, change) -> None:
    """Write a shard anew after `change(codes by id, document)`."""
    file = TensorFile(path)
    codes = {name: file.numpy(name).copy() for name in file.names()}
    document = json.loads(file.metadata["pairs"])
    change(codes, document)
    save_tensors(path, codes, {"pairs": json.dumps(document)}, overwrite=True)


# ---- what was written comes back -------------------------------------------------------------------------------------


def test_written_pairs_come_back(made, config):
    directory, written = made
    data = PairData.load(directory, config)
    found = {pair.id: pair for pair in data.pairs}
    assert sorted(found) == ["a", "b", "c"]
    for pair in written:
        back = found[pair.id]
        assert (back.text, back.language, back.voice) == (pair.text, pair.language, pair.voice)
        assert back.codes.dtype == np.int32
        np.testing.assert_array_equal(back.codes, pair.codes)
        assert back.frames == pair.codes.shape[1]
        samples = back.read()
        assert samples.dtype == np.float32
        np.testing.assert_allclose(samples, pair.samples, atol=1.01 / 2**24)
    np.testing.assert_allclose(found["c"].read(augmented=True), written[2].augmented, atol=1.01 / 2**24)
    assert [found[name].augmented is None for name in "abc"] == [True, True, False]
    assert data.seconds == pytest.approx(sum(len(pair.samples) for pair in written) / 24_000)
    with pytest.raises(DataError, match="pair a has no augmented audio"):
        found["a"].read(augmented=True)


def test_loading_makes_no_array_of_mlx(made, config, monkeypatch):
    monkeypatch.setattr(mx, "array", None)
    monkeypatch.setattr(mx, "load", None)
    assert all(len(pair.read()) == pair.frames * 1920 for pair in PairData.load(made[0], config).pairs)


def test_codes_take_two_bytes_each_and_outlive_the_shard(made, config):
    pairs = PairData.load(made[0], config).pairs
    (made[0] / SHARD).write_bytes(b"")
    assert {pair.stored.dtype for pair in pairs} == {np.dtype(np.int16)}
    assert all(pair.stored.flags.owndata for pair in pairs)
    np.testing.assert_array_equal(next(p for p in pairs if p.id == "b").codes, made[1][1].codes)


def test_pairs_of_the_miniature(miniature, config, tmp_path):
    """What `voxclone pairs` writes: the audio is what the codes decode to, the codec is recognised."""
    argv = ["pairs", "--model", miniature, "--output", tmp_path / "out", "--per-voice", 3, "--max-seconds", 1.6]
    argv += ["--seed", 2]  # a miniature says noise, and ends where that leads it
    assert voxclone([str(a) for a in [*argv, "--voices", "casual_male", "--augment", "--quiet"]]) == 0
    digest = decoder_digest(Release(miniature).tensors)
    data = PairData.load(tmp_path / "out", config, decoder_digest=digest)
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert sorted(pair.id for pair in data.pairs) == [line["id"] for line in lines]
    assert len(lines) >= 2
    codec = load_model(Release(miniature), parts={"codec"}).audio_tokenizer
    for pair in data.pairs:
        np.testing.assert_allclose(pair.read(), codec.decode_audio(pair.codes), atol=1e-5)
        assert len(pair.read(augmented=True)) == pair.frames * 1920
    with pytest.raises(DataError, match="decoded by another codec than this model's; make the pairs again"):
        PairData.load(tmp_path / "out", config, decoder_digest="0" * 64)


# ---- the sides -------------------------------------------------------------------------------------------------------


def load_split(config, directory, **options):
    data = PairData.load(directory, config, **options)
    return {pair.text for pair in data.train}, {pair.text for pair in data.heldout}, data


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.99])
def test_no_sentence_is_on_both_sides(config, tmp_path, share):
    pairs = several(config, 40)
    pairs.append(spoken(config, "same", " SENTENCE  7. ", "another"))
    write_pairs(tmp_path / "pairs", pairs, SETTINGS)
    train, held, data = load_split(config, tmp_path / "pairs", heldout=share)
    train, held = ({" ".join(t.lower().split()) for t in side} for side in (train, held))
    assert train
    assert held
    assert not train & held
    assert len(data.train) + len(data.heldout) == 81
    assert abs(len(held) / 40 - share) < 0.2


def test_more_pairs_move_none_to_the_other_side(config, tmp_path):
    pairs = several(config, 40)
    write_pairs(tmp_path / "few", [p for p in pairs if int(p.id.split("-")[0]) < 25], SETTINGS)
    write_pairs(tmp_path / "all", pairs, SETTINGS)
    few, more = load_split(config, tmp_path / "few", heldout=0.4), load_split(config, tmp_path / "all", heldout=0.4)
    assert few[0] < more[0]
    assert few[1] < more[1]
    assert load_split(config, tmp_path / "all", heldout=0.4, seed=1)[1] != more[1]
    assert load_split(config, tmp_path / "all", heldout=0.2)[1] < more[1]


@pytest.mark.parametrize(
    ("texts", "share", "held"), [(1, 0.5, 0), (2, 0.001, 1), (2, 0.999, 1), (9, 1e-9, 1), (9, 0, 0)]
)
def test_at_least_one_sentence_on_each_side(config, tmp_path, texts, share, held):
    write_pairs(tmp_path / "pairs", several(config, texts), SETTINGS)
    assert len(load_split(config, tmp_path / "pairs", heldout=share)[1]) == held


def test_pairs_without_text_are_told_apart_by_their_codes(config, tmp_path):
    same = spoken(config, "a", "")
    pairs = [spoken(config, f"p{i}", "") for i in range(12)]
    pairs += [
        SpokenPair("q0", same.codes, same.samples, "", "ann"),
        SpokenPair("q1", same.codes, same.samples, "", "b"),
    ]
    write_pairs(tmp_path / "pairs", pairs, SETTINGS)
    data = PairData.load(tmp_path / "pairs", config, heldout=0.4)
    assert 1 < len(data.heldout) < 13
    sides = {pair.id: k for k, side in enumerate((data.train, data.heldout)) for pair in side}
    assert sides["q0"] == sides["q1"]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_are_none(made, config, share):
    with pytest.raises(ValueError, match="heldout"):
        PairData.load(made[0], config, heldout=share)


# ---- identity --------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content_not_the_place(made, config, tmp_path):
    directory, _ = made
    first = PairData.load(directory, config).fingerprint()
    assert len(first) == 64
    moved = shutil.copytree(directory, tmp_path / "elsewhere" / "copy")
    assert PairData.load(moved, config).fingerprint() == first
    assert PairData.load(moved, config, heldout=0.4, seed=5).fingerprint() == first
    (moved / "settings.json").write_text(json.dumps({**SETTINGS, "format": "pairs 1", "seed": 1}))
    assert PairData.load(moved, config).fingerprint() != first

    def another_code(codes, document):
        codes["a"][3, 0] = (codes["a"][3, 0] + 1) % config.acoustic_codebook_size

    shutil.rmtree(moved)
    shutil.copytree(directory, moved)
    rewrite(moved / SHARD, another_code)
    changed = PairData.load(moved, config).fingerprint()
    assert changed != first
    shutil.rmtree(moved)
    shutil.copytree(directory, moved)
    rewrite(moved / SHARD, lambda codes, document: document["kept"][0].update(text="Other."))
    assert PairData.load(moved, config).fingerprint() not in (first, changed)


def test_several_directories(made, config, tmp_path):
    directory, _ = made
    write_pairs(tmp_path / "more", [spoken(config, "a", "Four.", seed=9), spoken(config, "z", "One.", "eve")], SETTINGS)
    data = PairData.load([directory, tmp_path / "more"], config, heldout=0.5)
    assert sorted(pair.id for pair in data.pairs) == ["0/a", "0/b", "0/c", "1/a", "1/z"]
    assert data.directories == [directory, tmp_path / "more"]
    sides = {pair.id: k for k, side in enumerate((data.train, data.heldout)) for pair in side}
    assert sides["0/a"] == sides["1/z"]
    alone = [PairData.load(d, config) for d in (directory, tmp_path / "more")]
    assert data.seconds == pytest.approx(sum(one.seconds for one in alone))
    assert data.fingerprint() not in {one.fingerprint() for one in alone}
    assert PairData.load([str(directory)], config).fingerprint() == alone[0].fingerprint()


def test_the_same_pairs_twice_are_refused(made, config, tmp_path):
    directory, pairs = made
    with pytest.raises(DataError, match="named twice"):
        PairData.load([directory, tmp_path / "x" / ".." / "pairs"], config)
    write_pairs(tmp_path / "more", [spoken(config, "x", "Four."), pairs[1]], {"seed": 7})
    with pytest.raises(DataError, match=r"more: pair b is the same as .*audio/b.flac; leave out"):
        PairData.load([directory, tmp_path / "more"], config)


# ---- refusals --------------------------------------------------------------------------------------------------------


def set_code(book, value):
    def change(codes, document):
        codes["b"] = codes["b"].astype(np.int32)
        codes["b"][book, 0] = value

    return change


def drop_row(codes, document):
    codes["b"] = np.ascontiguousarray(codes["b"][:-1])


def no_frames(codes, document):
    codes["b"] = codes["b"][:, :0]


def floats(codes, document):
    codes["b"] = codes["b"].astype(np.float32)


def line(**values):
    return lambda codes, document: document["kept"][1].update(values)


def other_codes(codes, document):
    codes["x"] = codes.pop("b")


DAMAGED_SHARDS = {
    "semantic": (set_code(0, 128), DataError, "pair b: code 128 at codebook 0, frame 0 is outside 0..127; "),
    "level": (set_code(36, 21), DataError, "pair b: code 21 at codebook 36, frame 0 is outside 0..20; "),
    "negative": (set_code(4, -1), DataError, "pair b: code -1 at codebook 4, frame 0 is outside 0..20; "),
    "beyond 16 bits": (set_code(0, 65536), DataError, "pair b: code 65536 at codebook 0"),
    "codebooks": (drop_row, DataError, "pair b: 36 codebooks where this model has 37; made with another model"),
    "no frames": (no_frames, DataError, "pair b: holds no frames"),
    "floats": (floats, DataError, "pair b: codes of type float32"),
    "frames as a fraction": (line(frames=9.0), DataError, "frames of codes where"),
    "null": (lambda codes, document: document["kept"].append(None), CheckpointError, "not a shard of pairs"),
    "empty": (lambda codes, document: document["kept"].append({}), CheckpointError, "not a shard of pairs"),
    "frames listed": (line(frames=99), DataError, "frames of codes where 99 are listed"),
    "text": (line(text=None), DataError, "pair b: its text, language or voice is no text"),
    "voice": (line(voice=7), DataError, "its text, language or voice is no text"),
    "outside": (line(audio="../b.flac"), CheckpointError, "not a shard of pairs"),
    "absolute": (line(augmented="/etc/passwd"), CheckpointError, "not a shard of pairs"),
    "id": (line(id=["b"]), CheckpointError, "not a shard of pairs"),
    "id twice": (
        lambda codes, document: document["kept"].append(document["kept"][0]),
        CheckpointError,
        "its codes are not those it lists; delete the shard",
    ),
    "names": (other_codes, CheckpointError, "its codes are not those it lists; delete the shard"),
    "other id": (line(id="a"), CheckpointError, "its codes are not those it lists; delete the shard"),
    "no lines": (lambda codes, document: document.pop("kept"), CheckpointError, "not a shard of pairs"),
}


@pytest.mark.parametrize("name", DAMAGED_SHARDS)
def test_shards_that_are_refused(made, config, name):
    change, error, text = DAMAGED_SHARDS[name]
    rewrite(made[0] / SHARD, change)
    refused(error, f"{made[0] / SHARD}: ", text, lambda: PairData.load(made[0], config))


EDITS = {
    "null": lambda line: "null",
    "empty": lambda line: "",
    "nested": lambda line: "[" * 9000,
    "frames": lambda line: line.replace('"frames": ', '"frames": 1'),
    "outside": lambda line: line.replace('"audio": "', '"audio": "../'),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_a_list_that_is_not_of_its_shards(made, config, change):
    """It only repeats them; but who has edited it meant something by it, and others read it."""
    path = made[0] / "manifest.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], change(lines[1]), lines[2]]) + "\n")
    refused(DataError, f"{path}:2: is not what the shards say", lambda: PairData.load(made[0], config))
    path.write_text(lines[0] + "\n")  # it is behind: a shard more was written before the process was killed
    assert len(PairData.load(made[0], config).pairs) == 3


def test_truncated_and_hostile_shards(made, config):
    shard = made[0] / SHARD
    content = shard.read_bytes()
    for damaged in (content[:-1], content[:40], b"", b"\xff" * 64, content + b"\0"):
        shard.write_bytes(damaged)
        refused(CheckpointError, str(shard), lambda: PairData.load(made[0], config))
    save_tensors(shard, {"a": np.zeros((37, 2), np.int16)}, {"pairs": "[" * 100_000}, overwrite=True)
    refused(CheckpointError, "not a shard of pairs", lambda: PairData.load(made[0], config))


def test_one_pair_in_two_shards(made, config):
    shutil.copy(made[0] / SHARD, made[0] / "pairs-00001.safetensors")
    refused(DataError, "pairs-00001.safetensors: pair a is in pairs-00000", lambda: PairData.load(made[0], config))


def test_directories_that_hold_no_pairs(made, config, tmp_path):
    def load(path):
        return lambda: PairData.load(path, config)

    refused(DataError, "gone: no such directory of pairs; make them with `voxclone pairs`", load(tmp_path / "gone"))
    refused(DataError, "no directory of pairs is given", load([]))
    (tmp_path / "empty").mkdir()
    refused(DataError, "empty: holds no pairs (settings.json is missing)", load([made[0], tmp_path / "empty"]))
    write_pairs(tmp_path / "none", [], SETTINGS)
    refused(DataError, "none: holds no pairs yet", load(tmp_path / "none"))
    settings = made[0] / "settings.json"
    settings.write_text("{")
    refused(DataError, "settings.json: not readable; make the pairs again", load(made[0]))
    settings.write_text('{"format": "pairs 9"}')
    refused(DataError, "settings.json: format 'pairs 9', 'pairs 1' is read here", load(made[0]))


def test_audio_that_does_not_fit_its_codes(made, config):
    directory, pairs = made
    audio = directory / "audio/b.flac"
    samples, content = pairs[1].samples, audio.read_bytes()

    def load():
        return PairData.load(directory, config)

    n = len(samples)
    write_flac(audio, samples[:-1])
    expected = f"b.flac: {n - 1} samples where its {n // 1920} frames of codes make {n}; make the pairs again"
    refused(DataError, expected, load)
    write_flac(audio, samples, sample_rate=16_000)
    refused(DataError, "b.flac: 1 channels at 16000 Hz where pairs have one at 24000 Hz", load)
    soundfile.write(audio, np.stack([samples, samples], axis=1), 24_000)
    refused(DataError, "b.flac: 2 channels", load)
    audio.write_bytes(b"none")
    refused(DataError, "b.flac: not audio that can be read", load)
    audio.unlink()
    refused(DataError, "b.flac: no such audio file; restore it, or delete its shard", load)
    audio.write_bytes(content)
    (directory / "audio/c-augmented.flac").unlink()
    refused(DataError, "c-augmented.flac: no such audio file", load)


def test_audio_that_changes_after_loading(made, config):
    directory, _ = made
    pair = next(p for p in PairData.load(directory, config).pairs if p.id == "b")
    write_flac(pair.audio, np.zeros(1920 * 50))
    refused(DataError, "b.flac: 96000 samples where its", pair.read)
    pair.audio.write_bytes(pair.audio.read_bytes()[:-40])
    refused(DataError, "b.flac", pair.read)
    pair.audio.unlink()
    refused(DataError, "b.flac: no such audio file", pair.read)
