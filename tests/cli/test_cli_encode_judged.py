"""`voxclone encode --text` and `--transcribe`: codes that the language model corrects, from file to file."""

import importlib.util
import sys
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from tiny_whisper import LANGUAGE, SENTENCE, write_whisper

from mlx_voxclone.audio.io import normalise_level, read_audio, write_wav
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data import transcribe
from mlx_voxclone.data.options import WHISPER_MODEL
from mlx_voxclone.train.judge import recording as judged_recording
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence

pytest_plugins = ["commands"]
TEXT = "papa mino."


@pytest.fixture(scope="module")
def clip(speech, tmp_path_factory):
    """Thirteen frames of a recording."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    write_wav(path, speech[4_800 : 4_800 + 12 * 1_920 + 300])
    return path


@pytest.fixture(scope="module")
def other(speech, tmp_path_factory):
    """Another recording of the speaker, 1.1 s."""
    path = tmp_path_factory.mktemp("other") / "other.wav"
    write_wav(path, speech[-26_400:])
    return path


@pytest.fixture(scope="module")
def model(whole):
    dtype = mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16  # as the command loads it
    return load_model(Release(whole), dtype=dtype)


@pytest.fixture
def encode(tmp_path, whole, capsys):
    """`encode(audio, *options)` -> tensors, metadata, what was said on stderr."""

    def run(audio, *options, model=whole, name="x.safetensors"):
        output = tmp_path / name
        assert voxclone([str(a) for a in ("encode", audio, "--model", model, "--output", output, *options)]) == 0
        captured = capsys.readouterr()
        assert captured.out == f"{output}\n"
        file = TensorFile(output)
        return {name: np.array(file.array(name)) for name in file.names()}, file.metadata, captured.err

    return run


def judged(model, directory, samples, voice, text=TEXT):
    """What the judge says without the command."""
    tokenizer = SpeechTokenizer(Release(directory).tokenizer_path)
    latents = np.array(model.audio_tokenizer.encode_audio(samples))
    return CodeJudge(model, tokenizer.prompt).judge([Evidence("x", text, latents, voice)])[0]


def test_codes_are_the_judges(encode, model, whole, clip, other):
    samples, codec = read_audio(clip), model.audio_tokenizer
    plain, plain_metadata, _ = encode(clip, name="plain.safetensors")
    found, metadata, said = encode(clip, "--text", TEXT, "--ref-audio", other)
    expected = judged(model, whole, samples, codec.audio_codes(read_audio(other)))
    assert sorted(found) == ["codes", "confidence", "embedding", "latents"]
    assert (found["codes"].dtype, found["codes"].shape) == (np.int32, (37, 13))
    assert (found["confidence"].dtype, found["confidence"].shape) == (np.float32, (13,))
    np.testing.assert_array_equal(found["codes"], expected.codes)
    np.testing.assert_array_equal(found["confidence"], expected.confidence)
    changed = (expected.codes[0] != plain["codes"][0]).mean()
    assert changed > 0, "a judge that changes nothing tests nothing"
    assert not plain_metadata
    assert metadata["text"] == TEXT
    figures = {name: float(value) for name, value in metadata.items() if name != "text"}
    assert figures == pytest.approx(
        {
            "changed_semantic": changed,
            "mean_confidence": expected.confidence.mean(),
            "text_nats": expected.text_nats,
            "raw_nats": expected.raw_nats,
        },
        rel=1e-5,
    )
    assert f"{100 * changed:.1f} % of the semantic codes changed" in said
    assert f"{expected.text_nats:.3f} nats per frame after the text" in said


def test_latents_and_voice_stay_the_encoders(encode, clip):
    plain, _, _ = encode(clip, name="plain.safetensors")
    found, _, _ = encode(clip, "--text", TEXT)
    assert not np.array_equal(found["codes"], plain["codes"])
    np.testing.assert_array_equal(found["latents"], plain["latents"])
    np.testing.assert_array_equal(found["embedding"], plain["embedding"])


def test_the_recording_is_its_own_voice_up_to_a_limit(encode, model, whole, clip, monkeypatch):
    monkeypatch.setattr(judged_recording, "OWN_VOICE_SECONDS", 0.4)
    samples = read_audio(clip)
    own = model.audio_tokenizer.audio_codes(samples)
    found, _, _ = encode(clip, "--text", TEXT)
    expected, longer = (judged(model, whole, samples, own[:, :frames]) for frames in (5, 13))
    np.testing.assert_array_equal(found["codes"], expected.codes)
    assert not np.array_equal(expected.confidence, longer.confidence)


def test_text_and_voice_count(encode, clip, other):
    """Other words or another voice prompt, other probabilities."""
    options = {"a": [TEXT], "b": ["koni lesu tara papa."], "c": [TEXT, "--ref-audio", other]}
    options["d"] = [*options["c"], "--ref-audio", other]
    found = [encode(clip, "--text", *o, name=f"{name}.safetensors")[0]["confidence"] for name, o in options.items()]
    assert len({one.tobytes() for one in found}) == len(options)


def test_normalising_brings_both_recordings_to_the_level(encode, model, whole, clip, other):
    samples, voice = (normalise_level(read_audio(path)) for path in (clip, other))
    found, _, _ = encode(clip, "--text", TEXT, "--ref-audio", other, "--normalise", "--quiet")
    expected = judged(model, whole, samples, model.audio_tokenizer.audio_codes(voice))
    np.testing.assert_array_equal(found["codes"], expected.codes)
    np.testing.assert_array_equal(found["confidence"], expected.confidence)


def test_an_encoder_given_apart_is_the_evidence(encode, miniature, encoder_file, clip):
    apart, _, _ = encode(clip, "--text", TEXT, "--encoder", encoder_file, model=miniature, name="a.safetensors")
    baked, _, said = encode(clip, "--text", TEXT, "--quiet", name="b.safetensors")
    assert said == ""
    for name in baked:
        np.testing.assert_array_equal(apart[name], baked[name])


def test_one_frame(encode, speech, tmp_path):
    write_wav(tmp_path / "short.wav", speech[9_600:10_000])
    found, _, _ = encode(tmp_path / "short.wav", "--text", "pa")
    assert (found["codes"].shape, found["confidence"].shape) == ((37, 1), (1,))


def test_the_file_decodes_and_speaks(encode, model, whole, clip, tmp_path):
    found, _, _ = encode(clip, "--text", TEXT)
    argv = ["decode", tmp_path / "x.safetensors", "--model", whole, "--output", tmp_path / "x.wav", "--float32"]
    assert voxclone([str(a) for a in argv]) == 0
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav"), model.audio_tokenizer.decode_audio(found["codes"]))
    rows = Release(whole).voice_of_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(np.array(rows), found["embedding"])


# ---- without a text ------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(monkeypatch):
    """A Whisper's stand-in: what it was asked; `heard.text` is what it understands."""
    asked = SimpleNamespace(text=TEXT, models=[], clips=[], freed=0)

    class Whisper:
        def __init__(self, model):
            asked.models.append(model)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            asked.freed += 1

        def transcribe(self, path, language=None):
            asked.clips.append((str(path), language))
            return asked.text, language or "it"

    monkeypatch.setattr(transcribe, "Transcriber", Whisper)
    return asked


