"""Listening: the adapted model speaks, is judged, and what is chosen sounds most alike within the limits."""

import math

import mlx.core as mx
import numpy as np
import pytest
from speaker_made import SECTION, codes, utterance
from tasks_data import full_model

from mlx_voxclone.adapters.lora import add_lora
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.settings.schema import ListenSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.speech.speaker import speak
from mlx_voxclone.train.loop.heldout import heldout_metrics
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.listening import METRIC, Limits, Listening, Sentence, check_judges, judges
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask


class Level:
    """A voice is how loud it is in two halves of the clip."""

    name, metric = "level", "similarity"

    def embed(self, samples):
        if not len(samples):
            raise DataError("nothing there")
        vector = np.array([np.abs(half).mean() for half in np.array_split(samples.astype(np.float64), 2)])
        return vector / np.linalg.norm(vector)


class Parrot:
    """Hears whatever it was told to."""

    def __init__(self, *heard):
        self.heard = list(heard)

    def understand(self, samples):
        return self.heard.pop(0)


@pytest.fixture
def made(miniature):
    model = full_model(miniature)
    tokenizer = SpeechTokenizer(Release(miniature).tokenizer_path)
    recording = np.random.default_rng(0).standard_normal(9600).astype(np.float32)
    sentences = [Sentence(f"s{k}", f"text number {k}", codes(5 + k, k), recording, 4) for k in range(2)]

    def build(ears=None, speaker=None, **limits):
        return model, Listening(sentences, speaker or Level(), ears, Limits(**limits), tokenizer.prompt, seed=3)

    return build


def test_it_speaks_each_sentence_with_its_voice_as_say_does(made):
    model, listening = made()
    for k, ((samples, ended), sentence) in enumerate(zip(listening.speak(model), listening.sentences)):
        rows = model.voice_embedding(sentence.voice)
        ids = listening._prompt(sentence.text, rows.shape[0])
        want = speak(model, ids, rows, max_frames=2 * 4 + 25, seed=3 + k)
        assert ended == want.ended
        assert np.allclose(samples, want.samples, atol=1e-5)


def test_the_similarity_is_that_of_the_speech_and_the_recording(made):
    model, listening = made()
    found = listening.metrics(model)
    voice = Level().embed(listening.sentences[0].recording)
    want = np.mean([Level().embed(samples) @ voice for samples, _ in listening.speak(model)])
    assert found["similarity"] == pytest.approx(want)
    assert "cer" not in found
    assert 0 <= found["ended"] <= 1


def test_errors_are_counted_over_all_sentences(made):
    model, listening = made(Parrot("text number 0", "text dumber"))
    assert listening.metrics(model)["cer"] == pytest.approx(3 / 26)  # one letter changed, " 1" missing


def test_nothing_heard_is_nothing_understood_and_no_likeness(made):
    class Deaf(Level):
        def embed(self, samples):
            if len(samples) != 9600:
                raise DataError("nothing there")
            return super().embed(samples)

    model, listening = made(Parrot(None, None), Deaf())
    found = listening.metrics(model)
    assert (found["similarity"], found["cer"]) == (0.0, 1.0)


def test_a_broken_limit_is_worse_than_any_voice(made):
    _, listening = made(error_rate=0.2, drift=0.1)

    def distance(**metrics):
        return listening.choice(metrics)[METRIC]

    alike = distance(similarity=0.9, cer=0.1, kept_semantic=0.05)
    assert alike == pytest.approx(0.1)
    assert alike < distance(similarity=0.5, cer=0.2, kept_semantic=0.1) < distance(similarity=-1.0)
    assert distance(similarity=-1.0) < distance(similarity=1.0, cer=0.21) < distance(similarity=1.0, cer=0.4)
    assert distance(similarity=-1.0) < distance(similarity=1.0, kept_semantic=0.2)
    _, free = made()
    assert free.choice({"similarity": 0.9, "cer": 1.0, "kept_semantic": math.inf})[METRIC] == pytest.approx(0.1)


@pytest.mark.slow
def test_the_best_is_chosen_by_it_and_its_speech_is_written(made, miniature, tmp_path):
    _, listening = made()
    model = full_model(miniature)
    add_lora(model, rank=4, alpha=8.0)
    saved = {}

    def save(directory, tensors):
        saved["step"] = directory

    task = SpeakerTask(
        AdaptedModel(model, listening._prompt, save),
        SpeakerData([utterance(1), utterance(2)], [utterance(3)]),
        SECTION,
        listening=listening,
    )
    assert task.metric == METRIC
    # As if the second measurement sounded worse although its loss is lower.
    heard = iter([0.8, 0.3, 0.6])
    listening.metrics = lambda model: {"similarity": next(heard)}
    settings = TrainSettings(steps=2, learning_rate=5e-3, eval_every=1, save_every=0)
    result = Trainer(task, settings, tmp_path / "run", quiet=True).run()
    assert [e["metrics"]["similarity"] for e in result.evaluations] == [0.8, 0.3, 0.6]
    assert result.evaluations[1]["metrics"]["loss"] < result.evaluations[0]["metrics"]["loss"]
    assert (result.best_step, result.metric) == (0, METRIC)
    del listening.metrics
    (tmp_path / "samples").mkdir()
    task.write_samples(tmp_path / "samples", 2)
    written = {path.name: read_audio(path) for path in (tmp_path / "samples").glob("*.wav")}
    assert sorted(written) == ["s0.wav", "s1.wav"]
    assert np.allclose(written["s0.wav"], np.clip(listening.speak(model)[0][0], -1, 1), atol=1e-4)


def test_without_it_the_loss_chooses(miniature, made):
    model, listening = made()
    add_lora(model, rank=4, alpha=8.0)
    data = SpeakerData([utterance(1)], [utterance(3)])
    task = SpeakerTask(AdaptedModel(model, listening._prompt), data, SECTION)
    assert task.metric == "loss"
    assert METRIC not in heldout_metrics(task)


def test_judges_that_cannot_be_had_are_refused_with_the_key(tmp_path):
    assert judges(ListenSection()) is None
    speaker, ears = judges(ListenSection(speaker_model="spectral"))
    assert (speaker.metric, ears) == ("spectral_similarity", None)
    with pytest.raises(ConfigError, match=r"speaker.listen.speaker_model: .*nowhere.onnx.*or set it to null"):
        judges(ListenSection(speaker_model=str(tmp_path / "nowhere.onnx")))
    with pytest.raises(ValueError, match="give that, too"):
        ListenSection(whisper_model="some")


def test_no_sentence_is_an_error(made):
    with pytest.raises(DataError, match="no held-out sentence"):
        Listening([], Level(), None, Limits(), lambda text, n: [])


def test_the_global_generator_is_not_touched(made):
    model, listening = made()
    mx.random.seed(5)
    before = mx.random.state[0].tolist()
    listening.metrics(model)
    assert mx.random.state[0].tolist() == before


def test_the_early_check_keeps_no_whisper(monkeypatch):
    """It would stay in memory through the training of an encoder."""
    held = set()

    class Whisper:
        def __init__(self, model):
            held.add(model)

        def __exit__(self, *_):
            held.clear()

    monkeypatch.setattr("mlx_voxclone.data.transcribe.Transcriber", Whisper)
    section = ListenSection(speaker_model="spectral", whisper_model="small")
    assert judges(section)[1] is not None
    assert held == {"small"}
    check_judges(section)
    assert not held
    check_judges(ListenSection())
