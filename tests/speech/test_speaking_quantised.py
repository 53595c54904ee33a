"""`say --bits` and `load(bits=)`: what is quantised while loading, what stays, what it says, what is refused."""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import soundfile
from mlx.utils import tree_flatten

import mlx_voxclone
from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.checkpoint.quantised import TEXT_TABLE, from_mlx_audio, to_mlx_audio
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli import speaking
from mlx_voxclone.errors import CheckpointError, ConfigError, VoxcloneWarning
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.blocks.dequantised import DequantisedLinear
from mlx_voxclone.model.quantised import pack, quantised_linears, unpack
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("no_fsync")
TEXT, VOICE = "Good morning.", "casual_female"


def dequantised(release: Release, quantisation: Quantisation) -> Voxtral:
    """The reference: plain linears with the numbers of quantised ones."""
    model = load_model(release)
    for name, room, leaf in list(quantised_linears(model)):
        linear = nn.Linear(1, 1, bias=False)
        linear.weight = unpack(pack(release.tensors.array(f"{name}.weight"), quantisation), quantisation)
        setattr(room, leaf, linear)
    return model


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("group_size", [32, 64])
def test_it_computes_with_the_dequantised_numbers(miniature, bits, group_size):
    quantisation = Quantisation(bits, group_size)
    release = Release(miniature)
    ours, reference = load_model(release, quantisation=quantisation), dequantised(release, quantisation)
    x = mx.random.normal((2, 5, release.config.backbone.dim), key=mx.random.key(0))
    assert mx.allclose(ours.hidden_states(x), reference.hidden_states(x), atol=1e-4).item()
    hidden, noise = x[:, 0], mx.random.normal((2, release.config.codec.acoustic_dim), key=mx.random.key(1))
    heads = [m.acoustic_transformer for m in (ours, reference)]
    values = [head.acoustic_values(hidden, noise) for head in heads]
    assert mx.allclose(*values, atol=1e-4).item()
    assert mx.allclose(*(head.semantic_logits(hidden) for head in heads), atol=1e-3).item()


def test_what_is_quantised_and_what_stays(miniature):
    release = Release(miniature)
    full, ours = load_model(release), load_model(release, quantisation=Quantisation(8))
    quantised = {name for name, module in ours.named_modules() if isinstance(module, nn.QuantizedLinear)}
    assert quantised == {name for name, _, _ in quantised_linears(full)}
    assert all(type(module) is DequantisedLinear for name, module in ours.named_modules() if name in quantised)
    head = ours.acoustic_transformer
    assert type(head.input_projection) is type(head.acoustic_codebook_output) is nn.Linear
    ids = mx.array([[3, 0], [7, 3]])
    tables = [model.mm_audio_embeddings.tok_embeddings for model in (full, ours)]
    assert mx.array_equal(*(table(ids) for table in tables)).item()
    assert TEXT_TABLE not in dict(tree_flatten(ours.parameters()))


def test_the_codec_gives_the_same_samples_with_linears_in_half_the_memory(miniature):
    release = Release(miniature)
    full, ours = (load_model(release, quantisation=q).audio_tokenizer for q in (None, Quantisation(4)))
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 30) for size in release.config.codec.codebook_sizes])
    np.testing.assert_array_equal(ours.decode_audio(codes), full.decode_audio(codes))
    kept = [value for name, value in tree_flatten(ours.parameters()) if value.dtype == mx.bfloat16]
    assert len(kept) == 7 * sum(release.config.codec.decoder_lengths)


def test_never_more_than_one_tensor_in_full(tmp_path):
    release = Release(make_micro(tmp_path / "small", "small"))
    names = [f"{name}.weight" for name, _, _ in quantised_linears(Voxtral(release.config))]
    sizes = [release.tensors.info(name).nbytes for name in names]
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    told: list[tuple[int, int]] = []
    model = load_model(release, quantisation=Quantisation(4), progress=lambda count, total: told.append((count, total)))
    most = mx.get_peak_memory() - before
    assert most < sum(sizes) * 4.5 / 16 + 6 * max(sizes)
    assert most < sum(sizes) / 2
    assert [count for count, _ in told] == [release.tensors.info(n).nbytes for n in sorted(names)]
    assert {total for _, total in told} == {sum(sizes)}
    del model