def test_what_a_whisper_understands_is_the_text(encode, clip, other, heard):
    given, metadata, _ = encode(clip, "--text", TEXT, "--ref-audio", other, name="given.safetensors")
    found, own, said = encode(clip, "--transcribe", "--ref-audio", other)
    assert sorted(found) == sorted(given)
    for name in given:
        np.testing.assert_array_equal(found[name], given[name])
    assert own == metadata | {"transcribed_by": WHISPER_MODEL}
    assert "transcribed_by" not in metadata
    assert f"transcribed (it): {TEXT}\n" in said
    assert (heard.models, heard.clips, heard.freed) == ([WHISPER_MODEL], [(str(clip), None)], 1)
    _, named, _ = encode(clip, "--transcribe", "--whisper-model", "tiny", "--language", "pt", name="named.safetensors")
    assert named["transcribed_by"] == heard.models[-1] == "tiny"
    assert heard.clips[-1] == (str(clip), "pt")


def test_nothing_understood_is_no_text(refused, whole, clip, tmp_path, heard):
    heard.text = None
    argv = ["encode", clip, "--model", whole, "--output", tmp_path / "x.safetensors", "--transcribe"]
    refused(argv, f"{clip}: {WHISPER_MODEL} recognised no speech in it", "--text")
    assert heard.freed == 1


@pytest.mark.parametrize(("seconds", "level", "text"), [(30.1, 0.1, "up to 30 s"), (1.0, 0.0, "silent")])
def test_recordings_that_are_not_heard_at_all(refused, whole, tmp_path, heard, seconds, level, text):
    write_wav(tmp_path / "a.wav", np.full(round(seconds * 24_000), level), float32=True)
    argv = ["encode", tmp_path / "a.wav", "--model", whole, "--output", tmp_path / "x.safetensors", "--transcribe"]
    refused(argv, f"{tmp_path / 'a.wav'}: ", text)
    assert heard.models == []


