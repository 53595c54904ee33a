"""What is on the hub is told to be there, however the upload ended; what is not, is not."""

import shutil
import sys

import pytest
from publishable import CONSENT, make_run
from visiting import ended
from waiting import wait_for

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio import child
from mlx_voxclone.studio.keep import publishing
from mlx_voxclone.studio.keep.publishing import Wanted, publish
from mlx_voxclone.studio.web.languages import languages, texts

pytest_plugins = ["baking"]
ADDRESS = "https://huggingface.co/ann/voice/commit/1"
UNVERIFIED = f"ann/voice: published at {ADDRESS}, not verified (the hub cannot be reached); run again"
WISH = Wanted("ann/voice", CONSENT, private=False)


@pytest.fixture
def voice(me, base, encoder, adapters):
    project = me.new_project("Ann", "de")
    project.change(consent={"who": "Ann Lee", "when": "2026-05-02", "purpose": "audiobooks", "statement": "I agree."})
    shutil.copytree(make_run(project.folder / "made", base, encoder, adapters), project.run)
    return project


@pytest.fixture
def uploads(studio, me, voice, tmp_path, monkeypatch):
    """A function: an upload by a program that prints an output and a line of its mistakes, and may then go on."""
    monkeypatch.setattr(child, "PATIENCE", 0.2)

    def begin(output="", said="", *, fails=False, cancel=False):
        sign = tmp_path / "sign"
        program = (
            f"import pathlib, sys, time; print({output!r}, flush=True); print({said!r}, file=sys.stderr, flush=True);"
            f"pathlib.Path({str(sign)!r}).touch(); time.sleep({600 if cancel else 0}); sys.exit({2 if fails else 0})"
        )
        monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", program))
        task = studio.tasks.start(me, publishing.PUBLISH, "x", publish(voice, WISH), project=voice, lane="files")
        if cancel:
            wait_for(sign.exists)
            task.cancel()
        return ended(task)

    return begin


def seen(browser, voice, task, code="en") -> str:
    address = f"/voices/{voice.id}/publish?upload={task.id}"
    return browser.get(address, headers={"accept-language": code}).text


def test_what_was_published_before_it_was_cancelled_is_done(browser, voice, uploads):
    task = uploads(f"a file  1 MB\n{ADDRESS}", cancel=True)
    assert task.state == "done"
    assert task.result["address"] == ADDRESS
    assert voice.info()["published"]["address"] == ADDRESS
    assert f'href="{ADDRESS}"' in seen(browser, voice, task)


@pytest.mark.parametrize(("said", "cancel"), [(f"error: {UNVERIFIED}", False), (f"interrupted: {UNVERIFIED}", True)])
def test_what_was_published_and_not_verified_is_told(browser, voice, uploads, said, cancel):
    task = uploads(said=said, fails=True, cancel=cancel)
    assert task.state == "failed"
    assert voice.info()["published"] == {"repository": "ann/voice", "address": ADDRESS, "private": False}
    for code in languages():
        assert texts(code)["keep.wrong.not_verified"].format(address=ADDRESS) in seen(browser, voice, task, code)
    assert f'href="{ADDRESS}"' in browser.get(f"/voices/{voice.id}").text


@pytest.mark.parametrize("said", ["error: ann/voice: not published (no access (401))", "error: x", ""])
def test_what_was_not_published_is_not_said_to_be(browser, voice, uploads, said):
    task = uploads(said=said, fails=True)
    assert task.state == "failed"
    assert "published" not in voice.info()
    assert texts("en")["trouble.failed.publish"] in seen(browser, voice, task)
    assert uploads("a file  1 MB", "interrupted", cancel=True).state == "cancelled"
    assert "published" not in voice.info()


def test_an_address_that_cannot_be_noted_is_shown_all_the_same(browser, voice, uploads, monkeypatch):
    def full(**values):
        raise CheckpointError("voice.json: not written, no space left on its disk")

    monkeypatch.setattr(voice, "change", full)
    task = uploads(ADDRESS)
    assert (task.state, task.result["address"]) == ("done", ADDRESS)
    assert f'href="{ADDRESS}"' in seen(browser, voice, task)
