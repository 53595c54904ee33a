"""Files that are brought: with their texts in any order, duplicates noticed, and none of their names ever a path."""

import functools
import json

import numpy as np
import pytest
from recorded import AGREED, spoken, wav, whisper
from tiny_whisper import SENTENCE, write_whisper

from mlx_voxclone.data.hearing.chapters import Chapter
from mlx_voxclone.data.ingest import examine
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.mistakes import Cancelled, Missing, Mistake
from mlx_voxclone.studio.record import long
from mlx_voxclone.studio.record.listing import progress, to_recordings
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.uploads import Uploads, shown
from mlx_voxclone.studio.tasks import Task


@pytest.fixture
def voice(tmp_path):
    project = Home(tmp_path / "home").person("me").new_project("A voice", SYLLABLES)
    project.change(consent=AGREED)
    return project


@pytest.fixture
def bring(voice, tmp_path):
    def bring(name: str, content: bytes | str):
        path = tmp_path / "arrived"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Uploads(voice).add(name, path)

    return bring


@pytest.fixture
def task(voice):
    return Task(voice.person, "prepare", "a task", voice.id, "files")


@functools.cache
def long_sound():
    """About 45 s."""
    return np.tile(np.concatenate([spoken("papa mino lesu, tara koni sewu.", k) for k in range(2)]), 6)


def texts(voice):
    return {notes["name"]: notes["text"] for _, notes in Uploads(voice).shelf.items()}


def refusal(act, *arguments) -> str:
    with pytest.raises(Mistake) as error:
        act(*arguments)
    return error.value.key.removeprefix("record.wrong.")


def test_texts_find_their_recordings_in_any_order(voice, bring):
    sounds = [wav(spoken("papa mino lesu.", k)) for k in range(5)]
    assert bring("ann/a.wav", sounds[0]).key == "without_text"
    assert bring("ann/a.txt", "Papa mino\nlesu.\n").key == "text"
    assert bring("ann/b.txt", "papa mino").key == "text_waits"
    assert bring("ben/b.wav", sounds[1]).key == "with_text"  # the only b
    assert bring("Ann/C.WAV", sounds[2]).key == "without_text"
    assert bring("metadata.csv", "c|papa\nd|lesu mino\nx|nobody\n").values == {"count": 3, "given": 1}
    assert bring("wavs/d.flac", wav(sounds_samples(3), subtype="PCM_16", format="FLAC")).key == "with_text"
    assert bring("list.jsonl", '{"audio": "e.wav", "text": "e text"}\n').values == {"count": 1, "given": 0}
    assert bring("e.wav", sounds[4]).key == "with_text"
    assert texts(voice) == {
        "a.wav": "Papa mino lesu.",
        "b.wav": "papa mino",
        "C.WAV": "papa",
        "d.flac": "lesu mino",
        "e.wav": "e text",
    }
    assert Uploads(voice).waiting() == 1


def test_a_text_waits_until_its_recording_is_on_the_disk(voice, bring, monkeypatch):
    bring("a.txt", "papa mino lesu")
    full = functools.partial(refuse, CheckpointError("no space left"))
    with monkeypatch.context() as at:
        at.setattr(Shelf, "add", full)
        with pytest.raises(CheckpointError):
            bring("a.wav", wav(spoken("papa mino lesu.")))
    assert Uploads(voice).waiting() == 1
    assert bring("a.wav", wav(spoken("papa mino lesu."))).key == "with_text"
    assert texts(voice) == {"a.wav": "papa mino lesu"}
    assert Uploads(voice).waiting() == 0


def test_a_text_that_comes_while_its_recording_does_is_its_text(voice, bring, monkeypatch):
    add = Shelf.add

    def slow(*arguments):
        assert bring("a.txt", "papa mino lesu").key == "text_waits"
        return add(*arguments)

    monkeypatch.setattr(Shelf, "add", slow)
    assert bring("a.wav", wav(spoken("papa mino lesu."))).key == "with_text"
    assert texts(voice) == {"a.wav": "papa mino lesu"}
    assert Uploads(voice).waiting() == 0


def refuse(error, *_):
    raise error


def sounds_samples(seed):
    return spoken("papa mino lesu.", seed)


