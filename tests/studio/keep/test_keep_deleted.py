"""A voice that is to go can always be deleted: on a full disk, and by its name however that is spelt."""

import unicodedata

import pytest

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio.home import write_json
from mlx_voxclone.studio.keep import removal


@pytest.fixture
def voice(me):
    return me.new_project("Ann", "de")


def test_a_full_disk_refuses_no_deletion(browser, me, voice, monkeypatch):
    speech = me.folder / "speech" / "0123456789ab"
    speech.mkdir(parents=True)
    write_json(speech / "asked.json", {"voice": f"own:{voice.id}"})

    def full(path, value):
        raise CheckpointError(f"{path}: not written, no space left on its disk; free some and run again")

    monkeypatch.setattr(removal, "write_json", full)
    answer = browser.submit(f"/voices/{voice.id}/delete", {"typed": "Ann", "speeches": "on"})
    assert answer.status_code == 303
    assert not voice.folder.exists()
    assert not speech.exists()


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("given", ["NFC", "NFD"])
@pytest.mark.parametrize("how", ["renamed", "noted by an older studio"])
def test_a_name_is_the_same_however_its_accents_are_composed(browser, voice, how, given, typed):
    name = unicodedata.normalize(given, "Zoé  Müller")
    if how == "renamed":
        assert browser.submit(f"/voices/{voice.id}/rename", {"title": name}).status_code == 303
        assert voice.info()["title"] == "Zoé Müller"
    else:
        voice.change(title=name)
    address = f"/voices/{voice.id}/delete"
    assert browser.submit(address, {"typed": "Zoe Muller"}).status_code == 422
    assert browser.submit(address, {"typed": unicodedata.normalize(typed, "zoé müller")}).status_code == 303
    assert not voice.folder.exists()
