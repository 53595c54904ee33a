"""A disk that is full or lets nothing be written: one sentence where the person has typed, and all stays as it was."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from listening_made import make_run
from recorded import AGREED, many, spoken, wav

from mlx_voxclone.process import temporaries
from mlx_voxclone.speech.chunks import Chunk
from mlx_voxclone.studio.speak.history import Asked, new_speech
from mlx_voxclone.studio.troubles import refusals

SENTENCES = {errno.ENOSPC: "space", errno.EROFS: "Check its permissions", errno.EACCES: "Check its permissions"}
TYPED = "typed by hand"
CONSENT = {"who": TYPED, "purpose": TYPED, "agreed": "yes", "statement_in": "en"}


@pytest.fixture
def voice(me):
    me.change_settings(language="en")
    project = me.new_project("Ann", "en")
    project.change(consent=AGREED)
    many(project, takes=1, uploads=1)
    make_run(project.run)
    return project


@pytest.fixture
def speech(me, voice):
    asked = Asked("a.", f"own:{voice.id}", "Ann", "en", 1, 7, 1.2, (Chunk("a.", 0.1),))
    made = new_speech(me, asked)
    made.add(0, np.zeros(2400, np.float32), 1, None)
    return made


@pytest.fixture
def refuses(monkeypatch):
    """A function: from now on the disk refuses all that is to be written."""

    def begin(number):
        def fails(*arguments, **keywords):
            raise OSError(number, os.strerror(number), str(arguments[0]))

        @contextmanager
        def made(*arguments, **keywords):
            fails(*arguments)
            yield

        monkeypatch.setattr(temporaries, "made", made)
        for place, name in ((os, "rename"), (os, "replace"), (os, "mkdir"), (os, "unlink"), (Path, "unlink")):
            monkeypatch.setattr(place, name, fails)
        monkeypatch.setattr(Path, "rename", fails)

    return begin


def files(home):
    return {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


FORMS = {  # address -> what is typed, and whether it is shown again
    "/voices/new": ({"title": TYPED, "language": "en", **CONSENT}, True),
    "{voice}/record/consent": (CONSENT, True),
    "{voice}/record/own": ({"text": TYPED}, True),
    "{voice}/record/skip": ({"slot": "en-001"}, False),
    "{voice}/record/takes/{take}/text": ({"text": TYPED}, False),
    "{voice}/record/takes/{take}/delete": ({}, False),
    "{voice}/record/sounds/uploads/{upload}/text": ({"text": TYPED}, False),
    "{voice}/record/sounds/uploads/{upload}/delete": ({}, False),
    "{voice}/train/start": ({"how": "resume"}, False),
    "{voice}/listen/speak": ({"variant": "original", "text": "", "seed": "4711"}, False),
    "{voice}/listen/blind": ({"first": "original", "second": "adapted"}, False),
    "{voice}/rename": ({"title": TYPED}, True),
    "{voice}/delete": ({"typed": "Ann"}, False),
    "/speak/{speech}/repeat": ({"seed": "same"}, False),
    "/speak/{speech}/delete": ({}, False),
    "/language": ({"language": "de"}, False),
}


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize("number", SENTENCES)
def test_it_is_said_and_all_stays(studio, browser, voice, speech, refuses, capsys, number, htmx):
    names = {"take": next(voice.takes.glob("*.json")).stem, "upload": next(voice.uploads.glob("*.json")).stem}
    csrf, before = browser.csrf(), files(studio.home)
    refuses(number)
    for address, (form, again) in FORMS.items():
        place = address.format(voice=f"/voices/{voice.id}", speech=speech.id, **names)
        headers = {"hx-request": "true"} if htmx else {}
        answer = browser.post(place, data={"csrf": csrf, **form}, headers=headers, follow_redirects=False)
        assert answer.status_code == 422, (address, answer.status_code)
        assert SENTENCES[number] in answer.text, address
        assert not again or htmx or TYPED in answer.text, address
    assert files(studio.home) == before
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", SENTENCES)
def test_a_take_is_kept_by_the_browser(studio, browser, voice, refuses, number):
    csrf = browser.csrf()
    refuses(number)
    content = wav(spoken("papa mino lesu."))
    answer = browser.post(f"/voices/{voice.id}/record/takes?slot=en-001", content=content, headers={"x-csrf": csrf})
    assert answer.status_code == 507  # with which the page sends it again
    assert SENTENCES[number] in answer.text


@pytest.mark.parametrize("number", SENTENCES)
def test_a_file_that_came_is_told(browser, voice, refuses, number):
    csrf = browser.csrf()
    refuses(number)
    content, at = wav(spoken("papa mino lesu.")), f"/voices/{voice.id}/record/files"
    assert SENTENCES[number] in browser.post(f"{at}/one?name=a.wav", content=content, headers={"x-csrf": csrf}).text
    assert SENTENCES[number] in browser.post(at, data={"csrf": csrf}, files={"files": ("a.wav", content)}).text


@pytest.mark.parametrize("number", SENTENCES)
def test_what_is_joined_to_be_played_is_told(browser, speech, refuses, capsys, number):
    refuses(number)
    answer = browser.get(f"/speak/{speech.id}/sound.mp3")
    assert answer.status_code == 422
    assert SENTENCES[number] in answer.text
    assert "Traceback" not in capsys.readouterr().err


def test_other_errors_are_the_studios_own(browser, speech, monkeypatch, capsys):
    with pytest.raises(OSError, match="odd"), refusals("text"):
        raise OSError(errno.EIO, "odd")
    monkeypatch.setattr(
        "mlx_voxclone.studio.speak.sound.joined", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "odd"))
    )
    assert browser.get(f"/speak/{speech.id}/sound.mp3").status_code == 500
    assert "Traceback" in capsys.readouterr().err
