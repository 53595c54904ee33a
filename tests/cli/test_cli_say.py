"""`voxclone say`, from the command line to the samples of the file."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.audio.io import read_audio, write_wav
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.model import generation
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]
SECONDS = 0.8  # a model with random weights rarely ends by itself


@pytest.fixture
def say(tmp_path, whole, capsys):
    """`say(*arguments)` -> samples [S] as float; the command must succeed."""

    def run(*arguments, model=whole, text="papa mino.", name="out.wav") -> np.ndarray:
        output = tmp_path / name
        argv = ["say", "--model", model, "--text", text, "--max-seconds", SECONDS, "--output", output, *arguments]
        assert voxclone([str(a) for a in argv]) == 0
        assert capsys.readouterr().out == f"{output}\n"
        assert soundfile.info(output).samplerate == 24_000
        assert soundfile.info(output).channels == 1
        return soundfile.read(output, dtype="float32")[0]

    return run


@pytest.fixture(scope="module")
def adapters(whole, tmp_path_factory):
    """Adapters that change every layer's output a lot."""
    release, rng = Release(whole), np.random.default_rng(0)
    dim, tensors = release.config.backbone.dim, {}
    for layer in range(release.config.backbone.n_layers):
        outputs = release.tensors.info(f"layers.{layer}.attention.wq.weight").shape[0]
        tensors[f"layers.{layer}.attention.wq.lora_a"] = rng.standard_normal((dim, 2)).astype(np.float32)
        tensors[f"layers.{layer}.attention.wq.lora_b"] = rng.standard_normal((2, outputs)).astype(np.float32)
    directory = tmp_path_factory.mktemp("adapters")
    save_adapters(directory, tensors, AdapterConfig(2, 4.0, ("wq",), release.fingerprint()))
    return directory


def test_same_seed_same_samples_other_seed_other_samples(say):
    first = say("--voice", "casual_male", "--seed", "3")
    assert len(first) == round(SECONDS * 12.5) * 1920
    np.testing.assert_array_equal(say("--voice", "casual_male", "--seed", "3"), first)
    assert not np.array_equal(say("--voice", "casual_male", "--seed", "4"), first)


def test_voice_text_steps_and_guidance_reach_the_model(say):
    first = say("--voice", "casual_male")
    others = [
        say("--voice", "casual_female"),
        say("--voice", "casual_male", text="tara koni"),
        say("--voice", "casual_male", "--steps", "2"),
        say("--voice", "casual_male", "--cfg-alpha", "3"),
    ]
    assert not any(np.array_equal(first, other) for other in others)
    np.testing.assert_array_equal(say("--voice", "Casual_Male"), first)  # servers ask in lower case


def test_the_file_holds_what_the_model_said(say, whole, speech, voice_file):
    speaker = Speaker.load(whole)
    result = speaker.say("papa mino.", "casual_male", max_seconds=SECONDS)
    np.testing.assert_array_equal(say("--voice", "casual_male", "--float32"), result.samples)
    reference = speaker.say("papa mino.", reference=read_audio(voice_file), max_seconds=SECONDS)
    np.testing.assert_array_equal(say("--ref-audio", voice_file, "--float32"), reference.samples)
    assert not np.array_equal(result.samples, reference.samples)


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 2), (48_000, 1), (8_000, 1), (44_100, 2)])
def test_a_reference_clip_is_resampled_and_mixed_down(say, whole, speech, tmp_path, rate, channels):
    sound = np.stack([np.roll(speech, 5 * k) for k in range(channels)], axis=1)
    soundfile.write(tmp_path / "ref.flac", np.repeat(sound, 2, axis=0) if rate > 24_000 else sound, rate)
    samples = read_audio(tmp_path / "ref.flac")
    result = Speaker.load(whole).say("papa mino.", reference=samples, max_seconds=SECONDS)
    np.testing.assert_array_equal(say("--ref-audio", tmp_path / "ref.flac", "--float32"), result.samples)


