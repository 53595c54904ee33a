"""Voices kept: cards, names, exports, baking, publishing, deletion."""

import fcntl
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from publishable import CONSENT, SECRET, make_run
from visiting import Browser, ended

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.home import write_json
from mlx_voxclone.studio.keep import exports, publishing, removal
from mlx_voxclone.studio.keep.cards import LONGEST_TITLE
from mlx_voxclone.studio.keep.made import made_of
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.tasks import MOST_OPEN
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.languages import texts

pytest_plugins = ["baking", "hub_fixtures"]
AGREED = {"who": "Ann Lee", "when": "2026-05-02T10:00:00+00:00", "purpose": "audiobooks", "statement": "I agree."}


@pytest.fixture(scope="module")
def trained(base, encoder, adapters, tmp_path_factory) -> Path:
    """A run that has ended. Read it only."""
    return make_run(tmp_path_factory.mktemp("runs") / "ann", base, encoder, adapters)


@pytest.fixture
def browser(studio) -> Browser:
    """One of this machine: only there paths are shown, and voices published."""
    access = Access(application(studio), Names("127.0.0.1"), tell=closed)
    return Browser(access, base_url="http://127.0.0.1", client=("127.0.0.1", 50000))


@pytest.fixture
def voice(me):
    """A voice of which nothing was made yet."""
    return me.new_project("Ann", "de")


@pytest.fixture
def ready(voice, trained):
    """One that was trained."""
    voice.change(consent=AGREED)
    shutil.copytree(trained, voice.run)
    voice.takes.mkdir()
    (voice.takes / "0001-abcd.wav").write_bytes(b"x" * 5_000_000)
    return voice


def spoken(person, voice, id="0123456789ab", task=None) -> Path:
    """A speech of the history, spoken with a voice."""
    folder = person.folder / "speech" / id
    (folder / "takes").mkdir(parents=True)
    write_json(folder / "asked.json", {"voice": f"own:{voice.id}"})
    write_json(folder / "state.json", {"task": task})
    (folder / "takes" / "0000-0.wav").write_bytes(b"RIFF")
    return folder


# ---- cards and names -----------------------------------------------------------------------------------------------


def test_cards_tell_how_far_a_voice_is(browser, me, ready):
    other = me.new_project("<b>Ben</b> & Co", "fr")
    page = browser.get("/voices").text
    assert "ready" in page
    assert "being recorded" in page
    assert "&lt;b&gt;Ben" in page
    assert f"/files/voices/{ready.id}/sample.wav" in page
    assert f"/files/voices/{other.id}/sample.wav" not in page
    assert f"/voices/{other.id}/record" in page
    sample = browser.get(f"/files/voices/{ready.id}/sample.wav", headers={"range": "bytes=0-3"})
    assert (sample.status_code, sample.content, sample.headers["content-type"]) == (206, b"RIFF", "audio/wav")
    assert browser.get(f"/files/voices/{other.id}/sample.wav").status_code == 404


ODD = '{"title": ["no title"], "language": 3, "published": 7, "consent": "x", "created": "yesterday"}'


@pytest.mark.parametrize(("content", "status"), [(ODD, 200), ("nonsense", 422), ("[]", 422), ("", 422)])
def test_a_voice_whose_file_is_damaged_leaves_the_others(browser, me, ready, content, status):
    broken = me.new_project("Broken", "fr")
    (broken.folder / "voice.json").write_text(content)
    page = browser.get("/voices")
    assert page.status_code == 200
    assert "Ann, a sample" in page.text
    assert (str(broken.folder / "voice.json") in page.text) == (status == 422)
    assert browser.get(f"/voices/{broken.id}").status_code == status
    (broken.folder / "voice.json").unlink()  # what a deletion in another tab leaves of an upload
    assert broken.id not in browser.get("/voices").text


def test_settings_that_are_damaged_are_told(browser, me):
    me.change_settings(language="de")
    (me.folder / "settings.json").write_text("nonsense")
    answer = browser.get("/voices")
    assert answer.status_code == 500
    assert "settings.json" in answer.text


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("Änne", "Änne"),
        ("  a \t b\n", "a b"),
        ("<script>", "<script>"),
        ("a\x00b\u202e", "a b"),
        ("x" * LONGEST_TITLE, "x" * LONGEST_TITLE),
    ],
)
def test_a_voice_has_another_name(browser, voice, typed, kept):
    assert browser.submit(f"/voices/{voice.id}/rename", {"title": typed}).status_code == 303
    assert voice.info()["title"] == kept


