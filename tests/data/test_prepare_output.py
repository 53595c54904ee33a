"""What preparation writes: names, an output that is there already, stops on the way, damage."""

import errno
import json
import math
import os
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import files, folder_of, talk

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.data import collect, ingest
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import CheckpointError, DataError

# Names, and the output directory


def test_names_that_collide_stay_apart(tmp_path):
    for path in ("x/a b.wav", "x/a_b.wav", "x/A_B.flac", "x/sub/a_b.wav"):
        (tmp_path / "r" / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "r" / path, talk(2, seed=len(path)), SAMPLE_RATE)
    prepare(tmp_path / "r", tmp_path / "out")
    ids = [c.id for c in PreparedData.load(tmp_path / "out").clips]
    assert len({i.casefold() for i in ids}) == 4
    assert len(files(tmp_path / "out" / "clips")) == 4


def test_prepared_data_is_reused_only_while_it_is_what_would_be_written(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(2), b=talk(2))
    assert not prepare(source, tmp_path / "out").reused
    before = (tmp_path / "out" / "manifest.jsonl").stat().st_mtime_ns
    again = prepare(source, tmp_path / "out")
    assert again.reused
    assert (tmp_path / "out" / "manifest.jsonl").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"prepared with other settings: normalise, seed changed"):
        prepare(source, tmp_path / "out", PrepareOptions(normalise=True, seed=3))
    (source / "a.txt").write_text("Now with a text.")
    with pytest.raises(DataError, match="the recordings or their texts changed"):
        prepare(source, tmp_path / "out")
    (source / "a.txt").unlink()
    assert prepare(source, tmp_path / "out").reused
    os.utime(source / "a.wav")
    with pytest.raises(DataError, match="the recordings or their texts changed"):
        prepare(source, tmp_path / "out")


@pytest.mark.parametrize("asked", ["NFC", "NFD"])
@pytest.mark.parametrize("folder", ["NFC", "NFD"])
def test_a_speaker_is_found_however_his_name_is_composed(tmp_path, folder, asked):
    source = folder_of(tmp_path / "r", a=talk(2))
    for seed, name in ((1, "Zoë"), (2, "Ann")):
        place = source / unicodedata.normalize(folder, name)
        place.mkdir()
        write_wav(place / "b.wav", talk(2, seed))
        write_wav(place / "c.wav", talk(3, seed))
    name = unicodedata.normalize(asked, "Zoë")
    assert list(prepare(source, tmp_path / "one", PrepareOptions(speaker=name)).speakers) == ["Zoë"]
    held = prepare(source, tmp_path / "held", PrepareOptions(heldout_speakers=[name], heldout=0)).speakers
    assert {name: own["heldout_clips"] for name, own in held.items()} == {"Ann": 0, "Zoë": 2, "r": 0}


@pytest.mark.parametrize("option", [{"speech_detector": "levels"}, {"max_clipped": 0.5}, {"heldout_speakers": ["b"]}])
def test_an_option_that_is_left_out_again_is_a_change(tmp_path, option):
    """Of some options only what is no default is recorded."""
    source = folder_of(tmp_path / "r", a=talk(2))
    (source / "b").mkdir()
    write_wav(source / "b" / "b.wav", talk(2, 1))
    prepare(source, tmp_path / "out", PrepareOptions(**option))
    assert prepare(source, tmp_path / "out", PrepareOptions(**option)).reused
    with pytest.raises(DataError, match=f"prepared with other settings: {next(iter(option))} changed"):
        prepare(source, tmp_path / "out")


def test_data_that_does_not_record_an_option_was_made_with_its_default(tmp_path):
    """As an earlier version wrote it."""
    source = folder_of(tmp_path / "r", a=talk(2), b=talk(2))
    prepare(source, tmp_path / "out")
    path = tmp_path / "out" / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    for key in ("max_clipped", "trim_silence"):
        del summary["identity"]["options"][key]
    path.write_text(json.dumps(summary), encoding="utf-8")
    assert prepare(source, tmp_path / "out").reused
    with pytest.raises(DataError, match="trim_silence changed"):
        prepare(source, tmp_path / "out", PrepareOptions(trim_silence=False))


def test_output_inside_the_source_is_no_recording(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(2), b=talk(2))
    prepare(source, source / "prepared")
    assert prepare(source, source / "prepared").reused


