"""Shards that `prepare` writes: the clips that it would write as files, equal bytes each time, readable by others."""

import json
import tarfile

import numpy as np
import pytest
from commands import tree
from shards_made import noise

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.shards import write
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus

OPTIONS = PrepareOptions(heldout=0.3)
SIZE = 150_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "c"
    write_corpus(folder, [SyntheticSpeaker.sample(k) for k in range(2)], 5, seconds=1.8)
    write_wav(folder / "synthetic-0" / "loud.wav", 1.7 * noise(3, 40_000) / 0.2, float32=True)
    lines = [
        {"audio": str(p.relative_to(folder)), "text": f"text {k} ü", "speaker": p.parent.name, "language": "en"}
        for k, p in enumerate(sorted(folder.rglob("*.wav")))
    ]
    lines[1]["ref_audio"] = lines[0]["audio"]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def sharded(corpus, tmp_path_factory):
    place = tmp_path_factory.mktemp("sharded") / "s"
    prepare(corpus, place, OPTIONS, shards=SIZE)
    return place


def test_shards_hold_what_prepare_writes_as_files(corpus, sharded, tmp_path):
    plain_report = prepare(corpus, tmp_path / "p", OPTIONS)
    plain, data = PreparedData.load(tmp_path / "p"), ShardData(sharded)
    clips = {clip.id: clip for clip in data.clips}
    assert clips.keys() == {clip.id for clip in plain.clips}
    for clip in plain.clips:
        other = clips[clip.id]
        for name in ("samples", "text", "speaker", "language", "reference", "source", "start", "split", "seconds"):
            assert getattr(other, name) == getattr(clip, name), name
        np.testing.assert_array_equal(other.read(), clip.read())
        assert {c.id for c in data.references(other)} == {c.id for c in plain.references(clip)}
    assert (data.speakers, data.hours) == (plain.speakers, pytest.approx(plain.hours))
    assert prepare(corpus, sharded, OPTIONS, shards=SIZE).clips == plain_report.clips
    assert {path.name for path in sharded.iterdir()} >= {"index.jsonl", "rejected.jsonl", "summary.json"}
    assert not (sharded / "clips").exists()


def test_the_same_clips_give_the_same_bytes(corpus, sharded, tmp_path):
    prepare(corpus, tmp_path / "again", OPTIONS, shards=SIZE)
    assert tree(tmp_path / "again") == tree(sharded)


def test_others_can_read_them(sharded):
    data = ShardData(sharded)
    found = {}
    for path in sorted(sharded.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                assert info.isreg()
                assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
                found[info.name] = tar.extractfile(info).read()
    for clip in data.clips:
        suffix = "wav" if "loud" in clip.id else "flac"
        line = clip.line
        with open(sharded / data.index.shards[data.index.shard[clip.row]].place, "rb") as file:
            file.seek(line.offset)
            assert file.read(line.size) == found.pop(f"{clip.id}.{suffix}")
        told = json.loads(found.pop(f"{clip.id}.json"))
        assert (told["text"], told["speaker"], told["split"]) == (clip.text, clip.speaker, clip.split)
    assert not found


def test_shards_have_about_their_size_and_both_speakers(sharded):
    data = ShardData(sharded)
    sizes = [shard.size for shard in data.index.shards if shard.place.startswith("shard-")]
    assert len(sizes) > 2
    assert all(SIZE <= size < SIZE + 230_000 for size in sizes[:-1])
    first = [clip.speaker for clip in data.train if data.index.shard[clip.row] == 0]
    assert len(set(first)) == 2
    places = {clip.split: data.index.shards[data.index.shard[clip.row]].place for clip in data.clips}
    assert places["heldout"] == "heldout-00000.tar"
    assert places["reference"] == "reference-00000.tar"


def test_nothing_is_left_of_one_that_fails(corpus, tmp_path, monkeypatch):
    add, calls = write.ShardWriter.add, []

    def failing(self, name, content):
        calls.append(name)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return add(self, name, content)

    monkeypatch.setattr(write.ShardWriter, "add", failing)
    with pytest.raises(CheckpointError, match="no space left"):
        prepare(corpus, tmp_path / "s", OPTIONS, shards=SIZE)
    assert not list(tmp_path.iterdir())


def test_shards_are_used_again_and_others_refused(corpus, sharded, tmp_path):
    assert prepare(corpus, sharded, OPTIONS, shards=SIZE).reused
    with pytest.raises(DataError, match="prepared with other settings: --shards changed"):
        prepare(corpus, sharded, OPTIONS, shards=2 * SIZE)
    with pytest.raises(DataError, match="prepared with other settings: --shards changed"):
        prepare(corpus, sharded, OPTIONS)
    with pytest.raises(DataError, match="already holds shards"):
        prepare(sharded, tmp_path / "x", OPTIONS)


def test_sizes_as_people_write_them():
    for text, size in (("1GB", 10**9), ("500 MB", 5 * 10**8), ("1.5g", 15 * 10**8), ("2000000", 2_000_000)):
        assert write.parse_size(text) == size
    for text in ("", "GB", "1XB", "-1GB", "1KB", "nan", "infGB"):
        with pytest.raises(DataError, match="--shards"):
            write.parse_size(text)


def test_the_command(corpus, tmp_path, capsys):
    argv = ["prepare", str(corpus), "--output", str(tmp_path / "s"), "--shards", "1MB", "--heldout", "0.3"]
    assert voxclone(argv) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 's'}: written\n")
    assert len(ShardData(tmp_path / "s").index.shards) == 3
    assert voxclone([*argv[:-3], "many"]) == 2
    assert capsys.readouterr().err == "error: --shards many: expected a size such as 1GB or 500MB\n"
