"""What preparation keeps and what it rejects."""

import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import SPEECH, files, folder_of, needs_speech, rejections, silence, talk

from mlx_voxclone.audio import decode
from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample, write_wav
from mlx_voxclone.data import ingest
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus
from mlx_voxclone.process.amounts import format_seconds

# What is kept


@pytest.mark.parametrize("damage", ["no audio", "cut off", "empty", "silent"])
def test_a_damaged_recording_gives_way_to_its_copy_in_another_format(tmp_path, damage):
    folder = folder_of(tmp_path / "a", one=talk(), two=silence(2.0) if damage == "silent" else talk(seed=1))
    path = folder / "two.wav"
    soundfile.write(folder / "two.flac", talk(seed=1), SAMPLE_RATE)
    (folder / "two.txt").write_text("two words", encoding="utf-8")
    content = {"no audio": b"no audio", "cut off": path.read_bytes()[:20_000], "empty": b""}
    path.write_bytes(content.get(damage, path.read_bytes()))
    report = prepare(folder, tmp_path / "out")
    if damage == "silent":  # which is what it is: another recording is another one
        assert rejections(tmp_path / "out")["two.wav"]["reason"] == "silent"
        return
    assert not rejections(tmp_path / "out")
    clips = {clip.id: clip for clip in PreparedData.load(tmp_path / "out").clips}
    assert (clips["two"].source, clips["two"].text) == ("two.flac", "two words.")
    line = "1 recording is damaged, and its copy in another format is used: such as two.flac for two.wav"
    assert line in report.notes


def test_where_the_copy_is_damaged_as_well_the_recording_is_named(tmp_path):
    folder = folder_of(tmp_path / "a", one=talk(), two=talk(seed=1))
    for name in ("two.wav", "two.flac", "two.mp3"):
        (folder / name).write_bytes(b"no audio")
    prepare(folder, tmp_path / "out")
    assert list(rejections(tmp_path / "out")) == ["two.wav"]


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


def test_speech_that_is_soft_is_kept_where_a_text_stands_for_it(tmp_path):
    """It was cut off as silence, and its text stayed."""
    clip = np.concatenate([talk(3, 1), silence(0.2) * 0.1, talk(2.5, 2) * 0.01])
    source = folder_of(tmp_path / "r", a=clip, b=clip[::-1].copy(), c=talk(2), d=clip)
    for name in "abc":
        (source / f"{name}.txt").write_text("Some words.")
    report = prepare(source, tmp_path / "out")
    seconds = {clip.id: clip.seconds for clip in PreparedData.load(tmp_path / "out").clips}
    assert seconds["a"] > 5.4
    assert seconds["b"] > 5.4
    assert seconds["d"] < 3.3  # what is transcribed later is what is there
    assert [note for note in report.notes if "far softer" in note and "2 recordings" in note]


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


def test_parts_of_a_long_recording_are_widened_as_far_as_min_seconds_asks(tmp_path):
    phrases = [part for k in range(5) for part in (silence(6.0), talk(5.0, k))]
    source = folder_of(tmp_path / "r", long=np.concatenate([*phrases, silence(6.0)]))
    report = prepare(source, tmp_path / "out", PrepareOptions(min_seconds=5.5))
    assert not report.rejected
    assert not [note for note in report.notes if "--min-seconds" in note]
    clips = PreparedData.load(tmp_path / "out").clips
    assert len(clips) == 5
    assert all(5.45 < clip.seconds < 5.6 for clip in clips)


def parts_without_room() -> np.ndarray:
    """16 s of speech, and two seconds at the end, too far off to be joined and too near to be widened to 10 s."""
    return np.concatenate([talk(8.0), silence(0.5), talk(8.0, 1), silence(5.0), talk(2.0, 2)])


