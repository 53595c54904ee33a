"""Takes: on the disk before anybody hears of them, checked at once, none lost; the next sentence follows from them."""

import json

import numpy as np
import pytest
from recorded import AGREED, spoken, wav

from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.record import checks, shelf, takes
from mlx_voxclone.studio.record.checks import BAD, FAIR, GOOD, check
from mlx_voxclone.studio.record.consent import consent
from mlx_voxclone.studio.record.listing import GOALS, progress, to_recordings
from mlx_voxclone.studio.record.prompts import SYLLABLES, sentences
from mlx_voxclone.studio.record.takes import PLAN, Takes


@pytest.fixture
def voice(tmp_path):
    project = Home(tmp_path / "home").person("me").new_project("A voice", SYLLABLES)
    project.change(consent=AGREED)
    return project


def sound_of(slot, seed=0):
    return wav(spoken(slot.text, seed))


def record(voice, count=1):
    made = []
    for _ in range(count):
        slot = Takes(voice).next()
        made.append(Takes(voice).record(slot.key, sound_of(slot)))
    return made


def key_of(error) -> str:
    return error.value.key.removeprefix("record.wrong.")


# Consent


def test_what_is_agreed_to_is_kept_word_for_word():
    kept = consent(" Ann   Example ", "a talking book", "I agree,\n  in just these words.", True)
    assert (kept["who"], kept["purpose"]) == ("Ann Example", "a talking book")
    assert kept["statement"] == "I agree,\n  in just these words."
    assert kept["when"].endswith("+00:00")


@pytest.mark.parametrize(
    ("who", "purpose", "agreed", "field"),
    [
        ("", "x", True, "who"),
        ("A", " \u200b", True, "purpose"),
        ("A" * 200, "x", True, "who"),
        ("A", "x", False, "agreed"),
    ],
)
def test_half_a_consent_is_none(who, purpose, agreed, field):
    with pytest.raises(Mistake) as error:
        consent(who, purpose, "Yes.", agreed)
    assert error.value.field == field


def test_without_consent_nothing_is_recorded(voice):
    voice.change(consent=None)
    slot = Takes(voice).next()
    for act in (lambda: Takes(voice).record(slot.key, sound_of(slot)), lambda: Takes(voice).add_own("papa mino")):
        with pytest.raises(Mistake) as error:
            act()
        assert key_of(error) == "no_consent"
    assert not voice.takes.exists()


# Recording


def test_a_take_is_there_with_its_text_and_the_next_sentence_follows(voice):
    first = Takes(voice).next()
    take = Takes(voice).record(first.key, sound_of(first))
    assert take.check.state == GOOD
    assert take.used
    assert take.path.read_bytes() == sound_of(first)
    notes = json.loads(take.path.with_suffix(".json").read_text())
    assert (notes["slot"], notes["text"], notes["check"]["state"]) == (first.key, sentences(SYLLABLES)[0], GOOD)
    assert Takes(voice).next().number == 2
    assert Takes(voice).next().text == sentences(SYLLABLES)[1]


def test_a_take_is_flushed_before_it_is_checked(voice, monkeypatch):
    """Whatever happens in the check, sound and text are there, and are checked when they are looked at."""
    slot = Takes(voice).next()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(takes, "check", killed)
    with pytest.raises(KeyboardInterrupt):
        Takes(voice).record(slot.key, sound_of(slot))
    monkeypatch.undo()
    (take,) = Takes(voice).all()
    assert take.text == slot.text
    assert take.check.state == GOOD
    assert take.path.read_bytes() == sound_of(slot)


def test_a_disk_that_refuses_leaves_nothing_and_an_older_take_as_it_was(voice, monkeypatch):
    (old,) = record(voice)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelf, "atomic_file", full)
    with pytest.raises(OSError, match="No space"):
        Takes(voice).record(old.slot, sound_of(Takes(voice).next()))
    assert [take.id for take in Takes(voice).all()] == [old.id]
    assert old.path.exists()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "not_whole"),
        (b"RIFF but no more", "not_whole"),
        (wav(spoken("papa mino."))[:-500], "not_whole"),
        (wav(spoken("papa mino."), format="FLAC"), "not_whole"),
        (wav(np.zeros(46 * 8000), 8000, "PCM_U8"), "take_too_long"),
    ],
)
def test_what_did_not_arrive_whole_is_not_kept(voice, content, key):
    with pytest.raises(Mistake) as error:
        Takes(voice).record(Takes(voice).next().key, content)
    assert key_of(error) == key
    assert not Takes(voice).all()


