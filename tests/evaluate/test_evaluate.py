"""The command `evaluate`: what is read, what is measured, intervals, comparisons, the page."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_pages import Page
from scipy.stats import t
from speech_made import speaker_onnx, speech, with_noise

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli.front.evaluate import main
from mlx_voxclone.data import transcribe
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.cases import read_cases
from mlx_voxclone.evaluate.intelligibility import Errors
from mlx_voxclone.evaluate.measure import METRICS, Evaluation, Measured, compare, summarise
from mlx_voxclone.report.evaluation_page import worst_first

TEXTS = ["the quick brown fox", "jumps over the lazy dog", "and runs away"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Three outputs with texts, originals and one reference."""
    place = tmp_path_factory.mktemp("outputs")
    for k, text in enumerate(TEXTS):
        wave = speech(0, k)
        write_wav(place / f"c{k}.wav", with_noise(wave, 20))
        write_wav(place / f"c{k}-original.wav", wave)
        (place / f"c{k}.txt").write_text(text + "\n")
    write_wav(place / "reference.wav", speech(0, 9))
    return place


@pytest.fixture
def heard(monkeypatch):
    """A Whisper that hears what it is told to, by file name."""
    words = {f"c{k}": text for k, text in enumerate(TEXTS)}

    class Whisper:
        def __init__(self, model):
            self.model = model

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def check_language(self, language):
            pass

        def transcribe(self, path, language=None):
            return words[path.stem], language

    monkeypatch.setattr(transcribe, "Transcriber", Whisper)
    return words


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch):
    """Plots of sounds are tested elsewhere, and take a third of a second each."""
    monkeypatch.setattr("mlx_voxclone.report.page.sound_figure", lambda *_, **__: Figure(figsize=(0.1, 0.1)))


def run(*argv):
    return main([*map(str, argv), "--device", "cpu", "--quiet"])


# --- what is evaluated ------------------------------------------------------------------------------------------------


def test_a_directory_a_list_and_json_lines_say_the_same(outputs, tmp_path):
    first = read_cases(outputs, language="en")
    assert [case.id for case in first] == ["c0", "c1", "c2"]
    assert first[1].text == TEXTS[1]
    assert first[1].reference == outputs / "reference.wav"
    assert first[1].original == outputs / "c1-original.wav"
    lines = [f"c{k}|what it says|reference.wav|{text}|c{k}-original.wav" for k, text in enumerate(TEXTS)]
    (outputs / "meta.lst").write_text("\n".join(lines) + "\n\n")
    assert read_cases(outputs / "meta.lst", outputs, "en") == first
    entries = [
        {"output": f"c{k}.wav", "text": text, "reference": "reference.wav", "original": f"c{k}-original.wav"}
        for k, text in enumerate(TEXTS)
    ]
    (outputs / "cases.jsonl").write_text("\n".join(map(json.dumps, entries)))
    assert read_cases(outputs / "cases.jsonl", language="en") == first


def test_a_reference_of_its_own_goes_before_the_common_one(outputs, tmp_path):
    write_wav(tmp_path / "x.wav", speech())
    write_wav(tmp_path / "x-reference.wav", speech())
    write_wav(tmp_path / "reference.wav", speech())
    (case,) = read_cases(tmp_path)
    assert case.reference == tmp_path / "x-reference.wav"
    assert (case.text, case.original) == (None, None)


