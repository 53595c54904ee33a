"""Hours of measuring: what can be refused is refused before, and what goes wrong later takes nothing with it."""

import json
import sys

import numpy as np
import pytest
import soundfile
from speech_made import speech

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli.front import evaluate as command
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.evaluate import listening, measure
from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.measure import Evaluation, evaluate
from mlx_voxclone.settings.schema import ListenSection
from mlx_voxclone.train.speaker.listening import check_judges

SPECTRAL = "spectral fallback, no speaker-verification model"


class Whisper:
    """Hears the same words in everything, and no Klingon."""

    model = "tiny"

    def __init__(self):
        self.asked = []

    def check_language(self, language):
        if language == "klingon":
            raise DataError("language 'klingon': no Whisper knows it")

    def transcribe(self, path, language=None):
        self.asked.append(path.stem)
        return "some words", language


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "outputs"
    place.mkdir()
    for k in range(3):
        write_wav(place / f"c{k}.wav", speech(0, k))
    write_wav(place / "reference.wav", speech(0, 9))
    return place


@pytest.fixture
def never(monkeypatch):
    """Nothing may be measured."""

    def measured(*_):
        pytest.fail("measured before it was refused")

    monkeypatch.setattr(measure, "_measure", measured)


def run(place, *argv):
    argv = [place, "--speaker-model", "spectral", "--whisper-model", "none", "--device", "cpu", *argv]
    return voxclone(["evaluate", *map(str, argv)])


def texts(place, **more):
    return [Case(f"c{k}", place / f"c{k}.wav", "some words", place / "reference.wav", **more) for k in range(3)]


# --- one bad case -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["no samples", "an empty file", "no audio", "numbers that are not finite"])
def test_an_output_that_cannot_be_read_is_a_note(place, tmp_path, capsys, bad):
    path = place / "c1.wav"
    if bad == "no samples":
        soundfile.write(path, np.zeros(0), 24000)
    elif bad == "numbers that are not finite":
        soundfile.write(path, np.full(24000, np.nan), 24000, subtype="FLOAT")
    else:
        path.write_bytes(b"" if bad == "an empty file" else b"no audio")
    assert run(place, "--output", tmp_path / "out") == 0
    assert f"warning: c1: nothing is measured: {path}: " in capsys.readouterr().err
    found = Evaluation.load(tmp_path / "out")
    assert [bool(case.metrics) for case in found.cases] == [True, False, True]
    assert found.summary["spectral_similarity"].n == 2
    assert (tmp_path / "out" / "index.html").exists()


def test_a_model_that_said_nothing_has_all_words_wrong(place):
    """Left out, it would make the mean better than it is."""
    soundfile.write(place / "c1.wav", np.zeros(0), 24000)
    found = evaluate(texts(place), None, Whisper())
    assert found.cases[1].metrics == {"wer": 100.0, "cer": 100.0}
    assert found.cases[1].notes == [f"all words count as wrong: {place / 'c1.wav'}: holds no samples"]
    assert found.summary["wer"].n == 3


def test_a_text_that_cannot_be_compared_is_a_note(place):
    cases = texts(place)
    cases[1] = Case("c1", place / "c1.wav", "...", place / "reference.wav")
    found = evaluate(cases, None, Whisper())
    assert [case.errors is None for case in found.cases] == [False, True, False]
    assert found.cases[1].notes == ["error rates: the text holds no words to compare with"]
    assert "pitch_distance" in found.cases[1].metrics
    assert found.summary["wer"].n == 2


@pytest.mark.parametrize("role", ["reference", "original"])
def test_what_outputs_are_compared_with_is_read_before(place, never, role):
    soundfile.write(place / "bad.wav", np.zeros(0), 24000)
    cases = [*texts(place), Case("last", place / "c0.wav", **{role: place / "bad.wav"})]
    with pytest.raises(AudioError, match=r"bad\.wav: holds no samples"):
        evaluate(cases, None, Whisper())


def test_a_language_that_cannot_be_heard_is_refused_before(place, never):
    with pytest.raises(DataError, match="klingon"):
        evaluate([*texts(place, language="en"), *texts(place, language="klingon")], None, Whisper())


