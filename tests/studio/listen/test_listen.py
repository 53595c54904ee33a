"""Step "Listen": what a run leaves, one sentence side by side, and the pages of both."""

import json
import re

import numpy as np
import pytest
from listening_made import PITCH, TEXTS, Tones, forget, make_run, pitch_of, tone
from matplotlib.figure import Figure

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import DataError
from mlx_voxclone.speech import side_by_side
from mlx_voxclone.studio.listen import comparison, pages
from mlx_voxclone.studio.listen.comparison import compare, comparisons, folder_of, seed_of, text_to_say
from mlx_voxclone.studio.listen.speaking import Bench
from mlx_voxclone.studio.listen.voices import ADAPTED, NAMES, ZERO_SHOT, Variant, heard
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.models import Models
from mlx_voxclone.train.clone import deliver


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Figures as they were asked for; of them only texts are drawn."""
    asked = []

    def figure(samples, **axes):
        asked.append(axes)
        made = Figure(figsize=(0.1, 0.1))
        for text in ("seconds", "level", "Hz", "0.25"):
            made.text(0, 0, text)
        return made

    monkeypatch.setattr(comparison, "sound_figure", figure)
    return asked


@pytest.fixture
def project(me):
    return me.new_project("Ann", "en")


@pytest.fixture
def trained(project):
    make_run(project.run)
    return project


@pytest.fixture
def benches(monkeypatch):
    """Those that the pages make."""
    made = []
    monkeypatch.setattr(pages, "Bench", lambda *_: made.append(Tones()) or made[-1])
    return made


def names(run):
    found = heard(run)
    return [(one.name, one.delivered) for one in found.variants]


def test_what_a_run_leaves(tmp_path):
    run = make_run(tmp_path / "run")
    assert names(run) == [("original", False), ("zero-shot", False), ("tuned", False), ("adapted", True)]
    found = heard(run)
    assert [one.text for one in found.sentences] == TEXTS
    assert found.default_pair() == ("original", "adapted")
    zero, tuned, adapted = found.variants[1:]
    assert zero.loaded == tuned.loaded == (str(tmp_path / "released"), run / "encoder.safetensors", ())
    assert [clip.id for clip in zero.clips] == [f"{k:04}" for k in range(12, 16)]  # never held-out ones
    assert adapted.loaded == (str(run / "baked"), None, ())
    assert adapted.voice == tuned.voice == run / "baked" / "voice_embedding" / "ann.safetensors"
    assert (ZERO_SHOT, ADAPTED) == (deliver.ZERO_SHOT, deliver.ADAPTED)  # as the summary names them
    assert heard(tmp_path) is None


def test_a_run_that_delivered_the_voice_alone(tmp_path):
    run = make_run(tmp_path / "run", delivered="zero-shot")
    assert names(run) == [("original", False), ("zero-shot", False), ("tuned", True), ("adapted", False)]
    assert heard(run).variants[3].adapters == (run / "speaker" / "best",)
    assert heard(run).default_pair() == ("original", "tuned")


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ("../released", ["original", "adapted"]),
        ("baked", ["original", "zero-shot"]),
        ("data", ["tuned", "adapted"]),
        ("speaker", ["original", "zero-shot", "tuned", "adapted"]),
    ],
)
def test_only_what_is_there_is_shown(tmp_path, gone, left):
    run = make_run(tmp_path / "run")
    forget(run / gone)
    assert [name for name, _ in names(run)] == left


def test_texts_and_seeds_as_a_form_brings_them():
    assert text_to_say(" Hello ", "en") == "Hello."
    for text in (None, "", " \u200b", "..", "x" * 9000):
        with pytest.raises(Mistake) as found:
            text_to_say(text, "en")
        assert found.value.field == "text"
    assert (seed_of(None), seed_of(""), seed_of(" 7 ")) == (0, 0, 7)
    for value in ("-1", "1.5", "x", "9" * 20, "²"):
        with pytest.raises(Mistake, match="seed"):
            seed_of(value)


def test_a_comparison_is_kept_and_drawn_to_one_scale(tmp_path, drawn):
    found, bench, told = heard(make_run(tmp_path / "run")), Tones(), []
    id = compare(bench, found.variants, found.sentences[3], 5, tmp_path / "l", lambda *said: told.append(said), "en")
    (kept,) = comparisons(tmp_path / "l")
    assert (kept["id"], kept["text"], kept["own"], kept["seed"]) == (id, TEXTS[3], False, 5)
    assert [take["name"] for take in kept["takes"]] == list(NAMES)
    assert bench.said == [(name, TEXTS[3], 5) for name in NAMES[1:]]
    sounds = [read_audio(folder_of(tmp_path / "l", id) / f"{name}.wav") for name in NAMES]
    np.testing.assert_allclose(sounds[0], found.sentences[3].recording(), atol=1e-4)
    assert [pitch_of(samples) for samples in sounds] == list(NAMES)
    assert len({(axes["scale"], axes["seconds"]) for axes in drawn}) == 1
    assert drawn[0]["seconds"] == max(map(len, sounds)) / SAMPLE_RATE
    assert drawn[0]["scale"] == pytest.approx(max(np.abs(s).max() for s in sounds), abs=1e-4)
    assert told[0][:2] == (1, 4)  # the recording is there already
    assert told[-1][:2] == (4, 4)


def test_an_own_sentence_has_no_original(tmp_path):
    found = heard(make_run(tmp_path / "run"))
    compare(Tones(), found.variants, "My own.", 0, tmp_path / "l", lambda *_: None)
    (kept,) = comparisons(tmp_path / "l")
    assert kept["own"]
    assert [take["name"] for take in kept["takes"]] == list(NAMES[1:])


def test_what_is_stopped_or_fails_leaves_the_last_comparison(tmp_path):
    found, place = heard(make_run(tmp_path / "run")), tmp_path / "l"
    first = compare(Tones(), found.variants, "One.", 0, place, lambda *_: None)

    def stop_at(step):
        steps = iter(range(1000))

        def progress(*_):
            if next(steps) == step:
                raise DataError("stopped")

        return progress

    for step in (0, 3, 6, 7):
        with pytest.raises(DataError, match="stopped"):
            compare(Tones(), found.variants, "Two.", 0, place, stop_at(step))
        assert [one["id"] for one in comparisons(place)] == [first]
        assert [path.name for path in (place / "compared").iterdir()] == [first]


def test_the_oldest_comparisons_go(tmp_path, monkeypatch):
    found, place = heard(make_run(tmp_path / "run")), tmp_path / "l"
    monkeypatch.setattr(comparison, "_KEPT", 2)
    made = [compare(Tones(), found.variants[2:3], f"Text {k}.", 0, place, lambda *_: None) for k in range(4)]
    assert [one["id"] for one in comparisons(place)] == made[:1:-1]
    (folder_of(place, made[3]) / "comparison.json").write_text("{")
    assert [one["id"] for one in comparisons(place)] == [made[2]]


def test_the_bench_speaks_as_the_python_api_does(miniature, tmp_path, monkeypatch):
    """The same rows, the same seed, the same samples; a cancelled task ends it at a frame."""
    monkeypatch.setattr(side_by_side, "MAX_SECONDS", 1)
    models = Models()
    tts = models.speaker(miniature)
    rows = tts.voice_from(miniature / "voice_embedding" / "casual_male.safetensors").rows
    save_tensors(tmp_path / "ann.safetensors", {"embedding": rows})
    variant, frames = Variant("tuned", str(miniature), voice=tmp_path / "ann.safetensors"), []
    bench = Bench(models, lambda *_: None)
    said = bench.say(variant, "Hello.", 3, frames.append)
    with pytest.warns(UserWarning, match="cut off") if not said.ended else pytest.MonkeyPatch.context():
        expected = tts.say("Hello.", "casual_male", seed=3, max_seconds=1)
    np.testing.assert_array_equal(said.samples, expected)
    assert frames[:3] == [0, 0, 1]

    def stop(count):
        if count == 2:
            raise DataError("stopped")

    with pytest.raises(DataError, match="stopped"):
        bench.say(variant, "Hello.", 3, stop)
    with pytest.raises(DataError, match="too long"):
        bench.say(variant, "a " * 5000, 3, stop)


def wait(studio, me, project, kind="listen"):
    """The newest task, ended: its work is done here."""
    task = studio.tasks.list(me, kind, project)[0]
    queued, work = studio.tasks._lanes["compute"].get(timeout=5)
    assert queued is task
    studio.tasks._carry_out(task, work)
    return task


def test_the_page_before_and_after(studio, browser, me, project, benches, drawn):
    address = f"/voices/{project.id}/listen"
    assert f"/voices/{project.id}/train" in browser.get(address).text
    make_run(project.run)
    text = browser.get(address).text
    assert all(f'value="{name}" checked' in text for name in NAMES)
    assert TEXTS[0] in text
    sent = {"sentence": "2", "variant": ["original", "adapted"], "seed": "4", "text": ""}
    answer = browser.submit(f"{address}/speak", sent)
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    assert 'data-state="waiting"' in browser.get(address).text
    assert "listen.mistake" not in browser.submit(f"{address}/speak", sent).text  # busy, in words
    assert len(studio.tasks.list(me, "listen", project)) == 1
    task = wait(studio, me, project)
    assert task.state == "done", task.error
    assert benches[0].said == [("adapted", TEXTS[2], 4)]
    part = browser.get(f"{address}/result").text
    sounds = re.findall(r'src="([^"]+\.wav)"', part)
    assert len(sounds) == part.count('<svg class="plot"') == 2
    assert "12,000 Hz" in part
    for place in sounds:
        assert browser.get(place).headers["content-type"] == "audio/wav"
    german = browser.get(f"{address}/result", headers={"accept-language": "de"}).text
    for text, other in ((part, german), (german, part)):  # numbers on the axes, and what these are called
        labels, others = (set(re.findall(r"<text[^>]*>([^<]+)</text>", one)) for one in (text, other))
        assert labels - others
        assert others - labels
    assert {"Sekunden", "Ausschlag", "Hz"} <= set(re.findall(r"<text[^>]*>([^<]+)</text>", german))
    assert not re.search(r"<text[^>]*>[^<]*\d\.\d", german)
    assert sounds[1] in browser.get(address).text  # found again
    ended = browser.get(f"/tasks/{task.id}")
    assert ended.headers["hx-trigger"] == "task-ended"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"text": "\u200b."}, "text"),
        ({"text": "x" * 8001}, "text"),
        ({"sentence": "12"}, "sentence"),
        ({"sentence": "../x"}, "sentence"),
        ({"seed": "-1"}, "seed"),
        ({"variant": []}, "variant"),
        ({"variant": ["nobody"]}, "variant"),
        ({"text": "Own.", "variant": ["original"]}, "variant"),
    ],
)
def test_a_mistake_stands_beside_its_field(studio, browser, me, trained, changed, field):
    compare(Tones(), heard(trained.run).variants, "Kept.", 0, trained.listening, lambda *_: None)
    sent = {"sentence": "0", "variant": ["adapted"], "seed": "1", "text": ""} | changed
    address = f"/voices/{trained.id}/listen"
    for headers in ({"hx-request": "true"}, {}):
        answer = browser.submit(f"{address}/speak", sent, headers=headers)
        assert answer.status_code == 422
        assert re.search(rf'id="{field}-mistake" role="alert">[^<]+<', answer.text)
        assert len(re.findall(r'role="alert">[^<]+<', answer.text)) == 1
        assert ("<html" in answer.text) == (not headers)
    assert not studio.tasks.list(me)
    assert "Kept." in browser.get(address).text


def test_only_own_sounds_are_served(browser, studio, trained):
    id = compare(Tones(), heard(trained.run).variants, "Kept.", 0, trained.listening, lambda *_: None)
    base = f"/voices/{trained.id}/listen/sounds"
    assert browser.get(f"{base}/{id}/adapted.wav").status_code == 200
    other = studio.home.person("ben").new_project("Ben", "en")
    for place in (f"{base}/{id}/original.wav", f"{base}/{id}/comparison.wav", f"{base}/{'0' * 12}/adapted.wav"):
        assert browser.get(place).status_code == 404
    assert browser.get(f"{base}/..%2F..%2F{id}/adapted.wav").status_code == 404
    assert browser.get(f"/voices/{other.id}/listen").status_code == 404
    assert browser.post(f"/voices/{trained.id}/listen/speak", data={"text": "x"}).status_code == 403


def test_a_comparison_without_its_drawing_says_so(browser, trained, tmp_path):
    """Those of an earlier version have a picture of another kind."""
    id = compare(
        Tones(), heard(trained.run).variants[:1], heard(trained.run).sentences[0], 0, trained.listening, lambda *_: None
    )
    folder = trained.listening / "compared" / id
    page = f"/voices/{trained.id}/listen"
    assert "There is no drawing" not in browser.get(page).text
    (folder / "original.svg").rename(folder / "original.png")
    page = browser.get(page).text
    assert "There is no drawing" in page
    assert 'role="img"' not in page.partition('id="result"')[2]


def test_a_damaged_comparison_does_not_close_the_page(browser, trained):
    place = trained.listening / "compared" / ("0" * 12)
    place.mkdir(parents=True)
    (place / "comparison.json").write_text(json.dumps({"id": "0" * 12}))
    assert browser.get(f"/voices/{trained.id}/listen").status_code == 200


def test_pitches_tell_the_tones_apart():
    for name, hertz in PITCH.items():
        assert pitch_of(tone(hertz)) == name