def test_parts_that_stay_too_short_are_told(tmp_path):
    source = folder_of(tmp_path / "r", long=parts_without_room(), other=talk(12.0, 3))
    report = prepare(source, tmp_path / "out", PrepareOptions(min_seconds=10.0, max_seconds=18.0))
    line = rejections(tmp_path / "out")["long.wav"]
    assert line["reason"] == "short-part"
    assert line["where"] == str(source)
    assert line["seconds"] == pytest.approx(4.7, abs=0.3)
    assert line["detail"].startswith(f"{source / 'long.wav'}: from 18.")
    assert line["detail"].endswith("; at least 10 s are needed (min_seconds)")
    assert report.rejected == {"short-part": 1}
    assert f"1 part, {format_seconds(line['seconds'])}, shorter than --min-seconds: left out (long.wav)" in report.notes
    assert f"left out 1 recording or part (1 short-part); see {tmp_path / 'out' / 'rejected.jsonl'}" in report.lines()


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
    "voices.wav": "two-voices",
    "stale.wav": "truncated",
    "slow.wav": "rate",
    "pipe.wav": "unreadable",
    "overdriven.mp3": "clipped",
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
    soundfile.write(folder / "voices.wav", np.stack([talk(2), talk(2, 5)[::-1]], axis=1), SAMPLE_RATE)
    header = bytearray((folder / "truncated.wav").read_bytes())
    header[40:44] = (1000).to_bytes(4, "little")
    (folder / "stale.wav").write_bytes(header)
    soundfile.write(folder / "slow.wav", talk(2), 1)
    os.mkfifo(folder / "pipe.wav")
    soundfile.write(folder / "overdriven.mp3", np.clip(talk(2) * 30, -1, 1), SAMPLE_RATE)
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
    assert "name one with --whisper-model" in found["long.wav"]["detail"]
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


def test_a_long_recording_is_looked_through_once_however_many_clips_it_gives(tmp_path, monkeypatch):
    """The container's check reads all of a FLAC: with one for each clip, hours would take hours."""
    looked, check = [], decode.check_container
    monkeypatch.setattr(decode, "check_container", lambda path: looked.append(path) or check(path))
    speech = np.concatenate([part for seed in range(8) for part in (talk(3, seed), silence(0.5))])
    (tmp_path / "r").mkdir()
    soundfile.write(tmp_path / "r" / "long.flac", speech, SAMPLE_RATE)
    calls = {}
    for longest in (5.0, 20.0):
        looked.clear()
        report = prepare(tmp_path / "r", tmp_path / f"out-{longest}", PrepareOptions(max_seconds=longest))
        calls[sum(report.clips.values())] = len(looked)
    few, many = sorted(calls)
    assert many >= few + 4
    assert calls[few] == calls[many]


@pytest.mark.parametrize(("seconds", "noise"), [(2.0, 0.0), (2.0, 3e-4), (0.6, 0.0), (0.6, 3e-4)])
def test_one_word_in_much_silence(tmp_path, seconds, noise):
    """It is the one clip, or too short for one, which one line says; nothing else is taken for speech."""
    rng, word = np.random.default_rng(0), resample(talk(seconds, 1), SAMPLE_RATE, 16_000)
    samples = (noise * rng.standard_normal(120 * 16_000)).astype(np.float32)
    samples[80 * 16_000 : 80 * 16_000 + len(word)] += word
    write_wav(tmp_path / "night.wav", samples, sample_rate=16_000)
    if seconds < 1:
        with pytest.raises(DataError, match=r"no usable recording \(1 too-short\); .*night.wav: 0\.\d+ s of"):
            prepare(tmp_path / "night.wav", tmp_path / "out")
        return
    prepare(tmp_path / "night.wav", tmp_path / "out", PrepareOptions(heldout=0))
    (clip,) = PreparedData.load(tmp_path / "out").clips
    assert abs(clip.start - 80) < 0.5
    assert abs(clip.seconds - seconds) < 0.6


@pytest.mark.slow
def test_three_hours_are_prepared_in_bounded_memory(tmp_path):
    """16 kHz, 16-bit, mostly silence with 6 s of speech every 10 minutes: 691 MB as float32 at 16 kHz."""
    # Each with other words, or they would count as copies. They play slower: it is speech all the same.
    speech = [np.rint(talk(6, seed)[: 4 * SAMPLE_RATE] * 32767).astype(np.int16) for seed in range(18)]
    (tmp_path / "r").mkdir()
    with soundfile.SoundFile(tmp_path / "r" / "long.flac", "w", 16_000, 1, subtype="PCM_16") as file:
        for words in speech:
            file.write(words)
            file.write(np.zeros(600 * 16_000 - len(words), np.int16))
    tracemalloc.start()
    report = prepare(tmp_path / "r", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    assert report.hours["read"] == pytest.approx(3)
    assert report.clips["train"] + report.clips["heldout"] == 18
    assert report.hours_kept == pytest.approx(18 * 6 / 3600, rel=0.1)
    assert any("its last 2 of 18 clips are held out" in note for note in report.notes)


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
