"""Teacher states on disk: heard once, never another model's or another clip's, whole or made again."""

import shutil
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tiny_whisper import SENTENCE, write_whisper

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.data.clips import Clip
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.train.whisper import cache as asr_cache
from mlx_voxclone.train.whisper.cache import TeacherCache
from mlx_voxclone.train.whisper.teacher import AsrTeacher

pytest.importorskip("mlx_whisper", reason="the extra `transcribe` is not installed")


@dataclass(frozen=True)
class MemoryClip:
    id: str
    wave: np.ndarray
    text: str | None = None
    language: str | None = None

    @property
    def samples(self):
        return len(self.wave)

    def read(self):
        return self.wave


WAVES = [synthesise("mana lomi nalu wera.", SyntheticSpeaker.sample(k), k)[: 9000 + 7000 * k] for k in range(3)]
CLIPS = [
    MemoryClip("a/../1", WAVES[0], "Good day", "en"),
    MemoryClip("b", WAVES[1], SENTENCE, "de"),
    MemoryClip("c", WAVES[2]),
]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("whisper") / "a", heads=[[0, 1], [1, 0]])


@pytest.fixture
def teacher(whisper):
    return AsrTeacher(str(whisper))


@pytest.fixture(scope="module")
def made(whisper, tmp_path_factory):
    """A cache that has heard all three clips; copy it to change it."""
    directory = tmp_path_factory.mktemp("cache") / "made"
    TeacherCache(directory, AsrTeacher(str(whisper))).fill(CLIPS)
    return directory


@pytest.fixture
def cache(made, tmp_path, teacher):
    shutil.copytree(made, tmp_path / "cache")
    return TeacherCache(tmp_path / "cache", teacher)


def counts(report):
    return report.heard, report.found, report.without_states, report.notes


def files(cache):
    return sorted(p for p in cache.directory.rglob("*") if p.is_file())


def test_states_come_back_as_they_were_heard_in_half_precision(cache, teacher):
    assert len(files(cache)) == 3
    for clip in CLIPS:
        heard = teacher.states(clip.wave, clip.text, clip.language)
        for states in (cache.read(clip.id), cache.get(clip)):
            assert states.dtype == np.float32
            np.testing.assert_array_equal(states, heard.astype(np.float16).astype(np.float32))


def test_what_is_cached_is_not_heard_again(cache, teacher, monkeypatch):
    monkeypatch.setattr(teacher.files, "load", None)  # no model, no mlx-whisper
    seen = []

    def progress(clips, total, what):
        seen.append((total, what))
        return clips

    assert counts(cache.fill(CLIPS, progress)) == (0, 3, 0, [])
    assert seen == [(3, "teacher")]
    assert cache.read("b").shape == (9, 32)


@pytest.mark.slow
def test_a_clip_is_heard_when_it_is_new_or_has_changed(cache):
    changes = {
        "text": replace(CLIPS[0], text="Good night"),
        "language": replace(CLIPS[0], language="fr"),
        "audio": replace(CLIPS[0], wave=WAVES[0] * np.float32(0.999)),
        "id": replace(CLIPS[0], id="d"),
    }
    before = cache.read(CLIPS[0].id)
    for what, clip in changes.items():
        assert cache.get(clip) is None, what
        assert counts(cache.fill([clip, CLIPS[1]])) == (1, 1, 0, []), what
        np.testing.assert_array_equal(cache.read(clip.id), cache.get(clip))
        assert (np.abs(cache.read(clip.id) - before).max() > 0) == (what != "id"), what
        assert counts(cache.fill([CLIPS[0]])) == (int(what != "id"), int(what == "id"), 0, []), what


@pytest.mark.slow
def test_another_teachers_states_are_neither_used_nor_touched(cache, whisper, tmp_path):
    before = {path: path.read_bytes() for path in files(cache)}
    others = [
        AsrTeacher(str(write_whisper(tmp_path / "other", seed=1, heads=[[0, 1], [1, 0]]))),
        AsrTeacher(str(whisper), heads=[(0, 1)]),
        AsrTeacher(str(whisper), language="fr"),
    ]
    for n, other in enumerate(others, 1):
        theirs = TeacherCache(cache.directory, other)
        assert theirs.identity != cache.identity
        assert theirs.get(CLIPS[0]) is None
        with pytest.raises(DataError, match="clip b: no teacher states"):
            theirs.read("b")
        assert counts(theirs.fill(CLIPS[:1])) == (1, 0, 0, [])
        assert len(files(cache)) == 3 + n
    assert {path: path.read_bytes() for path in before} == before


def test_a_file_put_in_anothers_place_is_not_used(cache, whisper):
    other = TeacherCache(cache.directory, AsrTeacher(str(whisper), heads=[(0, 1)]))
    place = other._path("b")
    place.parent.mkdir()
    shutil.copy(cache._path("b"), place)
    assert other.get(CLIPS[1]) is None
    with pytest.raises(DataError, match="of another teacher"):
        other.read("b")
    shutil.copy(cache._path("c"), cache._path("b"))
    assert cache.get(CLIPS[1]) is None
    assert counts(cache.fill(CLIPS)) == (1, 2, 0, [])


def test_the_model_is_known_by_what_is_in_it_not_by_its_place(cache, whisper, tmp_path, monkeypatch):
    shutil.copytree(whisper, tmp_path / "moved")
    moved = AsrTeacher(str(tmp_path / "moved"))
    monkeypatch.setattr(moved.files, "load", None)
    assert counts(TeacherCache(cache.directory, moved).fill(CLIPS)) == (0, 3, 0, [])


