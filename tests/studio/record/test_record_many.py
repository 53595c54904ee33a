"""Hundreds of takes and files: every note is read once for a page, lists come in pages, texts need no sound."""

import re
from collections import Counter

import numpy as np
import pytest
from recorded import many, spoken, wav

from mlx_voxclone.audio.fingerprint import SILENT
from mlx_voxclone.data.duplicates import Sounds
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio.record import checks, long, shelf, takes, uploads
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import Takes
from mlx_voxclone.studio.record.uploads import Uploads
from mlx_voxclone.studio.web.paging import SIZE, paged

TAKES, FILES = 45, 43


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """How often each file of notes was read."""
    counted, read = Counter(), shelf.read_json

    def counting(path, *arguments):
        counted[path.parent.name, path.name] += 1
        return read(path, *arguments)

    monkeypatch.setattr(shelf, "read_json", counting)
    return counted


@pytest.fixture
def looks(monkeypatch) -> list:
    """Sounds that were looked at to check them."""
    looked, usable = [], checks.usable

    def looking(path, *arguments):
        looked.append(path)
        return usable(path, *arguments)

    monkeypatch.setattr(checks, "usable", looking)
    return looked


def listed(page: str, of: str = "take") -> list[str]:
    return re.findall(rf'<li class="card[^"]*" id="{of}-([^"]+)"', page)


# Reading


def test_a_page_reads_every_note_once(browser, voice, at, reads):
    many(voice, TAKES, FILES, clips=5)
    for address in (at, f"{at}/files", f"/voices/{voice.id}/train", "/voices"):
        reads.clear()
        assert browser.get(address).status_code == 200
        assert len(reads) == TAKES + FILES + 1 + 5
        assert set(reads.values()) == {1}, address


def test_what_is_sent_reads_every_note_but_once_more(browser, voice, at, reads):
    """Besides the page that answers, the one item that it is about."""
    many(voice, TAKES, FILES)
    slot, own = Takes(voice).next().key, Shelf(voice.takes).ids()[3]
    headers = {"x-csrf": browser.csrf(), "hx-request": "true"}

    def send(address, **keywords):
        reads.clear()
        assert browser.post(f"{at}/{address}", headers=headers, **keywords).status_code == 200
        return sum(reads.values())

    everything = TAKES + FILES
    assert send("skip", data={"slot": slot}) <= everything
    assert send("own", data={"text": "tara koni"}) <= everything
    assert send(f"takes?slot={slot}", content=wav(spoken("papa mino lesu."))) <= everything + 10
    assert send(f"takes/{own}/text", data={"text": "papa mino"}) <= 5
    assert send(f"takes/{own}/delete") <= everything + 5
    assert send("files/one?name=a.wav", content=wav(spoken("papa mino lesu.", 3))) <= FILES + 10
    assert send("files/one?name=b.txt", content=b"papa mino") <= FILES + 10


def test_a_sound_that_is_here_is_found_without_reading_the_others(voice, tmp_path, reads):
    many(voice, TAKES, FILES)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(spoken("papa mino lesu.", 7)))
    Uploads(voice).add("a.wav", path)
    reads.clear()
    with pytest.raises(uploads.Mistake):
        Uploads(voice).add("b.wav", path)
    assert sum(reads.values()) <= 2


def test_texts_of_a_table_look_at_no_sound(voice, tmp_path, looks):
    many(voice, uploads=FILES)
    looks.clear()
    table = tmp_path / "metadata.csv"
    table.write_text("".join(f"file {k}|papa mino lesu\n" for k in range(FILES)))
    assert Uploads(voice).add("metadata.csv", table).values == {"count": FILES, "given": FILES}
    assert not looks
    assert {notes["text"] for _, notes in Shelf(voice.uploads).items()} == {"papa mino lesu"}
    Uploads(voice).set_text(Shelf(voice.uploads).ids()[0], "papa " * 100)
    assert Shelf(voice.uploads).items()[0][1]["check"]["state"] == "bad"
    assert not looks


@pytest.mark.parametrize(("first", "last"), [(0, None), (9000, None), (0, -16000), (9000, -12000)])
def test_another_text_is_checked_as_if_the_sound_were(tmp_path, first, last):
    (tmp_path / "x.wav").write_bytes(wav(np.tile(spoken("papa mino lesu, tara koni sewu."), 3)[first:last]))
    texts = [None, "papa", "papa mino lesu, tara koni sewu", "papa mino lesu tara. " * 40]
    known = [checks.check(tmp_path / "x.wav", text)[0] for text in texts]
    assert len({found.findings for found in known}) > 2
    for found in known:
        assert [found.with_text(text) for text in texts] == known


def test_sounds_that_are_alike_are_found_among_many():
    rng = np.random.default_rng(0)
    prints = [rng.integers(1, 1 << 32, size, np.uint32) for size in (80, 0, 120, 64)]
    known = Sounds(prints)
    assert [known.match(one) for one in prints] == [0, None, 2, 3]
    assert known.match(np.concatenate([prints[2][40:], prints[0][:10]])) == 2
    assert known.match(rng.integers(1, 1 << 32, 90, np.uint32)) is None
    assert known.match(np.full(50, SILENT, np.uint32)) is None
    assert Sounds([]).match(prints[0]) is None


# A check that did not end


def test_a_take_whose_check_did_not_end_is_checked_once(browser, voice, at, monkeypatch, looks):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(takes, "check", killed)
        with pytest.raises(KeyboardInterrupt):
            Takes(voice).record(f"{SYLLABLES}-001", wav(spoken("papa mino lesu.")))
    looks.clear()
    assert 'data-state="good"' in browser.get(at).text
    assert browser.get(f"{at}/files").status_code == browser.get("/voices").status_code == 200
    assert len(looks) == 1
    ((_, notes),) = Shelf(voice.takes).items()
    assert notes["check"]["state"] == "good"
    assert len(notes["peaks"]) > 100


