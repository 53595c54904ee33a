"""The pages of recordings, as a browser asks for them: nothing is taken without consent, and mistakes stay beside their
field."""

import errno
import re
from importlib import resources

import pytest
from recorded import spoken, wav
from visiting import Browser, ended

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.model.choice import choose, rehearsal
from mlx_voxclone.studio.record.checks import _REASONS
from mlx_voxclone.studio.record.prompts import LANGUAGES, SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import Takes
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.languages import languages, texts

AGREED = {"who": "Ann Example", "purpose": "reading aloud", "agreed": "yes", "statement_in": "de"}


@pytest.fixture
def voice(browser, me):
    answer = browser.submit("/voices/new", {"title": "Ann & co", "language": SYLLABLES, **AGREED})
    assert answer.status_code == 303
    (project,) = me.projects()
    assert answer.headers["location"] == f"/voices/{project.id}/record"
    return project


@pytest.fixture
def at(voice):
    return f"/voices/{voice.id}/record"


def test_a_rehearsal_is_offered_syllables(browser, me):
    """The language of a new voice: the page's, or that of the model that is rehearsed with."""

    def offered() -> str:
        return re.search(r'<option value="(\w+)" selected>', browser.get("/voices/new").text.partition("<main")[2])[1]

    me.change_settings(language="de")
    assert offered() == "de"
    choose(me, rehearsal(me.home))
    assert offered() == SYLLABLES


def test_a_day_is_written_as_the_page_does(browser, me, at):
    (project,) = me.projects()
    when = project.info()["consent"]["when"]
    for code, day in (("en", when[:10]), ("de", f"{when[8:10]}.{when[5:7]}.{when[:4]}")):
        assert day in browser.get(at, headers={"accept-language": code}).text


def take(browser, at, sound, slot=None, csrf=True):
    slot = slot or re.search(r'data-slot="([^"]+)"', browser.get(f"{at}").text)[1]
    headers = {"x-csrf": browser.csrf()} if csrf else {}
    return browser.post(f"{at}/takes", params={"slot": slot}, content=sound, headers=headers)


def upload(browser, at, name, content):
    headers = {"x-csrf": browser.csrf()}
    return browser.post(f"{at}/files/one", params={"name": name}, content=content, headers=headers)


def sentence(browser, at) -> str:
    return re.search(r'class="prompt"[^>]*>([^<]+)<', browser.get(f"{at}").text)[1]


# A new voice


def test_a_voice_begins_with_the_words_that_were_agreed_to(voice):
    kept = voice.info()
    assert (kept["title"], kept["language"]) == ("Ann & co", SYLLABLES)
    german = texts("de")
    assert kept["consent"]["statement"] == f"{german['record.consent.statement']} {german['record.consent.agreed']}"
    assert kept["consent"]["who"] == "Ann Example"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"title": " "}, "title"),
        ({"title": "x" * 200}, "title"),
        ({"language": "xx"}, "language"),
        ({"who": ""}, "who"),
        ({"purpose": ""}, "purpose"),
        ({"agreed": ""}, "agreed"),
    ],
)
def test_a_mistake_stays_beside_its_field_and_what_was_typed_stays_too(browser, me, changed, field):
    answer = browser.submit("/voices/new", {"title": "Kept title", "language": "fr", **AGREED, **changed})
    assert answer.status_code == 422
    assert re.search(rf'id="{field}-mistake" role="alert">[^<]+<', answer.text)
    if "title" not in changed:
        assert 'value="Kept title"' in answer.text
    if "language" not in changed:
        assert '<option value="fr" selected>' in answer.text
    assert not me.projects()


def test_a_voice_without_consent_asks_for_it_first(browser, me):
    project = me.new_project("Old", "de")
    at = f"/voices/{project.id}/record"
    assert 'name="agreed"' in browser.get(f"{at}").text
    assert browser.get(f"{at}/files", follow_redirects=False).status_code == 303
    sound = wav(spoken("papa mino lesu."))
    assert take(browser, at, sound, "de-001").status_code == 422
    assert upload(browser, at, "a.wav", sound).status_code == 422
    assert not project.takes.exists()
    assert not Shelf(project.uploads).ids()
    assert browser.submit(f"{at}/consent", {**AGREED, "who": ""}).status_code == 422
    assert browser.submit(f"{at}/consent", AGREED).status_code == 303
    assert 'id="sentence"' in browser.get(f"{at}").text
    assert take(browser, at, sound, "de-001").status_code == 200


