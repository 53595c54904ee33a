"""Transcribing by a recogniser of mlx-audio: a tiny random Voxtral Realtime, and stand-ins with other signatures."""

import base64
import importlib.util
import json
import sys
import types

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.recognise.mlx_audio import MlxAudioRecogniser, windows
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

needs_mlx_audio = pytest.mark.skipif(
    importlib.util.find_spec("mlx_audio") is None, reason="the extra `mlx-audio` is not installed"
)


@pytest.fixture
def recording(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_wav(folder / "a.wav", synthesise("mana lomi nalu wera.", SyntheticSpeaker.sample(0)))
    return folder


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a recogniser in mlx-audio's place: `stand_in(generate, model_type)`."""

    def put(generate, model_type="canary"):
        model = types.SimpleNamespace(generate=generate, config=types.SimpleNamespace(model_type=model_type))
        module = types.ModuleType("mlx_audio.stt")
        module.load = lambda name: model
        monkeypatch.setitem(sys.modules, "mlx_audio.stt", module)
        monkeypatch.setitem(sys.modules, "mlx_audio", types.ModuleType("mlx_audio"))

    return put


def output(text, language=None):
    return types.SimpleNamespace(text=text, language=language)


def tiny_voxtral(place):
    """A random Voxtral Realtime in mlx-audio's format."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_audio.stt.models.voxtral_realtime import Model, ModelConfig

    config = {
        "model_type": "voxtral_realtime",
        "vocab_size": 1300,
        "hidden_size": 32,
        "encoder_args": {"dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 16, "hidden_dim": 48},
        "decoder": {
            "dim": 3072,  # which its encoder's adapter takes for granted
            "n_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 1,
            "head_dim": 16,
            "hidden_dim": 48,
            "vocab_size": 1300,
            "ada_rms_norm_t_cond_dim": 8,
        },
    }
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    model, rng = Model(ModelConfig.from_dict(json.loads(json.dumps(config)))), np.random.default_rng(3)
    weights = {
        name: mx.array(rng.normal(size=value.shape).astype(np.float32) * 0.3)
        for name, value in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(place / "model.safetensors"), weights)
    vocab = [
        {"rank": k, "token_bytes": base64.b64encode(f" w{k}".encode()).decode(), "token_str": f" w{k}"}
        for k in range(300)
    ]
    special = [{"rank": k, "token_str": f"<{k}>"} for k in range(1000)]
    content = {"config": {"default_num_special_tokens": 1000}, "vocab": vocab, "special_tokens": special}
    (place / "tekken.json").write_text(json.dumps(content))
    return place


@pytest.mark.slow
@needs_mlx_audio
def test_voxtral_realtime_of_mlx_audio_transcribes(recording, tmp_path):
    """Random weights say random words; the same clip gives the same ones, and prepare takes them."""
    place = tiny_voxtral(tmp_path / "voxtral")
    with MlxAudioRecogniser(str(place)) as recogniser:
        first = recogniser.transcribe(recording / "a.wav", "de")
        assert first == recogniser.transcribe(recording / "a.wav", "de")
    assert first[1] == "de"
    prepare(recording, tmp_path / "out", PrepareOptions(transcribe=True, recogniser=f"mlx-audio:{place}", heldout=0))
    (clip,) = PreparedData.load(tmp_path / "out").clips
    assert (clip.text is None) == (first[0] is None)
    options = json.loads((tmp_path / "out" / "summary.json").read_text())["identity"]["options"]
    assert options["recogniser"] == f"mlx-audio:{place}"
    assert "whisper_model" not in options


def test_only_what_a_model_takes_is_handed_over(recording, stand_in):
    seen = []

    def generate(audio, *, max_tokens=10, source_lang="en"):
        seen.append((audio.shape[0], max_tokens, source_lang))
        return output(" Guten\u200b Tag ")

    stand_in(generate)
    with MlxAudioRecogniser("x") as recogniser:
        assert recogniser.transcribe(recording / "a.wav", "de-AT") == ("Guten Tag", "de-AT")
        assert recogniser.transcribe(recording / "a.wav") == ("Guten Tag", None)
    assert [one[1:] for one in seen] == [(448, "de"), (448, "en")]


def test_a_model_that_finds_the_language_out_is_left_to_it(recording, stand_in):
    seen = []

    def generate(audio, *, language="en"):
        seen.append(language)
        return output("Guten Tag", "de")

    stand_in(generate, "voxtral")
    with MlxAudioRecogniser("x") as recogniser:
        assert recogniser.transcribe(recording / "a.wav") == ("Guten Tag", "de")
    assert seen == [None]


def test_long_recordings_come_in_windows(tmp_path, stand_in):
    lengths = []

    def generate(audio):
        lengths.append(audio.shape[0] / 16_000)
        return output(f"part {len(lengths)}")

    stand_in(generate)
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal(70 * SAMPLE_RATE)
    samples[25 * SAMPLE_RATE : int(25.3 * SAMPLE_RATE)] *= 1e-3
    write_wav(tmp_path / "a.wav", samples)
    with MlxAudioRecogniser("x") as recogniser:
        assert recogniser.transcribe(tmp_path / "a.wav") == ("part 1 part 2 part 3", None)
    assert abs(lengths[0] - 25.15) < 0.2
    assert max(lengths) <= 30
    assert abs(sum(lengths) - 70) < 0.01


def test_windows_hold_every_sample():
    samples = np.random.default_rng(1).standard_normal(100_001).astype(np.float32)
    parts = list(windows(samples, 16_000, 1.5))
    assert np.array_equal(np.concatenate(parts), samples)
    assert max(map(len, parts)) <= 24_000


@pytest.mark.parametrize("text", ["", "...", "no no no " * 60, "a\ufffdb"])
def test_what_is_no_text_is_none(recording, stand_in, text):
    stand_in(lambda audio: output(text))
    with MlxAudioRecogniser("x") as recogniser:
        assert recogniser.transcribe(recording / "a.wav")[0] is None


def test_failures_are_one_line(recording, stand_in, tmp_path, monkeypatch):
    def generate(audio):
        raise ImportError("VoxtralProcessor requires\nthe PyTorch library")

    stand_in(generate)
    with (
        MlxAudioRecogniser("x") as recogniser,
        pytest.raises(DataError, match="a.wav: mlx-audio:x fails on it .*PyTorch") as e,
    ):
        recogniser.transcribe(recording / "a.wav")
    assert "\n" not in str(e.value)
    monkeypatch.setitem(sys.modules, "mlx_audio.stt", None)
    with pytest.raises(DataError, match=r"pip install 'mlx-voxclone\[mlx-audio\]'"):
        MlxAudioRecogniser("x")
    with pytest.raises(DataError, match="recogniser: .*mlx-audio:ID"):
        PrepareOptions(recogniser="whisperx:large")


def test_a_home_directory_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    assert PrepareOptions(recogniser="mlx-audio:~/voxtral").recogniser == "mlx-audio:/somebody/voxtral"
    assert PrepareOptions(recogniser="mlx-audio:owner/name").recogniser == "mlx-audio:owner/name"


@needs_mlx_audio
def test_what_is_no_recogniser_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded as a speech recogniser"):
        MlxAudioRecogniser(str(tmp_path))