def test_what_hears_needs_jiwer_before_anything_is_heard(place, never, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    whisper = Whisper()
    with pytest.raises(DataError, match="error rates need jiwer; install it with"):
        evaluate(texts(place), None, whisper)
    assert not whisper.asked
    monkeypatch.setattr(listening, "Transcriber", lambda name: pytest.fail("loaded before it was refused"))
    with pytest.raises(DataError, match="error rates need jiwer"), listening.listener("tiny"):
        pass


@pytest.mark.parametrize("speaker", ["spectral", "a GE2E"])
def test_the_early_check_of_a_training_knows_that_jiwer_is_missing(monkeypatch, speaker):
    """A speaker model may do without the extra `evaluate`; the texts that are compared after hours do not."""
    monkeypatch.setattr("mlx_voxclone.train.speaker.listening.speaker_model", lambda name: name)
    monkeypatch.setattr("mlx_voxclone.train.speaker.listening.WhisperRecogniser", lambda name: pytest.fail("loaded"))
    monkeypatch.setitem(sys.modules, "jiwer", None)
    check_judges(ListenSection(speaker_model=speaker))
    with pytest.raises(ConfigError, match=r"^speaker\.listen\.whisper_model: error rates need jiwer; install it"):
        check_judges(ListenSection(speaker_model=speaker, whisper_model="tiny"))


# --- what it is compared with -----------------------------------------------------------------------------------------


def earlier(tmp_path, ids=("c0",), **about):
    """Where an evaluation of these cases lies."""
    path = tmp_path / "earlier.json"
    about = {"speaker_model": SPECTRAL, "whisper_model": None} | about
    cases = [{"id": name, "metrics": {"pesq": 2.0}, "errors": None, "heard": None, "notes": []} for name in ids]
    path.write_text(json.dumps({"about": about, "cases": cases, "summary": {}}))
    return path


UNFIT = {
    "another speaker model": ({"speaker_model": "Wespeaker/x"}, "measured speaker similarity with Wespeaker/x"),
    "no case in common": ({"ids": ["x"]}, "no case in common"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_earlier_evaluation_that_does_not_fit_is_refused_before(place, tmp_path, never, capsys, case):
    made, said = UNFIT[case]
    assert run(place, "--output", tmp_path / "out", "--compare", earlier(tmp_path, **made)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_whisper_is_refused_before_it_is_loaded(place, tmp_path, capsys):
    (place / "c0.txt").write_text("some words")
    old = earlier(tmp_path, whisper_model="large")
    assert run(place, "--whisper-model", tmp_path / "none", "--output", tmp_path / "out", "--compare", old) == 2
    assert "measured error rates with large, this one with " in capsys.readouterr().err


def test_no_figure_in_common_is_told(place, tmp_path, capsys):
    assert run(place, "--output", tmp_path / "out", "--compare", earlier(tmp_path)) == 0
    assert "no figure that both evaluations have" in capsys.readouterr().out


# --- what fails later -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [DataError("at last"), KeyboardInterrupt(), MemoryError()])
def test_what_fails_after_the_measurement_leaves_it(place, tmp_path, monkeypatch, capsys, failure):
    def page(*_):
        raise failure

    monkeypatch.setattr("mlx_voxclone.report.evaluation_page.evaluation_page", page)
    assert run(place, "--output", tmp_path / "out") != 0
    assert f"what was measured is in {tmp_path / 'out' / 'evaluation.json'}" in capsys.readouterr().err
    assert len(Evaluation.load(tmp_path / "out").cases) == 3


def test_drift_that_fails_leaves_the_rest(place, tmp_path, monkeypatch, capsys):
    class Drift:
        ids, about = ("pair",), {}

        def __init__(self, options):
            pass

        def measured(self):
            raise DataError("drift cannot be measured")

    monkeypatch.setattr(command, "_Drift", Drift)
    assert run(place, "--output", tmp_path / "out", "--base", "b", "--model", "m", "--pairs", "p") == 2
    assert "drift cannot be measured" in capsys.readouterr().err
    assert len(Evaluation.load(tmp_path / "out").cases) == 3


def test_codes_are_missed_before_anything_is_measured(place, tmp_path, never, capsys):
    assert run(place, "--output", tmp_path / "out", "--code-usage", "--model", "m") == 2
    assert "no NAME.safetensors holds any" in capsys.readouterr().err
