"""What goes on beside a recording's work: a text is typed, the disk fills, a sound goes."""

import errno
import os

import pytest
from recorded import many, spoken, wav

from mlx_voxclone.studio.mistakes import Cancelled, Missing
from mlx_voxclone.studio.record import long, uploads
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.uploads import Uploads, playable
from mlx_voxclone.studio.tasks import Task


@pytest.fixture
def task(voice):
    return Task(voice.person, "prepare", "a task", voice.id, "files")


@pytest.fixture
def bring(voice, tmp_path):
    def bring(name: str, content: bytes) -> str:
        (tmp_path / "arrived").write_bytes(content)
        return Uploads(voice).add(name, tmp_path / "arrived").id

    return bring


class Hears:
    """A Whisper that understands the same in everything."""

    loaded = None

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        pass

    def check_language(self, language):
        pass

    def transcribe(self, path, language):
        return "what a whisper has heard", None


@pytest.mark.parametrize(("typed", "by"), [("papa mino lesu.", "hand"), (None, "whisper")])
def test_what_is_typed_while_a_text_is_checked_stays(voice, bring, task, monkeypatch, typed, by):
    monkeypatch.setattr(long, "Transcriber", Hears)
    monkeypatch.setattr(long, "whisper_installed", lambda: False)
    monkeypatch.setattr(long.whispers, "place_of", lambda whisper: whisper)
    id, check = bring("a.wav", wav(spoken("papa mino lesu."))), long.check

    def slow(path, text):
        if typed:
            Uploads(voice).set_text(id, typed)
        return check(path, text)

    monkeypatch.setattr(long, "check", slow)
    assert long.make_texts(voice, task, "whisper")["texts"] == 1
    notes = Shelf(voice.uploads).notes(id)
    assert (notes["text"], notes["text_by"]) == (typed or "what a whisper has heard", by)


def test_a_text_of_a_file_that_comes_late_leaves_what_was_typed(voice, bring, monkeypatch):
    taken = Uploads._text_for

    def late(self, key, long):
        if not self.shelf.ids():
            return None
        self.set_text(self.shelf.ids()[0], "papa mino lesu.")
        return "tara koni"

    monkeypatch.setattr(Uploads, "_text_for", late)
    id = bring("a.wav", wav(spoken("papa mino lesu.")))
    monkeypatch.setattr(Uploads, "_text_for", taken)
    assert Shelf(voice.uploads).notes(id)["text"] == "papa mino lesu."


def aiff() -> bytes:
    return wav(spoken("papa mino lesu."), subtype="PCM_16", format="AIFF")


@pytest.fixture
def full(monkeypatch):
    """A disk that has no space for copies; the function gives it some."""

    def write(path, *arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    there = uploads.write_flac
    monkeypatch.setattr(uploads, "write_flac", write)
    return lambda: monkeypatch.setattr(uploads, "write_flac", there)


def test_a_copy_that_did_not_fit_the_disk_is_made_when_it_is_asked_for(browser, voice, at, full):
    answer = browser.post(f"{at}/files/one?name=a.aiff", content=aiff(), headers={"x-csrf": browser.csrf()})
    assert answer.status_code == 200  # the recording is kept
    (id,) = Shelf(voice.uploads).ids()
    sound = f"{at}/sounds/uploads/{id}"
    assert browser.get(sound).status_code == 422
    assert "space" in browser.get(sound).text
    full()
    answer = browser.get(sound)
    assert answer.status_code == 200
    assert answer.content.startswith(b"fLaC")
    assert Shelf(voice.uploads).heard(id).read_bytes() == answer.content


def test_a_copy_of_what_is_deleted_meanwhile_does_not_stay(voice, bring, full, monkeypatch):
    id = bring("a.aiff", aiff())
    full()
    read = uploads.read_audio
    monkeypatch.setattr(uploads, "read_audio", lambda path: (read(path), Uploads(voice).remove(id))[0])
    with pytest.raises(Missing):
        playable(Shelf(voice.uploads), id)
    assert not list(voice.uploads.iterdir())


def long_one(voice) -> str:
    notes = {"name": "chapter.wav", "key": "chapter", "long": True, "cut": None, "text": None, "sha256": "0" * 64}
    return Shelf(voice.uploads).add(notes, lambda file: file.write(b"x"))


@pytest.fixture
def looks(monkeypatch):
    """How often what is uncut was looked for; many times are too many."""
    count, uncut = [], long.uncut

    def counted(project):
        count.append(project)
        assert len(count) < 20
        return uncut(project)

    monkeypatch.setattr(long, "uncut", counted)
    return count


def test_a_long_recording_without_its_sound_is_passed_over(voice, task, looks):
    id = long_one(voice)
    (voice.uploads / f"{id}.wav").rename(voice.uploads / f"{id}.mp3")
    assert Shelf(voice.uploads).ids() == [id]
    assert long.cut_at_pauses(voice, task) == {"clips": 0}


def test_cutting_ends_with_its_task(voice, task, looks, monkeypatch):
    monkeypatch.setattr(Shelf, "sound", lambda shelf, id: task.cancel() or (_ for _ in ()).throw(Missing(id)))
    task.begin()
    for _ in range(3):
        long_one(voice)
    with pytest.raises(Cancelled):
        long.cut_at_pauses(voice, task)
    assert len(looks) == 2


def test_a_recording_goes_with_clips_whose_notes_cannot_be_read(browser, voice, at):
    many(voice, uploads=1, clips=3)
    kept, id = Shelf(voice.uploads).ids()
    for number, damage in ((1, b""), (2, b"{"), (3, b"[]")):
        (voice.clips / f"{id}~{number:03d}.json").write_bytes(damage)
    (voice.clips / f"{kept}~001.wav").write_bytes(b"another's")
    assert browser.submit(f"{at}/sounds/uploads/{id}/delete").status_code == 303
    assert Shelf(voice.uploads).ids() == [kept]
    assert [path.name for path in voice.clips.iterdir()] == [f"{kept}~001.wav"]
    assert len(list(voice.uploads.iterdir())) == 2
