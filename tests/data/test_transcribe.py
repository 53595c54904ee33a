"""Transcribing through mlx-whisper itself, with tiny models written in its own format: one that says a given sentence
whatever it hears, one that guesses at random. No network, no ffmpeg."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from places import CONFIG
from tiny_whisper import DIMS, LANGUAGE, SENTENCE, write_whisper

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, write_wav
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data import prepare as prepare_module
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.transcribe import Transcriber
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.pairs.clip_codes import clip_codes
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.checks import check_data
from mlx_voxclone.train.judge.codes import judged_codes
from mlx_voxclone.train.run import prepared_data
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.whisper.reader import Reader

pytest_plugins = ["commands"]
needs_whisper = pytest.mark.skipif(
    importlib.util.find_spec("mlx_whisper") is None, reason="the extra `transcribe` is not installed"
)


@pytest.fixture(scope="module")
def talking_whisper(tmp_path_factory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper") / "talking")


def recordings(directory: Path, n: int = 3) -> Path:
    directory.mkdir()
    speaker = SyntheticSpeaker.sample(0)
    for k in range(n):
        write_wav(directory / f"{k}.wav", synthesise("mana lomi nalu wera.", speaker, k))
    return directory


@needs_whisper
def test_what_the_model_says_becomes_the_text(talking_whisper, tmp_path):
    path = recordings(tmp_path / "r", 1) / "0.wav"
    with Transcriber(str(talking_whisper)) as transcriber:
        assert transcriber.transcribe(path) == (SENTENCE, LANGUAGE)
        for code in ("fr-CA", "fr_CA", "FR_ca", "French"):
            transcriber.check_language(code)
            assert transcriber.transcribe(path, code) == (SENTENCE, "fr")
        with pytest.raises(DataError, match="takes codes like en"):
            transcriber.transcribe(path, "klingon")
    assert sys.modules["mlx_whisper.transcribe"].ModelHolder.model is None


@needs_whisper
def test_hearing_ends_within_a_clip(talking_whisper, tmp_path):
    """Where the check raises at the third token, no further one is computed; the loaded model serves a reader, too."""
    path, calls = recordings(tmp_path / "r", 1) / "0.wav", []

    def check():
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with Transcriber(str(talking_whisper), check=check) as transcriber:
        with pytest.raises(KeyboardInterrupt):
            transcriber.transcribe(path, "fr")
        assert len(calls) == 3
        assert transcriber.transcribe(path, "fr") == (SENTENCE, "fr")
        heard = Reader(str(talking_whisper), "fr", transcriber.loaded).read(read_audio(path))
        alone = Reader(str(talking_whisper), "fr").read(read_audio(path))
        assert np.array_equal(heard.states, alone.states)


@needs_whisper
def test_two_at_once_do_not_take_each_others_model(talking_whisper, tmp_path):
    path = recordings(tmp_path / "r", 1) / "0.wav"
    with Transcriber(str(talking_whisper)) as first:
        with Transcriber(str(talking_whisper)) as second:
            assert first.transcribe(path) == (SENTENCE, LANGUAGE)
            model = second.loaded[0]
            second.transcribe(path)
            assert sys.modules["mlx_whisper.transcribe"].ModelHolder.model is model
        first.check_language("fr")
        first.transcribe(path)
        assert sys.modules["mlx_whisper.transcribe"].ModelHolder.model is first.loaded[0]


@needs_whisper
def test_prepare_makes_missing_texts_and_leaves_given_ones(talking_whisper, tmp_path):
    folder = recordings(tmp_path / "r")
    (folder / "1.txt").write_text("Given.")
    report = prepare(folder, tmp_path / "out", PrepareOptions(transcribe=True, whisper_model=str(talking_whisper)))
    clips = {clip.id: clip for clip in PreparedData.load(tmp_path / "out").clips}
    assert {k: (c.text, c.language) for k, c in clips.items()} == {
        "0": (f"{SENTENCE}.", LANGUAGE),
        "1": ("Given.", None),
        "2": (f"{SENTENCE}.", LANGUAGE),
    }
    assert report.with_text == 3
    assert report.notes == []


@needs_whisper
@pytest.mark.slow
def test_a_guess_is_no_text(tmp_path):
    model = write_whisper(tmp_path / "guessing", sentence=None)
    folder = recordings(tmp_path / "r", 2)
    report = prepare(folder, tmp_path / "out", PrepareOptions(transcribe=True, whisper_model=str(model)))
    assert report.with_text == 0
    assert "2 of 2 clips: no speech recognised, left without text (0, 1)" in report.notes


@needs_whisper
@pytest.mark.parametrize(
    ("compression", "probability", "no_speech", "text"),
    [
        (1.2, -0.3, 0.1, "Words."),
        (2.5, -0.3, 0.1, None),
        (1.2, -1.1, 0.1, None),
        (1.2, -0.96, 0.9, None),  # what it makes of music
        (1.2, -0.3, 0.9, "Words."),  # sure of every word
    ],
)
def test_a_decoding_beyond_whispers_own_limits_counts_as_failed(
    talking_whisper, tmp_path, monkeypatch, compression, probability, no_speech, text
):
    heard = []

    def decoded(samples, **_):
        heard.append(samples)
        return {
            "text": " Words. ",
            "language": "en",
            "segments": [{"compression_ratio": compression, "avg_logprob": probability, "no_speech_prob": no_speech}],
        }

    with Transcriber(str(talking_whisper)) as transcriber:
        monkeypatch.setattr(transcriber._module, "transcribe", decoded)
        write_wav(tmp_path / "a.wav", np.zeros(SAMPLE_RATE))
        assert transcriber.transcribe(tmp_path / "a.wav") == (text, "en")
    assert len(heard[0]) == 16_000  # a second at Whisper's rate
    assert heard[0].dtype == np.float32


@needs_whisper
@pytest.mark.parametrize(
    ("probability", "compression", "vocabulary", "language", "told"),
    [
        (-0.9, 1.2, 51864, None, True),
        (-0.1, 9.0, 51864, None, True),  # it goes round in circles
        (-0.3, 1.2, 51864, None, False),
        (-0.9, 1.2, 51864, "en", False),
        (-0.9, 1.2, 51865, None, False),
    ],
)
def test_an_english_whisper_that_is_unsure_is_told(
    tmp_path, monkeypatch, probability, compression, vocabulary, language, told
):
    """It writes English words whatever it hears."""
    model = str(write_whisper(tmp_path / "tiny.en", n_vocab=vocabulary))
    found = {
        "text": " I am very happy to be.",
        "language": "en",
        "segments": [{"compression_ratio": compression, "avg_logprob": probability}],
    }
    module = importlib.import_module("mlx_whisper.transcribe")
    monkeypatch.setattr(module, "transcribe", lambda samples, **_: found)
    options = {"transcribe": True, "whisper_model": model, "language": language}
    report = prepare(recordings(tmp_path / "r", 4), tmp_path / "out", PrepareOptions(**options))
    notes = [note for note in report.notes if "understands English alone and is unsure" in note]
    assert len(notes) == told
    assert report.with_text == (4 if compression < 2.4 else 0)


@needs_whisper
@pytest.mark.parametrize("damage", ["no config", "no weights", "wrong key"])
def test_a_model_that_does_not_load_is_one_line_before_any_work(tmp_path, damage):
    model = tmp_path / "model"
    model.mkdir()
    if damage != "no config":
        (model / "config.json").write_text(json.dumps({**DIMS, **({"nope": 1} if damage == "wrong key" else {})}))
    options = PrepareOptions(transcribe=True, whisper_model=str(model))
    with pytest.raises(DataError, match="cannot be loaded as a Whisper model") as caught:
        prepare(recordings(tmp_path / "r", 1), tmp_path / "out", options)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "r"]


@needs_whisper
def test_a_language_that_it_does_not_know_is_one_line_before_any_work(tmp_path):
    """Also where one recording alone is said to be in it."""
    model = write_whisper(tmp_path / "tiny.en", n_vocab=51864)
    folder = recordings(tmp_path / "r", 2)
    options = {"transcribe": True, "whisper_model": str(model)}
    with pytest.raises(DataError, match=r"tiny\.en: was trained on English only, not german; name another Whisper"):
        prepare(folder, tmp_path / "out", PrepareOptions(**options, language="de"))
    lines = [{"audio": "0.wav"}, {"audio": "1.wav", "language": "tlh"}]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"language 'tlh': no Whisper knows it"):
        prepare(folder / "manifest.jsonl", tmp_path / "out", PrepareOptions(**options))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r", "tiny.en"]


def test_without_mlx_whisper_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    for name in ("mlx_whisper", "mlx_whisper.transcribe"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    with pytest.raises(DataError, match=r"needs mlx-whisper .*; install it with: pip install 'mlx-voxclone\[transc"):
        prepare(recordings(tmp_path / "r", 1), tmp_path / "out", PrepareOptions(transcribe=True))
    assert not (tmp_path / "out").exists()


@needs_whisper
def test_silence_too_short_for_a_window_has_no_text(talking_whisper, tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(SAMPLE_RATE // 100, np.float32))
    with Transcriber(str(talking_whisper)) as transcriber:
        assert transcriber.transcribe(tmp_path / "a.wav", "en") == (None, "en")


# --- what becomes of them in a run ------------------------------------------------------------------------------------


def judged_of(model, source: Path, place: Path, **settings):
    """Clips and judged codes as task `clone` makes them of recordings."""
    given = {"model": str(model), "data.path": str(source), "encoder.pairs.path": None, "judge.check_texts": False}
    given |= {"data.min_seconds": 0.5, "speaker.reference_seconds": [1.0, 3.0], "speaker.preserve.path": None}
    config = load_run_config(CONFIG, given | settings)
    data, release = prepared_data(config, Run.of(config, place)), Release(model)
    check_data(config, data)
    codes = clip_codes(release, None, data, place / "codes.safetensors")
    found = judged_codes(config, release, None, data, codes, place / "judged.safetensors")
    return data, codes, found


def test_numbers_of_a_language_without_words_stay_figures(tmp_path, monkeypatch):
    """Hours of hearing are not lost by a language that is found out only then; what is known before is refused."""
    bare = recordings(tmp_path / "bare", 2)
    said = {"0": ("मेरे पास 3", "hi"), "1": ("I have 3", "en")}

    class Whisper:
        def __init__(self, model):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def transcribe(self, path, language=None):
            return said[path.stem]

    monkeypatch.setattr(prepare_module, "Transcriber", Whisper)
    options = {"transcribe": True, "numbers_in_words": True, "heldout": 0}
    report = prepare(bare, tmp_path / "out", PrepareOptions(**options))
    texts = [clip.text for clip in sorted(PreparedData.load(tmp_path / "out").clips, key=lambda clip: clip.id)]
    assert texts == ["मेरे पास 3.", "I have three."]
    assert any("stay in figures" in note and "languages: hi" in note for note in report.notes)
    with pytest.raises(DataError, match="does not know the language 'hi'"):
        prepare(bare, tmp_path / "other", PrepareOptions(**options, language="hi"))
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(DataError, match=r"pip install 'mlx-voxclone\[numbers\]'"):
        prepare(bare, tmp_path / "other", PrepareOptions(**options))


@pytest.mark.slow
def test_transcribed_clips_are_judged_like_others(whole, tmp_path, monkeypatch):
    """With texts beside the audio, and with the same texts by a Whisper: the same codes. A clip in which it understood
    nothing is encoded and not judged."""
    texts = {"0": "mana lomi nalu wera.", "1": "papa mino.", "2": "tara koni lesu.", "3": "nalu papa."}
    given, bare = recordings(tmp_path / "given", 4), recordings(tmp_path / "bare", 4)
    for name, text in texts.items():
        (given / f"{name}.txt").write_text(text)

    class Whisper:
        def __init__(self, model):
            assert model == "tiny"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def transcribe(self, path, language=None):
            return texts[path.stem], "de"

    monkeypatch.setattr(prepare_module, "Transcriber", Whisper)
    whisper = {"data.transcribe": True, "data.whisper_model": "tiny"}
    _, _, expected = judged_of(whole, given, tmp_path / "run-given")
    data, _, found = judged_of(whole, bare, tmp_path / "run-heard", **whisper)
    assert {clip.id: (clip.text, clip.language) for clip in data.clips} == {k: (t, "de") for k, t in texts.items()}
    assert sorted(found.codes) == sorted(expected.codes) == sorted(texts)
    for name in texts:
        np.testing.assert_array_equal(found.codes[name], expected.codes[name])
    assert found.facts == expected.facts
    assert found.raw_nats == expected.raw_nats
    quiet = data.train[0].id
    texts[quiet] = None
    data, codes, found = judged_of(whole, bare, tmp_path / "run-quiet", **whisper)
    assert sorted(codes) == sorted(texts)
    assert sorted(found.codes) == sorted(set(texts) - {quiet})