def test_an_output_that_holds_something_else_is_left_alone(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(2), b=talk(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds no prepared data"):
        prepare(source, tmp_path / "out")
    assert files(tmp_path / "out") == ["thesis.txt"]


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), CheckpointError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_full_disk_or_ctrl_c_leaves_nothing(tmp_path, monkeypatch, failure, raised):
    source = folder_of(tmp_path / "r", **{f"a{k}": talk(1.5, k) for k in range(6)})
    genuine, calls = ingest.write_flac, []

    def fail(path, samples):
        calls.append(path)
        if len(calls) > 2:
            raise failure
        genuine(path, samples)

    monkeypatch.setattr(ingest, "write_flac", fail)
    with pytest.raises(raised):
        prepare(source, tmp_path / "out")
    assert files(tmp_path) == ["r"]
    assert len(files(source)) == 6


def test_ctrl_c_between_clips_leaves_nothing(tmp_path):
    source = folder_of(tmp_path / "r", **{f"a{k}": talk(1.5, k) for k in range(4)})

    def interrupted(items, total, what):
        assert (total, what) == (4, "recordings")
        for n, item in enumerate(items):
            if n == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", progress=interrupted)
    assert files(tmp_path) == ["r"]


def test_after_ctrl_c_nobody_works_on(tmp_path, monkeypatch):
    source = folder_of(tmp_path / "r", **{f"a{k}": talk(1.5) for k in range(40)})
    genuine, calls = collect.examine, []

    def slow(*arguments):
        calls.append(arguments)
        time.sleep(0.02)
        return genuine(*arguments)

    def interrupted(items, total, what):
        yield next(iter(items))
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "examine", slow)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", progress=interrupted)
    assert len(calls) < 35  # what the threads were at, not what waited


# Damaged prepared data


@pytest.fixture
def prepared(tmp_path) -> Path:
    prepare(folder_of(tmp_path / "r", a=talk(2), b=talk(2)), tmp_path / "out")
    return tmp_path / "out"


def test_a_missing_clip_is_named(prepared):
    (prepared / "clips" / "a.flac").unlink()
    with pytest.raises(DataError, match=r"a\.flac: missing from the prepared data"):
        PreparedData.load(prepared)


def test_a_damaged_clip_is_named(prepared):
    clip = PreparedData.load(prepared).train[0]
    clip.path.write_bytes(clip.path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=clip.path.name):
        clip.read()
    write_wav(clip.path, np.zeros(10))
    with pytest.raises(DataError, match="10 samples where"):
        clip.read()
    with pytest.raises(DataError, match="10 samples where"):
        clip.read(3, 7)


def test_a_manifest_line_of_other_types_is_named(prepared):
    lines = (prepared / "manifest.jsonl").read_text().splitlines()
    wrong = [("audio", 5), ("speaker", None), ("split", 1), ("samples", "9"), ("samples", True), ("samples", 10**12)]
    wrong += [("text", 5), ("language", ["en"]), ("id", None), ("id", ""), ("source", 1), ("reference", 1)]
    wrong += [("digest", []), ("digest", {}), ("digest", 7), ("marked", []), ("marked", "reference")]
    wrong += [("start", None), ("start", "0"), ("start", -1.0), ("start", math.nan), ("speaker", "")]
    for key, value in wrong:
        (prepared / "manifest.jsonl").write_text(f"{lines[0]}\n{json.dumps({**json.loads(lines[1]), key: value})}\n")
        with pytest.raises(DataError, match=r"manifest\.jsonl:2: damaged"):
            PreparedData.load(prepared)


@pytest.mark.parametrize("name", ["../other/a.flac", "clips/../../other/a.flac", "/tmp/a.flac", "clips\\..\\..\\a", ""])
def test_audio_outside_is_refused_with_its_line(prepared, name):
    shutil.copytree(prepared, prepared.parent / "other")
    lines = [json.loads(line) for line in (prepared / "manifest.jsonl").read_text().splitlines()]
    lines[1]["audio"] = name
    (prepared / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"manifest\.jsonl:2: '.*' does not lie inside "):
        PreparedData.load(prepared)


@pytest.mark.parametrize("line", ["", "null", "  ", "[]", "7", "[" * 9000])
def test_lines_that_say_nothing_are_named(prepared, line):
    first, *rest = (prepared / "manifest.jsonl").read_text().splitlines()
    (prepared / "manifest.jsonl").write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(DataError, match=r"manifest\.jsonl:2: damaged"):
        PreparedData.load(prepared)


def test_a_clip_that_is_listed_twice(prepared):
    lines = (prepared / "manifest.jsonl").read_text()
    (prepared / "manifest.jsonl").write_text(lines + lines.splitlines()[0] + "\n")
    with pytest.raises(DataError, match="clip [ab] is listed twice"):
        PreparedData.load(prepared)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "damaged"), ('{"id": "x"}', "damaged"), ('{"id": "x", "split": "no"}', "damaged"), ("", "no clip to train")],
)
def test_a_damaged_manifest_is_named(prepared, line, message):
    (prepared / "manifest.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        PreparedData.load(prepared)


def test_a_directory_without_prepared_data(tmp_path):
    with pytest.raises(DataError, match="run prepare first"):
        PreparedData.load(tmp_path)
