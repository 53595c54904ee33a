"""A model directory: what is missing, too much or misshapen is named; the model it makes has its weights."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from golden import GOLDEN, RELEASE_PARAMS
from mlx.utils import tree_flatten

from mlx_voxclone.checkpoint import release as release_module
from mlx_voxclone.checkpoint.release import Release, expected_shapes, load_model, open_encoder, part_of, resolve
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError, ConfigError
from mlx_voxclone.model.config import VoxtralConfig


def rewritten(base, directory, change):
    """A copy of a checkpoint whose tensors went through `change(dict)`."""
    shutil.copytree(base, directory)
    arrays = Release(base).tensors.arrays()
    change(arrays)
    save_tensors(directory / "consolidated.safetensors", arrays, overwrite=True)
    return Release(directory)


def random_encoder(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape).astype(np.float32) * 0.1
        for name, shape in expected_shapes(config, ["encoder"]).items()
    }


def test_the_real_model_has_the_releases_names_and_shapes():
    manifest = json.loads((GOLDEN / "checkpoint_manifest.json").read_text())
    config = VoxtralConfig.from_dict(RELEASE_PARAMS)
    for parts, key in ((("lm", "head", "decoder"), "released"), (("encoder",), "encoder")):
        assert expected_shapes(config, parts) == {n: tuple(t["shape"]) for n, t in manifest[key].items()}
    assert {part_of(name) for name in manifest["encoder"]} == {"encoder"}
    assert {part_of(name) for name in manifest["released"]} == {"lm", "head", "decoder"}


def test_model_has_the_files_weights(miniature):
    release = Release(miniature)
    model = load_model(release, dtype=mx.bfloat16)
    parameters = dict(tree_flatten(model.parameters()))
    assert parameters.keys() == set(release.tensors.names())
    for name, value in parameters.items():
        assert value.dtype == (mx.float32 if name.startswith("audio_tokenizer.") else mx.bfloat16)
        np.testing.assert_array_equal(np.array(value.astype(mx.float32)), release.tensors.numpy(name))


@pytest.mark.parametrize("part", ["lm", "head", "decoder"])
def test_any_part_alone(miniature, part):
    release = Release(miniature)
    loaded = release.load_parameters({part})
    assert loaded.keys() == {n for n in release.tensors.names() if part_of(n) == part}
    with pytest.raises(ValueError, match="parts are"):
        release.load_parameters({"codec"})


def test_an_encoder_that_is_not_there(miniature):
    with pytest.raises(CheckpointError, match="has no codec encoder"):
        Release(miniature).load_parameters({"encoder"})


def test_an_encoder_from_a_file(miniature, tmp_path):
    release = Release(miniature)
    encoder = random_encoder(release.config)
    save_tensors(tmp_path / "encoder.safetensors", encoder)
    model = load_model(release, parts=("codec",), encoder_file=tmp_path / "encoder.safetensors")
    parameters = dict(tree_flatten(model.parameters()))
    for name, value in encoder.items():
        expected = mx.array(value).astype(mx.bfloat16).astype(mx.float32)  # as a bake would store it
        np.testing.assert_array_equal(np.array(parameters[name]), np.array(expected))
    assert model.audio_tokenizer.encode_audio(np.zeros(5000, np.float32)).shape == (3, release.config.codec.latent_dim)


def test_all_faults_in_one_line(miniature, tmp_path):
    def damage(arrays):
        del arrays["layers.0.attention.wq.weight"], arrays["norm.weight"]
        arrays["layers.0.attention.bias"] = mx.zeros(3)
        arrays["layers.1.attention.wk.weight"] = mx.zeros((2, 3))
        arrays["layers.1.attention.wv.weight"] = arrays["layers.1.attention.wv.weight"].view(mx.uint16)

    with pytest.raises(CheckpointError) as caught:
        rewritten(miniature, tmp_path / "bad", damage).load_parameters({"decoder"})
    line = str(caught.value)
    assert "\n" not in line
    assert "missing: layers.0.attention.wq.weight, norm.weight" in line
    assert "unexpected: layers.0.attention.bias" in line
    assert "layers.1.attention.wk.weight [2, 3] instead of [32, 64]" in line
    assert "layers.1.attention.wv.weight of type U16" in line


def test_many_faults_are_named_together(miniature, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        rewritten(miniature, tmp_path / "bad", lambda a: [a.pop(n) for n in list(a) if "decoder_blocks" in n]).check()
    assert "audio_tokenizer.decoder_blocks.*.layers.*.attention.wq.weight (8 of them)" in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_a_part_of_an_encoder_is_no_encoder(miniature, tmp_path):
    """A server would take the encoder as present at the first tensor it sees."""
    release = Release(miniature)
    name = next(iter(random_encoder(release.config)))
    whole = rewritten(miniature, tmp_path / "whole", lambda a: a.update(random_encoder(release.config)))
    whole.check()
    assert whole.has_encoder
    assert whole.fingerprint() == release.fingerprint()
    part = rewritten(miniature, tmp_path / "part", lambda a: a.update({name: random_encoder(release.config)[name]}))
    with pytest.raises(CheckpointError, match="missing: "):
        part.check()


def test_an_encoder_file_is_an_encoder_and_nothing_else(miniature, tmp_path):
    config = Release(miniature).config
    good = random_encoder(config)
    plain = {k.replace("parametrizations.weight.original1", "weight"): v for k, v in good.items()}
    bad = {
        "plain conv names": ({k: v for k, v in plain.items() if "original0" not in k}, "missing: .*original0"),
        "one missing": (
            {k: v for k, v in good.items() if not k.endswith("6.layers.1.ffn_scale")},
            "6.layers.1.ffn_scale",
        ),
        "one more": (good | {"norm.weight": np.ones(64, np.float32)}, "unexpected: norm.weight"),
        "a wrong shape": (good | {"audio_tokenizer.encoder_blocks.0.layers.0.ffn_scale": np.ones(3)}, "misshapen"),
    }
    for i, (content, match) in enumerate(bad.values()):
        save_tensors(tmp_path / f"{i}.safetensors", {k: v.astype(np.float32) for k, v in content.items()})
        with pytest.raises(CheckpointError, match=match):
            open_encoder(tmp_path / f"{i}.safetensors", config)


def test_fingerprint_sees_lm_and_head_alone(miniature, tmp_path):
    base = Release(miniature).fingerprint()
    for i, name in enumerate(("layers.1.feed_forward.w3.weight", "acoustic_transformer.norm.weight", "norm.weight")):
        changed = rewritten(miniature, tmp_path / f"{i}", lambda a, name=name: a.update({name: a[name] * 1.5}))
        assert changed.fingerprint() != base
    scale = "audio_tokenizer.decoder_blocks.1.layers.0.ffn_scale"
    assert rewritten(miniature, tmp_path / "c", lambda a: a.update({scale: a[scale] * 2})).fingerprint() == base


@pytest.mark.parametrize("place", [0, -1])
def test_fingerprint_sees_both_ends_of_a_large_tensor(miniature, tmp_path, place):
    def change(arrays):
        values = np.array(arrays[name].astype(mx.float32))
        assert values.size * 2 > 2 * 4096
        values.reshape(-1)[place] += 1
        arrays[name] = mx.array(values).astype(mx.bfloat16)

    name = "mm_audio_embeddings.tok_embeddings.weight"
    assert rewritten(miniature, tmp_path / "x", change).fingerprint() != Release(miniature).fingerprint()


def test_voices(miniature, tmp_path):
    release = Release(miniature)
    assert release.voices() == ["casual_female", "casual_male", "neutral_female"]
    assert mx.array_equal(release.voice("Casual_Male"), release.voice("casual_male"))
    with pytest.raises(CheckpointError, match=r"no voice called 'nobody'; there are: casual_female, "):
        release.voice("nobody")
    shutil.copytree(miniature, tmp_path / "copy")
    place = tmp_path / "copy" / "voice_embedding"
    (place / "casual_female.pt").unlink()
    (place / "casual_female.safetensors").unlink()
    (place / "casual_male.pt").unlink()
    copy = Release(tmp_path / "copy")
    assert copy.voices() == ["casual_male", "neutral_female"]
    assert mx.array_equal(copy.voice("casual_male"), release.voice("casual_male"))
    save_tensors(place / "casual_male.safetensors", {"embedding": mx.zeros((3, 8))}, overwrite=True)
    with pytest.raises(CheckpointError, match="rows of 8, but the model is 64 wide"):
        copy.voice("casual_male")


def test_places_that_are_no_model(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no such directory"):
        Release(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="a file; give the directory"):
        Release(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"params\.json"):
        Release(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps(RELEASE_PARAMS))
    with pytest.raises(CheckpointError, match=r"consolidated\.safetensors: no such file"):
        Release(tmp_path).check()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("voxtrl", "; did you mean {place}/voxtral?"),
        ("VOXTRAL", "; did you mean {place}/voxtral?"),
        ("zzz", "; checkpoints here: {place}/ann, {place}/bob, {place}/cy, ..."),
        ("none/zzz", ""),
    ],
)
def test_a_model_that_is_not_there_names_those_beside_it(tmp_path, name, hint):
    for made in ("voxtral", "cy", "bob", "ann"):
        (tmp_path / made).mkdir()
        (tmp_path / made / "params.json").write_text("{}")
    (tmp_path / "zzzz").mkdir()  # holds none
    with pytest.raises(CheckpointError) as refused:
        Release(tmp_path / name)
    assert str(refused.value) == f"{tmp_path / name}: no such directory{hint.format(place=tmp_path)}"


def test_a_name_that_could_be_a_hub_id_gets_the_same_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made" / "model").mkdir(parents=True)
    (tmp_path / "made" / "model" / "params.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"made/modl: no directory of this name here \(did you mean made/model\?\)"
    ):
        Release("made/modl")


def test_hub_models(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name.startswith("nobody/"):
            raise OSError("offline\nsecond line")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("some-body/Some_Model-1.0") == tmp_path
    assert asked[0][0] == "some-body/Some_Model-1.0"
    assert "voice_embedding/*" in asked[0][1]
    with pytest.raises(CheckpointError, match=r"nobody/model: no directory of this name here.*\(offline\)"):
        resolve("nobody/model")
    assert release_module.resolve(tmp_path) == tmp_path