@pytest.mark.skipif(importlib.util.find_spec("mlx_whisper") is None, reason="the extra `transcribe` is not installed")
def test_by_mlx_whisper_itself(encode, clip, tmp_path):
    whisper = write_whisper(tmp_path / "whisper")
    given, _, _ = encode(clip, "--text", SENTENCE, name="given.safetensors")
    found, metadata, said = encode(clip, "--transcribe", "--whisper-model", whisper)
    assert metadata["text"] == f"{SENTENCE}."
    assert f"transcribed ({LANGUAGE}): {SENTENCE}" in said
    np.testing.assert_array_equal(found["codes"], given["codes"])
    np.testing.assert_array_equal(found["confidence"], given["confidence"])


def test_without_the_extra(refused, whole, clip, tmp_path, monkeypatch):
    for name in ("mlx_whisper", "mlx_whisper.transcribe"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    argv = ["encode", clip, "--model", whole, "--output", tmp_path / "x.safetensors", "--transcribe"]
    refused(argv, "transcribing needs mlx-whisper", "mlx-voxclone[transcribe]")


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["--text", " \n "], ["--text is empty"]),
        (["--text", ""], ["--text is empty"]),
        (["--text", "papa " * 70_000], ["clip.wav: the text is too long", "exceed the context of 65536"]),
        (["--ref-audio", "clip.wav"], ["--ref-audio is for --text and --transcribe"]),
        (["--whisper-model", "tiny"], ["--whisper-model is for --transcribe"]),
        (["--text", "pa", "--language", "en"], ["--language is for --transcribe"]),
        (["--text", "pa", "--transcribe"], ["--transcribe: not allowed with argument --text"]),
        (["--transcribe", "--method", "optimise"], ["--transcribe is for --method encoder"]),
        (["--text", "pa", "--method", "optimise"], ["--text is for --method encoder"]),
        (["--text", "pa", "--ref-audio", "gone.wav"], ["gone.wav: no such audio file"]),
    ],
)
def test_options_that_cannot_be_used(refused, whole, clip, tmp_path, options, texts):
    refused(["encode", clip, "--model", whole, "--output", tmp_path / "x.safetensors", *options], *texts)


@pytest.mark.parametrize(
    ("samples", "text"),
    [(np.zeros(9_600), "silent"), (np.full(9_600, 5e-5), "silent"), (np.full(60 * 24_000 + 1, 0.1), "up to 60 s")],
    ids=["zeros", "hum", "long"],
)
@pytest.mark.parametrize("options", [[], ["--normalise"]], ids=["plain", "normalised"])
def test_recordings_that_hold_no_text(refused, whole, tmp_path, samples, text, options):
    write_wav(tmp_path / "a.wav", samples, float32=True)
    argv = ["encode", tmp_path / "a.wav", "--model", whole, "--output", tmp_path / "x.safetensors", "--text", "papa"]
    refused([*argv, *options], f"{tmp_path / 'a.wav'}: ", text)


def test_a_voice_that_cannot_serve(refused, whole, clip, speech, tmp_path):
    write_wav(tmp_path / "short.wav", speech[:12_000])
    argv = ["encode", clip, "--model", whole, "--output", tmp_path / "x.safetensors", "--text", "papa"]
    refused([*argv, "--ref-audio", tmp_path / "short.wav"], f"{tmp_path / 'short.wav'}: ", "0.5 s long")


def test_without_an_encoder(refused, miniature, clip, tmp_path):
    argv = ["encode", clip, "--model", miniature, "--output", tmp_path / "x.safetensors", "--text", "papa"]
    refused(argv, "has no codec encoder", "--encoder FILE")


@pytest.mark.parametrize("options", [[], ["--text", "papa"]], ids=["plain", "judged"])
def test_a_damaged_encoder(refused, miniature, encoder_file, clip, tmp_path, options):
    file = TensorFile(encoder_file)
    tensors = {name: file.numpy(name) for name in file.names()}
    name = next(name for name in tensors if name.endswith("input_proj.conv.parametrizations.weight.original0"))
    save_tensors(tmp_path / "e.safetensors", tensors | {name: np.full_like(tensors[name], np.nan)})
    argv = ["encode", clip, "--model", miniature, "--encoder", tmp_path / "e.safetensors", *options]
    texts = (f"{tmp_path / 'e.safetensors'}: latents are not finite", "take another encoder")
    refused([*argv, "--output", tmp_path / "x.safetensors"], *texts)


@pytest.mark.parametrize("part", ["language model", "flow head"])
def test_a_damaged_model(refused, whole, clip, tmp_path, monkeypatch, part):
    def broken(*arguments, **keywords):
        model = load_model(*arguments, **keywords)
        head = model.acoustic_transformer
        module = model.norm if part == "language model" else head.acoustic_codebook_output
        module.weight = module.weight * mx.nan
        return model

    monkeypatch.setattr(judged_recording, "load_model", broken)
    argv = ["encode", clip, "--model", whole, "--output", tmp_path / "x.safetensors", "--text", "papa", "--quiet"]
    refused(argv, f"{whole}: the {part}'s numbers are not finite")