def test_16_bit_is_clipped_and_float32_is_not(say, whole, tmp_path):
    """A decoder 20 times louder leaves full scale."""
    loud = shutil.copytree(whole, tmp_path / "loud")
    tensors = mx.load(str(loud / "consolidated.safetensors"))
    name = "audio_tokenizer.output_proj.conv.parametrizations.weight.original0"
    tensors[name] = tensors[name] * 20
    mx.eval(tensors)
    save_tensors(loud / "consolidated.safetensors", tensors, {"format": "pt"}, overwrite=True)
    floats = say("--voice", "casual_male", "--float32", model=loud)
    assert np.abs(floats).max() > 1.5
    assert soundfile.info(tmp_path / "out.wav").subtype == "FLOAT"
    integers = say("--voice", "casual_male", model=loud)
    assert soundfile.info(tmp_path / "out.wav").subtype == "PCM_16"
    np.testing.assert_allclose(integers, np.clip(floats, -1, 32767 / 32768), atol=0.51 / 32768)


def test_an_encoder_given_apart_serves_a_reference_clip(say, miniature, encoder_file, voice_file):
    voice = say("--ref-audio", voice_file, "--encoder", encoder_file, model=miniature)
    assert not np.array_equal(voice, say("--voice", "casual_male", model=miniature))


@pytest.mark.slow
def test_adapters_change_the_speech(say, adapters):
    changed = say("--voice", "casual_male", "--adapters", adapters)
    assert not np.array_equal(changed, say("--voice", "casual_male"))
    np.testing.assert_array_equal(say("--voice", "casual_male", "--adapters", adapters), changed)


def test_adapters_kept_apart_speak_as_the_folded_ones(whole, adapters, tmp_path, say):
    """The rows of logits that decide: `say --adapters` is `bake --adapters` but for BF16 rounding."""
    from mlx_voxclone.bake.bake import bake

    bake(whole, tmp_path / "folded", adapters=adapters)
    apart, folded, base = (
        Speaker.load(whole, adapters=str(adapters)),
        Speaker.load(tmp_path / "folded"),
        Speaker.load(whole),
    )
    states = []
    for speaker in (apart, folded, base):
        rows = speaker.voice_rows("casual_male")
        ids = speaker.tokenizer.prompt("papa mino.", rows.shape[0])
        states.append(np.array(speaker.model.hidden_states(speaker.model.embed_prompt(ids, rows))))
    rms = np.sqrt(np.mean(states[0] ** 2))
    assert np.sqrt(np.mean((states[0] - states[1]) ** 2)) < 0.02 * rms
    assert np.sqrt(np.mean((states[0] - states[2]) ** 2)) > 0.2 * rms


def test_adapters_of_another_base_are_refused(refused, whole, adapters, tmp_path):
    other = shutil.copytree(whole, tmp_path / "other")
    tensors = mx.load(str(other / "consolidated.safetensors"))
    tensors["norm.weight"] = tensors["norm.weight"] * 1.5
    mx.eval(tensors)
    save_tensors(other / "consolidated.safetensors", tensors, {"format": "pt"}, overwrite=True)
    argv = ["say", "--model", other, "--text", "papa", "--voice", "casual_male", "--adapters", adapters]
    refused([*argv, "--output", tmp_path / "o.wav"], str(adapters), "trained on another model", str(other))


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.fixture
def never_generates(monkeypatch):
    """What can be refused is refused before the model speaks: on a Mac that takes minutes."""

    def generate(*_, **__):
        raise AssertionError("the model spoke before the mistake was reported")

    monkeypatch.setattr(generation, "generate", generate)


BASIC = {"--text": "papa", "--voice": "casual_male", "--output": "out.wav"}


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"--voice": "nobody"}, ["no voice called 'nobody'", "casual_female, casual_male, neutral_female"]),
        ({"--text": "  \n "}, ["the text is empty"]),
        ({"--output": "nowhere/out.wav"}, ["nowhere: no such directory"]),
        ({"--output": "folder"}, ["folder: is a directory"]),
        ({"--ref-audio": "voice.wav"}, ["--ref-audio: not allowed with argument --voice"]),
        ({"--voice": None}, ["one of the arguments --voice --ref-audio is required"]),
        ({"--adapters": "gone"}, ["gone/adapter_config.json: not found"]),
        ({"--encoder": "gone.safetensors"}, ["gone.safetensors: no such file"]),
        ({"--model": "gone"}, ["gone: no such directory"]),
        ({"--model": "folder"}, ["params.json: not found"]),
        ({"--max-seconds": "inf"}, ["--max-seconds"]),
        ({"--max-seconds": "nan"}, ["--max-seconds"]),
        ({"--max-seconds": "0"}, ["--max-seconds"]),
        ({"--max-seconds": "1e9"}, ["exceed the context of 65536"]),
        ({"--steps": "0"}, ["--steps"]),
        ({"--cfg-alpha": "nan"}, ["--cfg-alpha"]),
        ({"--seed": "-1"}, ["--seed"]),
        ({"--seed": "many"}, ["--seed"]),
    ],
)
def test_refusals(refused, never_generates, whole, voice_file, tmp_path, monkeypatch, changes, texts):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    shutil.copy(voice_file, tmp_path / "voice.wav")
    options = {"--model": str(whole), **BASIC} | changes
    argv = [part for option, value in options.items() if value is not None for part in (option, value)]
    refused(["say", *argv], *texts, unchanged=(whole,))