@pytest.mark.parametrize("typed", ["", "   ", "\n", "\x00", "x" * (LONGEST_TITLE + 1), "\u202e"])
def test_what_is_no_name_is_told_beside_the_field(browser, voice, typed):
    answer = browser.submit(f"/voices/{voice.id}/rename", {"title": typed})
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert voice.info()["title"] == "Ann"


# ---- exports -------------------------------------------------------------------------------------------------------


def test_what_can_be_taken_away_is_what_the_training_made(browser, ready):
    found = {one.key: one for one in exports.exports_of(ready)}
    assert list(found) == ["voice.safetensors", "voice.pt", "vllm", "adapters"]
    page = browser.get(f"/voices/{ready.id}").text
    for key, one in found.items():
        for name, size in one.files:
            address = f"/files/voices/{ready.id}/{key}/{name}"
            assert address in page
            got = browser.get(address)
            root = one.place.parent if key.startswith("voice.") else one.place
            assert got.content == (root / name).read_bytes()
            assert len(got.content) == size
            assert got.headers["content-type"] in ("application/octet-stream", "text/plain; charset=utf-8")
            assert got.headers["content-disposition"].startswith("attachment")
    assert Release(found["vllm"].place).voices()


def test_paths_are_for_browsers_of_this_machine(studio, ready):
    for client, shown in ((("127.0.0.1", 1), True), (("::1", 1), True), (("192.0.2.1", 1), False), (("x", 1), False)):
        browser = Browser(Access(application(studio), Names("127.0.0.1")), base_url="http://127.0.0.1", client=client)
        assert (str(ready.run) in browser.get(f"/voices/{ready.id}").text) == shown
        assert (browser.submit(f"/voices/{ready.id}/publish", {}).status_code == 403) == (not shown)


@pytest.mark.parametrize(
    "rest",
    [
        "voice.safetensors/../../../config.yaml", "voice.safetensors/casual_male.pt", "vllm/../config.yaml",
        "vllm/%2e%2e/config.yaml", "vllm/..%2fconfig.yaml", "vllm//etc/passwd", "vllm/", "run/config.yaml",
        "takes/0001-abcd.wav", "adapters/../../log.jsonl", "vllm/.hidden", "mlx-audio/params.json", "voice.exe/ann.exe",
    ],
)  # fmt: skip
def test_nothing_else_is_served(browser, ready, rest):
    (ready.run / "baked" / ".hidden").write_text("x")
    assert browser.get(f"/files/voices/{ready.id}/{rest}").status_code == 404


