"""The Whisper that makes missing texts: fetched with its bytes as progress, loaded in pieces, cancelled at once."""

import shutil
import threading

import pytest
from recorded import AGREED, whisper
from visiting import ended

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.studio.mistakes import Cancelled
from mlx_voxclone.studio.model import whispers
from mlx_voxclone.studio.record import file_pages, long
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.uploads import Uploads
from mlx_voxclone.studio.tasks import Task, beside
from mlx_voxclone.whisper import model as whisper_model
from mlx_voxclone.whisper.model import CONFIG, LOADING, WEIGHTS, WhisperFiles

pytest_plugins = ["hub_fixtures"]

NAME = "ann/whisper"


@pytest.fixture
def task(me):
    return Task(me, "prepare", "A task", None, "files")


@pytest.fixture
def stand_in(hub, monkeypatch):
    """The hub's stand-in, for processes too."""
    import huggingface_hub.constants as constants

    values = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": constants.HF_HUB_CACHE, "HF_HUB_DISABLE_XET": "1"}
    for name, value in (values | {"HF_HUB_OFFLINE": "0"}).items():
        monkeypatch.setenv(name, value)
    return hub


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    from tiny_whisper import write_whisper

    return write_whisper(tmp_path_factory.mktemp("whisper") / "talking")


@whisper
@pytest.mark.slow  # imports mlx-whisper in a process of its own
def test_it_is_fetched_with_its_bytes_as_progress(me, stand_in, talking, task, monkeypatch):
    files = {path.name: path.read_bytes() for path in talking.iterdir()}
    stand_in.make(NAME, files | {"README.md": b"a card", "pytorch_model.bin": b"not needed" * 1000})
    assert not whispers.at_hand(NAME)
    with pytest.raises(DataError, match="not on this machine"):
        whispers.place_of(NAME)
    seen, progress = [], task.progress
    monkeypatch.setattr(task, "progress", lambda done, total, what="": seen.append((done, total)) or progress(done, 1))
    found = whispers.fetch(task, NAME)
    assert found["bytes"] == sum(len(files[name]) for name in (CONFIG, *WEIGHTS) if name in files)
    assert seen[0] == (0, None)  # its size is asked for
    assert (0, found["bytes"]) in seen
    assert seen[-1] == (found["bytes"], found["bytes"])
    assert whispers.at_hand(NAME)
    place = whispers.place_of(NAME)
    assert (WhisperFiles(place).directory / CONFIG).read_bytes() == files[CONFIG]
    stand_in.fail(r".", 503)  # loading it asks no network
    assert whispers.place_of(NAME) == place


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "not fetched from the hub"),
        pytest.param({"config.json": b"{}"}, "cannot be loaded as a Whisper", marks=pytest.mark.slow),
    ],
)
def test_what_is_not_to_be_had_is_one_line(stand_in, task, files, said):
    if files is not None:
        stand_in.make(NAME, files)
    with pytest.raises(CheckpointError, match=said) as caught:
        whispers.fetch(task, NAME)
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)


def test_fetching_is_cancelled_with_its_process(stand_in, task, monkeypatch):
    stand_in.make(NAME, {CONFIG: b"{}", WEIGHTS[0]: b"0" * 1000})
    stand_in.fail(r"resolve", 503)  # the library tries again and again
    timer = threading.Timer(0.5, task.cancel)
    timer.start()
    with pytest.raises(Cancelled):
        whispers.fetch(task, NAME)


def test_its_size_is_not_waited_for(task, monkeypatch):
    """Where the network says nothing, a look-up takes as long as its time limits do."""
    asked, ended, found = threading.Event(), threading.Event(), []

    def silent(model):
        asked.set()
        found.append(ended.wait(20))
        return {}

    monkeypatch.setattr(whispers, "sizes_on_hub", silent)
    threading.Thread(target=lambda: asked.wait(60) and task.cancel()).start()
    with pytest.raises(Cancelled):
        whispers.fetch(task, NAME)
    assert not found  # it still asks
    ended.set()


def test_beside_gives_what_was_found_and_raises_what_was_raised(task):
    assert beside(task, lambda: threading.current_thread().name) == "beside"

    def timed_out():
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        beside(task, timed_out)