REFERENCES = {
    "short": (lambda speech: speech[: 24_000 - 1], "take 1 to 60 s"),
    "long": (lambda speech: np.tile(speech, 60)[: 60 * 24_000 + 1], "take 1 to 60 s"),
    "silent": (lambda speech: np.zeros(48_000), "is silent"),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_reference_clips_that_cannot_serve(refused, never_generates, whole, speech, tmp_path, case):
    change, text = REFERENCES[case]
    write_wav(tmp_path / "ref.wav", change(speech))
    argv = ["say", "--model", whole, "--text", "papa", "--ref-audio", tmp_path / "ref.wav"]
    refused([*argv, "--output", tmp_path / "o.wav"], str(tmp_path / "ref.wav"), text)


def test_a_reference_of_hours_is_refused_by_its_header(refused, whole, speech, tmp_path, monkeypatch):
    """Decoding three hours takes a gigabyte; the header says their length."""
    from mlx_voxclone.audio import io

    def decoded(*_, **__):
        raise AssertionError("decoded")

    soundfile.write(tmp_path / "ref.flac", np.tile(speech, 40), 24_000)
    monkeypatch.setattr(io, "read_blocks", decoded)
    argv = ["say", "--model", whole, "--text", "papa", "--ref-audio", tmp_path / "ref.flac"]
    refused([*argv, "--output", tmp_path / "o.wav"], "take 1 to 60 s")


@pytest.mark.slow
def test_references_of_exactly_1_and_60_seconds_serve(whole, speech):
    speaker = Speaker.load(whole)
    assert speaker.voice_rows(reference=speech[:24_000]).shape[0] == 14  # ceil(12.5) frames and END
    assert speaker.voice_rows(reference=np.tile(speech, 60)[: 60 * 24_000]).shape[0] == 751


def test_a_checkpoint_without_encoder_names_the_ways_out(refused, never_generates, miniature, voice_file, tmp_path):
    argv = ["say", "--model", miniature, "--text", "papa", "--ref-audio", voice_file, "--output", tmp_path / "o.wav"]
    refused(argv, "has no codec encoder", "--encoder", "casual_female, casual_male, neutral_female")


def test_a_hub_model_that_cannot_be_fetched(refused, tmp_path):
    argv = ["say", "--model", "nobody/no-such-model", "--text", "papa", "--voice", "x", "--output", tmp_path / "o.wav"]
    refused(argv, "nobody/no-such-model", "not fetched from the hub")


def test_a_model_that_ends_at_once_writes_nothing(refused, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "generate", lambda *_, **__: iter(()))
    argv = ["say", "--model", whole, "--text", "papa", "--voice", "casual_male", "--output", tmp_path / "o.wav"]
    refused(argv, "ended before its first frame")


def test_an_existing_output_stays_when_the_command_fails_and_goes_when_it_succeeds(say, refused, whole, tmp_path):
    (tmp_path / "out.wav").write_bytes(b"RIFF mine")
    argv = ["say", "--model", whole, "--text", "papa", "--voice", "nobody", "--output", tmp_path / "out.wav"]
    refused(argv, "no voice called")
    assert len(say("--voice", "casual_male")) > 0


def test_quiet_says_nothing_but_the_result(say, capsys, whole, tmp_path):
    argv = ["say", "--model", whole, "--text", "papa", "--voice", "casual_male", "--max-seconds", "0.4", "--quiet"]
    assert voxclone([*map(str, argv), "--output", str(tmp_path / "o.wav")]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == f"{tmp_path / 'o.wav'}\n"
