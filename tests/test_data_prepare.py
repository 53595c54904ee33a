"""Preparation end to end: what is kept, cut and rejected, the held-out split, and that nothing is ever half-written."""

import errno
import functools
import json
import os
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mlx_voxclone.audio.io import SAMPLE_RATE, audio_info, read_audio, write_wav
from mlx_voxclone.data import collect, ingest
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.synth import SyntheticSpeaker, random_text, synthesise, write_corpus
from mlx_voxclone.errors import CheckpointError, DataError

SPEECH = Path(__file__).parents[1].parent / "shared" / "speech"
needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason="no real speech at hand")
VOICE = SyntheticSpeaker.sample(0)


@functools.cache
def talk(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Exactly so many seconds of synthetic speech."""
    text = random_text(np.random.default_rng(seed), int(seconds * 6) + 2)
    samples = synthesise(text, VOICE, seed)[1200 : 1200 + int(seconds * SAMPLE_RATE)]
    samples.setflags(write=False)  # shared by the tests
    return samples


def silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32) * 1e-4


def folder_of(directory: Path, **recordings: np.ndarray) -> Path:
    directory.mkdir()
    for name, samples in recordings.items():
        write_wav(directory / f"{name}.wav", samples)
    return directory


def rejections(output: Path) -> dict[str, dict]:
    return {line["audio"]: line for line in map(json.loads, (output / "rejected.jsonl").read_text().splitlines())}


def files(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


# What is kept


def test_a_corpus_becomes_clips(tmp_path):
    speakers = [SyntheticSpeaker.sample(0), SyntheticSpeaker.sample(1)]
    write_corpus(tmp_path / "c", speakers, 5, seconds=2.0)
    report = prepare(tmp_path / "c", tmp_path / "out")
    data = PreparedData.load(tmp_path / "out")
    assert data.speakers == ["synthetic-0", "synthetic-1"]
    assert len(data.train) + len(data.heldout) == 10
    assert report.with_text == 10
    assert report.hours_kept == pytest.approx(data.hours)
    assert report.hours["read"] == pytest.approx(sum(audio_info(p).seconds for p in tmp_path.glob("c/*/*.wav")) / 3600)
    for clip in data.clips:
        samples = clip.read()
        assert clip.path.suffix == ".flac"
        assert audio_info(clip.path).subtype == "PCM_24"
        assert len(samples) == clip.samples == round(clip.seconds * SAMPLE_RATE)
        whole = read_audio(tmp_path / "c" / clip.source)
        first = round(clip.start * SAMPLE_RATE)
        np.testing.assert_allclose(samples, whole[first : first + clip.samples], atol=2**-23)  # the level is kept


def test_silence_is_trimmed_unless_told_otherwise(tmp_path):
    source = folder_of(tmp_path / "r", a=np.concatenate([silence(1.5), talk(2), silence(2)]), b=talk(2))
    prepare(source, tmp_path / "trimmed")
    (a,) = [c for c in PreparedData.load(tmp_path / "trimmed").clips if c.id == "a"]
    assert 1.3 < a.start < 1.6
    assert 1.8 < a.seconds < 2.3
    prepare(source, tmp_path / "whole", PrepareOptions(trim_silence=False))
    (a,) = [c for c in PreparedData.load(tmp_path / "whole").clips if c.id == "a"]
    assert (a.start, a.seconds) == (0, 5.5)


def test_normalising_brings_speech_to_one_level_and_peaks_below_full_scale(tmp_path):
    spiky = talk(2) * 0.1
    spiky[SAMPLE_RATE] = 0.9
    source = folder_of(tmp_path / "r", loud=talk(2), quiet=talk(2) * 0.3, spiky=spiky)
    prepare(source, tmp_path / "out", PrepareOptions(normalise=True))
    samples = {c.id: c.read() for c in PreparedData.load(tmp_path / "out").clips}
    np.testing.assert_allclose(samples["loud"], samples["quiet"], atol=5e-3)
    spoken = np.square(samples["loud"])
    assert -26 < 10 * np.log10(spoken.mean()) < -21
    assert 0.95 < np.abs(samples["spiky"]).max() <= 1


def test_peaks_beyond_full_scale_survive(tmp_path):
    loud = talk(2) * 5
    assert np.abs(loud).max() > 1.2
    (tmp_path / "r").mkdir()
    write_wav(tmp_path / "r" / "a.wav", loud, float32=True)
    write_wav(tmp_path / "r" / "b.wav", talk(2))
    prepare(tmp_path / "r", tmp_path / "out", PrepareOptions(trim_silence=False))
    (a,) = [c for c in PreparedData.load(tmp_path / "out").clips if c.id == "a"]
    assert audio_info(a.path).subtype == "FLOAT"
    np.testing.assert_array_equal(a.read(), loud)


def test_a_long_recording_is_cut_at_pauses(tmp_path):
    parts = [part for k in range(12) for part in (talk(4, k % 3), silence(0.6))]
    source = folder_of(tmp_path / "r", long=np.concatenate(parts), short=talk(2))
    prepare(source, tmp_path / "out")
    pieces = sorted(
        (c for c in PreparedData.load(tmp_path / "out").clips if c.source == "long.wav"), key=lambda c: c.start
    )
    assert len(pieces) >= 3
    assert all(2 <= piece.seconds <= 20 for piece in pieces)
    assert sum(piece.seconds for piece in pieces) > 45
    assert [piece.id for piece in pieces] == [f"long~{k:03d}" for k in range(1, len(pieces) + 1)]
    for piece in pieces:
        edges = np.concatenate([piece.read()[:1000], piece.read()[-1000:]])
        assert np.sqrt(np.mean(edges**2)) < 0.01


# What is rejected

BAD = {
    "text.wav": "unreadable",
    "empty.wav": "zero-length",
    "nothing.wav": "zero-length",
    "silent.wav": "silent",
    "clipped.wav": "clipped",
    "nan.wav": "non-finite",
    "eight.wav": "channels",
    "telephone.wav": "low-rate",
    "truncated.wav": "truncated",
    "short.wav": "too-short",
    "long.wav": "too-long",
    "memo.m4a": "unreadable",
    "constant.wav": "silent",
    "loud.wav": "level",
    "opposed.wav": "opposed",
}


@pytest.fixture
def bad_recordings(tmp_path) -> Path:
    folder = folder_of(tmp_path / "r", silent=silence(3), short=talk(0.4), long=talk(35), truncated=talk(2))
    (folder / "text.wav").write_text("no audio\n" * 100)
    (folder / "empty.wav").touch()
    (folder / "memo.m4a").write_bytes(os.urandom(1000))
    soundfile.write(folder / "nothing.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    write_wav(folder / "clipped.wav", np.clip(talk(2) * 30, -1, 1))
    broken = talk(2).copy()
    broken[100] = np.nan
    soundfile.write(folder / "nan.wav", broken, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", talk(2) * 1e30, SAMPLE_RATE, subtype="FLOAT")
    write_wav(folder / "constant.wav", np.full(3 * SAMPLE_RATE, 0.5))
    soundfile.write(folder / "opposed.wav", np.stack([talk(2), -talk(2)], axis=1), SAMPLE_RATE)
    soundfile.write(folder / "eight.wav", np.stack([talk(2)] * 8, axis=1), SAMPLE_RATE)
    soundfile.write(folder / "telephone.wav", talk(2)[::3], 8000)
    content = (folder / "truncated.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(content[: len(content) // 2])
    (folder / "long.txt").write_text("A long text.")
    return folder


def test_every_bad_recording_is_reported_with_its_reason_and_the_rest_is_kept(bad_recordings, tmp_path):
    write_wav(bad_recordings / "good.wav", talk(2))
    write_wav(bad_recordings / "fine.wav", talk(2, seed=1))
    report = prepare(bad_recordings, tmp_path / "out")
    found = rejections(tmp_path / "out")
    assert {name: line["reason"] for name, line in found.items()} == BAD
    assert sum(report.rejected.values()) == len(BAD)
    for name, line in found.items():
        assert name in line["detail"]
        assert "\n" not in line["detail"]
    assert "no speech above 4 kHz to learn from" in found["telephone.wav"]["detail"]
    assert "not cut blindly" in found["long.wav"]["detail"]
    assert {c.id for c in PreparedData.load(tmp_path / "out").clips} == {"good", "fine"}
    assert len(files(tmp_path / "out" / "clips")) == 2


@pytest.mark.parametrize("name", BAD)
def test_a_folder_with_nothing_usable_is_one_line(bad_recordings, tmp_path, name):
    for path in bad_recordings.iterdir():
        if path.stem != Path(name).stem:
            path.unlink()
    with pytest.raises(DataError, match=f"no usable recording .1 {BAD[name]}.") as caught:
        prepare(bad_recordings, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert files(tmp_path) == ["r"]


def test_empty_folder(tmp_path):
    (tmp_path / "r").mkdir()
    with pytest.raises(DataError, match="no audio in this folder"):
        prepare(tmp_path / "r", tmp_path / "out")
    assert files(tmp_path) == ["r"]


def test_missing_recordings_of_a_manifest_are_rejected(tmp_path):
    folder = folder_of(tmp_path / "r", a=talk(2), b=talk(2))
    (folder / "metadata.csv").write_text("a|Words\nb|Words\nc|Words\n")
    prepare(folder, tmp_path / "out")
    line = rejections(tmp_path / "out")["c.wav"]
    assert line["reason"] == "missing"
    assert line["where"].endswith("metadata.csv:3")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system holds no such name")
def test_a_name_that_is_not_utf8_is_rejected_and_the_rest_is_kept(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(2))
    content = (source / "a.wav").read_bytes()
    Path(os.fsdecode(os.fsencode(source) + b"/b\xff.wav")).write_bytes(content)
    speaker = Path(os.fsdecode(os.fsencode(source) + b"/s\xff"))
    speaker.mkdir()
    (speaker / "c.wav").write_bytes(content)
    report = prepare(source, tmp_path / "out")
    assert report.rejected == {"name": 2}
    assert {line["reason"] for line in rejections(tmp_path / "out").values()} == {"name"}
    assert set(rejections(tmp_path / "out")) == {os.fsdecode(b"b\xff.wav"), os.fsdecode(b"s\xff/c.wav")}
    assert [c.id for c in PreparedData.load(tmp_path / "out").clips] == ["r-a"]
    assert prepare(source, tmp_path / "out").reused


def test_the_bounds_are_options(tmp_path):
    source = folder_of(tmp_path / "r", half=talk(0.5), mild=np.clip(talk(2) * 9, -1, 1), a=talk(2))
    soundfile.write(source / "phone.wav", talk(2)[::3], 8000)
    clipped = ingest.scan_recording(audio_info(source / "mild.wav")).clipped
    assert 0.01 < clipped < 0.2
    options = PrepareOptions(min_seconds=0.3, min_sampling_rate=8000, max_clipped=0.2)
    assert sum(prepare(source, tmp_path / "out", options).clips.values()) == 4
    assert rejections(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_seconds": 5, "max_seconds": 4},
        {"min_seconds": 0},
        {"heldout": 1.0},
        {"heldout": -0.1},
        {"max_clipped": 2},
        {"min_sampling_rate": -5},
        {"min_sampling_rate": 999},
    ],
)
def test_options_out_of_bounds(wrong):
    with pytest.raises(DataError, match=next(iter(wrong))):
        PrepareOptions(**wrong)


def test_three_hours_are_prepared_in_bounded_memory(tmp_path):
    """16 kHz, 16-bit, mostly silence with 6 s of speech every 10 minutes: 691 MB as float32 at 16 kHz."""
    speech = np.rint(talk(6)[: 4 * SAMPLE_RATE] * 32767).astype(np.int16)  # plays slower: it is speech all the same
    (tmp_path / "r").mkdir()
    with soundfile.SoundFile(tmp_path / "r" / "long.flac", "w", 16_000, 1, subtype="PCM_16") as file:
        for k in range(18):
            file.write((speech * (1 - k / 100)).astype(np.int16))  # equal ones would count as copies
            file.write(np.zeros(600 * 16_000 - len(speech), np.int16))
    tracemalloc.start()
    report = prepare(tmp_path / "r", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    assert report.hours["read"] == pytest.approx(3)
    assert report.clips["train"] + report.clips["heldout"] == 18
    assert report.hours_kept == pytest.approx(18 * 6 / 3600, rel=0.1)
    assert any("its last 2 of 18 clips are held out" in note for note in report.notes)


# The held-out split


def by_source(data: PreparedData) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for clip in [*data.train, *data.heldout]:
        found.setdefault(clip.source, set()).add(clip.split)
    return found


def test_split_is_by_file_per_speaker_and_repeatable(tmp_path):
    write_corpus(tmp_path / "c", [SyntheticSpeaker.sample(k) for k in range(2)], 10, seconds=1.5)
    (tmp_path / "c" / "long").mkdir()
    lines = (tmp_path / "c" / "manifest.jsonl").read_text()
    for k in range(4):
        parts = [part for j in range(3) for part in (talk(4, j), silence(0.5))]
        write_wav(tmp_path / "c" / "long" / f"{k}.wav", np.concatenate(parts))
        lines += json.dumps({"audio": f"long/{k}.wav", "speaker": "synthetic-0"}) + "\n"
    (tmp_path / "c" / "manifest.jsonl").write_text(lines)
    options = PrepareOptions(heldout=0.3, max_seconds=8)
    prepare(tmp_path / "c", tmp_path / "1", options)
    prepare(tmp_path / "c", tmp_path / "2", options)
    first, second = PreparedData.load(tmp_path / "1"), PreparedData.load(tmp_path / "2")
    assert [c.id for c in first.heldout] == [c.id for c in second.heldout]
    assert first.fingerprint() == second.fingerprint()
    assert all(len(splits) == 1 for splits in by_source(first).values())
    for speaker in first.speakers:
        held = sum(c.seconds for c in first.heldout if c.speaker == speaker)
        kept = sum(c.seconds for c in first.train if c.speaker == speaker)
        assert 0.1 < held / (held + kept) < 0.5
    prepare(tmp_path / "c", tmp_path / "3", PrepareOptions(heldout=0.3, max_seconds=8, seed=1))
    assert {c.id for c in PreparedData.load(tmp_path / "3").heldout} != {c.id for c in first.heldout}


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_recording_are_on_one_side(tmp_path, seed):
    source = folder_of(tmp_path / "r", **{f"{k}{copy}": talk(1.5, k % 3) for k, copy in zip(range(6), "aaabbb")})
    report = prepare(source, tmp_path / "out", PrepareOptions(heldout=0.4, seed=seed))
    data = PreparedData.load(tmp_path / "out")
    audio = [{clip.read().tobytes() for clip in side} for side in (data.train, data.heldout)]
    assert audio[0]
    assert audio[1]
    assert not audio[0] & audio[1]
    assert len(data.clips) == 6
    assert any("3 of 6 clips repeat" in note for note in report.notes)


def test_copies_of_one_long_recording_and_of_a_held_out_speaker_are_on_one_side(tmp_path):
    long = np.concatenate([part for k in range(6) for part in (talk(2, k), silence(1))])
    prepare(folder_of(tmp_path / "r", a=long, b=long), tmp_path / "out", PrepareOptions(max_seconds=5, heldout=0.3))
    (tmp_path / "s").mkdir()
    folder_of(tmp_path / "s" / "ben", a=talk(2), b=talk(2, 1))
    folder_of(tmp_path / "s" / "zoe", a=talk(2))
    prepare(tmp_path / "s", tmp_path / "by", PrepareOptions(heldout_speakers=["zoe"], heldout=0))
    for out in ("out", "by"):
        data = PreparedData.load(tmp_path / out)
        assert data.heldout
        assert not {c.read().tobytes() for c in data.train} & {c.read().tobytes() for c in data.heldout}
    assert {c.id for c in data.heldout} == {"ben-a", "zoe-a"}


def test_one_of_two_files_is_held_out_however_small_the_fraction(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(4), b=talk(2, seed=1))
    prepare(source, tmp_path / "out", PrepareOptions(heldout=0.01))
    data = PreparedData.load(tmp_path / "out")
    assert ([c.id for c in data.train], [c.id for c in data.heldout]) == (["a"], ["b"])


def test_nothing_is_held_out_when_nothing_is_asked_for(tmp_path):
    prepare(folder_of(tmp_path / "r", a=talk(4), b=talk(2)), tmp_path / "out", PrepareOptions(heldout=0))
    assert PreparedData.load(tmp_path / "out").heldout == []


def test_a_single_clip_stays_in_training_and_the_report_says_so(tmp_path):
    report = prepare(folder_of(tmp_path / "r", a=talk(4)), tmp_path / "out")
    assert (report.clips["train"], report.clips["heldout"]) == (1, 0)
    assert any("nothing is held out" in note for note in report.notes)


def test_speakers_of_one_recording_each(tmp_path):
    for k in range(2):
        (tmp_path / "r" / f"s{k}").mkdir(parents=True)
        write_wav(tmp_path / "r" / f"s{k}" / "a.wav", talk(2 + k, seed=k))
    report = prepare(tmp_path / "r", tmp_path / "out")
    assert [c.speaker for c in PreparedData.load(tmp_path / "out").heldout] == ["s0"]
    assert any("s0 is held out altogether" in note for note in report.notes)


def test_speakers_can_be_held_out_and_chosen(tmp_path):
    write_corpus(tmp_path / "c", [SyntheticSpeaker.sample(k) for k in range(3)], 3, seconds=1.5)
    prepare(tmp_path / "c", tmp_path / "1", PrepareOptions(heldout_speakers=["synthetic-2"], heldout=0))
    data = PreparedData.load(tmp_path / "1")
    assert {c.speaker for c in data.heldout} == {"synthetic-2"}
    assert {c.speaker for c in data.train} == {"synthetic-0", "synthetic-1"}
    prepare(tmp_path / "c", tmp_path / "2", PrepareOptions(speaker="synthetic-1"))
    assert PreparedData.load(tmp_path / "2").speakers == ["synthetic-1"]
    with pytest.raises(DataError, match="did you mean 'synthetic-2'"):
        prepare(tmp_path / "c", tmp_path / "3", PrepareOptions(speaker="synthetic_2"))
    with pytest.raises(DataError, match="every speaker"):
        prepare(tmp_path / "c", tmp_path / "3", PrepareOptions(speaker="synthetic-1", heldout_speakers=["synthetic-1"]))


# Texts and references


def test_the_report_says_when_texts_are_missing(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(2), b=talk(2, 1))
    notes = prepare(source, tmp_path / "none").notes
    assert len(notes) == 1
    assert notes[0].startswith("no clip has a text, which the speaker task needs")
    (source / "a.txt").write_text("Words.")
    report = prepare(source, tmp_path / "some")
    assert report.with_text == 1
    assert report.notes[0].startswith("1 of 2 clips have no text")


def test_references_are_other_clips_of_the_speaker_from_the_same_split(tmp_path):
    write_corpus(tmp_path / "c", [SyntheticSpeaker.sample(k) for k in range(2)], 6, seconds=1.5)
    prepare(tmp_path / "c", tmp_path / "out", PrepareOptions(heldout=0.34))
    data = PreparedData.load(tmp_path / "out")
    for clip in [*data.train, *data.heldout]:
        found = data.references(clip)
        assert found
        assert clip not in found
        assert {c.speaker for c in found} == {clip.speaker}
        assert {c.split for c in found} == {clip.split}


def test_a_lone_held_out_clip_is_prompted_by_training_clips_but_never_the_other_way_round(tmp_path):
    prepare(folder_of(tmp_path / "r", a=talk(4), b=talk(2)), tmp_path / "out")
    data = PreparedData.load(tmp_path / "out")
    assert data.references(data.heldout[0]) == data.train
    assert data.references(data.train[0]) == []


def test_references_of_a_large_corpus_are_a_fixed_draw():
    clips = [Clip(f"c{k}", Path("x.flac"), 24_000, "anna") for k in range(500)]
    data = PreparedData(Path("."), clips, [], [], {c.id: c for c in clips}, {("anna", "train"): clips})
    first = data.references(clips[7])
    assert len(first) == len({c.id for c in first}) == 64
    assert clips[7] not in first
    assert data.references(clips[7]) == first != data.references(clips[8])


def test_a_named_reference_is_prepared_and_used(tmp_path):
    folder = folder_of(
        tmp_path / "r", a=talk(2), b=talk(2, 1), c=talk(2, 2), d=talk(2, 3), prompt=talk(3, 4), broken=silence(3)
    )
    lines = [
        {"audio": "a.wav", "ref_audio": "prompt.wav"},
        {"audio": "b.wav", "ref_audio": "prompt.wav"},
        {"audio": "c.wav", "ref_audio": "broken.wav"},
        {"audio": "d.wav"},
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = prepare(folder, tmp_path / "out")
    data = PreparedData.load(tmp_path / "out")
    assert report.clips["reference"] == len(data.prompts) == 1
    assert data.prompts[0].id == "ref-prompt"
    clips = {c.id: c for c in [*data.train, *data.heldout]}
    assert set(clips) == {"a", "b", "d"}
    assert data.references(clips["a"]) == data.references(clips["b"]) == data.prompts
    assert data.prompts[0] not in data.train
    rejected = rejections(tmp_path / "out")["c.wav"]
    assert rejected["reason"] == "reference"
    assert "broken.wav: silence" in rejected["detail"]


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
    with pytest.raises(DataError, match=r"prepared otherwise: normalise, seed changed"):
        prepare(source, tmp_path / "out", PrepareOptions(normalise=True, seed=3))
    (source / "a.txt").write_text("Now with a text.")
    with pytest.raises(DataError, match="the recordings or their texts changed"):
        prepare(source, tmp_path / "out")
    (source / "a.txt").unlink()
    assert prepare(source, tmp_path / "out").reused
    os.utime(source / "a.wav")
    with pytest.raises(DataError, match="the recordings or their texts changed"):
        prepare(source, tmp_path / "out")


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


# Real speech


@needs_speech
def test_real_speech(tmp_path):
    report = prepare(SPEECH / "ljspeech", tmp_path / "lj")
    assert report.rejected == {}
    assert report.with_text == report.clips["train"] + report.clips["heldout"] == 32
    assert report.hours_kept == pytest.approx(report.hours["read"], rel=0.03)  # the corpus is trimmed already
    data = PreparedData.load(tmp_path / "lj")
    for clip in data.train[:3]:
        assert 0.03 < np.sqrt(np.mean(clip.read() ** 2)) < 0.3
    jfk = prepare(SPEECH / "jfk.flac", tmp_path / "jfk")
    assert jfk.hours_kept * 3600 == pytest.approx(11, abs=1)
    cut = prepare(SPEECH / "jfk.flac", tmp_path / "cut", PrepareOptions(max_seconds=5))
    assert cut.clips["train"] >= 2
    assert cut.clips["heldout"] == 1
    assert 8 < cut.hours_kept * 3600 <= 11