def test_adapters_on_top_stay_in_full(miniature, tmp_path):
    release, rng = Release(miniature), np.random.default_rng(0)
    dim = release.config.backbone.dim
    tensors = {
        "layers.1.attention.wq.lora_a": rng.standard_normal((dim, 2)).astype(np.float32),
        "layers.1.attention.wq.lora_b": rng.standard_normal((2, 64)).astype(np.float32),
    }
    save_adapters(tmp_path / "a", tensors, AdapterConfig(2, 4.0, ("wq",), release.fingerprint()))
    x = mx.random.normal((1, 4, dim), key=mx.random.key(0))
    for bits in (8, 6, 4):
        ours = Speaker.load(miniature, adapters=tmp_path / "a", quantisation=Quantisation(bits)).model
        reference = dequantised(release, Quantisation(bits))
        linear = reference.layers[1].attention.wq
        linear.weight = (
            linear.weight
            + 2.0 * mx.array(tensors["layers.1.attention.wq.lora_a"] @ tensors["layers.1.attention.wq.lora_b"]).T
        )
        assert mx.allclose(ours.hidden_states(x), reference.hidden_states(x), atol=2e-4).item()


def test_from_python_and_from_the_command_line(whole, tmp_path):
    told: list[tuple] = []
    tts = mlx_voxclone.load(whole, bits=4, group_size=32, progress=lambda *what: told.append(what))
    assert told[-1][0] == told[-1][1] > 0
    assert told[-1][2] == "weights"
    output = tmp_path / "out.wav"
    with pytest.warns(VoxcloneWarning, match="cut off"):
        said = tts.say(TEXT, VOICE, max_seconds=0.4)
    options = ["--text", TEXT, "--voice", VOICE, "--max-seconds", "0.4", "--output", str(output), "--float32"]
    assert (
        voxclone(["say", "--model", str(whole), "--bits", "4", "--group-size", "32", *options, "--device", "cpu"]) == 0
    )
    np.testing.assert_array_equal(soundfile.read(output, dtype="float32")[0], said)
    assert tts.voice_from(np.sin(np.arange(30000) / 20).astype(np.float32)).rows.shape[0] == 17  # it hears, too


def test_a_wav_of_another_width_is_not_gone_on_with():
    given = [
        SimpleNamespace(adapters=[], quantisation=q, verify=False) for q in (None, Quantisation(8), Quantisation(8, 32))
    ]
    assert len({str(speaking.asked(options)) for options in given}) == 3
    assert speaking.asked(given[0]) == {"adapters": []}  # as ever: what was begun before goes on


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "5"], "--bits: choose 8, 6 or 4; got 5"),
        (["--bits", "0"], "--bits: choose 8, 6 or 4; got 0"),
        (["--bits", "four"], "--bits"),
        (["--group-size", "64"], "give --bits 8, 6 or 4"),
        (["--bits", "4", "--group-size", "16"], "--group-size: choose 32, 64 or 128; got 16"),
        (["--bits", "4", "--group-size", "128"], "layers.0.attention.wq has 64 inputs; choose 32 or 64"),
    ],
)
def test_refused_in_one_line(refused, miniature, tmp_path, options, said):
    given = ["say", "--model", miniature, "--voice", VOICE, "--text", "a", "--output", tmp_path / "out.wav"]
    refused([*given, *options], said)


def test_refused_from_python(miniature):
    for given in ({"bits": 5}, {"bits": True}, {"bits": 8.0}, {"bits": "8"}, {"bits": 8, "group_size": 0}):
        with pytest.raises(ConfigError, match="choose"):
            mlx_voxclone.load(miniature, **given)
    with pytest.raises(CheckpointError, match="quantised weights are for mlx-audio"):
        mlx_voxclone.bake(miniature, "nowhere", bits=8)
    with pytest.raises(ConfigError, match="choose"):
        mlx_voxclone.bake(miniature, "nowhere", bits=7, target="mlx-audio")


def test_names_go_there_and_back(miniature):
    names = [
        f"{name}.{leaf}"
        for name, _, _ in quantised_linears(Voxtral(Release(miniature).config))
        for leaf in ("weight", "scales", "biases")
    ]
    names += Release(miniature).tensors.names()
    stored = [to_mlx_audio(name) for name in names]
    assert [from_mlx_audio(name) for name in stored] == names
    assert "language_model.model.model.layers.1.mlp.down_proj.scales" in stored
    assert "acoustic_transformer.layers.0.attention.wq.scales" in stored
    assert "layers.0.attention_norm.weight" in stored
