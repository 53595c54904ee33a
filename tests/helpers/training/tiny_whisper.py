"""Tiny Whispers in mlx-whisper's own format, made here: nothing is downloaded."""

import json
from pathlib import Path

import numpy as np

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 32,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 64,
    "n_text_state": 32,
    "n_text_head": 2,
    "n_text_layer": 2,
}
SENTENCE, LANGUAGE = "Good morning, dear voice", "de"


def write_whisper(directory: Path, *, sentence: str | None = SENTENCE, seed: int = 0, heads=None, **dims) -> Path:
    """A random Whisper with lively attention. With a sentence, greedy decoding writes it whatever is heard.

    Its positions then point at that sentence's tokens (every token's nearest is itself) and outweigh all else, and it
    takes everything for German. Without one it guesses, and Whisper's own measure calls that a failure.

    heads: `alignment_heads` as [[layer, head], ...] in the file; None: the file has none. dims: other sizes.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_whisper.tokenizer import get_tokenizer
    from mlx_whisper.whisper import ModelDimensions, Whisper

    sizes = DIMS | dims
    width, rng = sizes["n_text_state"], np.random.default_rng(seed)
    model = Whisper(ModelDimensions(**sizes), mx.float32)
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        if name != "alignment_heads":
            # Keys and queries are large, so that tokens attend to something in particular.
            scale = 0.4 if "cross_attn.query" in name or "cross_attn.key" in name else 0.05
            weights[name] = rng.normal(size=value.shape).astype(np.float32) * np.float32(scale)
    embedding = rng.normal(size=(sizes["n_vocab"], width)).astype(np.float32)
    embedding *= 10 / np.linalg.norm(embedding, axis=1, keepdims=True)  # of one length: each is nearest to itself
    weights["decoder.token_embedding.weight"] = embedding
    for name in weights:
        if name.endswith(("_ln.weight", "ln_post.weight", "decoder.ln.weight")):
            weights[name] = np.ones(weights[name].shape, np.float32)
    if sentence is None:
        weights["decoder.ln.weight"] *= np.float32(0.01)
    else:
        tokenizer = get_tokenizer(sizes["n_vocab"] > 51864, num_languages=99)
        said = [*tokenizer.encode(" " + sentence), tokenizer.eot]
        positions = weights["decoder.positional_embedding"]
        positions[0] = 50 * embedding[tokenizer.to_language_token(LANGUAGE)]
        first = len(get_tokenizer(sizes["n_vocab"] > 51864).sot_sequence)  # "no timestamps" predicts the first token
        positions[first : first + len(said)] = 50 * embedding[said]
    if heads is not None:
        weights["alignment_heads"] = np.array(heads, np.int32)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({**sizes, "model_type": "whisper"}))
    mx.save_safetensors(str(directory / "weights.safetensors"), {k: mx.array(v) for k, v in weights.items()})
    return directory
