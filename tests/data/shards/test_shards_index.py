"""The index of shards: what is refused in it, what it tells, and how much memory a million clips take."""

import json
from pathlib import Path

import numpy as np
import pytest
from million import ROWS, TEXT, growth
from shards_made import edited

from mlx_voxclone.data.shards import data as data_module
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.index import ShardIndex
from mlx_voxclone.errors import DataError

pytest_plugins = ["shards_fixtures"]


def test_rows_are_read_again_from_the_file(shards):
    index = ShardIndex(shards / "index.jsonl")
    listed = [json.loads(line) for line in (shards / "index.jsonl").read_text().splitlines()]
    rows = [line for line in listed if "id" in line]
    assert len(index) == len(rows) == 27
    assert [shard.place for shard in index.shards] == [line["shard"] for line in listed if "shard" in line]
    for k in (0, 13, 26):
        row = index.row(k)
        assert {key: getattr(row, key) for key in rows[k]} == rows[k]
        assert index.speakers[index.speaker[k]] == row.speaker
        assert index.samples[k] == row.samples


def set_row(**changes):
    return lambda lines: lines[1].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_row(id="../../evil"), ":2: damaged .id '../../evil' is no name"),
        (set_row(id="a/b"), "is no name"),
        (set_row(id=".hidden"), "is no name"),
        (set_row(id=3), "is no name"),
        (set_row(offset=-1), "offset, size, samples, first are -1"),
        (set_row(size=0), "samples in 0 bytes"),
        (set_row(size=2**40), "bytes"),
        (set_row(size=200_000), "lies beyond the end of shard-00000.tar"),
        (set_row(samples=1.5), "offset, size, samples, first"),
        (set_row(samples=0), "0 samples in"),
        (set_row(samples=10**8), "100000000 samples in"),
        (set_row(first=2**40), "offset, size, samples, first"),
        (set_row(sha256=None), "sha256 None"),
        (set_row(split="test"), "split 'test'"),
        (set_row(speaker=None), "speaker None"),
        (set_row(text=5), "text, language or reference is no text"),
        (set_row(gain="loud"), "gain 'loud'"),
        (lambda lines: lines[1].pop("id"), "id is missing"),
        (lambda lines: lines.pop(0), ":1: damaged .a clip before the first shard"),
        (lambda lines: lines[0].update(bytes="many"), ":1: damaged .shard 'shard-00000.tar' of 'many' bytes"),
        (lambda lines: lines[0].update(shard=""), ":1: damaged .shard '' of"),
        (lambda lines: lines.append(lines[0]), "shard shard-00000.tar is listed already"),
        (lambda lines: lines.append(lines[-1]), "clip c... is listed twice"),
        (lambda lines: lines.clear(), "lists no clip"),
        (lambda lines: lines.append([1]), "damaged .no object"),
        (lambda lines: lines.append(None), "damaged .no object"),
        (set_row(marked="test"), "marked 'test'"),
        (lambda lines: lines[0].update(whole=1), ":1: damaged .whole 1"),
    ],
)
def test_a_damaged_index_is_refused_with_its_line(shards, change, message):
    path = edited(shards, change)
    with pytest.raises(DataError, match=message) as caught:
        ShardIndex(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_index_is_refused(tmp_path):
    for content in (b"\x00\xff" * 50, b"{", b"x" * (1 << 21)):
        (tmp_path / "index.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=":1: "):
            ShardIndex(tmp_path / "index.jsonl")


def test_an_empty_line_is_damage(shards):
    path = shards / "index.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, "", *rest]) + "\n")
    with pytest.raises(DataError, match=":2: damaged .an empty line"):
        ShardIndex(path)


def test_an_index_that_changes_while_it_is_in_use_is_noticed(shards):
    data = ShardData(shards)
    edited(shards, lambda lines: lines.reverse())
    with pytest.raises(DataError, match="changed while in use"):
        [clip.id for clip in data.train]


def test_a_place_outside_is_refused(shards):
    edited(shards, lambda lines: lines[0].update(shard="../shards/shard-00000.tar"))
    with pytest.raises(DataError, match="does not lie below it"):
        ShardData(shards)


def test_a_very_long_text_is_read_whole(shards):
    path = edited(shards, set_row(text="long " * 5000))
    assert len(ShardIndex(path).row(0).text) == 25_000


def test_of_very_many_held_out_clips_some_are_measured_by(shards, monkeypatch):
    monkeypatch.setattr(data_module, "MOST_HELDOUT", 2)
    said = []
    assert len(ShardData(shards, say=said.append).heldout) == 2
    assert said == ["data: of 3 held-out clips the first 2 are measured by"]


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(shards, tmp_path):
    before = ShardIndex(shards / "index.jsonl").digest
    edited(shards, lambda lines: [line.update(shard="x/" + line["shard"]) for line in lines if "shard" in line])
    moved = ShardIndex(shards / "index.jsonl").digest
    edited(shards, set_row(text="another"))
    assert moved == before != ShardIndex(shards / "index.jsonl").digest


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_million_clips_in_shards(tmp_path):
    """Index, crops and the order of an epoch together; a shard has a thousand clips."""
    with (tmp_path / "index.jsonl").open("w") as stream:
        for k in range(ROWS):
            if k % 1000 == 0:
                stream.write(f'{{"shard": "http://127.0.0.1:1/{k}.tar", "bytes": 90000000, "sha256": "{"0" * 64}"}}\n')
            stream.write(
                f'{{"id": "speaker-{k % 997}-utterance-{k:07d}", "offset": {k % 1000 * 90000}, "size": 89000, '
                f'"sha256": "{k:032x}", "samples": {96_001 + k % 100_000}, "text": "{TEXT} {k}", '
                f'"speaker": "speaker-{k % 997}", "language": "en", "split": "{"train" if k % 20 else "heldout"}", '
                f'"source": "utterance-{k:07d}.flac"}}\n'
            )
    imports = "from mlx_voxclone.data.shards.data import ShardData\nfrom mlx_voxclone.train.encoder.items import Crops"
    program = """ShardData(sys.argv[1])
crops = Crops(made.train, 96_000)
order = made.train.order(crops.ends, 0, 0)
assert len(order) == len(crops) > 1_900_000
assert len({crops[int(k)][0].id for k in order[1_000_000:1_000_500]}) > 400
assert len(made.references(crops[5][0])) == 64
"""
    kept, peak, seconds = growth(program, tmp_path, imports=imports)
    print(f"shards: {kept:.0f} bytes a row, {peak:.0f} at the peak, {seconds:.1f} s")
    assert kept < 110
    assert peak < 180
    assert seconds < 60


def test_speakers_hours_and_references(shards):
    data = ShardData(shards)
    assert data.speakers == ["speaker-0", "speaker-1"]
    assert data.hours == pytest.approx(sum(clip.seconds for clip in [*data.train, *data.heldout]) / 3600)
    for clip in data.clips:
        found = data.references(clip)
        own = data.heldout if clip.split == "heldout" else data.train
        expected = {o.id for o in own if o.speaker == clip.speaker} - {clip.id}
        if not expected:  # the only held-out clip of its speaker is heard after training clips
            expected = {o.id for o in data.train if o.speaker == clip.speaker}
        assert {other.id for other in found} == expected
        few = data.references(clip, limit=2)
        assert {other.id for other in few} <= expected
        assert len(few) == min(2, len(expected))
        assert [o.id for o in few] == [o.id for o in data.references(clip, limit=2)]


def test_a_reference_that_is_named(shards):
    def change(lines):
        lines[2]["split"], lines[3]["reference"] = "reference", lines[2]["id"]
        lines[4]["reference"] = "nobody"

    edited(shards, change)
    data = ShardData(shards)
    assert [p.id for p in data.prompts] == [o.id for o in data.references(data.clip(2))]
    with pytest.raises(DataError, match="unknown reference nobody"):
        data.references(data.clip(3))
    assert data.prompts[0].id not in {c.id for c in data.train}
    assert np.array_equal(data.prompts.lengths, [c.samples for c in data.prompts])
