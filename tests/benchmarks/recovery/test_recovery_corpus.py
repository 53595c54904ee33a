"""The recovery benchmark's corpus: who speaks, what is labelled, what is left out, the same every time."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile

from benchmarks.recovery import corpus as corpora
from benchmarks.recovery import gates
from benchmarks.recovery.corpus import FRAME, UNITS, Corpus, build_corpus, flite_alignment, label_track, units_of
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import PAUSES, SyntheticSpeaker, synthesise_aligned


def test_phones_are_aligned_as_syllables_are():
    text, speaker = "mana, lopis.", SyntheticSpeaker()
    whole, syllables = synthesise_aligned(text, speaker, 4)
    samples, phones = synthesise_aligned(text, speaker, 4, level="phone")
    np.testing.assert_array_equal(samples, whole)
    assert [p.unit for p in phones] == list(text)
    assert all(a.end == b.start for a, b in pairwise(phones))
    assert {s.start for s in syllables} < {p.start for p in phones}
    assert phones[-1].end == syllables[-1].end
    with pytest.raises(ValueError, match="level"):
        synthesise_aligned(text, speaker, level="word")


def test_labels_are_what_is_spoken_there():
    samples, phones = synthesise_aligned("soma tiku, la.", SyntheticSpeaker(), 1, level="phone")
    track = label_track(phones, len(samples))
    units = units_of(track)
    assert len(units) == -(-len(samples) // FRAME)
    for at, unit in enumerate(track):
        middle = at * 240 + 120
        said = next((p.unit for p in phones if p.start <= middle < p.end), ",")
        assert UNITS[unit] == ("" if said in PAUSES else said)
    for frame, unit in enumerate(units[:-1]):
        assert unit == track[frame * 8 + 4]
    np.testing.assert_array_equal(units_of(track, 3, 2), track[[7, 15]])
    np.testing.assert_array_equal(units_of(track, len(track) - 1, 3), [0, 0, 0])


def test_flite_segments_become_units():
    alignment = flite_alignment("pau:0.100 sh:0.200 iy:0.250\n")
    assert [(u.unit, u.start, u.end) for u in alignment] == [("", 0, 2400), ("x", 2400, 4800), ("i", 4800, 6000)]
    assert [UNITS[u] for u in label_track(alignment, 7200)] == [""] * 10 + ["x"] * 10 + ["i"] * 5 + [""] * 5
    with pytest.raises(DataError, match="zzz"):
        flite_alignment("zzz:0.1")
    assert set(corpora.FLITE_PHONES.values()) <= set(UNITS)


def test_corpus_keeps_speakers_apart_and_comes_back_from_disk(corpus):
    train, heldout = corpus.split("train"), corpus.split("heldout")
    assert (len(train), len(heldout)) == (6, 2)
    assert not {clip.speaker for clip in train} & {clip.speaker for clip in heldout}
    again = Corpus.load(corpus.directory)
    assert again.clips == corpus.clips
    for clip in again.clips:
        assert len(clip.units) == -(-len(clip.read()) // FRAME)
        assert len(set(clip.units.tolist())) > 2
    with pytest.raises(DataError, match="no corpus"):
        Corpus.load(corpus.directory / "audio")
    with pytest.raises(DataError, match="quick and full"):
        build_corpus(corpus.directory / "other", "huge")


def test_corpus_depends_on_the_seed_alone(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(corpora.SIZES, "quick", corpora.CorpusSize(1, 1, 1, 1, 0.5))
    one, two, other = (build_corpus(tmp_path / str(k), "quick", seed) for k, seed in enumerate((1, 1, 2)))
    for a, b, c in zip(one.clips, two.clips, other.clips):
        np.testing.assert_array_equal(a.read(), b.read())
        np.testing.assert_array_equal(a.units, b.units)
        assert a.speaker != c.speaker


def test_what_is_not_installed_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora.shutil, "which", lambda _: None)
    size = corpora.CorpusSize(1, 1, 1, 1, 0.5, flite_clips=1, espeak_clips=1, external_heldout=1, real_train=1)
    monkeypatch.setitem(corpora.SIZES, "full", size)
    built = build_corpus(tmp_path / "corpus", "full")
    assert built.about["not_at_hand"] == ["flite", "espeak-ng", "real speech"]
    assert {clip.kind for clip in built.clips} == {"synthetic"}


def test_real_speech_is_split_as_said(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora.shutil, "which", lambda _: None)
    monkeypatch.setitem(corpora.SIZES, "full", corpora.CorpusSize(1, 1, 1, 1, 0.5, real_train=2))
    speech = tmp_path / "speech"
    (speech / "ljspeech").mkdir(parents=True)
    wave = corpus.clips[0].read()
    for name in ("ljspeech/a", "ljspeech/b"):
        _write(speech / f"{name}.flac", wave)
    with pytest.raises(DataError, match="more than 2"):
        build_corpus(tmp_path / "too-few", "full", 0, speech)
    many = [f"libri/{number}/a" for number in range(10, 21)]
    for name in ("ljspeech/c", "president", *many):
        (speech / name).parent.mkdir(parents=True, exist_ok=True)
        _write(speech / f"{name}.flac", wave)
    real = [clip for clip in build_corpus(tmp_path / "corpus", "full", 0, speech).clips if clip.kind == "real"]
    split = {clip.id: clip.split for clip in real}
    assert len(real) == 15
    heldout = {"libri-10-a", "libri-20-a", "ljspeech-c", "president-000"}
    assert {clip for clip, part in split.items() if part == "heldout"} == heldout
    assert all(clip.units is None for clip in real)
    seen = {clip.speaker for clip in real if clip.split == "train"}
    groups = {clip.id: gates.group_of(clip, seen) for clip in real if clip.split == "heldout"}
    assert {clip for clip, group in groups.items() if group == gates.SEEN_REAL} == {"ljspeech-c"}
    assert set(groups.values()) == {gates.SEEN_REAL, gates.UNSEEN_REAL}


def _write(path, wave):
    soundfile.write(path, wave, 24000)
