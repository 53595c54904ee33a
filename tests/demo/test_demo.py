"""The demo page: built, its handler called on miniatures, and launched once."""

import importlib.util
import sys
import threading
import urllib.request
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from places import ROOT
from waiting import wait_for

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.checkpoint.release import ENCODER_PREFIXES
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.demo.session import temporary_files_in
from mlx_voxclone.demo.studio import Job, MainThread, Stopped, Studio
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.speech import side_by_side
from mlx_voxclone.speech.speaker import Speaker, read_reference

gr = pytest.importorskip("gradio")
from mlx_voxclone.demo import page as page_module  # noqa: E402 (needs gradio)

PATIENT = {"timeout": 300.0}  # on a busy machine


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("demo_app", ROOT / "demo" / "app.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A model with random weights rarely ends by itself."""
    monkeypatch.setattr(side_by_side, "MAX_SECONDS", 2)


@pytest.fixture(scope="module")
def before(miniature):
    return Speaker.load(miniature)


@pytest.fixture(scope="module")
def after(miniature, before, tmp_path_factory):
    """Another miniature, with an encoder of random weights."""
    directory = tmp_path_factory.mktemp("after")
    mx.random.seed(1)
    tensors = dict(tree_flatten(Voxtral(before.model.config, encoder=True).parameters()))
    encoder = {name: value for name, value in tensors.items() if name.startswith(ENCODER_PREFIXES)}
    save_tensors(directory / "encoder.safetensors", encoder)
    return Speaker.load(make_micro(directory / "tiny", seed=1), encoder=directory / "encoder.safetensors")


@pytest.fixture
def clip(tmp_path):
    rng = np.random.default_rng(0)
    write_wav(tmp_path / "clip.wav", 0.3 * rng.standard_normal(2 * SAMPLE_RATE))
    return str(tmp_path / "clip.wav")


def test_speaks_with_the_one_model(before):
    sounds, line = Studio(before).speak("Hello", "casual_male", None, False, 3)
    expected = before.say("Hello.", "casual_male", seed=3, max_seconds=side_by_side.MAX_SECONDS)
    assert len(sounds) == 1
    np.testing.assert_array_equal(sounds[0], expected.samples)
    assert "casual_male, seed 3" in line


@pytest.mark.slow
def test_both_models_get_the_same_rows(before, after, clip):
    studio = Studio(before, after)
    sounds, line = studio.speak("Hello", "casual_male", None, False, 0)
    np.testing.assert_array_equal(
        sounds[1], after.say("Hello.", "casual_male", max_seconds=side_by_side.MAX_SECONDS).samples
    )
    assert not np.array_equal(
        sounds[0], before.say("Hello.", "casual_male", max_seconds=side_by_side.MAX_SECONDS).samples
    )
    assert line.startswith("before: ")
    assert "; after: " in line
    rows = np.array(studio.rows(None, read_reference(clip)))
    assert rows.shape == (26, before.model.config.backbone.dim)  # 2 s: 25 frames and END
    sounds, line = studio.speak("Hello", "casual_male", clip, True, 0)
    assert "the reference clip" in line


def test_voices_that_were_added_come_first(before):
    class Baked:
        voices = (*before.voices, "ann")
        model, release = before.model, before.release

    assert Studio(before, Baked).voices == ["ann", *before.voices]


@pytest.mark.parametrize("text", ["", "  ", None])
def test_nothing_to_say(before, text):
    with pytest.raises(DataError, match="nothing to say"):
        Studio(before).speak(text, "casual_male", None, False, 0)


def test_a_clip_needs_consent_and_an_encoder(before, clip):
    with pytest.raises(DataError, match="tick the box"):
        Studio(before).speak("Hello", "casual_male", clip, False, 0)
    with pytest.raises(CheckpointError, match="has no codec encoder"):
        Studio(before).speak("Hello", "casual_male", clip, True, 0)
    with pytest.raises(DataError, match="choose a voice"):
        Studio(before).speak("Hello", None, None, False, 0)


def test_models_that_do_not_belong_together(before, tmp_path):
    small = Speaker.load(make_micro(tmp_path / "small", preset="small"))
    with pytest.raises(ConfigError, match="sizes differ"):
        Studio(before, small)


def test_the_handler_fills_players_plots_and_the_line(before, after):
    speak = page_module.handler(Studio(before, after), MainThread())
    first, plot, second, _, line = speak("Hello", "casual_male", None, False, 0)
    assert first[0] == second[0] == SAMPLE_RATE
    assert first[1].dtype == np.int16
    assert len(plot.axes) == 2
    assert "before" in line
    with pytest.raises(gr.Error, match="nothing to say"):
        speak("", "casual_male", None, False, 0)


def test_the_page_holds_what_it_must(before, after):
    page = page_module.build(Studio(before, after), MainThread(), "Two miniatures.")
    config = page.get_config_file()
    kinds = [component["type"] for component in config["components"]]
    assert kinds.count("audio") == 3  # reference clip, before, after
    assert kinds.count("plot") == 2
    words = " ".join(str(c["props"].get("value")) + str(c["props"].get("label")) for c in config["components"])
    assert "CC BY-NC 4.0" in words
    assert page_module.CONSENT in words
    assert "Two miniatures." in words


def test_work_from_another_thread_runs_on_the_main_one():
    thread, seen = MainThread(), []

    def other():
        seen.append(thread.call(threading.current_thread))
        try:
            thread.call(lambda: 1 // 0)
        except ZeroDivisionError as e:
            seen.append(type(e))

    worker = threading.Thread(target=other)
    worker.start()
    thread.serve(lambda: not worker.is_alive())
    assert seen == [threading.main_thread(), ZeroDivisionError]


def test_whoever_waits_at_the_end_is_told():
    """One call is running when Ctrl-C comes, one waits, one comes too late."""
    thread, seen = MainThread(), []

    def ask(function):
        try:
            seen.append(thread.call(function))
        except Stopped as e:
            seen.append(str(e))

    def interrupted():
        workers[1].start()
        wait_for(lambda: not thread._jobs.empty())
        raise KeyboardInterrupt

    workers = [threading.Thread(target=ask, args=(function,)) for function in (interrupted, int, int)]
    workers[0].start()
    with pytest.raises(KeyboardInterrupt):
        thread.serve(lambda: False)
    workers[2].start()
    for worker in workers:
        worker.join()
    assert seen == ["the demo has ended"] * 3


def test_a_job_that_was_stopped_before_its_turn_says_nothing(before, monkeypatch):
    job = Job()
    job.stop()
    monkeypatch.setattr(Studio, "rows", lambda *_: pytest.fail("begun"))
    with pytest.raises(Stopped):
        Studio(before).speak("Hello", "casual_male", None, False, 0, job)


@pytest.mark.slow
def test_launches_on_a_miniature_and_answers(app, tmp_path, capsys):
    thread, answers = MainThread(), []

    def visit():
        from gradio_client import Client

        answers.append(urllib.request.urlopen(page.local_url, timeout=20).read().decode())
        client = Client(page.local_url, verbose=False, analytics_enabled=False, httpx_kwargs=PATIENT)
        answers.append(client.predict("papa mino.", "alto", None, False, 0, api_name="/speak"))

    visitor = threading.Thread(target=visit)

    def until():
        if visitor.ident is None:
            visitor.start()
        return not visitor.is_alive()

    with temporary_files_in(tmp_path):
        studio, about = app.open_studio(None, None, tmp_path / "miniature")
        page = page_module.build(studio, thread, about)
        app.serve(page, thread, "127.0.0.1", 0, until)
    html, (wav, plot, line) = answers
    assert "mlx_voxclone" in html
    assert Path(wav).suffix == ".wav"
    assert plot["type"] == "matplotlib"
    assert "alto" in line
    assert "open http://127.0.0.1:" in capsys.readouterr().err


def test_wrong_options(app, capsys):
    assert app.main(["--baked", "somewhere"]) == 2
    assert app.main(["--model", "/nowhere/at-all"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "--baked needs --model" in lines[0]
    assert lines[-1].startswith("error: ")
    assert "/nowhere/at-all" in lines[-1]