def test_links_in_an_export_lead_nowhere(browser, ready, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for path in (ready.run / "speaker" / "best").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    (ready.run / "baked" / "link.json").symlink_to(tmp_path / "secret")
    (ready.run / "baked" / "folder").symlink_to(tmp_path)
    for name in ("link.json", "folder/secret"):
        assert browser.get(f"/files/voices/{ready.id}/vllm/{name}").status_code == 404
    shutil.rmtree(ready.run / "speaker" / "best")
    (ready.run / "speaker" / "best").symlink_to(tmp_path)
    for name in ("secret", "adapters.safetensors"):
        assert browser.get(f"/files/voices/{ready.id}/adapters/{name}").status_code == 404
    shutil.copytree(ready.run / "samples", tmp_path / "samples")
    shutil.rmtree(ready.run / "samples")
    (ready.run / "samples").symlink_to(tmp_path / "samples")
    assert browser.get(f"/files/voices/{ready.id}/sample.wav").status_code == 404


def test_a_checkpoint_is_baked_in_a_process_of_its_own(browser, studio, me, ready):
    assert "mlx-audio" in browser.get(f"/voices/{ready.id}").text
    answer = browser.submit(f"/voices/{ready.id}/bake", {"bits": "full"})
    assert answer.status_code == 303
    (task,) = studio.tasks.list(me)
    assert browser.submit(f"/voices/{ready.id}/bake", {"bits": "8"}).status_code in (303, 422)
    assert ended(task).state == "done", task.error
    made = ready.exports / "mlx-audio"
    assert Release(made).voices() == Release(ready.run / "baked").voices()
    assert [one.key for one in exports.exports_of(ready)][3] == "mlx-audio"
    assert browser.get(f"/files/voices/{ready.id}/mlx-audio/params.json").status_code == 200
    with pytest.raises(Mistake, match="there"):
        exports.bake(ready, None)
    assert browser.submit(f"/voices/{ready.id}/exports/delete", {"export": "vllm"}).status_code == 404
    for task in studio.tasks.list(me):
        task.cancel()
        ended(task)
    assert browser.submit(f"/voices/{ready.id}/exports/delete", {"export": "mlx-audio"}).status_code == 303
    assert not made.exists()
    assert (ready.run / "baked").is_dir()


def test_baking_needs_space_and_something_to_bake(browser, ready, voice, monkeypatch):
    size = exports.needed(made_of(ready), None)
    assert exports.needed(made_of(ready), 4) < exports.needed(made_of(ready), 8) < size
    monkeypatch.setattr(exports, "free_bytes", lambda place: size)
    answer = browser.submit(f"/voices/{ready.id}/bake", {"bits": "full"})
    assert answer.status_code == 422
    assert "too little space" in answer.text
    for bits in ("", "x", "-1", "3"):
        assert browser.submit(f"/voices/{ready.id}/bake", {"bits": bits}).status_code == 422
    shutil.rmtree(ready.run / "baked")
    assert browser.submit(f"/voices/{ready.id}/bake", {"bits": "8"}).status_code == 422
    assert [one.key for one in exports.exports_of(ready)] == ["adapters"]
    shutil.rmtree(ready.run)
    with pytest.raises(Mistake, match="not_trained"):
        exports.bake(ready, None)


@pytest.mark.parametrize(
    ("address", "form"), [("bake", {"bits": "8"}), ("publish", {"repository": "ann/voice", "consent": CONSENT})]
)
def test_too_many_tasks_are_a_sentence(browser, studio, me, ready, address, form):
    for _ in range(MOST_OPEN):
        studio.tasks.start(me, "other", "x", lambda task: None)
    answer = browser.submit(f"/voices/{ready.id}/{address}", form)
    assert answer.status_code == 422
    assert re.findall(r'role="alert">([^<]+)<', answer.text) == [texts("en")["tasks.too_many"].format(most=MOST_OPEN)]
    assert len(studio.tasks.list(me)) == MOST_OPEN


# ---- a voice that is brought ---------------------------------------------------------------------------------------


def test_a_voice_is_brought_kept_and_taken_away(browser, me, ready):
    content = exports.export(ready, "voice.safetensors").place.read_bytes()
    answer = browser.submit("/voices/import", files={"file": ("../Ann's.safetensors", content)})
    assert answer.status_code == 303
    (kept,) = (me.folder / "brought").iterdir()
    assert kept.read_bytes() == content
    assert f"/files/brought/{kept.name}" in browser.get("/voices").text
    assert browser.get(f"/files/brought/{kept.name}").content == content
    for name in ("nothing.safetensors", "..%2fsettings.json", ".hidden"):
        assert browser.get(f"/files/brought/{name}").status_code == 404
    assert browser.submit("/voices/brought/delete", {"voice": f"files:{kept.name}"}).status_code == 303
    assert not kept.exists()
    assert browser.submit("/voices/brought/delete", {"voice": "files:../settings.json"}).status_code == 404


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.safetensors", b""),
        ("x.safetensors", b"nonsense" * 10),
        ("x.pt", b"PK\x03\x04"),
        ("x.exe", b"MZ"),
        ("", b"x"),
    ],
)
def test_what_is_no_voice_is_refused(browser, me, name, content):
    answer = browser.submit("/voices/import", files={"file": (name, content)})
    assert answer.status_code in (400, 422)
    assert not any((me.folder / "brought").glob("*")) if (me.folder / "brought").exists() else True