@pytest.mark.parametrize("code", ["en", "de"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_its_page(browser, me, language, code):
    project = me.new_project("A voice", language)
    project.change(consent={"who": "A", "when": "2026-11-30T00:00:00+00:00", "purpose": "p", "statement": "s"})
    answer = browser.get(f"/voices/{project.id}/record", headers={"accept-language": code})
    assert answer.status_code == 200
    assert (
        f'lang="{"und" if language == SYLLABLES else language}" dir="{"rtl" if language == "ar" else "ltr"}"'
        in answer.text
    )
    assert browser.get(f"/voices/{project.id}/record/files", headers={"accept-language": code}).status_code == 200


# Takes


def test_a_take_is_answered_with_the_next_sentence(browser, voice, at):
    first = sentence(browser, at)
    answer = take(browser, at, wav(spoken(first)))
    assert answer.status_code == 200
    assert 'data-state="good"' in answer.text
    assert "<html" not in answer.text
    second = sentence(browser, at)
    assert second != first
    assert second in answer.text
    (made,) = Takes(voice).all()
    sound = browser.get(f"{at}/sounds/takes/{made.id}", headers={"range": "bytes=0-3"})
    assert (sound.status_code, sound.content) == (206, b"RIFF")
    assert f"/sounds/takes/{made.id}" in browser.get(f"{at}").text


def test_a_bad_take_keeps_its_sentence(browser, at):
    first = sentence(browser, at)
    answer = take(browser, at, wav(0.0001 * spoken(first)))
    assert answer.status_code == 200
    assert texts("en")["record.check.silent"] in answer.text
    assert sentence(browser, at) == first


def test_what_is_no_take_is_refused(browser, voice, at):
    assert take(browser, at, wav(spoken("papa mino lesu.")), csrf=False).status_code == 403
    assert take(browser, at, b"nonsense").status_code == 422
    assert take(browser, at, bytes(20_000_000)).status_code == 413
    assert take(browser, at, wav(spoken("papa mino lesu.")), "xx-001").status_code == 404
    assert not Takes(voice).all()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_take_that_the_disk_refuses_is_kept_by_the_browser(browser, voice, at, monkeypatch, number):
    def refuse(*_):
        raise CheckpointError("takes: cannot be written") from OSError(number, "refused")

    sound = wav(spoken(sentence(browser, at)))
    with monkeypatch.context() as disk:
        disk.setattr(Shelf, "add", refuse)
        assert take(browser, at, sound).status_code == 507  # 422 says that it is no use
    assert take(browser, at, sound).status_code == 200


def test_a_take_is_corrected_recorded_again_and_deleted(browser, voice, at):
    first = sentence(browser, at)
    take(browser, at, wav(spoken(first)))
    (made,) = Takes(voice).all()
    saved = browser.submit(f"{at}/takes/{made.id}/text", {"text": "papa mino"}, headers={"hx-request": "true"})
    assert (saved.status_code, Takes(voice).take(made.id).text) == (200, "papa mino")
    wrong = browser.submit(f"{at}/takes/{made.id}/text", {"text": " "}, headers={"hx-request": "true"})
    assert (wrong.status_code, Takes(voice).take(made.id).text) == (422, "papa mino")
    again = browser.get(f"{at}", params={"slot": made.slot}).text
    assert f'data-slot="{made.slot}"' in again
    take(browser, at, wav(spoken(first, 1)), made.slot)
    assert [one.used for one in Takes(voice).all()] == [False, True]
    assert browser.submit(f"{at}/takes/{made.id}/delete").status_code == 303
    assert browser.submit(f"{at}/takes/{made.id}/delete").status_code == 404
    assert [one.used for one in Takes(voice).all()] == [True]


def test_skipping_and_own_texts(browser, voice, at):
    first = sentence(browser, at)
    slot = Takes(voice).next().key
    assert browser.submit(f"{at}/skip", {"slot": slot}).status_code == 303
    assert sentence(browser, at) != first
    part = browser.submit(f"{at}/unskip", headers={"hx-request": "true"})
    assert first in part.text
    assert browser.submit(f"{at}/own", {"text": "tara koni sewu"}).status_code == 303
    assert sentence(browser, at) == "tara koni sewu"
    wrong = browser.submit(f"{at}/own", {"text": "x" * 500})
    assert wrong.status_code == 422
    assert "x" * 500 in wrong.text


def test_nobody_else_sees_a_voice(browser, studio, at, voice):
    other = studio.home.person("ben").new_project("Ben", "de")
    for address in ("", "/files", "/sounds/takes/0001-1234"):
        assert browser.get(f"/voices/{other.id}/record{address}").status_code == 404
    for address in ("../../voice", "%2e%2e%2fvoice", "0001-0000", "plan"):
        assert browser.get(f"{at}/sounds/takes/{address}").status_code == 404
    assert browser.get(f"{at}/sounds/listening/0001-0000").status_code == 404


# Files


def test_files_are_brought_one_by_one(browser, voice, at):
    sound = wav(spoken("papa mino lesu."))
    answer = upload(browser, at, "ann/a <b>.wav", sound)
    assert (answer.status_code, "a &lt;b&gt;.wav" in answer.text) == (200, True)
    assert upload(browser, at, "ann/a <b>.txt", b"papa mino lesu").status_code == 200
    assert upload(browser, at, "again.wav", sound).status_code == 422
    assert upload(browser, at, "a.docx", b"x").status_code == 422
    (item,) = Shelf(voice.uploads).items()
    assert item[1]["text"] == "papa mino lesu"
    page = browser.get(f"{at}/files").text
    assert "papa mino lesu</textarea>" in page
    assert not [path for path in voice.uploads.iterdir() if path.name.startswith(".")]
    assert browser.post(f"{at}/files/one", params={"name": "a.wav"}, content=sound).status_code == 403


def test_files_are_brought_by_a_form(browser, voice, at):
    files = [("files", (f"{k}.wav", wav(spoken("papa mino lesu.", k)), "audio/wav")) for k in range(2)]
    files.append(("files", ("wrong.wav", b"nothing", "audio/wav")))
    answer = browser.submit(f"{at}/files", files=files)
    assert answer.status_code == 200
    assert "wrong.wav" in answer.text
    assert len(Shelf(voice.uploads).ids()) == 2
    none = browser.submit(f"{at}/files", files=[("files", ("", b"", "application/octet-stream"))])
    assert (none.status_code, texts("en")["record.wrong.no_file"] in none.text) == (422, True)


def test_texts_of_files_are_saved_and_files_deleted(browser, voice, at):
    upload(browser, at, "a.wav", wav(spoken("papa mino lesu.")))
    (id,) = Shelf(voice.uploads).ids()
    place = f"{at}/sounds/uploads/{id}"
    assert browser.submit(f"{place}/text", {"text": "papa"}, headers={"hx-request": "true"}).status_code == 200
    assert Shelf(voice.uploads).notes(id)["text"] == "papa"
    assert browser.submit(f"{place}/text", {"text": "x" * 2000}, headers={"hx-request": "true"}).status_code == 422
    assert Shelf(voice.uploads).notes(id)["text"] == "papa"
    assert browser.submit(f"{at}/sounds/takes/{id}/delete").status_code == 404
    assert browser.submit(f"{place}/delete").status_code == 303
    assert not Shelf(voice.uploads).ids()


def test_a_long_file_is_cut_as_soon_as_it_is_there(browser, voice, at, studio, me):

    import numpy as np

    sound = np.tile(spoken("papa mino lesu, tara koni sewu."), 10)
    assert upload(browser, at, "long.wav", wav(sound)).status_code == 200
    (task,) = studio.tasks.list(me, project=voice)
    assert (ended(task).state, task.error) == ("done", "")
    (id,) = Shelf(voice.uploads).ids()
    clips = Shelf(voice.clips).ids()
    assert len(clips) == task.result["clips"] >= 2
    page = browser.get(f"{at}/files").text
    assert f"/sounds/clips/{clips[0]}" in page
    text = {"text": "papa mino"}
    assert browser.submit(f"{at}/sounds/clips/{clips[0]}/text", text, headers={"hx-request": "true"}).status_code == 200
    assert Shelf(voice.clips).notes(clips[0])["text"] == "papa mino"
    assert browser.submit(f"{at}/sounds/uploads/{id}/delete").status_code == 303
    assert not Shelf(voice.clips).ids()


def test_a_recogniser_must_be_named(browser, voice, at, studio, me):
    voice.change(language="de")
    assert browser.submit(f"{at}/files/texts", {"whisper": " "}).status_code == 422
    assert not studio.tasks.list(me)


def test_from_elsewhere_no_folder_is_read_and_no_model_chosen(studio, voice, at, me, tmp_path):
    voice.change(language="de")
    door = Access(application(studio), Names("127.0.0.1"), tell=closed)
    away = Browser(door, base_url="http://127.0.0.1", client=("192.0.2.7", 1))
    for named in (str(tmp_path), "somebody/large"):
        assert away.submit(f"{at}/files/texts", {"whisper": named}).status_code == 422
    assert "whisper" not in me.settings()
    assert not studio.tasks.list(me)


# Words


def test_every_sentence_that_the_code_names_is_there():
    root = resources.files("mlx_voxclone.studio") / "record"
    code = "\n".join(path.read_text() for path in root.iterdir() if path.name.endswith(".py"))
    found = {f"record.wrong.{key}" for key in re.findall(r"record\.wrong\.(\w+)", code)}
    found |= {f"record.check.{key}" for key in [*re.findall(r'Finding\("(\w+)"', code), *_REASONS.values()]}
    found |= {f"languages.{language}" for language in LANGUAGES}
    keys = ["with_text", "without_text", "long", "long_with_text", "text", "text_waits", "list"]
    found |= {f"record.received.{key}" for key in keys}
    script = (root.parent / "templates/record/takes.html").read_text()
    found |= {f"record.recorder.{key}" for key in re.findall(r'"(\w+)"', re.search(r"for key in \((.*?)\)", script)[1])}
    assert len(found) > 60
    for code in languages():
        assert not found - set(texts(code))
