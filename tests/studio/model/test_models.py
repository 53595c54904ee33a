"""Models of the studio: loaded once, two at most, adapters over the same weights."""

import shutil
import weakref

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_voxclone
from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.checkpoint.release import WEIGHTS, Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.studio.mistakes import Cancelled
from mlx_voxclone.studio.models import LOADING, Models

pytest_plugins = ["hub_fixtures"]

TEXT, VOICE = "Good morning.", "casual_female"


@pytest.fixture
def loads(monkeypatch):
    """Directories in the order in which they were loaded."""
    found, load = [], Speaker.load

    def counted(model, **options):
        found.append(model)
        return load(model, **options)

    monkeypatch.setattr(Speaker, "load", counted)
    return found


@pytest.fixture(scope="module")
def bases(miniature, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return [shutil.copytree(miniature, folder / name) for name in ("one", "two", "three")]


def adapters(folder, base, size, target="wq"):
    """LoRA of one linear of the first layer."""
    release = Release(base)
    rng = np.random.default_rng(1)
    name = f"layers.0.attention.{target}"
    rows, width = release.load_parameters(["lm"])[f"{name}.weight"].shape
    tensors = {
        f"{name}.lora_a": rng.normal(size=(width, 2)).astype(np.float32),
        f"{name}.lora_b": (size * rng.normal(size=(2, rows))).astype(np.float32),
    }
    save_adapters(folder, tensors, AdapterConfig(2, 2.0, (target,), release.fingerprint()))
    return folder


def said(tts):
    return tts.say(TEXT, VOICE, max_seconds=0.4)


@pytest.mark.filterwarnings("ignore:the model did not end")
def test_a_model_is_loaded_once(bases, loads):
    models = Models()
    first = models.speaker(bases[0])
    assert np.array_equal(said(models.speaker(bases[0])), said(first))
    assert np.array_equal(said(first), said(mlx_voxclone.load(bases[0])))
    assert len(loads) == 2  # the other one is ours


def test_the_one_not_used_for_the_longest_time_goes(bases, loads):
    models = Models()
    one = weakref.ref(models.core(bases[0]).model)
    two = weakref.ref(models.core(bases[1]).model)
    models.core(bases[0])
    models.core(bases[2])
    assert two() is None
    assert one() is not None
    assert models.loaded == [bases[0], bases[2]]
    models.core(bases[0])
    assert len(loads) == 3


def test_where_two_have_no_room_one_is_kept(bases):
    models = Models(memory=round(1.5 * 2 * (bases[0] / WEIGHTS).stat().st_size))
    models.core(bases[0])
    models.core(bases[1])
    assert models.loaded == [bases[1]]


def test_memory_is_returned(bases):
    mx.clear_cache()
    before = mx.get_active_memory()
    models = Models()
    models.core(bases[0])
    models.core(bases[1])
    assert mx.get_active_memory() > before
    models.forget(bases[1])
    assert models.loaded == [bases[0]]
    models.forget()
    assert models.loaded == []
    assert mx.get_active_memory() <= before
    assert mx.get_cache_memory() == 0


@pytest.mark.filterwarnings("ignore:the model did not end")
@pytest.mark.slow
def test_adapters_change_over_the_same_weights(bases, loads, tmp_path):
    loud = adapters(tmp_path / "loud", bases[0], 1.0)
    other = adapters(tmp_path / "other", bases[0], 1.0, "wo")
    models = Models()
    plain = models.speaker(bases[0])
    before = said(plain)
    adapted = models.speaker(bases[0], adapters=loud)
    assert np.array_equal(
        said(models.speaker(bases[0], adapters=[other])), said(mlx_voxclone.load(bases[0], adapters=other))
    )
    assert np.array_equal(said(adapted), said(mlx_voxclone.load(bases[0], adapters=loud)))
    assert np.array_equal(said(plain), before)  # what is held stays what it was
    assert not np.array_equal(said(adapted), before)
    assert np.array_equal(said(models.speaker(bases[0])), before)
    assert len(loads) == 3  # one here, two to compare with


def test_sets_of_adapters_share_the_weights_and_go(bases, tmp_path):
    models = Models()
    base = dict(tree_flatten(models.core(bases[0]).model.parameters()))
    sets = [
        weakref.ref(models.core(bases[0], adapters=adapters(tmp_path / str(k), bases[0], 0.1)).model) for k in range(3)
    ]
    assert sets[0]() is None
    shared = dict(tree_flatten(sets[2]().parameters()))
    assert all(shared[name] is value for name, value in base.items() if name in shared)
    assert sum(name not in base for name in shared) == 3  # A, B and the linear they wrap
    models.forget(tmp_path)
    assert sets[1]() is None
    assert models.loaded == [bases[0]]


def test_one_baked_anew_is_loaded_anew(bases, loads, tmp_path):
    folder = shutil.copytree(bases[0], tmp_path / "model")
    models = Models()
    models.core(folder)
    shutil.copy(folder / WEIGHTS, folder / "new")
    (folder / "new").replace(folder / WEIGHTS)
    models.core(folder)
    assert len(loads) == 2


def test_voices_that_come_are_there_at_once(bases, tmp_path, loads):
    folder = shutil.copytree(bases[0], tmp_path / "model")
    models = Models()
    assert VOICE in models.speaker(folder).voices
    (folder / "voice_embedding" / f"{VOICE}.pt").unlink()
    (folder / "voice_embedding" / f"{VOICE}.safetensors").unlink(missing_ok=True)
    assert VOICE not in models.speaker(folder).voices
    assert len(loads) == 1


def test_a_folder_that_is_gone_is_one_line(bases, tmp_path):
    folder = shutil.copytree(bases[0], tmp_path / "model")
    models = Models()
    models.core(folder)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="no directory of this name|no such directory"):
        models.core(folder)


