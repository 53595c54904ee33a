"""The model equals the released serving code on its reference vectors (float32, 1e-4 of the tensor's RMS)."""

import json

import golden
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral

TOLERANCE = 1e-4
MARGIN = 2e-3  # an acoustic code may differ only this close to a rounding boundary, in levels


def encode(model, vectors):
    return model.audio_tokenizer.encode_latents(vectors["in.waveform"][None])


@pytest.mark.parametrize("name", golden.CODEC_FILES)
def test_latents(name):
    model, vectors = golden.model_and_vectors(name)
    got = encode(model, vectors).swapaxes(1, 2)
    assert golden.relative_error(got, vectors["out.latents"]) < TOLERANCE


@pytest.mark.parametrize("name", golden.CODEC_FILES)
def test_codes(name):
    model, vectors = golden.model_and_vectors(name)
    got = np.array(model.audio_tokenizer.quantize(encode(model, vectors)))
    want = np.array(vectors["out.codes"])
    assert (got[:, 0] == want[:, 0]).all()
    differs = got[:, 1:] != want[:, 1:]
    assert not (differs & (np.array(vectors["out.acoustic_margin"]) > MARGIN)).any()
    from_reference = np.array(model.audio_tokenizer.quantize(vectors["out.latents"].swapaxes(1, 2)))
    assert (from_reference == want).all()


@pytest.mark.parametrize("name", golden.CODEC_FILES)
def test_waveforms(name):
    model, vectors = golden.model_and_vectors(name)
    for codes, waveform in (("out.codes", "out.waveform"), ("in.codes", "out.waveform_of_in_codes")):
        got = model.audio_tokenizer.decode(vectors[codes])
        assert golden.relative_error(got[:, None], vectors[waveform]) < TOLERANCE


@pytest.mark.parametrize("name", golden.CODEC_FILES)
def test_voice_embedding(name):
    model, vectors = golden.model_and_vectors(name)
    got = model.voice_embedding(np.array(vectors["out.codes"][0]))
    assert golden.relative_error(got, vectors["out.voice_embedding"]) < TOLERANCE


def test_backbone_every_layer():
    model, vectors = golden.model_and_vectors("lm_backbone")
    inputs: list[mx.array] = []
    hidden = model.hidden_states(vectors["in.embeddings"], layer_inputs=inputs)
    assert golden.relative_error(hidden, vectors["out.hidden"]) < TOLERANCE
    assert len(inputs) == 3
    for i, layer_input in enumerate(inputs):
        assert golden.relative_error(layer_input, vectors[f"out.layer_input.{i}"]) < TOLERANCE


def test_head_velocity_and_logits():
    model, vectors = golden.model_and_vectors("acoustic_transformer")
    head = model.acoustic_transformer
    velocity = head.velocity(vectors["in.x_t"], vectors["in.t"], vectors["in.hidden"])
    assert golden.relative_error(velocity, vectors["out.velocity"]) < TOLERANCE
    assert golden.relative_error(head.semantic_logits(vectors["in.hidden"]), vectors["out.semantic_logits"]) < TOLERANCE


def test_head_codes():
    model, vectors = golden.model_and_vectors("acoustic_transformer")
    got = model.acoustic_transformer.decode_frame(vectors["in.hidden"], vectors["in.noise"], n_steps=7, cfg_alpha=1.2)
    assert (np.array(got) == np.array(vectors["out.codes"])).all()


@pytest.mark.parametrize("encoder", [False, True])
def test_release_shape_is_the_manifest(encoder):
    """Exactly the release's names, shapes and dtypes (386, or with the encoder 500), built without allocating."""
    manifest = json.loads((golden.GOLDEN / "checkpoint_manifest.json").read_text())
    wanted = {**manifest["released"], **(manifest["encoder"] if encoder else {})}
    assert (len(manifest["released"]), len(manifest["encoder"])) == (386, 114)
    mx.clear_cache()
    before = mx.get_active_memory()
    model = Voxtral(VoxtralConfig.from_dict(golden.RELEASE_PARAMS), encoder=encoder)
    model.set_dtype(mx.bfloat16)
    got = {
        k: ("BF16" if v.dtype == mx.bfloat16 else v.dtype, list(v.shape)) for k, v in tree_flatten(model.parameters())
    }
    assert got == {k: (v["dtype"], v["shape"]) for k, v in wanted.items()}
    assert mx.get_active_memory() - before < 2**20
    if encoder:
        assert sum(np.prod(v["shape"]) for v in manifest["encoder"].values()) == pytest.approx(149.47e6, rel=1e-4)