def test_a_name_that_two_recordings_could_have_is_no_texts(voice, bring):
    bring("ann/1.txt", "of ann")
    bring("ben/1.txt", "of ben")
    bring("other/1.wav", wav(sounds_samples(0)))
    bring("x/ben/1.wav", wav(sounds_samples(1)))
    assert [notes["text"] for _, notes in Uploads(voice).shelf.items()] == [None, "of ben"]


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("letter.docx", b"x", "kind_of_file"),
        ("noname", b"x", "kind_of_file"),
        (".wav", b"x", "kind_of_file"),
        ("all.zip", b"PK", "kind_of_file"),
        ("a.wav", b"", "empty_file"),
        ("a.wav", b"no sound at all", "unreadable"),
        ("a.wav", wav(spoken("papa mino."))[:-2000], "cut_off"),
        ("a.wav", wav(np.zeros((24000, 3))), "channels"),
        ("a.txt", b"\xff\xfe\xfd\xfc", "text_file"),
        ("a.txt", b"...", "text_file"),
        ("a.csv", b"neither\nnor\n", "list_file"),
        ("a.jsonl", b'{"audio": 1}', "list_file"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_kept(voice, bring, name, content, key):
    assert refusal(bring, name, content) == key
    assert not Uploads(voice).shelf.ids()
    left = [path.name for path in voice.folder.rglob("*") if path.is_file()]
    assert left == ["voice.json"]


def test_the_reason_names_the_file_as_its_owner_knows_it(voice, bring):
    with pytest.raises(Mistake) as error:
        bring("my list.csv", "neither\nnor\n")
    assert error.value.values["name"] == "my list.csv"
    assert str(voice.folder) not in error.value.line
    assert error.value.line.startswith("my list.csv:1: ")


def test_without_consent_nothing_is_taken(voice, bring):
    voice.change(consent=None)
    assert refusal(bring, "a.wav", wav(sounds_samples(0))) == "no_consent"


def test_sizes_are_refused_before_anything_is_read(voice):
    assert refusal(Uploads(voice).check_name, "a.wav", 5 << 30) == "large_file"
    assert refusal(Uploads(voice).check_name, "a.txt", 2 << 20) == "large_file"
    Uploads(voice).check_name("a.wav", None)


def test_a_name_is_never_a_path(voice, bring, tmp_path):
    for number, name in enumerate(("../../evil.wav", "/etc/evil.wav", "..\\..\\evil.wav", "a/../../evil.wav")):
        received = bring(name, wav(sounds_samples(number)))
        assert received.name == "evil.wav"
    assert not list(tmp_path.rglob("*evil*"))
    assert len(list(voice.uploads.glob("*.wav"))) == 4
    assert shown("a\x1b[31m\nb.wav") == "a[31mb.wav"
    assert len(shown("x" * 500 + ".wav")) == 120
    assert shown("x" * 500 + ".wav").endswith(".wav")


def test_the_same_recording_is_noticed(voice, bring):
    samples = spoken("papa mino lesu, tara koni sewu papa.", 3)
    bring("first.wav", wav(samples))
    with pytest.raises(Mistake) as error:
        bring("second.wav", wav(samples))
    assert (error.value.key, error.value.values["other"]) == ("record.wrong.same_file", "first.wav")
    bring("softer.flac", wav(0.5 * samples, subtype="PCM_16", format="FLAC"))
    bring("other.wav", wav(spoken("wero sami, kuna leto viza.", 5)))
    assert [notes["like"] for _, notes in Uploads(voice).shelf.items()] == [None, "first.wav", None]


def test_a_text_is_changed_and_taken_away(voice, bring):
    id = bring("a.wav", wav(sounds_samples(0))).id
    Uploads(voice).set_text(id, "  papa  mino lesu ")
    assert texts(voice) == {"a.wav": "papa mino lesu"}
    assert progress(voice).recordings == 1
    Uploads(voice).set_text(id, "papa " * 100)
    assert progress(voice).not_usable == 1  # nobody says that in so short a time
    Uploads(voice).set_text(id, "")
    assert texts(voice) == {"a.wav": None}
    assert progress(voice).without_text == 1
    with pytest.raises(DataError, match="no recording with a text"):
        to_recordings(voice)
    Uploads(voice).remove(id)
    with pytest.raises(Missing):
        Uploads(voice).set_text(id, "papa")
    assert not list(voice.uploads.glob("*.wav"))


def test_what_browsers_cannot_play_is_there_as_flac(voice, bring):
    id = bring("a.aiff", wav(sounds_samples(0), subtype="PCM_16", format="AIFF")).id
    shelf = Uploads(voice).shelf
    assert shelf.sound(id).suffix == ".aiff"
    assert shelf.heard(id).read_bytes().startswith(b"fLaC")
    assert shelf.ids() == [id]
    Uploads(voice).remove(id)
    assert not list(voice.uploads.glob("0*"))


# Long recordings


def test_a_long_recording_is_cut_at_pauses(voice, bring, task):
    received = bring("chapter.wav", wav(long_sound()))
    assert received.key == "long"
    assert long.uncut(voice) == [received.id]
    assert not list(progress_of_clips(voice))
    cut = long.cut_at_pauses(voice, task)
    assert cut["clips"] >= 3
    clips = Shelf(voice.clips).items()
    assert len(clips) == cut["clips"]
    assert all(notes["upload"] == received.id and notes["text"] is None for _, notes in clips)
    assert long.uncut(voice) == []
    assert long.cut_at_pauses(voice, task) == {"clips": 0}
    assert progress(voice).without_text == len(clips)
    Uploads(voice).remove(received.id)
    assert not Shelf(voice.clips).ids()


def progress_of_clips(voice):
    return Shelf(voice.clips).ids()


def test_cutting_is_cancelled_at_a_clip_and_begun_again(voice, bring, task, monkeypatch):
    received = bring("chapter.wav", wav(long_sound()))
    write, written = long.write_pieces, []

    def one(*arguments):
        written.append(1)
        if len(written) == 2:
            task.cancel()
        return write(*arguments)

    monkeypatch.setattr(long, "write_pieces", one)
    with pytest.raises(Cancelled):
        long.cut_at_pauses(voice, task)
    assert len(written) == 2
    assert progress(voice).without_text == 0  # half of it counts for nothing
    again = Task(voice.person, "prepare", "again", voice.id, "files")
    assert long.cut_at_pauses(voice, again)["clips"] == progress(voice).without_text
    assert long.uncut(voice) == []
    assert received.id


def test_what_comes_or_goes_while_something_is_cut(voice, bring, task, monkeypatch):
    first = bring("first.wav", wav(long_sound()))
    write, written = long.write_pieces, []

    def one(*arguments):
        written.append(1)
        if len(written) == 2:
            bring("second.wav", wav(long_sound()[24000:]))
            Uploads(voice).remove(first.id)
        return write(*arguments)

    monkeypatch.setattr(long, "write_pieces", one)
    cut = long.cut_at_pauses(voice, task)
    clips = Shelf(voice.clips).items()
    assert len(clips) == cut["clips"] > 0
    assert {notes["name"].rpartition(" ")[0] for _, notes in clips} == {"second.wav"}


def test_a_text_that_comes_while_its_recording_is_cut_is_what_it_is_cut_by(voice, bring, task, monkeypatch):
    id = bring("chapter.wav", wav(long_sound())).id
    write, written = long.write_pieces, []

    def one(*arguments):
        written.append(1)
        if len(written) == 2:
            assert bring("chapter.txt", "papa mino lesu, tara koni sewu.").key == "text"
        return write(*arguments)

    monkeypatch.setattr(long, "write_pieces", one)
    assert long.cut_at_pauses(voice, task) == {"clips": 0}
    assert not Shelf(voice.clips).ids()
    assert long.unheard(voice)[0] == [id]  # it waits for a Whisper


def test_reading_is_cancelled_within_a_block(voice, bring, task):
    bring("chapter.wav", wav(long_sound()))
    task.cancel()
    with pytest.raises(Cancelled):
        examine(Uploads(voice).shelf.sound(long.uncut(voice)[0]), False, PrepareOptions(), task.check)


def test_a_long_recording_that_is_silent_is_told(voice, bring, task):
    id = bring("silent.wav", wav(np.zeros(24000 * 40))).id
    long.cut_at_pauses(voice, task)
    notes = Uploads(voice).shelf.notes(id)
    assert (notes["cut"], notes["check"]["findings"][0]["key"]) == (0, "silent")


# Texts by a Whisper


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    return str(write_whisper(tmp_path_factory.mktemp("whisper") / "talking"))


@whisper
@pytest.mark.slow
def test_missing_texts_are_heard(voice, bring, task, talking):
    id = bring("a.wav", wav(sounds_samples(0))).id
    bring("b.wav", wav(sounds_samples(1)))
    Uploads(voice).set_text(id, "papa mino")
    assert long.make_texts(voice, task, talking) == {"clips": 0, "texts": 1, "nothing": 0}
    assert texts(voice) == {"a.wav": "papa mino", "b.wav": SENTENCE}
    assert [notes["text_by"] for _, notes in Uploads(voice).shelf.items()] == ["hand", "whisper"]
    assert long.make_texts(voice, task, talking) == {"clips": 0, "texts": 0, "nothing": 0}


@whisper
@pytest.mark.slow
def test_a_long_recording_is_cut_with_its_text(voice, bring, task, talking, monkeypatch):
    said = "papa mino lesu tara. " * 10
    bring("chapter.txt", said)
    received = bring("chapter.wav", wav(long_sound()))
    assert received.key == "long_with_text"
    assert long.unheard(voice)[0] == [received.id]

    def cut(path, text, language, listener, options, progress):
        plan = examine(path, False, options)
        list(progress(range(3), 3, "windows"))
        return Chapter(plan, [f"{text[:9]} {k}" for k in range(len(plan.pieces))], None)

    monkeypatch.setattr(long, "cut_chapter", cut)
    done = long.make_texts(voice, task, talking)
    listed = [json.loads(line) for line in to_recordings(voice).read_text().splitlines()]
    assert len(listed) == done["clips"] == Uploads(voice).shelf.notes(received.id)["cut"]
    assert listed[0]["text"] == "papa mino 0"
    assert listed[0]["audio"] == f"clips/{received.id}~001.flac"
    assert len(read_listing(voice.folder / "recordings.jsonl").entries) == done["clips"]
    Uploads(voice).set_text(received.id, "another text")  # it is cut anew
    assert long.unheard(voice)[0] == [received.id]
    assert not Shelf(voice.clips).ids()
