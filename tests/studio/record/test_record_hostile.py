"""What a browser would not send on a good day: twice, at once, too much, under odd names, to a voice that is going."""

import errno
import os
import re
import struct
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from recorded import spoken, wav

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files import atomic
from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.record import consent, shelf, uploads
from mlx_voxclone.studio.record.listing import progress
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import PLAN, Takes
from mlx_voxclone.studio.record.uploads import Uploads
from mlx_voxclone.studio.record.waiting import FILE, Waiting

SLOT = f"{SYLLABLES}-001"


@pytest.fixture
def send(browser, at):
    headers = {"x-csrf": browser.csrf(), "hx-request": "true"}

    def send(sound, slot=SLOT):
        return browser.post(f"{at}/takes", params={"slot": slot}, content=sound, headers=headers)

    return send


@pytest.fixture
def bring(browser, at):
    headers = {"x-csrf": browser.csrf(), "hx-request": "true"}

    def bring(name, content):
        return browser.post(f"{at}/files/one", params={"name": name}, content=content, headers=headers)

    return bring


def left_in(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Twice, and at once


def test_two_tabs_record_the_same_sentence_at_once(voice, send):
    sounds = [wav(spoken("papa mino lesu.", seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as tabs:
        assert [answer.status_code for answer in tabs.map(send, sounds)] == [200] * 4
    taken = Takes(voice).all()
    assert sorted(take.path.read_bytes() for take in taken) == sorted(sounds)
    assert [take.used for take in taken] == [False, False, False, True]
    assert len({take.id[:4] for take in taken}) == 4


def test_a_take_that_is_sent_again_is_one(voice, send):
    """The answer to the first was lost on its way; for another sentence the same sound is another take."""
    sound = wav(spoken("papa mino lesu."))
    with ThreadPoolExecutor(3) as tabs:
        assert {answer.status_code for answer in tabs.map(send, [sound] * 3)} == {200}
    assert len(Takes(voice).all()) == 1
    assert send(sound, f"{SYLLABLES}-002").status_code == 200
    assert len(Takes(voice).all()) == 2
    Takes(voice).remove(Takes(voice).all()[0].id)
    assert send(sound).status_code == 200
    assert len(Takes(voice).all()) == 2


def test_two_tabs_bring_the_same_folder(voice, bring):
    sounds = [wav(spoken("papa mino lesu.", seed)) for seed in range(3)]
    jobs = [(f"ann/{k}.wav", sound) for k, sound in enumerate(sounds)]
    with ThreadPoolExecutor(6) as tabs:
        answers = list(tabs.map(lambda job: bring(*job), jobs * 2))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [422] * 3
    assert all("is here already" in answer.text for answer in answers if answer.status_code == 422)
    assert len(Shelf(voice.uploads).ids()) == 3
    assert not uploads._coming
    assert bring("again.wav", sounds[0]).status_code == 422
    Uploads(voice).remove(Shelf(voice.uploads).ids()[0])
    assert bring("again.wav", next(s for s in sounds if s not in _there(voice))).status_code == 200


def _there(voice):
    return [Shelf(voice.uploads).sound(id).read_bytes() for id in Shelf(voice.uploads).ids()]


# Sounds that are none


def header(rate=24000, channels=1, bits=16, claimed=None, content=b"", kind=1, align=None) -> bytes:
    align = min(channels * bits // 8, 65535) if align is None else align
    claimed = len(content) if claimed is None else claimed
    chunk = struct.pack("<HHIIHH", kind, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    size = (36 + claimed) & 0xFFFFFFFF
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + chunk
        + b"data"
        + struct.pack("<I", claimed)
        + content
    )


BOMBS = {
    "4 GB that are not there": header(claimed=0xFFFFFFFF, content=bytes(2000)),
    "2 GB of 384 kHz": header(384000, 2, 32, 0x7FFFFFF0, bytes(2000)),
    "a rate of one": header(1, content=bytes(2000)),
    "a rate of four billions": header(0xFFFFFFFF, content=bytes(2000)),
    "65535 channels": header(channels=65535, content=bytes(131070)),
    "no channel": header(channels=0, content=bytes(2000)),
    "no bits": header(bits=0, content=bytes(2000)),
    "mu-law that is none": header(kind=7, bits=16, content=bytes(2000)),
    "a header alone": header()[:44],
    "half a header": header()[:20],
    "chunks without end": b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\x00\x00\x00\x00" * 2000,
    "a page": b"<html><script>alert(1)</script>",
}


@pytest.mark.parametrize("sound", BOMBS.values(), ids=BOMBS)
def test_a_header_promises_much(voice, send, bring, sound):
    assert send(sound).status_code in (200, 422)
    assert bring("a.wav", sound).status_code in (200, 422)
    assert progress(voice).recordings == 0  # what was kept is told to be of no use
    assert all(take.check.state == "bad" for take in Takes(voice).all())


def test_a_take_of_no_samples(voice, send):
    answer = send(wav(np.zeros(0, np.float32)))
    assert (answer.status_code, "It holds no sound." in answer.text) == (200, True)
    assert Takes(voice).next().key == SLOT


# Texts


def test_a_text_of_a_megabyte_is_none_of_a_short_recording(browser, voice, at, bring):
    text = "papa mino lesu tara " * 50_000
    assert bring("a.txt", text.encode()).status_code == 200
    answer = bring("a.wav", wav(spoken("papa mino lesu.")))
    assert (answer.status_code, "too long for so short a recording" in answer.text) == (200, True)
    ((id, notes),) = Shelf(voice.uploads).items()
    assert notes["text"] is None
    assert Waiting(voice.uploads).texts == {"a": text.strip()}  # nothing of it is lost
    assert len(browser.get(f"{at}/files").content) < 50_000
    assert bring("a.txt", b"papa mino lesu").status_code == 200
    assert Shelf(voice.uploads).notes(id)["text"] == "papa mino lesu"
    assert bring("b.wav", wav(spoken("papa mino lesu.", 1))).status_code == 200
    answer = bring("b.txt", text.encode())
    assert (answer.status_code, "too long for its recording" in answer.text) == (200, True)
    assert browser.submit(f"{at}/sounds/uploads/{id}/text", {"text": text}).status_code == 413
    assert browser.submit(f"{at}/sounds/uploads/{id}/text", {"text": text[:100_000]}).status_code == 422
    assert browser.submit(f"{at}/own", {"text": text[:100_000]}).status_code == 422


def test_more_texts_than_can_wait_are_refused_and_none_is_dropped(voice, bring, monkeypatch):
    monkeypatch.setattr(uploads, "MOST", 3)
    assert bring("a.csv", b"a|papa\nb|mino\n").status_code == 200
    answer = bring("b.csv", b"c|lesu\nd|tara\n")
    assert (answer.status_code, "cannot wait" in answer.text) == (422, True)
    assert Waiting(voice.uploads).texts == {"a": "papa", "b": "mino"}


# Names

NAMES = [
    "../../../etc/passwd.wav",
    "..\\..\\evil.wav",
    "/absolute/place.wav",
    "a/./b/../c.wav",
    ".....wav",
    "dots.in.the.name.wav",
    "x" * 300 + ".wav",
    "deep/" * 400 + "end.wav",
    "\U0001f469\u200d\U0001f467 \U0001f3a4.wav",
    "\u202ewav.exe\u202c.wav",
    "\u0645\u0631\u062d\u0628\u0627.wav",
    "new\nline\ttab\x00null\x1b[31m.wav",
    "quo\"te<b>&amp;'.wav",
    "CON.wav",
    "%2e%2e%2fetc.wav",
    "{name}.wav",
    " a .wav",
    "a\u0301.wav",
]


def test_odd_names_are_shown_and_never_used(browser, voice, at, bring, tmp_path):
    for number, name in enumerate(NAMES):
        answer = bring(name, wav(spoken("papa mino lesu.", number)))
        assert answer.status_code == 200, (name, answer.text)
        assert "\u202e" not in answer.text
        assert "<b>" not in answer.text
    assert len(Shelf(voice.uploads).ids()) == len(NAMES)
    for path in tmp_path.rglob("*"):
        assert re.fullmatch(r"[a-z0-9._-]+|voice\.json", path.name), path
    for number in (1, 2):
        page = browser.get(f"{at}/files", params={"page": number})
        assert page.status_code == 200
        assert "<b>" not in page.text
        assert "\u202e" not in page.text


def test_texts_find_recordings_of_odd_names(voice, bring):
    for number, name in enumerate(NAMES):
        assert bring(f"{name.removesuffix('.wav')}.txt", f"text {number}".encode()).status_code == 200, name
    for number, name in enumerate(NAMES):
        bring(unicodedata.normalize("NFC", name), wav(spoken("papa mino lesu.", number)))
    assert [notes["text"] for _, notes in Shelf(voice.uploads).items()] == [f"text {k}" for k in range(len(NAMES))]


# Much


def test_a_folder_of_a_thousand_files_without_a_script(browser, voice, at):
    files = [("files", (f"{k}.txt", b"papa", "text/plain")) for k in range(1000)]
    answer = browser.submit(f"{at}/files", files=files)
    assert answer.status_code == 422
    assert "At most 200 files at once" in answer.text
    assert 'id="upload"' in answer.text
    assert Waiting(voice.uploads).texts == {}


def test_a_thousand_files_one_after_the_other(voice, bring, monkeypatch):
    """Texts first, as the page sends them; what is read and compared for one does not grow with their number."""
    table = "".join(f"{k}|text {k}\n" for k in range(1000)).encode()
    assert bring("metadata.csv", table).status_code == 200
    compared = []
    key_for = Waiting.key_for
    monkeypatch.setattr(Waiting, "key_for", lambda self, name: compared.append(name) or key_for(self, name))
    for number in range(3):
        bring(f"{number}.wav", wav(spoken("papa mino lesu.", number)))
    assert len(compared) < 12
    assert [notes["text"] for _, notes in Shelf(voice.uploads).items()] == ["text 0", "text 1", "text 2"]
    assert len(Waiting(voice.uploads).texts) == 997


# A disk that is full


@pytest.fixture
def full(monkeypatch):
    """A disk that is full from the n-th flush on."""

    def full(after: int):
        count, fsync = [], os.fsync

        def refuse(descriptor):
            count.append(descriptor)
            if len(count) > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return fsync(descriptor)

        context = pytest.MonkeyPatch()
        context.setattr(atomic.os, "fsync", refuse)
        return context

    return full


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5])
def test_a_disk_that_is_full_in_the_middle_of_a_take(voice, send, full, after):
    """Either nothing of it is left, or all; the browser sends it again, and it is there once."""
    sound = wav(spoken("papa mino lesu."))
    context = full(after)
    try:
        status = send(sound).status_code
    finally:
        context.undo()
    kept = Takes(voice).all()
    assert status == (200 if kept else 507)
    assert len(left_in(voice.takes)) == (2 * len(kept))
    assert send(sound).status_code == 200
    (take,) = Takes(voice).all()
    assert take.path.read_bytes() == sound
    assert take.check.state == "good"


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_disk_that_is_full_in_the_middle_of_a_file(voice, bring, full, after):
    bring("a.txt", b"papa mino")
    sound = wav(spoken("papa mino lesu."))
    context = full(after)
    try:
        status = bring("a.wav", sound).status_code
    finally:
        context.undo()
    assert status in (200, 422)
    if not Shelf(voice.uploads).ids():
        assert left_in(voice.uploads) == [FILE]
        assert bring("a.wav", sound).status_code == 200
    assert [notes["text"] for _, notes in Shelf(voice.uploads).items()] == ["papa mino"]
    assert len(Shelf(voice.uploads).ids()) == 1


# A voice that is deleted meanwhile


def deleting(studio, voice, monkeypatch, at_write: int):
    """Delete the voice in another tab just before something of it is written for the n-th time."""
    counted, write = [], atomic.whole_file

    def slow(path, *arguments):
        counted.append(path)
        if len(counted) == at_write:
            voice.folder.rename(voice.folder.with_name(".gone"))
        return write(path, *arguments)

    monkeypatch.setattr(atomic, "whole_file", slow)


ACTS = {
    "a take": lambda voice, send, bring: send(wav(spoken("papa mino lesu."))),
    "a file": lambda voice, send, bring: bring("a.wav", wav(spoken("papa mino lesu."))),
    "a text": lambda voice, send, bring: bring("a.txt", b"papa mino"),
    "a table": lambda voice, send, bring: bring("a.csv", b"a|papa mino\n"),
}


@pytest.mark.parametrize("at_write", [1, 2, 3])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_nothing_of_a_deleted_voice_comes_back(studio, voice, send, bring, monkeypatch, act, at_write):
    deleting(studio, voice, monkeypatch, at_write)
    answer = act(voice, send, bring)
    gone = not voice.folder.exists()
    assert answer.status_code == (404 if gone else 200)
    assert [one.id for one in voice.person.projects()] == ([] if gone else [voice.id])


def test_plans_and_texts_of_a_deleted_voice_do_not_come_back(studio, voice, monkeypatch):
    take = Takes(voice).record(SLOT, wav(spoken("papa mino lesu.")))
    deleting(studio, voice, monkeypatch, 1)
    with pytest.raises((Missing, CheckpointError)):
        Takes(voice).skip(f"{SYLLABLES}-002")
    for act in (
        lambda: Takes(voice).set_text(take.id, "papa"),
        lambda: Takes(voice).add_own("papa"),
        lambda: Uploads(voice).remove("0001-1234"),
        lambda: Takes(voice).record(SLOT, b"RIFF"),
    ):
        with pytest.raises(Exception, match=r"."):
            act()
    assert not voice.folder.exists()
    assert not (voice.takes / PLAN).exists()


def test_a_voice_that_is_deleted_before_its_consent_is_read_is_gone_and_not_without_one(voice, send, monkeypatch):
    required = consent.require

    def late(project):
        voice.folder.rename(voice.folder.with_name(".gone"))
        required(project)

    monkeypatch.setattr(consent, "require", late)
    assert send(wav(spoken("papa mino lesu.", 0))).status_code == 404


def test_a_voice_is_deleted_while_takes_come_in(studio, voice, send):
    sounds = [wav(spoken("papa mino lesu.", seed)) for seed in range(6)]
    begun = threading.Event()

    def one(sound):
        begun.set()
        return send(sound).status_code

    with ThreadPoolExecutor(3) as tabs:
        sent = [tabs.submit(one, sound) for sound in sounds]
        begun.wait()
        voice.folder.rename(voice.folder.with_name(".gone"))
        assert {one.result() for one in sent} <= {200, 404}
    assert not voice.folder.exists()
    assert shelf.lock.acquire(blocking=False)
    shelf.lock.release()