# ---- published -----------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(hub, monkeypatch, tmp_path):
    """The stand-in's hub, for processes of ours, too."""
    for name, value in {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return hub


@pytest.mark.slow
def test_publishing_shows_everything_first_and_uploads_that(browser, studio, me, ready, outside, monkeypatch):
    from hub_stand_in import WRITE

    address = f"/voices/{ready.id}/publish"
    page = browser.get(address).text
    assert "Ann Lee agreed on 2026-05-02" in page
    wish = {"repository": "ann/voice", "consent": CONSENT}
    looked = browser.submit(address, wish)
    assert looked.status_code == 303
    (task,) = studio.tasks.list(me, kind=publishing.LOOK)
    assert ended(task).state == "done", task.error
    assert not outside.requests  # nothing was asked of the network
    names = [name for name, _ in task.result["files"]]
    assert {"voices/ann.safetensors", "adapters/adapters.safetensors", "README.md", "published.json"} <= set(names)
    shown = browser.get(looked.headers["location"]).text
    for text in (*names, CONSENT, "CC BY-NC 4.0", "private"):
        assert text in shown
    assert SECRET not in shown
    confirm = {"look": task.id, "confirmed": "on"}
    assert browser.submit(f"{address}/now", confirm).status_code == 422  # not logged in
    monkeypatch.setenv("HF_TOKEN", WRITE)
    assert browser.submit(f"{address}/now", {"look": task.id}).status_code == 422  # not confirmed
    assert not outside.repositories
    assert browser.submit(f"{address}/now", confirm).status_code == 303
    (upload,) = studio.tasks.list(me, kind=publishing.PUBLISH)
    assert ended(upload).state == "done", upload.error
    made = outside.repositories["ann/voice"]
    assert made.private
    assert sorted(made.files) == sorted([".gitattributes", *names])
    assert upload.result["address"].startswith("http")
    assert ready.info()["published"]["repository"] == "ann/voice"
    assert WRITE not in json.dumps([task.result, upload.result])


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"repository": ""}, "repository"),
        ({"repository": "ann"}, "repository"),
        ({"repository": "ann/../x"}, "repository"),
        ({"repository": "ann/voice --public"}, "repository"),
        ({"repository": "-x/--repo=y"}, "repository"),
        ({"consent": ""}, "consent"),
        ({"consent": "yes"}, "consent"),
        ({"consent": "agreed, see /home/ann/consent.pdf"}, "consent"),
        ({"consent": "a " * 600}, "consent"),
    ],
)
def test_what_cannot_be_published_is_told_beside_the_field(browser, studio, me, ready, changed, field):
    wish = {"repository": "ann/voice", "consent": CONSENT} | changed
    answer = browser.submit(f"/voices/{ready.id}/publish", wish)
    assert answer.status_code == 422
    sentence = answer.text.partition(f'id="{field}-mistake" role="alert">')[2].partition("<")[0]
    assert sentence
    assert not studio.tasks.list(me)


def test_nothing_is_published_without_consent_or_another_voices_look(browser, studio, me, ready, trained):
    other = me.new_project("Ben", "en")
    task = studio.tasks.start(me, publishing.LOOK, "x", lambda t: {}, project=other, lane="files")
    ended(task)
    answer = browser.submit(f"/voices/{ready.id}/publish/now", {"look": task.id, "confirmed": "on"})
    assert answer.status_code == 404
    assert browser.get(f"/voices/{ready.id}/publish?look={task.id}").status_code == 404
    ready.change(consent=None)
    assert browser.submit(f"/voices/{ready.id}/publish", {"repository": "a/b", "consent": CONSENT}).status_code == 422
    assert "No consent" in browser.get(f"/voices/{ready.id}/publish").text
    assert browser.submit(f"/voices/{other.id}/publish", {"repository": "a/b", "consent": CONSENT}).status_code == 422


# ---- deleted -------------------------------------------------------------------------------------------------------


def test_deleting_lists_what_goes_and_wants_the_name(browser, me, ready, studio):
    kept, gone = spoken(me, ready), me.new_project("Ben", "en")
    spoken(me, gone, "ba9876543210")
    listed = {part.what: part for part in removal.belongings(ready, removal.spoken_with(ready))}
    assert list(listed) == ["recordings", "training", "speeches"]
    assert (listed["recordings"].files, listed["recordings"].size) == (1, 5_000_000)
    assert listed["training"].size == sum(path.stat().st_size for path in ready.run.rglob("*") if path.is_file())
    page = browser.get(f"/voices/{ready.id}/delete").text
    assert "5.00 MB" in page
    me.change_settings(language="de")
    assert "5,00 MB" in browser.get(f"/voices/{ready.id}/delete").text
    address = f"/voices/{ready.id}/delete"
    for typed in ("", "Ben", "Ann."):
        assert browser.submit(address, {"typed": typed}).status_code == 422
    assert ready.info()["title"] == "Ann"
    assert browser.submit(address, {"typed": " ann "}).headers["location"] == "/voices?done=deleted"
    assert not ready.folder.exists()
    assert browser.get(f"/voices/{ready.id}").status_code == 404
    assert kept.exists()  # what was spoken with it was to stay
    assert [project.id for project in me.projects()] == [gone.id]


