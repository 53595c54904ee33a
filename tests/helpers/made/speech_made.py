"""Speech with noise, and a speaker model that is none."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from mlx_voxclone.miniature.synth import SyntheticSpeaker, random_text, synthesise


def speech(speaker=0, seed=0, syllables=8):
    text = random_text(np.random.default_rng(seed), syllables)
    return synthesise(text, SyntheticSpeaker.sample(speaker), seed)


def with_noise(wave, snr_db, seed=0):
    noise = np.random.default_rng(seed).standard_normal(len(wave))
    noise -= wave * np.dot(noise, wave) / np.dot(wave, wave)  # exactly orthogonal: the ratio is exact
    noise *= np.linalg.norm(wave) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)
    return (wave + noise).astype(np.float32)


def speaker_onnx(path, bands=80, inputs=1):
    """A model of the right form: the mean over time of the squared filterbanks."""
    given_ = [helper.make_tensor_value_info(f"feats{k}", TensorProto.FLOAT, ["B", "T", bands]) for k in range(inputs)]
    out = helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", bands])
    nodes = [
        helper.make_node("Mul", ["feats0", "feats0"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["embs"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "speaker", given_, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