def test_a_bad_take_does_not_take_the_place_of_a_good_one(voice):
    slot = Takes(voice).next()
    bad = Takes(voice).record(slot.key, wav(0.0001 * spoken(slot.text)))
    assert bad.check.state == BAD
    assert not bad.used
    assert Takes(voice).next() == slot
    good = Takes(voice).record(slot.key, sound_of(slot))
    worse = Takes(voice).record(slot.key, wav(np.clip(20 * spoken(slot.text), -1, 1)))
    assert worse.check.findings[0].key == "clipped"
    assert [take.id for take in Takes(voice).used()] == [good.id]
    again = Takes(voice).record(slot.key, sound_of(slot, seed=1))
    assert [take.id for take in Takes(voice).used()] == [again.id]
    assert good.path.exists()  # aside
    Takes(voice).remove(again.id)
    assert [take.id for take in Takes(voice).used()] == [good.id]
    assert len(Takes(voice).all()) == 3


def test_ids_are_no_paths(voice, tmp_path):
    record(voice)
    (tmp_path / "home" / "secret.json").write_text("{}")
    for id in ("../../../../secret", "0001-zzzz", "", "0001-1234/..", "plan"):
        for act in (Takes(voice).take, Takes(voice).remove, Takes(voice).shelf.sound):
            with pytest.raises(Missing):
                act(id)
    for slot in ("own-001", "syllables-000", "syllables-999", "en-001", "../x", "own-001.2"):
        with pytest.raises(Missing):
            Takes(voice).slot(slot)


# Which sentence comes next


def test_skipped_sentences_are_offered_again_when_asked_for(voice):
    first = Takes(voice).next()
    Takes(voice).skip(first.key)
    assert Takes(voice).next().number == 2
    assert Takes(voice).skipped() == [first.key]
    Takes(voice).unskip()
    assert Takes(voice).next() == first


def test_a_text_of_the_users_own_comes_next(voice):
    own = Takes(voice).add_own("  tara   koni sewu. ")
    assert (own.key, own.text) == ("own-001", "tara koni sewu.")
    assert Takes(voice).next() == own
    assert Takes(voice).add_own("tara koni sewu.") == own  # a second click
    Takes(voice).record(own.key, sound_of(own))
    assert Takes(voice).next().number == 1
    for text, key in [("...", "empty_text"), ("a" * 500, "long_text"), ("caf\ufffd", "damaged_text")]:
        with pytest.raises(Mistake) as error:
            Takes(voice).add_own(text)
        assert key_of(error) == key


def test_after_the_last_sentence_comes_a_second_round(voice):
    count = len(sentences(SYLLABLES))
    for number in range(1, count + 1):
        Takes(voice).skip(f"{SYLLABLES}-{number:03d}")
    again = Takes(voice).next()
    assert again.key == f"{SYLLABLES}-001.2"
    assert again.text == sentences(SYLLABLES)[0]
    assert Takes(voice).record(again.key, sound_of(again)).used


def test_a_plan_that_cannot_be_read_is_not_written_over(voice):
    Takes(voice).add_own("tara koni sewu.")
    path = voice.takes / PLAN
    path.write_text(path.read_text()[:-2])  # all of the text is still there to be saved
    left = path.read_text()
    for act in (lambda: Takes(voice).add_own("papa"), lambda: Takes(voice).skip("syllables-001"), Takes(voice).unskip):
        with pytest.raises(CheckpointError, match="move it away"):
            act()
    assert path.read_text() == left


def test_a_take_that_another_tab_deletes_costs_nothing_else(voice, monkeypatch):
    first, second = record(voice, 2)
    look = shelf.Shelf.look

    def while_deleted(self):
        found = look(self)
        if first.path.exists():
            Takes(voice).remove(first.id)
        return found

    monkeypatch.setattr(shelf.Shelf, "look", while_deleted)
    assert [take.id for take in Takes(voice).all()] == [second.id]