def test_what_was_spoken_and_done_with_it_goes_too(browser, studio, me, ready):
    folder, other = spoken(me, ready), spoken(me, me.new_project("Ben", "en"), "ba9876543210")
    task = ended(studio.tasks.start(me, "bake", "Ann", lambda t: {}, project=ready, lane="files"))
    note = me.folder / "tasks" / f"{task.id}.json"
    assert note.exists()
    assert browser.submit(f"/voices/{ready.id}/delete", {"typed": "Ann", "speeches": "on"}).status_code == 303
    assert not folder.exists()
    assert other.exists()
    assert not note.exists()
    assert ready.id not in json.dumps([str(path) for path in me.folder.rglob("*")])


def test_nothing_is_deleted_that_is_worked_on(browser, studio, me, ready):
    address = f"/voices/{ready.id}/delete"
    (ready.run / ".lock").write_text("{}")
    with open(ready.run / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert browser.submit(address, {"typed": "Ann"}).status_code == 422
        assert "being trained" in browser.get(address).text
    write_json(studio.home.path / "trainings.json", {"waiting": [{"person": "me", "project": ready.id}]})
    assert browser.submit(address, {"typed": "Ann"}).status_code == 422
    (studio.home.path / "trainings.json").unlink()
    speaking = studio.tasks.start(me, "speak", "A text", lambda t: None)  # waits: nobody computes
    spoken(me, ready, task=speaking.id)
    assert browser.submit(address, {"typed": "Ann"}).status_code == 422
    speaking.state = "done"
    baking = studio.tasks.start(me, "bake", "A bake", lambda t: None, project=ready)
    assert browser.submit(address, {"typed": "Ann"}).status_code == 422
    assert "A bake" in browser.get(address).text
    assert ready.info()["title"] == "Ann"
    baking.state = "done"
    assert browser.submit(address, {"typed": "Ann"}).status_code == 303


def test_an_end_in_the_middle_leaves_no_half_voice(browser, studio, me, ready, monkeypatch):
    spoken(me, ready)
    with monkeypatch.context() as patch:
        patch.setattr(exports.shutil, "rmtree", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            removal.delete(ready, studio.tasks, studio.trainings, speeches=True)
    assert not me.projects()
    (left,) = (me.folder / "voices").iterdir()
    assert left.name.startswith(".trash-")
    with pytest.raises(Missing):
        me.project(ready.id)
    assert "Ann" not in browser.get("/voices").text
    assert not any((me.folder / "voices").iterdir())  # the page has finished it


def test_a_folder_that_cannot_be_renamed_stays_as_it_was(browser, me, ready, monkeypatch):
    real = os.rename

    def refused(source, target):
        if ".trash-" in str(target):
            raise PermissionError(13, "Permission denied")
        return real(source, target)

    monkeypatch.setattr(exports.os, "rename", refused)
    answer = browser.submit(f"/voices/{ready.id}/delete", {"typed": "Ann"})
    assert answer.status_code == 422
    assert "permission denied" in answer.text
    assert made_of(ready) is not None


def test_what_a_run_says_is_not_trusted(ready, tmp_path):
    summary = read_json(ready.run / "summary.json")
    for baked in (None, [], {}, {"voice": 3}, {"voice": "../../x"}, {"voice": "a/b"}, {"voice": ""}):
        (ready.run / "summary.json").write_text(json.dumps(summary | {"baked": baked}))
        assert made_of(ready) is None
    (ready.run / "summary.json").write_text("nonsense")
    assert made_of(ready) is None
    elsewhere = tmp_path / "elsewhere"
    (ready.run / "summary.json").write_text(json.dumps(summary | {"baked": {"voice": "ann", "path": str(elsewhere)}}))
    assert made_of(ready).baked == ready.run / "baked"
