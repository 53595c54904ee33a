"""The held-out split, texts and references of prepared data."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from recordings import folder_of, rejections, silence, talk

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.select import Preparation, select
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus

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


@pytest.mark.parametrize("count", [1, 63, 64, 65, 66, 300])
def test_references_are_drawn_from_all_other_clips(count):
    clips = [Clip(f"c{k}", "x.flac", 24_000, "anna") for k in range(count)]
    data = PreparedData(Path("."), clips, [], [], {}, {("anna", "train"): clips})
    for clip in clips:
        others = [other for other in clips if other is not clip]
        if len(others) > 64:
            drawn = np.random.default_rng(zlib.crc32(clip.id.encode())).choice(len(others), 64, replace=False)
            others = [others[k] for k in sorted(drawn)]
        assert data.references(clip) == others
    stranger = Clip("h", "x.flac", 24_000, "anna", split="heldout")
    assert len(data.references(stranger)) == min(count, 64)


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


def audio_of(clip) -> bytes:
    return clip.read().tobytes()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("names", ["the file", "a path around", "a copy"])
def test_no_prompt_of_a_training_clip_is_a_held_out_recording(tmp_path, names, seed):
    """The usual manifest of zero-shot speech: a line's ref_audio is the audio of another line."""
    waves = {f"r{k}": talk(1.2 + 0.1 * k, k) for k in range(6)}
    folder = folder_of(tmp_path / "r", **waves)
    folder_of(folder / "copies", **waves)
    place = {"the file": "{}.wav", "a path around": "copies/../{}.wav", "a copy": "copies/{}.wav"}[names]
    lines = [{"audio": f"r{k}.wav", "text": "a", "ref_audio": place.format(f"r{(k + 1) % 6}")} for k in range(6)]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for size in (None, 10**6):
        out = tmp_path / f"out-{size}"
        report = prepare(folder / "manifest.jsonl", out, PrepareOptions(heldout=0.3, seed=seed), shards=size)
        data = PreparedData.load(out) if size is None else ShardData(out)
        heard = {audio_of(clip) for clip in data.heldout}
        assert len(heard) == 2
        for clip in data.train:
            prompts = [audio_of(prompt) for prompt in data.references(clip)]
            assert prompts
            assert not heard & set(prompts)
        for clip in data.heldout:  # which may be measured behind what is trained on
            assert [audio_of(prompt) for prompt in data.references(clip)] == [waves_of(clip, folder, lines)]
        assert any("name a held-out recording as ref_audio" in note for note in report.notes)
        # The same clips with others held out: the guard is in the data, not in what was written.
        anew, _ = select(data, PrepareOptions(heldout=0.55, seed=seed + 1), Preparation.of(out))
        heard = {audio_of(clip) for clip in anew.heldout}
        assert len(heard) == 3
        for clip in anew.train:
            assert not heard & {audio_of(prompt) for prompt in anew.references(clip)}


def waves_of(clip, folder, lines) -> bytes:
    """The prepared audio of the recording that a clip's line names as reference."""
    number = int(clip.source[1:-4])
    alone = folder.parent / f"alone-{number}"
    if not alone.exists():
        name = Path(lines[number]["ref_audio"]).name
        prepare(folder / name, alone)
    return audio_of(PreparedData.load(alone).train[0])


def test_a_speaker_whose_only_other_audio_is_held_out_has_no_prompt(tmp_path):
    folder = folder_of(tmp_path / "r", a=talk(2), b=talk(2, 1), c=talk(2, 2))
    lines = [
        {"audio": "a.wav", "speaker": "ann", "ref_audio": "b.wav"},
        {"audio": "b.wav", "speaker": "ann", "split": "heldout"},
        {"audio": "c.wav", "speaker": "bob"},
    ]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = PreparedData.load(prepare(folder, tmp_path / "out").directory)
    assert [data.references(clip) for clip in data.train] == [[], []]
    assert not data.prompts
