"""Reference vectors of the released serving code (tests/fixtures/golden) and models built from them."""

import copy
import json

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from places import FIXTURES

from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral

GOLDEN = FIXTURES / "golden"
RELEASE_PARAMS = json.loads((GOLDEN / "params.json").read_text())
CODEC_FILES = ("codec_small", "codec_odd", "codec_short")


def load(name: str) -> tuple[dict[str, mx.array], dict[str, str]]:
    """-> (arrays by their full name, metadata) of one golden file."""
    return mx.load(str(GOLDEN / f"{name}.safetensors"), return_metadata=True)


def params_of(metadata: dict[str, str]) -> dict:
    """The release's params.json with the sizes a golden file was made with."""
    raw = copy.deepcopy(RELEASE_PARAMS)
    audio = raw["multimodal"]["audio_model_args"]
    if "params" in metadata:
        raw.update(json.loads(metadata["params"]))
        audio["acoustic_transformer_args"].update(input_dim=raw["dim"], dim=raw["dim"])
        return raw
    args = json.loads(metadata["audio_model_args"])
    head = args.pop("acoustic_transformer_args")
    audio.update(args)
    audio["acoustic_transformer_args"].update(head)
    raw["dim"] = head["input_dim"]
    raw["n_layers"], raw["vocab_size"] = 1, 64
    raw["n_heads"], raw["n_kv_heads"], raw["head_dim"], raw["hidden_dim"] = 4, 2, 8, 64
    codec = raw["multimodal"]["audio_tokenizer_args"]
    if "audio_tokenizer_args" in metadata:
        codec.update(json.loads(metadata["audio_tokenizer_args"]))
    else:
        codec.update(semantic_codebook_size=args["semantic_codebook_size"], semantic_dim=16)
        codec.update(dim=32, hidden_dim=64, n_heads=4, n_kv_heads=4, head_dim=8)
    return raw


def model_and_vectors(name: str) -> tuple[Voxtral, dict[str, mx.array]]:
    """A float32 model carrying a golden file's weights (all that the file has must fit), and its in/out vectors."""
    arrays, metadata = load(name)
    model = Voxtral(VoxtralConfig.from_dict(params_of(metadata)), encoder=name.startswith("codec"))
    weights = {k.removeprefix("weights."): v for k, v in arrays.items() if k.startswith("weights.")}
    names = {k for k, _ in tree_flatten(model.parameters())}
    assert set(weights) <= names, sorted(set(weights) - names)
    model.load_weights(list(weights.items()), strict=False)
    return model, {k: v for k, v in arrays.items() if not k.startswith("weights.")}


def relative_error(got, want) -> float:
    """Largest difference over the reference's RMS."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, (got.shape, want.shape)
    return float(np.abs(got - want).max() / np.sqrt(np.mean(want**2)))
