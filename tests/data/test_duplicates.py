"""Clips that sound the same are found whatever the codec, level, rate or start, and others are not."""

import json
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
import soundfile
from recordings import SPEECH, folder_of, needs_speech, silence, talk

from mlx_voxclone.audio.fingerprint import SILENT, WORDS_PER_SECOND, FingerprintMeter, part
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample, write_wav
from mlx_voxclone.data import duplicates
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.duplicates import Sounds, groups
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.write import ShardWriter
from mlx_voxclone.data.text_checks import may_be_same


def words(samples: np.ndarray, rate: int = SAMPLE_RATE, block: int = 1 << 18) -> np.ndarray:
    meter = FingerprintMeter(rate)
    for at in range(0, len(samples), block):
        meter.add(samples[at : at + block])
    return meter.words()


def coded(samples: np.ndarray, kind: str, subtype: str, **keywords) -> np.ndarray:
    buffer = BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format=kind, subtype=subtype, **keywords)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


def noisy(samples: np.ndarray) -> np.ndarray:
    level = 10 ** (-30 / 20) * np.sqrt(np.mean(samples**2))
    return samples + np.random.default_rng(0).normal(size=len(samples)).astype(np.float32) * np.float32(level)


COPIES = {
    "mp3": lambda x: coded(x, "MP3", "MPEG_LAYER_III"),
    "poor mp3": lambda x: coded(x, "MP3", "MPEG_LAYER_III", compression_level=0.95, bitrate_mode="CONSTANT"),
    "vorbis": lambda x: coded(x, "OGG", "VORBIS", compression_level=1.0),
    "opus": lambda x: coded(x, "OGG", "OPUS", compression_level=0.9),
    "level": lambda x: 0.05 * x,
    "start": lambda x: x[3217:],
    "late": lambda x: np.concatenate([silence(0.4), x, silence(0.3)]),
    "8 bit": lambda x: np.rint(x * 128) / np.float32(128),
    "noise": noisy,
    "8 kHz": lambda x: resample(resample(x, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE),
    "opposed": lambda x: -x,
    "mp3, softer, later": lambda x: coded(0.4 * x[1111:], "MP3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_others_are_not(copy):
    originals = [talk(seconds, seed) for seed, seconds in enumerate((1.5, 2.0, 4.0))]
    others = [talk(2.5, seed) for seed in range(10, 16)]
    prints = [words(x) for x in [*originals, *others, *map(COPIES[copy], originals)]]
    assert groups(prints) == [*range(9), 0, 1, 2]
    held = Sounds(prints[:3])
    assert [held.hold(one) for one in prints[3:]] == [False] * 6 + [True] * 3


def test_a_part_of_a_recording_is_found_and_known_copies_are_kept():
    long = talk(12.0, 3)
    parts = [long[: 5 * SAMPLE_RATE], long[5 * SAMPLE_RATE :], long[3 * SAMPLE_RATE : 7 * SAMPLE_RATE]]
    prints = [words(x) for x in parts]
    assert groups(prints) == [0, 0, 0]  # the third shares two seconds with each
    assert groups(prints[:2]) == [0, 1]
    assert groups(prints[:2], [0, 0]) == [0, 0]
    assert groups([]) == []
    assert groups([words(silence(2)), words(np.zeros(48_000, np.float32)), words(talk(0.02))]) == [0, 1, 2]


def speechlike(rng: np.random.Generator, length: int) -> np.ndarray:
    """Words as of speech: of one to the next, few bits change."""
    bits = (np.cumsum(rng.random((length, 32)) < 0.04, axis=0) + rng.integers(0, 2, 32)) % 2
    return (bits.astype(np.uint64) @ (1 << np.arange(32, dtype=np.uint64))).astype(np.uint32) | np.uint32(1)


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_blocks_of_words_change_nothing(monkeypatch, block):
    rng = np.random.default_rng(0)
    prints = [speechlike(rng, 200) for _ in range(12)]
    prints += [prints[3][20:150], np.concatenate([speechlike(rng, 50), prints[7]]), prints[3][:100]]
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    assert groups(prints) == [*range(12), 3, 7, 3]
    assert groups([prints[0][:1], np.zeros(3, np.uint32)]) == [0, 1]


def test_looking_for_copies_takes_little_beside_the_words():
    """One number of 64 bits a word, and what a block takes; everything at once would be six times that."""
    rng = np.random.default_rng(0)
    prints = [speechlike(rng, 20_000) for _ in range(50)]
    tracemalloc.start()
    assert groups(prints) == list(range(50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1_000_000 + 8e6


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_the_fingerprint_does_not_depend_on_the_blocks(rate):
    samples = resample(talk(3.0, 1), SAMPLE_RATE, rate)
    whole = words(samples, rate)
    np.testing.assert_array_equal(words(samples, rate, 997), whole)
    assert len(whole) == pytest.approx(3 * WORDS_PER_SECOND, abs=2)
    assert np.mean(whole == SILENT) < 0.5
    assert np.all(words(np.concatenate([samples, np.zeros(2 * rate, np.float32)]), rate)[len(whole) + 30 :] == SILENT)
    cut = part(whole, 1.0, 2.0)
    assert len(cut) == pytest.approx(WORDS_PER_SECOND, abs=1)
    assert groups([whole, words(samples[rate : 2 * rate], rate)]) == [0, 0]
    assert groups([cut, words(samples[rate : 2 * rate], rate)]) == [0, 0]


def manifest(output) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def copies_of(folder, how: str):
    """Twelve recordings, and copies of them in another folder, under other names."""
    originals = {f"{k:02d}": talk(1.5, k) for k in range(12)}
    folder.mkdir()
    folder_of(folder / "raw", **originals)
    folder_of(folder / "made", **{f"x{name}": COPIES[how](x) for name, x in originals.items()})
    return folder


@pytest.mark.parametrize("how", ["mp3", "level", "start"])
def test_what_sounds_the_same_is_on_one_side_of_the_split(tmp_path, how):
    report = prepare(copies_of(tmp_path / "r", how), tmp_path / "out", PrepareOptions(heldout=0.3))
    sides: dict[str, set] = {}
    for line in manifest(tmp_path / "out"):
        sides.setdefault(line["source"][-6:-4], set()).add(line["split"])
    assert len(sides) == 12
    assert all(len(side) == 1 for side in sides.values())
    assert {"train"} in sides.values()
    assert {"heldout"} in sides.values()
    assert any("12 clips seem to be copies of others" in note for note in report.notes)
    assert not any("repeat the audio" in note for note in report.notes)  # it is told once


def test_clips_that_say_something_else_are_no_copies_to_be_told_of(tmp_path):
    """Synthetic voices say a word alike every time. They stay on one side of the split all the same."""
    source = copies_of(tmp_path / "r", "level")
    for k, path in enumerate(sorted(source.rglob("*.wav"))):
        path.with_suffix(".txt").write_text(f"first{k} second{k} third{k}", encoding="utf-8")
    report = prepare(source, tmp_path / "other", PrepareOptions(heldout=0.3))
    assert not any("cop" in note or "repeat" in note for note in report.notes)
    sides: dict[str, set] = {}
    for line in manifest(tmp_path / "other"):
        sides.setdefault(line["source"][-6:-4], set()).add(line["split"])
    assert len(sides) == 12
    assert all(len(side) == 1 for side in sides.values())
    for path in source.rglob("*.txt"):
        path.write_text(f"the words of {path.stem.removeprefix('x')}.", encoding="utf-8")
    again = prepare(source, tmp_path / "same", PrepareOptions(heldout=0.3))
    assert sum("12 clips seem to be copies of others" in note for note in again.notes) == 1


def test_texts_tell_what_cannot_be_a_copy():
    assert may_be_same("The cat sat here.", "the cat sat here")
    assert may_be_same("one two three four", "Two, three")
    assert may_be_same(None, "anything")
    assert may_be_same("?", "anything")
    assert not may_be_same("te ma fezuwu ve.", "ma se.")
    assert not may_be_same("one two three four", "one five three six")


def test_a_single_long_recording_with_a_copy_is_split_by_its_time(tmp_path):
    long = np.concatenate([part for k in range(8) for part in (talk(2, k), silence(1))])
    source = folder_of(tmp_path / "r", a=long, b=np.concatenate([silence(0.7), 0.3 * long]))
    prepare(source, tmp_path / "out", PrepareOptions(max_seconds=5, heldout=0.25))
    data = PreparedData.load(tmp_path / "out")
    assert {clip.source for clip in data.heldout} == {"a.wav", "b.wav"}
    latest = {name: max(c.start for c in data.train if c.source == f"{name}.wav") for name in "ab"}
    for clip in data.heldout:
        assert clip.start > latest[clip.source[0]]


def test_shards_of_others_train_on_no_copy_of_what_they_hold_out(tmp_path):
    writer = ShardWriter(tmp_path / "x-000.tar")
    for k in range(12):
        for name, samples in ((f"{k:02d}-raw", talk(1.5, k)), (f"{k:02d}-made", COPIES["start"](0.5 * talk(1.5, k)))):
            write_wav(tmp_path / "one.wav", samples)
            writer.add(f"{name}.wav", (tmp_path / "one.wav").read_bytes())
    writer.close()
    (tmp_path / "one.wav").unlink()
    report = prepare(tmp_path, tmp_path / "out", PrepareOptions(heldout=0.2))
    data = ShardData(tmp_path / "out")
    held, train = ({clip.source[:2] for clip in side} for side in (data.heldout, data.train))
    assert held
    assert not held & train
    assert held | train == {f"{k:02d}" for k in range(12)}
    assert any("of held-out recordings and left out of training" in note for note in report.notes)
    assert not list((tmp_path / "out").glob("*.partial"))


# One name in several formats


def test_of_a_recording_in_several_formats_the_lossless_one_is_taken(tmp_path):
    source = folder_of(tmp_path / "r", a=talk(2), b=talk(2, 1))
    soundfile.write(source / "a.mp3", talk(2), SAMPLE_RATE)
    (source / "a.m4a").write_bytes(b"\0" * 1000)
    soundfile.write(source / "c.mp3", talk(2, 2), SAMPLE_RATE)
    (source / "c.m4a").write_bytes(b"\0" * 1000)
    listing = read_listing(source)
    assert [entry.audio.name for entry in listing.entries] == ["a.wav", "b.wav", "c.mp3"]
    assert any("3 files seem to be copies" in note for note in listing.notes)
    (source / "metadata.csv").write_text("a|Words.\nb|Words.\nc|Words.\n")
    assert [entry.audio.name for entry in read_listing(source).entries] == ["a.wav", "b.wav", "c.mp3"]


def test_of_a_recording_in_several_formats_in_shards_the_lossless_one_is_taken(tmp_path):
    folder_of(tmp_path / "r", a=talk(2), b=talk(2, 1))
    soundfile.write(tmp_path / "r" / "a.mp3", talk(2), SAMPLE_RATE)
    (tmp_path / "t").mkdir()
    writer = ShardWriter(tmp_path / "t" / "x.tar")
    for path in sorted((tmp_path / "r").iterdir()):
        writer.add(path.name, path.read_bytes())
    writer.close()
    report = prepare(tmp_path / "t", tmp_path / "out", PrepareOptions(heldout=0))
    assert sorted(clip.source for clip in ShardData(tmp_path / "out").train) == ["a.wav", "b.wav"]
    assert any("1 second format" in note for note in report.notes)


# Real speech


@pytest.mark.slow
@needs_speech
def test_real_speech_has_no_false_pair_and_all_copies_are_found():
    paths = [
        path for name in ("ljspeech", "kerstin", "librispeech") for path in sorted((SPEECH / name).rglob("*.flac"))
    ]
    assert len(paths) > 450
    prints = [words(read_audio(path)) for path in paths]
    assert groups(prints) == list(range(len(paths)))
    chosen = paths[:8] + paths[40:200:16] + paths[240::32]
    found = dict.fromkeys(COPIES, 0)
    for path in chosen:
        samples, k = read_audio(path), paths.index(path)
        for how, copy in COPIES.items():
            found[how] += groups([prints[k], words(copy(samples))]) == [0, 0]
    print({how: f"{count} of {len(chosen)}" for how, count in found.items()})
    assert set(found.values()) == {len(chosen)}