def test_a_check_that_cannot_be_noted_is_told_all_the_same(voice, monkeypatch):
    def full(*_, **__):
        raise CheckpointError("full")

    monkeypatch.setattr(Shelf, "change", full)
    assert Takes(voice).record(f"{SYLLABLES}-001", wav(spoken("papa mino lesu."))).check.state == "good"


# Pages


def test_long_lists_come_in_pages(browser, voice, at):
    many(voice, TAKES, FILES)
    for address, count, of in ((at, TAKES, "take"), (f"{at}/files", FILES, "file")):
        pages = [browser.get(address, params={"page": number}).text for number in (1, 2, 3)]
        ids = [id for page in pages for id in listed(page, of)]
        shelved = Shelf(voice.takes if of == "take" else voice.uploads).ids()
        assert ids == shelved[::-1]
        assert [len(listed(page, of)) for page in pages] == [SIZE, SIZE, count - 2 * SIZE]
        assert f"21 to 40 of {count}" in pages[1]
        assert re.search(r'<a[^>]* aria-current="page"[^>]* aria-label="Page 2">2</a>', pages[1])
        assert 'rel="prev"' not in pages[0]
        assert 'rel="next"' not in pages[2]
        for odd in ("0", "99", "-1", "x", "9" * 50, "²"):
            assert listed(browser.get(address, params={"page": odd}).text, of) in map(lambda p: listed(p, of), pages)


def test_short_lists_have_no_pages(browser, voice, at):
    many(voice, 3, 3)
    for address in (at, f"{at}/files"):
        assert 'class="row pager"' not in browser.get(address).text


def test_a_form_leads_back_to_its_page(browser, voice, at):
    many(voice, TAKES, FILES)
    third = listed(browser.get(at, params={"page": 3}).text)[0]
    action = re.search(rf'action="([^"]+{third}/delete[^"]*)"', browser.get(at, params={"page": 3}).text)[1]
    answer = browser.submit(action, headers={"hx-request": "true"})
    assert listed(answer.text)[0] == Shelf(voice.takes).ids()[::-1][2 * SIZE]
    text = browser.submit(f"{at}/takes/{listed(answer.text)[0]}/text?page=3", {"text": "papa mino"})
    assert text.headers["location"] == f"{at}?page=3#take-{listed(answer.text)[0]}"
    file = listed(browser.get(f"{at}/files", params={"page": 2}).text, "file")[0]
    place = f"{at}/sounds/uploads/{file}"
    assert f'action="{place}/text?page=2"' in browser.get(f"{at}/files", params={"page": 2}).text
    moved = browser.submit(f"{place}/text?page=2&show=silent", {"text": "papa"}).headers["location"]
    assert moved == f"{at}/files?show=silent&page=2#file-{file}"
    assert browser.submit(f"{place}/delete?page=2").headers["location"] == f"{at}/files?page=2"


def test_what_needs_work_can_be_listed_alone(browser, voice, at):
    many(voice, TAKES, FILES)
    ids = Shelf(voice.uploads).ids()
    Uploads(voice).set_text(ids[5], "papa mino lesu")
    Uploads(voice).set_text(ids[7], "papa " * 100)
    page = browser.get(f"{at}/files", params={"show": "bad"}).text
    assert listed(page, "file") == [ids[7]]
    assert '/text?show=bad"' in page
    silent = [listed(browser.get(f"{at}/files", params={"show": "silent", "page": k}).text, "file") for k in (1, 2, 3)]
    assert [id for page in silent for id in page] == [id for id in ids[::-1] if id not in (ids[5], ids[7])]
    take = Shelf(voice.takes).ids()[0]
    Takes(voice).set_text(take, "papa " * 70)
    assert listed(browser.get(at, params={"show": "bad"}).text) == [take]
    assert len(listed(browser.get(at, params={"show": "x"}).text)) == SIZE


def test_many_clips_of_a_recording_have_pages_of_their_own(browser, voice, at):
    many(voice, uploads=2, clips=30)
    first = browser.get(f"{at}/files").text
    assert "/sounds/clips/" not in first
    (of,) = re.findall(r'files\?of=([^"#]+)#list', first)
    pages = [browser.get(f"{at}/files", params={"of": of, "page": k}).text for k in (1, 2)]
    assert [id for page in pages for id in listed(page, "file")] == Shelf(voice.clips).ids()
    clip = listed(pages[1], "file")[0]
    answer = browser.submit(f"{at}/sounds/clips/{clip}/delete?of={of}&page=2", headers={"hx-request": "true"})
    assert len(listed(answer.text, "file")) == 9
    assert browser.get(f"{at}/files", params={"of": "nothing"}).text.count('id="file-') == 3
    assert not long.uncut(voice)


def test_links_lead_to_the_first_the_last_and_the_nearest_page():
    def numbers(wanted, count=200):
        return paged(range(count), str(wanted)).numbers

    assert numbers(1) == [1, 2, None, 10]
    assert numbers(5) == [1, None, 4, 5, 6, None, 10]
    assert numbers(3) == [1, 2, 3, 4, None, 10]
    assert numbers(10) == [1, None, 9, 10]
    assert numbers(1, 5) == [1]
    empty = paged([], None)
    assert (empty.first, empty.last, empty.pages) == (0, 0, 1)
    assert paged(range(50), "2", {"show": "bad", "of": ""}).at() == "?show=bad&page=2"
    assert paged(range(50), "2", {"show": "bad"}).at(show="") == ""
