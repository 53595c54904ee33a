"""`bake --bits`: what mlx-audio opens by its own loader, and what it says with it; what is refused."""

import json
import os
import re

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CONFIG, PARAMS, WEIGHTS, Release, load_model
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import CheckpointError, ConfigError
from mlx_voxclone.model.config import END_CODE
from mlx_voxclone.model.quantised import Packed, pack, quantised_linears, tensor_names, unpack
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["baking", "commands"]
pytestmark = pytest.mark.usefixtures("no_fsync")

TEXT = "Hello there."
FRAMES = 6
FOUR = Quantisation(4, 32)


@pytest.fixture(scope="module")
def four(base, encoder_file, voice_file, tmp_path_factory):
    """4 bits in groups of 32, with a voice."""
    output = tmp_path_factory.mktemp("four") / "baked"
    bake(base, output, target="mlx-audio", quantisation=FOUR, encoder=encoder_file, voices={"anna": voice_file})
    return output


def spoken(model, prompt: mx.array) -> np.ndarray:
    """The LM's codes `[FRAMES, 37]` behind a prompt, each fed back, with noise of a fixed seed."""
    mx.random.seed(3)
    frames, cache = [], model.new_cache()
    hidden = model.hidden_states(prompt, cache)[:, -1]
    for _ in range(FRAMES):
        noise = mx.random.normal((1, model.config.codec.acoustic_dim))
        frames.append(model.acoustic_transformer.decode_frame(hidden, noise))
        hidden = model.hidden_states(model.embed_codes(frames[-1])[:, None], cache)[:, -1]
    return np.concatenate(frames)


def prompt_of(speaker: Speaker, model, voice: str) -> mx.array:
    rows = speaker.voice_rows(voice)
    return model.embed_prompt(speaker.tokenizer.prompt(TEXT, rows.shape[0]), rows)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_mlx_audio_says_the_same_at_that_width(base, tmp_path, monkeypatch, bits):
    """As quantised by `bake`, and as `say --bits` quantises the model in full."""
    tts = pytest.importorskip("mlx_audio.tts.utils")
    bake(base, tmp_path / "baked", target="mlx-audio", quantisation=Quantisation(bits))
    theirs = tts.load_model(tmp_path / "baked", strict=True)
    theirs.set_dtype(mx.float32)
    heard = []
    monkeypatch.setattr(
        theirs.audio_tokenizer, "decode", lambda codes: heard.append(np.array(codes)) or mx.zeros((1, 1))
    )
    mx.random.seed(3)
    list(theirs.generate(text=TEXT, voice="casual_female", max_tokens=FRAMES))
    for speaker in (Speaker.load(tmp_path / "baked"), Speaker.load(base, quantisation=Quantisation(bits))):
        codes = spoken(speaker.model, prompt_of(speaker, speaker.model, "casual_female"))
        ended = np.append(codes[:, 0], END_CODE).tolist().index(END_CODE)  # what a random model says, END too
        assert ended >= 3
        np.testing.assert_array_equal(heard[0][0], codes[:ended])


def test_what_is_written(base, four):
    release, before = Release(four), Release(base)
    assert release.config.quantisation == FOUR
    assert json.loads((four / PARAMS).read_text()) == json.loads((four / CONFIG).read_text())
    stored = TensorFile(four / WEIGHTS)
    assert stored.info("language_model.model.model.layers.0.self_attn.q_proj.scales").dtype == "BF16"
    assert stored.info("acoustic_transformer.layers.0.attention.wq.weight").dtype == "U32"
    modules = [name for name, _, _ in quantised_linears(Voxtral(before.config))]
    for module in modules:
        packed = Packed(*(release.tensors.array(name) for name in tensor_names(module)))
        again = pack(before.tensors.array(f"{module}.weight"), FOUR)
        assert all(mx.array_equal(a, b).item() for a, b in zip(packed, again))
        wrong = mx.max(mx.abs(before.tensors.array(f"{module}.weight").astype(mx.float32) - unpack(packed, FOUR)))
        assert wrong.item() < mx.max(mx.abs(again.scales.astype(mx.float32))).item()  # a level at an end of the range
    kept = {n for n in before.tensors.names() if n.removesuffix(".weight") not in modules}
    assert {n for n in release.tensors.names() if n.rpartition(".")[0] not in modules} == kept
    assert all(bytes(release.tensors.raw(n)) == bytes(before.tensors.raw(n)) for n in kept)
    assert "anna" in release.voices()
    assert not release.has_encoder


def test_it_speaks_as_the_model_quantised_while_loading(base, four, tmp_path):
    ours, loaded = Speaker.load(four), Speaker.load(base, quantisation=FOUR)
    said = [s.say(TEXT, "casual_male", max_seconds=0.4) for s in (ours, loaded)]
    np.testing.assert_array_equal(*(one.codes for one in said))
    np.testing.assert_array_equal(*(one.samples for one in said))
    output = tmp_path / "said.wav"
    options = ["--voice", "anna", "--text", TEXT, "--max-seconds", "0.2", "--output", str(output), "--device", "cpu"]
    assert voxclone(["say", "--model", str(four), *options]) == 0
    assert output.stat().st_size > 44