def test_a_name_that_cannot_be_is_told_when_it_is_loaded(tmp_path):
    assert whispers.at_hand(str(tmp_path))
    assert whispers.place_of(str(tmp_path)) == str(tmp_path)
    assert not whispers.at_hand("nobody/has-this-whisper")
    assert whispers.at_hand("no such name")
    assert whispers.place_of("no such name") == "no such name"


@whisper
def test_loading_is_told_and_can_be_cancelled(talking, monkeypatch):
    monkeypatch.setattr(whisper_model, "_PIECE", 1 << 16)
    files, told = WhisperFiles(str(talking)), []
    files.load(lambda *step: told.append(step))
    size = files.weights.stat().st_size
    assert told[0] == (0, size, LOADING)
    assert told[-1] == (size, size, LOADING)
    assert len(told) > 3
    loaded = []
    monkeypatch.setattr(
        whisper_model.whisper_module("load_models"), "load_model", lambda *_: loaded.append(1) or pytest.fail("loaded")
    )

    def cancel(done, total, what):
        if done:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        files.load(cancel)
    assert not loaded


@whisper
def test_making_texts_is_cancelled_while_the_whisper_is_loaded(me, task, talking, monkeypatch):
    voice = me.new_project("Ann", "en")
    told, progress = [], task.progress

    def tell(done, total, what=""):
        told.append(what)
        task.cancel()
        progress(done, total, what)

    monkeypatch.setattr(task, "progress", tell)
    with pytest.raises(Cancelled):
        long.make_texts(voice, task, str(talking), "Loading the recogniser")
    assert told == ["Loading the recogniser"]


@whisper
def test_making_texts_is_cancelled_within_a_clip(me, task, talking, tmp_path, monkeypatch):
    """A slow machine hears one clip of 30 s for a minute: the task is looked at before each token."""
    voice, path, hear = me.new_project("Ann", "en"), tmp_path / "clip.wav", long.Transcriber.transcribe
    write_wav(path, synthesise("mana lomi nalu wera.", SyntheticSpeaker.sample(0), 0))
    voice.change(consent=AGREED)
    id = Uploads(voice).add("clip.wav", path).id
    monkeypatch.setattr(long.Transcriber, "transcribe", lambda *clip: task.cancel() or hear(*clip))
    with pytest.raises(Cancelled):
        long.make_texts(voice, task, str(talking))
    assert Shelf(voice.uploads).notes(id)["text"] is None


@whisper
def test_a_mistake_names_the_whisper_and_not_where_it_lies(me, task, talking, tmp_path, monkeypatch):
    place = shutil.copytree(talking, tmp_path / "snapshots")
    (place / WEIGHTS[0]).write_bytes(b"damaged")
    monkeypatch.setattr(whispers, "place_of", lambda whisper: str(place))
    with pytest.raises(DataError, match="ann/whisper: cannot be loaded") as caught:
        long.make_texts(me.new_project("Ann", "en"), task, NAME)
    assert str(tmp_path) not in str(caught.value)


def test_the_page_shows_how_much_has_come(browser, studio, me, monkeypatch):
    """It is no download of the model's: the page of step 1 does not take it for one."""
    came, go = threading.Event(), threading.Event()

    def fetch(task, name):
        task.progress(420, 1000, name)
        came.set()
        assert go.wait(30)
        task.check()

    monkeypatch.setattr(file_pages.whispers, "fetch", fetch)
    monkeypatch.setattr(file_pages.whispers, "at_hand", lambda name: False)
    voice = me.new_project("Ann", "en")
    voice.change(consent={"who": "Ann", "when": "2026-01-01T00:00:00", "purpose": "x", "statement": "y"})
    at = f"/voices/{voice.id}/record/files"
    assert browser.submit(f"{at}/texts", {"whisper": NAME}).status_code == 303
    assert came.wait(30)
    [task] = studio.tasks.list(me)
    for page in (at, f"/tasks/{task.id}"):
        assert "42 %" in browser.get(page).text
        assert 'max="1000" value="420"' in browser.get(page).text
    assert NAME not in browser.get("/model").text
    task.cancel()
    go.set()
    ended(task)
    assert [one.state for one in studio.tasks.list(me)] == ["cancelled"]  # nothing is heard after it