@pytest.mark.parametrize("damage", ["empty", "truncated", "header", "a bit"])
def test_damaged_states_are_made_again_with_one_warning(cache, damage):
    expected = cache.read("b")
    for clip in CLIPS[:2]:
        path = cache._path(clip.id)
        content = bytearray(path.read_bytes())
        if damage == "header":
            content[10] ^= 0xFF
        elif damage == "a bit":
            content[-100] ^= 1
        path.write_bytes({"empty": b"", "truncated": content[:-7]}.get(damage, content))
    if damage != "a bit":  # reading while training looks at the structure, filling at every byte
        with pytest.raises(DataError, match="clip b: no teacher states") as caught:
            cache.read("b")
        assert "\n" not in str(caught.value)
    heard, found, without, notes = counts(cache.fill(CLIPS))
    assert (heard, found, without) == (2, 1, 0)
    assert len(notes) == 1
    assert notes[0].startswith("2 cached teacher states were damaged and made again")
    np.testing.assert_array_equal(cache.read("b"), expected)
    assert counts(cache.fill(CLIPS)) == (0, 3, 0, [])


def test_that_nothing_was_understood_is_remembered(tmp_path):
    guessing = AsrTeacher(str(write_whisper(tmp_path / "guessing", sentence=None)))
    cache = TeacherCache(tmp_path / "cache", guessing)
    note = "1 of 2 clips: no speech recognised, so they have no teacher"
    assert counts(cache.fill([CLIPS[0], CLIPS[2]])) == (2, 0, 1, [note])
    assert counts(cache.fill([CLIPS[0], CLIPS[2]])) == (0, 2, 1, [note])
    assert cache.read("c") is None
    assert cache.get(CLIPS[2]) is None
    assert cache.read(CLIPS[0].id) is not None


def test_reading_makes_no_mlx_arrays_and_works_on_any_thread(cache, monkeypatch):
    import mlx.core as mx

    expected = cache.read("b")
    found = []
    for name in ("array", "load"):
        monkeypatch.setattr(mx, name, None)
    thread = threading.Thread(target=lambda: found.append(cache.read("b")))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], expected)
    assert found[0].flags.writeable  # memory of its own: the file may be replaced


def test_prepared_clips_from_disk(tmp_path, teacher):
    write_wav(tmp_path / "a.wav", WAVES[0])
    clip = Clip("a", tmp_path / "a.wav", len(WAVES[0]), "someone", "Good day", "en")
    cache = TeacherCache(tmp_path / "cache", teacher)
    assert counts(cache.fill([clip])) == (1, 0, 0, [])
    assert counts(cache.fill([clip])) == (0, 1, 0, [])
    assert cache.read("a").shape == (5, 32)


def test_what_a_clip_cannot_do_names_the_clip(tmp_path, teacher):
    cache = TeacherCache(tmp_path / "cache", teacher)
    with pytest.raises(DataError, match=r"clip long: 31\.0 s of audio"):
        cache.fill([MemoryClip("long", np.zeros(31 * 24000, np.float32), "Good day")])
    assert files(cache) == []


def test_too_little_space_is_noticed_before_hearing(tmp_path, teacher, monkeypatch):
    def full(directory, nbytes):
        assert nbytes == 2 * 32 * sum(-(-c.samples // 1920) for c in CLIPS)
        raise CheckpointError("no space left")

    monkeypatch.setattr(asr_cache, "free_space_check", full)
    monkeypatch.setattr(teacher.files, "load", None)
    with pytest.raises(CheckpointError, match="no space left"):
        TeacherCache(tmp_path / "cache", teacher).fill(CLIPS)


@pytest.mark.slow
def test_heads_chosen_on_the_data_are_kept(whisper, tmp_path, monkeypatch):
    monkeypatch.setattr(asr_cache, "N_HEADS", 2)
    choose, calls = asr_cache.choose_heads_by_dtw, []

    def counted(teacher, clips, count):
        calls.append([clip.id for clip in clips])
        return choose(teacher, clips, count)

    monkeypatch.setattr(asr_cache, "choose_heads_by_dtw", counted)

    def filled(clips):
        teacher = AsrTeacher(str(whisper), heads="dtw")
        cache = TeacherCache(tmp_path / "cache", teacher)
        with pytest.raises(ValueError, match="still to be chosen"):
            cache.read("b")
        return teacher, cache, cache.fill(clips)

    teacher, cache, report = filled(CLIPS[:2])
    assert (report.heard, len(teacher.heads), calls) == (2, 2, [["a/../1", "b"]])
    again, cache_again, report = filled(CLIPS[1::-1])  # in another order
    assert (report.heard, report.found, again.heads, len(calls)) == (0, 2, teacher.heads, 1)
    assert cache_again.identity == cache.identity
    filled(CLIPS)
    assert len(calls) == 2  # other data, chosen anew
    for kept in cache.directory.glob("heads-*.json"):
        kept.write_text("[[7, 7")
    filled(CLIPS[:2])
    assert len(calls) == 3


def test_heads_are_chosen_on_a_few_clips_spread_over_all(whisper, tmp_path, monkeypatch):
    chosen_on = []
    monkeypatch.setattr(asr_cache, "choose_heads_by_dtw", lambda teacher, clips, n: chosen_on.extend(clips) or [(1, 0)])
    clips = [MemoryClip(f"{k:03d}", WAVES[0], f"Text {k}") for k in range(100)]
    cache = TeacherCache(tmp_path / "cache", AsrTeacher(str(whisper), heads="dtw"))
    cache.teacher.use_heads(cache._chosen_heads(clips[::-1]))
    ids = [int(clip.id) for clip in chosen_on]
    assert len(ids) == len(set(ids)) == 32
    assert ids[0] == 0
    assert ids[-1] == 99
    assert np.diff(ids).max() <= 4