def test_adapters_of_the_model_in_full_go_on_top(base, four, adapters):
    """Of both: what was quantised is what they were trained on."""
    plain, ours = Speaker.load(four), Speaker.load(four, adapters=adapters)
    loaded = Speaker.load(base, quantisation=FOUR, adapters=adapters)
    prompt = prompt_of(plain, plain.model, "casual_male")
    hidden = [speaker.model.hidden_states(prompt) for speaker in (plain, ours, loaded)]
    assert mx.array_equal(hidden[1], hidden[2]).item()
    assert not mx.allclose(hidden[0], hidden[1], atol=1e-3).item()


def test_adapters_are_folded_in_before(base, adapters, tmp_path):
    """What is quantised is the sum: nearer to it than what is left of the change in the base's own levels."""
    report = bake(base, tmp_path / "baked", target="mlx-audio", quantisation=Quantisation(8), adapters=adapters)
    assert {w.dtype for w in report.folded} == {"8-bit"}
    assert all(0.95 < w.kept < 1.05 for w in report.folded)
    dry = bake(base, tmp_path / "no", target="mlx-audio", quantisation=Quantisation(8), adapters=adapters, dry_run=True)
    assert sorted(dry.folded, key=lambda w: w.name) == sorted(report.folded, key=lambda w: w.name)
    model = load_model(Release(tmp_path / "baked"), parts=["lm", "head"])
    whole = Speaker.load(base, adapters=adapters)
    prompt = prompt_of(whole, whole.model, "casual_male")
    close, truth = model.hidden_states(prompt), whole.model.hidden_states(prompt)
    without = load_model(Release(base), parts=["lm", "head"], quantisation=Quantisation(8)).hidden_states(prompt)
    assert mx.linalg.norm(close - truth).item() < 0.3 * mx.linalg.norm(without - truth).item()
    with pytest.raises(CheckpointError, match="trained on another model"):
        Speaker.load(tmp_path / "baked", adapters=adapters)


def test_nothing_is_left_where_it_is_stopped(base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="no space"):
        bake(base, tmp_path / "baked", target="mlx-audio", quantisation=FOUR)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "4"], "--for mlx-audio"),
        (["--bits", "5", "--for", "mlx-audio"], "--bits: choose 8, 6 or 4; got 5"),
        (["--group-size", "32", "--for", "mlx-audio"], "give --bits"),
        (["--bits", "8", "--group-size", "48", "--for", "mlx-audio"], "--group-size: choose 32, 64 or 128; got 48"),
        (["--bits", "8", "--group-size", "128", "--for", "mlx-audio"], "has 64 inputs; choose 32 or 64"),
        (["--bits", "8", "--folded-as", "float32", "--for", "mlx-audio"], "contradict"),
    ],
)
def test_refused_in_one_line(refused, base, tmp_path, options, said):
    refused(["bake", "--model", base, "--output", tmp_path / "baked", *options], said, unchanged=(base,))


def test_what_a_quantised_model_cannot_do(refused, four, base, config_file, tmp_path):
    need = "needs the weights in full; give the checkpoint that it was made from"
    refused(["bake", "--model", four, "--output", tmp_path / "b", "--bits", "4", "--for", "mlx-audio"], need)
    refused(["unbake", "--model", four, "--output", tmp_path / "b"], need)
    refused(
        ["voices", "add", "--model", four, "--output", tmp_path / "b", f"x={base}/voice_embedding/casual_male.pt"], need
    )
    refused(["say", "--model", four, "--bits", "4", "--voice", "anna", "--text", "a", "--output", tmp_path / "o.wav"],
            "quantised already (4 bits in groups of 32); leave out the bits")  # fmt: skip
    for task in ("encoder", "clone"):
        refused(["train", "--config", config_file(task, model=str(four))], need)
        refused(["doctor", "--config", config_file(task, model=str(four))], need)


@pytest.mark.parametrize(
    "stated", [{"bits": 3}, {"group_size": 64}, {"bits": 4, "group_size": 5}, {"bits": 8, "mode": "mxfp8"}, 4, []]
)
def test_a_statement_that_is_not_read(four, tmp_path, stated):
    params = json.loads((four / PARAMS).read_text()) | {"quantization": stated}
    (tmp_path / PARAMS).write_text(json.dumps(params))
    with pytest.raises(ConfigError, match=re.escape("quantization is read as MLX's affine groups alone")):
        Release(tmp_path)


def test_weights_that_are_not_as_stated(four, base, tmp_path):
    """Groups of another size, and a model in full that is called a quantised one."""
    for source, stated in ((four, {"bits": 4, "group_size": 64}), (base, FOUR.params())):
        directory = tmp_path / source.parent.name
        directory.mkdir()
        for path in source.iterdir():
            if path.name != PARAMS and not path.name.startswith("."):
                (directory / path.name).symlink_to(path)
        params = json.loads((source / PARAMS).read_text()) | {"quantization": stated}
        (directory / PARAMS).write_text(json.dumps(params))
        with pytest.raises(CheckpointError, match="does not fit params.json: (missing|misshapen)"):
            Release(directory).check()
