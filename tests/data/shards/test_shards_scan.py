"""An index of shards that others have made: what is read out of them, and what hostile ones cannot do."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.shards import scan as scan_module
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.tar import members
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

pytest_plugins = ["shards_fixtures"]


def speech(seed: int) -> np.ndarray:
    return synthesise("papa mino lesu.", SyntheticSpeaker.sample(seed % 3), seed)


def encoded(wave: np.ndarray, form: str = "FLAC", rate: int = 24_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=form)
    return buffer.getvalue()


WAVES = [speech(k) for k in range(8)]
FLACS = [encoded(wave) for wave in WAVES]


def write_tar(path: Path, content: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for info in special:
            tar.addfile(info)
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def beside(**told) -> bytes:
    return json.dumps(told).encode()


@pytest.fixture
def tars(tmp_path):
    """Two shards of four recordings, as people make them."""
    for number in range(2):
        content = {}
        for k in range(4 * number, 4 * number + 4):
            content[f"{k:04d}.flac"] = FLACS[k]
            content[f"{k:04d}.json"] = beside(text=f"text  {k}", speaker_id=k % 2, language="de", other=[1])
        write_tar(tmp_path / "tars" / f"x-{number:03d}.tar", content)
    return tmp_path / "tars"


def test_shards_are_indexed_where_they_lie(tars, tmp_path):
    before = {path: path.read_bytes() for path in tars.iterdir()}
    report = prepare(tars, tmp_path / "i", PrepareOptions(heldout=0.25))
    data = ShardData(tmp_path / "i")
    assert {path: path.read_bytes() for path in tars.iterdir()} == before
    assert report.clips == {"train": 6, "heldout": 2, "reference": 0}
    assert (len(data.train), len(data.heldout)) == (6, 2)
    assert [shard.place for shard in data.index.shards] == [
        str(tars / "x-000.tar"),
        str(tars / "x-001.tar"),
        "heldout-00000.tar",
    ]
    for clip in data.clips:
        k = int(clip.id[-4:])
        start = round(clip.start * 24_000)
        np.testing.assert_allclose(clip.read(), WAVES[k][start : start + clip.samples], atol=2**-15)
        assert clip.seconds > len(WAVES[k]) / 24_000 - 0.6  # no more than silence is cut
        assert (clip.text, clip.speaker, clip.language) == (f"text {k}.", str(k % 2), "de")
    assert {p.name for p in (tmp_path / "i").iterdir()} == {
        *("index.jsonl", "heldout-00000.tar", "rejected.jsonl", "summary.json")
    }
    assert prepare(tars, tmp_path / "i", PrepareOptions(heldout=0.25)).reused


def test_what_is_held_out_is_drawn_the_same_and_never_trained_on(tars, tmp_path):
    held = []
    for seed in (0, 0, 1, 2, 3):
        place = tmp_path / f"i{len(held)}"
        prepare(tars, place, PrepareOptions(heldout=0.4, seed=seed))
        data = ShardData(place)
        ids = {clip.id for clip in data.heldout}
        assert len(ids) == 3
        assert not ids & {clip.id for clip in data.train}
        held.append(ids)
    assert held[0] == held[1]
    assert len(set(map(frozenset, held))) > 1


def test_speakers_held_out_altogether_and_marks(tars, tmp_path):
    prepare(tars, tmp_path / "i", PrepareOptions(heldout=0, heldout_speakers=["1"]))
    data = ShardData(tmp_path / "i")
    assert {clip.speaker for clip in data.heldout} == {"1"}
    assert {clip.speaker for clip in data.train} == {"0"}
    content = {f"{k}.flac": FLACS[k] for k in range(4)}
    content |= {"2.json": beside(split="heldout"), "0.json": beside(split="reference")}
    write_tar(tmp_path / "marked" / "a.tar", content)
    prepare(tmp_path / "marked", tmp_path / "m")
    data = ShardData(tmp_path / "m")
    assert [clip.source for clip in data.heldout] == ["2.flac"]
    assert [clip.source for clip in data.train] == ["1.flac", "3.flac"]


def test_a_speaker_who_is_not_there_is_one_line(tars, tmp_path):
    for options in (PrepareOptions(speaker="ann"), PrepareOptions(heldout_speakers=["ann"])):
        with pytest.raises(DataError, match="no speaker 'ann' in the shards; found: 0, 1"):
            prepare(tars, tmp_path / "i", options)


def test_of_a_large_corpus_a_few_are_copied(tars, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "MOST_HELDOUT", 2)
    report = prepare(tars, tmp_path / "i", PrepareOptions(heldout=0.5))
    assert report.clips["heldout"] == 2
    assert report.clips["train"] == 6
    assert "2 recordings are held out: of shards, no more are copied" in report.notes


def test_equal_audio_is_on_one_side(tmp_path):
    write_tar(tmp_path / "t" / "a.tar", {f"{k}.flac": FLACS[k % 2] for k in range(8)})
    prepare(tmp_path / "t", tmp_path / "i", PrepareOptions(heldout=0.1))
    data = ShardData(tmp_path / "i")
    assert len(data.heldout) == 1
    assert len({clip.line.sha256 for clip in [*data.train, *data.heldout]}) == 2
    assert len(data.train) == 4


def test_long_recordings_are_cut_and_played_in_parts(tmp_path):
    wave = np.concatenate([part for k in range(4) for part in (WAVES[k], np.zeros(12_000, np.float32))])
    write_tar(tmp_path / "t" / "a.tar", {"a.flac": encoded(wave), "b.flac": FLACS[5], "c.flac": FLACS[6]})
    prepare(tmp_path / "t", tmp_path / "i", PrepareOptions(max_seconds=4, heldout=0))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.flac").write_bytes(encoded(wave))
    prepare(tmp_path / "r", tmp_path / "p", PrepareOptions(max_seconds=4, heldout=0))
    plain = PreparedData.load(tmp_path / "p").train
    ours = [clip for clip in ShardData(tmp_path / "i").train if clip.source == "a.flac"]
    assert [clip.samples for clip in ours] == [clip.samples for clip in plain]
    assert all(np.abs(a.read() - b.read()).max() < 2**-15 for a, b in zip(ours, plain))
    assert len(ours) > 1
    assert len({clip.line.offset for clip in ours}) == 1
    for clip in ours:
        first = clip.line.first
        np.testing.assert_allclose(clip.read(), wave[first : first + clip.samples], atol=2**-15)
        np.testing.assert_array_equal(clip.read(500, 900), clip.read()[500:900])


def test_other_rates_and_levels(tmp_path):
    quiet = (0.05 * np.repeat(WAVES[0], 2)).astype(np.float32)
    write_tar(tmp_path / "t" / "a.tar", {"a.wav": encoded(quiet, "WAV", 48_000), "b.flac": FLACS[1]})
    prepare(tmp_path / "t", tmp_path / "i", PrepareOptions(normalise=True, heldout=0))
    plain = tmp_path / "r"
    plain.mkdir()
    (plain / "a.wav").write_bytes(encoded(quiet, "WAV", 48_000))
    prepare(plain, tmp_path / "p", PrepareOptions(normalise=True, heldout=0))
    ours, theirs = ShardData(tmp_path / "i").train[0], PreparedData.load(tmp_path / "p").train[0]
    assert ours.samples == theirs.samples
    np.testing.assert_allclose(ours.read(), theirs.read(), atol=1e-5)
    np.testing.assert_array_equal(ours.read(500, 900), ours.read()[500:900])


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path):
    content = {
        "ok.flac": FLACS[0],
        "ok2.flac": FLACS[1],
        "ok2.txt": b"\xef\xbb\xbf said  so\n",
        "silent.flac": encoded(np.zeros(48_000)),
        "text.wav": b"no audio",
        "cut.flac": FLACS[2][:5000],
        "low.wav": encoded(WAVES[3], "WAV", 8000),
        "README.md": b"hello",
    }
    write_tar(tmp_path / "t" / "a.tar", content)
    report = prepare(tmp_path / "t", tmp_path / "i", PrepareOptions(heldout=0))
    assert report.rejected == {"low-rate": 1, "silent": 1, "truncated": 1, "unreadable": 1}
    lines = [json.loads(line) for line in (tmp_path / "i" / "rejected.jsonl").read_text().splitlines()]
    assert {line["audio"] for line in lines} == {"silent.flac", "text.wav", "cut.flac", "low.wav"}
    assert [clip.text for clip in ShardData(tmp_path / "i").train] == [None, "said so."]
    write_tar(tmp_path / "n" / "a.tar", {"silent.flac": content["silent.flac"]})
    with pytest.raises(DataError, match="no usable recording .1 silent.; the first: silent.flac: silence"):
        prepare(tmp_path / "n", tmp_path / "x")
    write_tar(tmp_path / "e" / "a.tar", {"a.txt": b"x"})
    with pytest.raises(DataError, match="hold no audio to train on"):
        prepare(tmp_path / "e", tmp_path / "x")
    assert not (tmp_path / "x").exists()


# ---- hostile ones ----------------------------------------------------------------------------------------------------


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def test_members_are_never_written_by_their_names(tmp_path):
    special = [
        info("link.flac", tarfile.SYMTYPE, link="/etc/passwd"),
        info("hard.flac", tarfile.LNKTYPE, link="../secret.flac"),
        info("device.flac", tarfile.CHRTYPE),
        info("pipe.flac", tarfile.FIFOTYPE),
        info("folder.flac", tarfile.DIRTYPE),
    ]
    content = {
        "/abs/evil.flac": FLACS[0],
        "../../../evil.flac": FLACS[1],
        "a/../../b.flac": FLACS[2],
        "C:\\evil\\x.flac": FLACS[3],
        "\n; rm -rf ~.flac": FLACS[4],
        "../../../evil.json": beside(text="x", speaker="../../who"),
        "~root/x.flac": FLACS[5],
        ".hidden.flac": FLACS[6],
        ".flac": FLACS[7],
    }
    write_tar(tmp_path / "deep" / "down" / "t" / "a.tar", content, *special)
    before = {p for p in tmp_path.rglob("*")}
    report = prepare(tmp_path / "deep" / "down" / "t", tmp_path / "deep" / "i", PrepareOptions(heldout=0.2))
    new = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")} - {p.relative_to(tmp_path) for p in before}
    names = ("", "index.jsonl", "heldout-00000.tar", "rejected.jsonl", "summary.json")
    assert {str(p) for p in new} == {str(Path("deep/i") / name) for name in names}
    data = ShardData(tmp_path / "deep" / "i")
    assert len(data.clips) == 6
    for clip in data.clips:
        assert clip.read().size
        assert "/" not in clip.id
        assert not clip.id.startswith(".")
    assert {"2 links in the shards left alone", "2 special files in the shards left alone"} <= set(report.notes)


def raw_header(size_field: bytes, kind: bytes = b"0", name: bytes = b"a.flac") -> bytes:
    block = bytearray(info("x").tobuf())
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size_field
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """A header of another header."""
    return raw_header(b"%011o\0" % len(records), kind) + records.ljust(512, b"\0")


HUGE = b"\x80" + (1 << 50).to_bytes(11, "big")
NEGATIVE = b"\xff" * 10 + b"\xf0\x00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (raw_header(HUGE) + bytes(2048), "reaches beyond its end"),
        (raw_header(HUGE, b"x") + bytes(2048), "a header of"),
        (raw_header(HUGE, b"L") + bytes(2048), "a header of"),
        (raw_header(NEGATIVE) + bytes(2048), "not a (readable )?tar file|form a loop|cut off"),
        (raw_header(NEGATIVE, b"x") + bytes(2048), "not a (readable )?tar file|form a loop|a header of"),
        (raw_header(NEGATIVE, b"g") + bytes(2048), "not a (readable )?tar file|form a loop|a header of"),
        (raw_header(b"99999999999\0") + bytes(512), "not a (readable )?tar file"),
        (b"", "not a (readable )?tar file"),
        (b"RIFF" + bytes(3000), "not a (readable )?tar file"),
        (bytes(10240), "not a tar file, or an empty one"),
        (pax(b"0 a=b\n") + bytes(1024), "not a (readable )?tar file"),
        (pax(b"-1 a=b\n") + bytes(1024), "not a (readable )?tar file"),
        (pax(b"6 a=b\n") * 3000 + bytes(1024), "headers are nested without end"),
        (pax(b"6 a=b\n", b"g") * 3000 + bytes(1024), "headers are nested without end"),
        (
            raw_header(b"%011o\0" % 8, b"L") * 3000 + bytes(1024),
            "not a (readable )?tar file|nested without end|a loop|cut off",
        ),
        (
            pax(b"15 size=-51200\n") + raw_header(b"%011o\0" % 0) + bytes(1024),
            "not a (readable )?tar file|form a loop|cut off",
        ),
        (b"\x1f\x8b" + bytes(2000), "not a (readable )?tar file"),
    ],
)
def test_tar_files_that_lie_are_one_line(tmp_path, content, message):
    path = tmp_path / "t" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepare(tmp_path / "t", tmp_path / "i")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_shard_that_is_cut_off_is_one_line(tars, tmp_path, share):
    path = tars / "x-001.tar"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=f"{path}: .*cut off"):
        prepare(tars, tmp_path / "i")


def test_members_are_those_that_tarfile_finds(tmp_path):
    long = "a" * 150 + "/ü" + "b" * 200
    content = {f"{long}{k}.txt": bytes([k]) * (k * 300) for k in range(6)}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = content if form != tarfile.USTAR_FORMAT else {f"{k}.txt": v for k, v in enumerate(content.values())}
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
            for name, data in names.items():
                made = info(name, size=len(data))
                tar.addfile(made, io.BytesIO(data))
        whole = (tmp_path / "a.tar").read_bytes()
        assert {m.name: whole[m.offset : m.offset + m.size] for m in members(tmp_path / "a.tar")} == names


def test_json_that_is_no_object_or_too_deep_is_as_none(tmp_path):
    odd = [b"[" * 100_000, b"[1]", b"{", b"\xff\xfe", beside(text=["a"], speaker={"x": 1}), beside(text="\ud800")]
    content = {f"{k}.flac": FLACS[k] for k in range(6)} | {f"{k}.json": told for k, told in enumerate(odd)}
    write_tar(tmp_path / "someone" / "a.tar", content)
    prepare(tmp_path / "someone", tmp_path / "i", PrepareOptions(heldout=0))
    data = ShardData(tmp_path / "i")
    assert [(clip.text, clip.speaker) for clip in data.train] == [(None, "someone")] * 6


# ---- where they are --------------------------------------------------------------------------------------------------


def test_shards_of_a_server(tars, tmp_path, server):
    one = server(tars)
    cache = tmp_path / "cache"
    prepare(f"{one.address}/x-{{000..001}}.tar", tmp_path / "i", PrepareOptions(heldout=0.25), cache=cache)
    assert not list(cache.iterdir())
    assert dict(one.asked) == {"x-000.tar": 1, "x-001.tar": 1}
    data = ShardData(tmp_path / "i", cache=cache)
    assert [shard.place for shard in data.index.shards[:2]] == [f"{one.address}/x-00{k}.tar" for k in range(2)]
    assert all(len(clip.read()) == clip.samples for clip in data.clips)
    with pytest.raises(DataError, match=r"x-002.tar: missing on the server \(404\)"):
        prepare(f"{one.address}/x-{{000..002}}.tar", tmp_path / "j", cache=cache)
    with pytest.raises(DataError, match="a server does not list its files; name the shards"):
        prepare(one.address, tmp_path / "j")


def test_shards_of_the_hub(tars, tmp_path, monkeypatch):
    import shutil

    import huggingface_hub

    files = ["README.md", "data/x-001.tar", "data/x-000.tar", "other/y.tar"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository, repo_type, revision: files)
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repository, name, local_dir, **_: shutil.copy(tars / Path(name).name, local_dir),
    )
    prepare("hf://datasets/ann/speech/data", tmp_path / "i", PrepareOptions(heldout=0), cache=tmp_path / "cache")
    data = ShardData(tmp_path / "i", cache=tmp_path / "cache")
    assert [shard.place for shard in data.index.shards] == [
        f"hf://datasets/ann/speech/data/x-00{k}.tar" for k in range(2)
    ]
    assert sum(len(clip.read()) for clip in data.train)
    with pytest.raises(DataError, match=r"has no \.tar file"):
        prepare("hf://datasets/ann/speech/none", tmp_path / "j")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shards", "1GB"], "tar shards are indexed as they are; leave out --shards"),
        (["--transcribe"], "leave out --transcribe"),
    ],
)
def test_what_cannot_be_done_to_shards_is_one_line(tars, tmp_path, capsys, arguments, message):
    assert voxclone(["prepare", str(tars), "--output", str(tmp_path / "i"), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_single_files_and_ranges(tars, tmp_path):
    prepare(tars / "x-000.tar", tmp_path / "a", PrepareOptions(heldout=0))
    assert len(ShardData(tmp_path / "a").train) == 4
    prepare(str(tars / "x-{000..001}.tar"), tmp_path / "b", PrepareOptions(heldout=0, speaker="0"))
    assert {clip.speaker for clip in ShardData(tmp_path / "b").train} == {"0"}
    with pytest.raises(DataError, match="x-005.tar: no such shard"):
        prepare(tars / "x-005.tar", tmp_path / "c")
