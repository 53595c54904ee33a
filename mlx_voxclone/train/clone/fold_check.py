"""Is a baked checkpoint the model that was trained? Hidden states of both, in float32, a layer in memory at a time."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import apply_adapters
from mlx_voxclone.adapters.mix import mix_adapters
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.model.voxtral import Voxtral


def fold_check(
    release: Release, baked: Release, adapters: Path, text: str, voice: np.ndarray, frames: np.ndarray
) -> dict[str, float]:
    """Compare base + adapter with the baked model, teacher-forced on one clip.

    Args:
        release, baked: the base and what was baked from it.
        adapters: directory of the adapters that were folded.
        text: what the clip says.
        voice, frames: 0-based codes `[37, T]` of the voice prompt and of the clip.

    Returns:
        `fold_error` (baked against base + adapter) and `adapter_effect` (base against base + adapter), RMS of the
        difference over the RMS of the hidden states. A fold loses nothing where the first is BF16 rounding (under 1 %)
        and far below the second.
    """
    tokenizer = SpeechTokenizer.of(release)
    mix = mix_adapters([adapters], release.fingerprint(), release.path)
    models = {"base": release, "adapted": release, "folded": baked}
    states = {}
    for name, source in models.items():
        model = load_model(source, parts=["lm"], dtype=mx.bfloat16)  # as stored; each layer is widened in its turn
        if name == "adapted":
            apply_adapters(model, mix.changes)
        rows = model.voice_embedding(voice)
        prompt = model.embed_prompt(tokenizer.prompt(text, rows.shape[0]), rows)
        inputs = mx.concatenate([prompt, model.voice_embedding(frames)[None]], axis=1)
        states[name] = _hidden_states(model, inputs.astype(mx.float32))
    scale = np.sqrt(np.mean(states["adapted"] ** 2))

    def distance(name: str) -> float:
        return float(np.sqrt(np.mean((states[name] - states["adapted"]) ** 2)) / scale)

    return {"fold_error": distance("folded"), "adapter_effect": distance("base")}


def _hidden_states(model: Voxtral, x: mx.array) -> np.ndarray:
    """`model.hidden_states(x)` in float32 with the memory of one layer; the model is used up."""
    mx.eval(x)
    model.mm_audio_embeddings = None
    for i, layer in enumerate(model.layers):
        layer.set_dtype(mx.float32)
        x = layer(x)
        mx.eval(x)
        model.layers[i] = None
        mx.clear_cache()
    model.norm.set_dtype(mx.float32)
    return np.array(model.norm(x), dtype=np.float64)