def test_loading_is_told_and_can_be_cancelled(bases):
    told = []
    models = Models()
    models.core(bases[0], progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] > 0
    assert {what for _, _, what in told} == {LOADING}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)

    def cancel(done, total, what):
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        models.core(bases[1], progress=cancel)
    assert models.loaded == [bases[0]]
    assert len(models.core(bases[1]).voices) > 0


def stopped_at(step):
    """Progress that cancels at its `step`th call."""
    calls = iter(range(step))

    def progress(done, total, what):
        if next(calls, None) is None:
            raise Cancelled("cancelled")

    return progress


def test_one_cancelled_half_way_leaves_no_memory_behind(bases):
    mx.clear_cache()
    models, before = Models(), mx.get_active_memory()
    with pytest.raises(Cancelled):
        models.core(bases[0], progress=stopped_at(20))
    assert mx.get_active_memory() <= before
    assert mx.get_cache_memory() == 0


def test_taking_adapters_can_be_cancelled(bases, tmp_path):
    models, made = Models(), adapters(tmp_path / "loud", bases[0], 1.0)
    models.core(bases[0])
    with pytest.raises(Cancelled):
        models.core(bases[0], adapters=made, progress=stopped_at(0))
    assert models.core(bases[0], adapters=made).voices


@pytest.mark.parametrize("name", ["ann/voxtral", "hf://ann/voxtral", "hf://ann/voxtral@main"])
def test_nothing_is_fetched_where_that_could_not_be_cancelled(hub, bases, name):
    files = {path.relative_to(bases[0]).as_posix(): path.read_bytes() for path in bases[0].rglob("*") if path.is_file()}
    hub.make("ann/voxtral", files)
    with pytest.raises(CheckpointError, match="not on this machine any more"):
        Models().core(name)
    assert not hub.requests
    there = Release(name).path
    asked = len(hub.requests)
    models = Models()
    assert models.core(name).voices
    assert models.loaded == [there]
    assert len(hub.requests) == asked


@pytest.fixture
def learnt(me, bases):
    """A voice whose training has made a checkpoint and adapters of a base."""
    voice = me.new_project("Ann", "en")
    shutil.copytree(bases[0], voice.run / "baked")
    adapters(voice.run / "speaker" / "best", bases[1], 0.1)
    return voice


def test_a_deleted_voice_leaves_memory(studio, browser, learnt, bases):
    """On this thread, the one that computes: after what it is doing, and before what waits for it."""
    core, order, me = studio.models.core, [], learnt.person
    baked = weakref.ref(core(learnt.run / "baked").model)
    adapted = weakref.ref(core(bases[1], adapters=learnt.run / "speaker" / "best").model)
    base = weakref.ref(core(bases[1]).model)
    address = f"/voices/{learnt.id}/delete"

    def work(task):
        assert browser.submit(address, {"typed": "Ann"}).status_code == 303
        order.append(baked() is None)

    studio.tasks.start(me, "other", "x", work)
    studio.tasks.start(me, "other", "x", lambda task: order.append(baked() is None))
    studio.tasks.start(me, "other", "x", lambda task: studio.tasks._ended.set())
    studio.tasks.run()
    assert order == [False, True]
    assert adapted() is None
    assert base() is not None
    assert studio.models.loaded == [bases[1]]


def test_what_a_step_raises_stops_nobody(studio, me, capsys):
    studio.tasks.between(lambda: 1 / 0)
    task = studio.tasks.start(me, "other", "x", lambda task: studio.tasks._ended.set())
    studio.tasks.run()
    assert task.state == "done"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_voice_that_is_not_deleted_stays_in_memory(studio, browser, learnt):
    studio.models.core(learnt.run / "baked")
    assert browser.submit(f"/voices/{learnt.id}/delete", {"typed": "Ben"}).status_code == 422
    studio.tasks._take_steps()
    assert studio.models.loaded == [learnt.run / "baked"]
