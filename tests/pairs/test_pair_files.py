"""Directories of pairs as they are written: complete or not there, and as `PairData` reads them."""

import hashlib
import json

import numpy as np
import pytest
from pairs_made import SETTINGS, SHARD, refused, spoken

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import DataError, VoxcloneError
from mlx_voxclone.pairs import files as pair_files
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import ShardWriter, SpokenPair, read_shard, write_pairs

pytest_plugins = ["commands"]


@pytest.fixture(scope="module")
def config(miniature):
    return Release(miniature).config.codec


def test_shards_are_filled_in_turn(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_files, "SHARD_SENTENCES", 4)
    write_pairs(tmp_path / "pairs", [spoken(config, f"{i}") for i in range(10)], SETTINGS)
    shards = sorted((tmp_path / "pairs").glob("pairs-*"))
    assert [path.name for path in shards] == [f"pairs-0000{i}.safetensors" for i in range(3)]
    assert [len(TensorFile(path)) for path in shards] == [4, 4, 2]
    lines = [json.loads(line) for line in (tmp_path / "pairs/manifest.jsonl").read_text().splitlines()]
    assert lines == [line for path in shards for line in read_shard(path)[1]]
    assert len(PairData.load(tmp_path / "pairs", config).pairs) == 10


def test_what_cannot_be_written_leaves_nothing(config, tmp_path):
    good = spoken(config, "a")
    codes, samples = good.codes, good.samples
    bad = {
        "taken": [good, good],
        "slash": [SpokenPair("x/y", codes, samples, "", "")],
        "hidden": [SpokenPair(".x", codes, samples, "", "")],
        "augmented name": [SpokenPair("x-augmented", codes, samples, "", "")],
        "floats": [SpokenPair("x", codes / 2, samples, "", "")],
        "too large": [SpokenPair("x", codes + 40_000, samples, "", "")],
        "negative": [SpokenPair("x", codes - 100, samples, "", "")],
        "no frames": [SpokenPair("x", codes[:, :0], samples, "", "")],
        "length": [SpokenPair("x", np.repeat(codes, 7, axis=1)[:, :7], samples, "", "")],
        "second audio": [SpokenPair("x", codes, samples, "", "", augmented=samples[:-1])],
    }
    for name, pairs in bad.items():
        with pytest.raises(ValueError, match="pair"):
            write_pairs(tmp_path / "out", pairs, SETTINGS)
        assert list(tmp_path.iterdir()) == [], name
    write_pairs(tmp_path / "out", [good], SETTINGS)
    before = hashlib.sha256((tmp_path / "out" / SHARD).read_bytes()).hexdigest()
    with pytest.raises(VoxcloneError, match="exists and is not empty"):
        write_pairs(tmp_path / "out", [good], SETTINGS)
    assert hashlib.sha256((tmp_path / "out" / SHARD).read_bytes()).hexdigest() == before


def test_an_id_of_an_earlier_shard_is_taken(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pair_files, "SHARD_SENTENCES", 1)
    with pytest.raises(ValueError, match="'a' is taken"):
        write_pairs(tmp_path / "out", [spoken(config, "a"), spoken(config, "b"), spoken(config, "a")], SETTINGS)


def test_loud_audio_is_kept_as_floats(config, tmp_path):
    pair = spoken(config, "a")
    loud = SpokenPair("a", pair.codes, pair.samples * 5, "", "")
    write_pairs(tmp_path / "out", [loud], SETTINGS)
    back = PairData.load(tmp_path / "out", config).train[0]
    assert back.audio.suffix == ".wav"
    np.testing.assert_array_equal(back.read(), loud.samples)
    write_wav(back.audio, loud.samples[:-1], float32=True)
    refused(DataError, "a.wav: ", lambda: PairData.load(tmp_path / "out", config))


def test_rejected_sentences_are_counted(config, tmp_path):
    writer = ShardWriter(tmp_path / SHARD)
    for reason in ("runaway", "empty", "runaway"):
        writer.reject(reason)
    writer.add(spoken(config, "a"))
    assert writer.finish() == read_shard(tmp_path / SHARD)[1]
    assert read_shard(tmp_path / SHARD)[2] == {"empty": 1, "runaway": 2}