def test_a_damaged_plan_costs_the_plan_alone(voice):
    record(voice)
    (voice.takes / PLAN).write_text("[1, 2")
    assert Takes(voice).next().number == 2


def test_what_was_said_instead_is_kept(voice):
    (take,) = record(voice)
    assert Takes(voice).set_text(take.id, "papa mino lesu tara").state == GOOD
    with pytest.raises(Mistake):
        Takes(voice).set_text(take.id, " ")
    assert Takes(voice).take(take.id).text == "papa mino lesu tara"


# Checks


@pytest.mark.parametrize(
    ("made", "state", "key"),
    [
        (lambda s: s, GOOD, None),
        (lambda s: 0 * s, BAD, "silent"),
        (lambda s: np.clip(12 * s, -1, 1), BAD, "clipped"),
        (lambda s: 0.05 * s, FAIR, "quiet"),
        (lambda s: s + 0.01 * np.random.default_rng(0).normal(size=len(s)), FAIR, "noisy"),
        (lambda s: s + 0.05 * np.random.default_rng(0).normal(size=len(s)), BAD, "noisy"),
        (lambda s: s[: len(s) // 4], BAD, "too_short"),
        (lambda s: s[9000:], FAIR, "cut_at_start"),
        (lambda s: s[:-16000], FAIR, "cut_at_end"),
        (lambda s: np.tile(s, 9), BAD, "too_long"),
        (lambda s: np.tile(s, 6), FAIR, "more_than_text"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, made, state, key):
    text = "papa mino lesu, tara koni sewu."
    (tmp_path / "x.wav").write_bytes(wav(made(spoken(text, 1)).astype(np.float32), subtype="FLOAT"))
    found, _ = check(tmp_path / "x.wav", text)
    assert found.state == state, found
    assert key in [one.key for one in found.findings] or (key is None and not found.findings)
    assert checks.Check.of(json.loads(json.dumps(found.content()))) == found


def test_half_of_a_text_is_noticed(tmp_path):
    (tmp_path / "x.wav").write_bytes(wav(spoken("papa mino lesu tara.")))
    found, _ = check(tmp_path / "x.wav", "papa mino lesu tara. " * 8)
    assert [one.key for one in found.findings] == ["not_all_said"]


def test_a_telephone_is_told_from_a_microphone(tmp_path):
    import soxr

    narrow = soxr.resample(soxr.resample(spoken("papa mino lesu tara."), 24000, 8000), 8000, 24000)
    (tmp_path / "x.wav").write_bytes(wav(narrow))
    found, _ = check(tmp_path / "x.wav", "papa mino lesu tara.")
    assert "narrow" in [one.key for one in found.findings]
    (tmp_path / "x.wav").write_bytes(wav(soxr.resample(narrow, 24000, 8000), 8000))
    found, _ = check(tmp_path / "x.wav", "papa mino lesu tara.")
    assert found.findings[0].key == "low_rate"


# What training takes


def test_what_is_listed_is_prepared_as_it_stands(voice, tmp_path):
    good = record(voice, 3)
    Takes(voice).record(Takes(voice).next().key, wav(np.zeros(24000)))
    listing = to_recordings(voice)
    assert listing == voice.folder / "recordings.jsonl"
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    assert lines == [{"audio": f"takes/{take.path.name}", "text": take.text, "speaker": voice.id} for take in good]
    report = prepare(listing, tmp_path / "prepared", PrepareOptions(min_seconds=0.5))
    assert report.with_text == 3
    assert not report.rejected
    done = progress(voice)
    assert (done.recordings, done.without_text, done.not_usable) == (3, 0, 1)
    assert done.seconds == pytest.approx(3600 * report.hours_kept, abs=0.1)
    assert done.goal == GOALS[0]


def test_the_language_is_told_where_there_is_one(voice):
    record(voice)
    voice.change(language="de")
    assert json.loads(to_recordings(voice).read_text())["language"] == "de"


def test_nothing_to_train_on_is_said(voice):
    with pytest.raises(DataError, match="no recording with a text yet"):
        to_recordings(voice)
    record(voice)
    voice.change(consent=None)
    with pytest.raises(DataError, match="no consent"):
        to_recordings(voice)