BAD = {
    "nothing": ("empty.jsonl", "", "nothing to evaluate"),
    "no JSON": ("a.jsonl", "{", "a.jsonl:1: not JSON"),
    "no output": ("a.jsonl", '{"text": "x"}', '"output" is expected'),
    "an unknown key": ("a.jsonl", '{"output": "a.wav", "txt": "x"}', "unknown key txt"),
    "a number for a text": ("a.jsonl", '{"output": "a.wav", "text": 3}', "text has a value of the wrong type"),
    "a missing file": ("a.jsonl", '{"output": "a.wav"}', "1 of 1 outputs do not exist"),
    "an id that leads out": ("a.lst", "../c0|x|reference.wav|y", "a.lst:1: the id '../c0' does not name a file in"),
    "a short line": ("a.lst", "a|b", "a.lst:1: id|text of the prompt"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_evaluated(tmp_path, capsys, case):
    name, content, said = BAD[case]
    (tmp_path / name).write_text(content)
    assert run(tmp_path / name, "--output", tmp_path / "out", "--outputs", tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_list_needs_its_outputs_and_ids_are_unique(outputs, tmp_path):
    (outputs / "meta.lst").write_text("c0|x|reference.wav|y\nc0|x|reference.wav|z")
    with pytest.raises(DataError, match="--outputs"):
        read_cases(outputs / "meta.lst")
    with pytest.raises(DataError, match="c0 occurs twice"):
        read_cases(outputs / "meta.lst", outputs)
    with pytest.raises(DataError, match="no such file"):
        read_cases(tmp_path / "nowhere")


# --- the command ------------------------------------------------------------------------------------------------------


def test_everything_is_measured_and_shown(outputs, tmp_path, heard, capsys):
    heard["c1"] = "jumps over the crazy dog"
    model = speaker_onnx(tmp_path / "speaker.onnx")
    options = ["--speaker-model", model, "--whisper-model", "tiny", "--language", "en"]
    assert run(outputs, "--output", tmp_path / "out", *options) == 0
    table = capsys.readouterr().out
    assert f"speakers compared by {model}" in table
    assert "transcribed by tiny" in table
    found = Evaluation.load(tmp_path / "out")
    expected = {name for name in METRICS if not name.startswith("preset_")}  # see test_drift
    expected -= {"spectral_similarity", "ge2e_similarity", "real_time_factor"}
    assert set(found.summary) == expected
    assert found.summary["wer"].mean == pytest.approx(100 * 1 / 12)  # of all words, not the mean of rates
    assert [case.metrics["wer"] for case in found.cases] == [0, 20, 0]
    assert found.summary["si_sdr"].mean == pytest.approx(20, abs=0.1)
    assert found.summary["duration_ratio"].mean == pytest.approx(1, abs=0.2)
    assert found.summary["similarity"].n == 3
    page = (tmp_path / "out" / "index.html").read_text()
    Page(tmp_path / "out" / "index.html")
    assert page.count("<audio") == 9
    assert "jumps over the crazy dog" in page
    assert page.index("<h3>c1</h3>") < page.index("<h3>c0</h3>")  # the worst first
    assert "CC BY-NC 4.0" in page
    first = (tmp_path / "out" / "evaluation.json").read_text()
    assert run(outputs, "--output", tmp_path / "again", *options) == 0
    assert (tmp_path / "again" / "evaluation.json").read_text() == first


def test_without_models_the_rest_is_measured(outputs, tmp_path, capsys):
    assert run(outputs, "--output", tmp_path / "out", "--speaker-model", "none", "--whisper-model", "none") == 0
    text = capsys.readouterr().out
    assert "PESQ" in text
    assert "word error rate" not in text
    assert "similarity" not in text
    assert Evaluation.load(tmp_path / "out").about["speaker_model"] is None


def test_the_fallback_has_a_name_of_its_own(outputs, tmp_path, capsys):
    assert run(outputs, "--output", tmp_path / "out", "--speaker-model", "spectral", "--whisper-model", "none") == 0
    text = capsys.readouterr().out
    assert "spectral similarity (no speaker model)" in text
    assert "speaker similarity" not in text
    assert "similarity" not in Evaluation.load(tmp_path / "out").summary


@pytest.mark.slow
def test_a_comparison_says_what_is_better(outputs, tmp_path, heard, capsys):
    worse = tmp_path / "worse"
    worse.mkdir()
    for path in outputs.glob("*[0-9l].*"):
        (worse / path.name).write_bytes(path.read_bytes())
    (worse / "reference.wav").write_bytes((outputs / "reference.wav").read_bytes())
    for k in range(3):
        write_wav(worse / f"c{k}.wav", with_noise(speech(0, k), 0))
    options = ["--speaker-model", "none", "--whisper-model", "tiny"]
    assert run(worse, "--output", tmp_path / "before", *options) == 0
    assert run(outputs, "--output", tmp_path / "after", *options, "--compare", tmp_path / "before") == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("SI-SDR") and "better" in line)
    assert "+20" in line
    (line,) = (x for x in text.splitlines() if x.startswith("word error rate") and "cases" in x)
    assert line.endswith("(no interval)  too few cases")  # three that are all alike
    assert "Before and after" in (tmp_path / "after" / "index.html").read_text()


def test_an_output_that_says_nothing_is_told_and_the_rest_goes_on(outputs, tmp_path, heard, capsys):
    place = tmp_path / "some"
    place.mkdir()
    for name in ("c0.wav", "c0.txt", "c1.txt", "reference.wav"):
        (place / name).write_bytes((outputs / name).read_bytes())
    write_wav(place / "c1.wav", np.zeros(24000, np.float32))
    heard["c1"] = None
    options = ["--speaker-model", speaker_onnx(tmp_path / "s.onnx"), "--whisper-model", "tiny", "--device", "cpu"]
    assert main([str(place), "--output", str(tmp_path / "out"), *map(str, options)]) == 0
    assert "warning: c1: similarity: silent" in capsys.readouterr().err
    found = Evaluation.load(tmp_path / "out")
    assert found.cases[1].metrics == {"wer": 100.0, "cer": 100.0}
    assert found.summary["similarity"].n == 1
    assert found.summary["wer"].n == 2


def test_results_are_never_overwritten(outputs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert run(outputs, "--output", tmp_path / "out", "--speaker-model", "none", "--whisper-model", "none") == 2
    assert "not empty" in capsys.readouterr().err


# --- figures ----------------------------------------------------------------------------------------------------------


def measured(values, name="si_sdr"):
    return [Measured(str(k), {name: float(value)}) for k, value in enumerate(values)]


def evaluation(cases, **about):
    return Evaluation({"speaker_model": None, "whisper_model": None} | about, cases, summarise(cases))


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 samples of 40 normal numbers about 5, nine in ten 95 % intervals hold 5, and rarely all of them."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        interval = summarise(measured(rng.normal(5, 2, 40)))["si_sdr"]
        held += interval.low <= 5 <= interval.high
    assert 180 <= held <= 199
    assert summarise([]) == {}


def test_intervals_of_few_clips_are_wide_enough():
    """For normal numbers Student's interval is exact; percentiles alone are a seventh narrower with 12 of them."""
    rng, widths, exact = np.random.default_rng(1), [], []
    for _ in range(60):
        values = rng.normal(5, 2, 12)
        interval = summarise(measured(values))["si_sdr"]
        widths.append(interval.high - interval.low)
        exact.append(2 * t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12))
    assert np.mean(widths) == pytest.approx(np.mean(exact), rel=0.05)


def test_rates_weigh_texts_by_their_length():
    cases = [Measured("a", errors=Errors(1, 2, 3, 10)), Measured("b", errors=Errors(0, 8, 0, 40))]
    assert summarise(cases)["wer"].mean == pytest.approx(10)
    assert summarise(cases)["cer"].mean == pytest.approx(6)


def test_pairs_see_what_means_do_not():
    """A small gain on every case is clear, however much the cases differ from each other."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 10, 30)
    gain = compare(evaluation(measured(base)), evaluation(measured(base + rng.normal(0.5, 0.1, 30))))["si_sdr"]
    assert gain.verdict == "better"
    assert gain.difference.mean == pytest.approx(0.5, abs=0.1)
    loss = compare(evaluation(measured(base, "pesq")), evaluation(measured(base - 1, "pesq")))["pesq"]
    assert loss.verdict == "worse"
    assert compare(evaluation(measured(base, "wer_")), evaluation(measured(base))) == {}
    lower = compare(evaluation(measured(base, "mel_distance")), evaluation(measured(base - 1, "mel_distance")))
    assert lower["mel_distance"].verdict == "better"
    neither = compare(evaluation(measured(base, "pitch_hz")), evaluation(measured(base - 1, "pitch_hz")))
    assert neither["pitch_hz"].verdict == "changed"


def test_what_is_not_comparable(tmp_path):
    cases = measured([1.0, 2.0])
    for key in ("speaker_model", "whisper_model"):
        with pytest.raises(DataError, match="not comparable"):
            compare(evaluation(cases, **{key: "a"}), evaluation(cases, **{key: "b"}))
    with pytest.raises(DataError, match="no case in common"):
        compare(evaluation(cases), evaluation([Measured("x", {"si_sdr": 1.0})]))
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(DataError, match="not an evaluation"):
        Evaluation.load(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        Evaluation.load(tmp_path / "none.json")


def test_an_evaluation_survives_its_file(tmp_path):
    cases = [Measured("a", {"pesq": 2.5}, Errors(1, 2, 3, 4), "heard", ["note"]), Measured("b")]
    before = evaluation(cases)
    (tmp_path / "evaluation.json").write_text(before.to_json())
    after = Evaluation.load(tmp_path)
    assert after.cases == cases
    assert after.summary == before.summary


def test_the_worst_come_first():
    cases = measured([3, 1, 2], "similarity")
    assert [c.id for c in worst_first(cases)] == ["1", "2", "0"]
    assert [c.id for c in worst_first(measured([3, 1, 2], "wer"))] == ["0", "2", "1"]
    assert worst_first([*cases, Measured("none")])[0].id == "none"


def test_how_codebooks_are_used(miniature, tmp_path, capsys):
    place = tmp_path / "coded"
    place.mkdir()
    rng = np.random.default_rng(0)
    for k, semantic in enumerate(([1, 1, 2], [3, 3, 3])):
        write_wav(place / f"{k}.wav", 0.1 * rng.standard_normal(3 * 1920).astype(np.float32))
        codes = np.concatenate([np.array([semantic]), np.full((36, 3), 7 + k)]).astype(np.int32)
        save_tensors(place / f"{k}.safetensors", {"codes": codes})
    argv = [place, "--speaker-model", "none", "--whisper-model", "none", "--code-usage", "--model", miniature]
    assert run(*argv, "--output", tmp_path / "out") == 0
    about = Evaluation.load(tmp_path / "out").about
    shares = np.array([2, 1, 3]) / 6
    assert about["codes: semantic codes used"] == pytest.approx(3 / 128)
    assert about["codes: semantic entropy bits"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert "codes: semantic codes used" in capsys.readouterr().out
    (place / "0.safetensors").unlink()
    (place / "1.safetensors").unlink()
    assert run(*argv, "--output", tmp_path / "no") == 2
    assert "no NAME.safetensors holds any" in capsys.readouterr().err
