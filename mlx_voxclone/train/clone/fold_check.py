"""Is a baked checkpoint the model that was trained? Hidden states of both, in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.model.voxtral import Voxtral


def hidden_states(
    model: Voxtral, tokenizer: SpeechTokenizer, text: str, voice: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Hidden states of one clip, teacher-forced; float64 `[1, T, dim]`. A layer in float32 is in memory at a time.

    Args:
        text: what the clip says.
        voice, frames: 0-based codes `[37, N]` of the voice prompt and of the clip.
    """
    rows = model.voice_embedding(voice)
    prompt = model.embed_prompt(tokenizer.prompt(text, rows.shape[0]), rows)
    x = mx.concatenate([prompt, model.voice_embedding(frames)[None]], axis=1).astype(mx.float32)
    mx.eval(x)
    for layer in model.layers:
        with widened(layer):
            x = layer(x)
            mx.eval(x)
        mx.clear_cache()
    with widened(model.norm):
        return np.array(model.norm(x), dtype=np.float64)


def voice_rows(model: Voxtral, codes: np.ndarray) -> mx.array:
    """`model.voice_embedding(codes)`, `[N + 1, dim]` float32, summed in float32 whatever the model computes in."""
    with widened(model.mm_audio_embeddings.audio_codebook_embeddings):
        rows = model.voice_embedding(codes)
        mx.eval(rows)
    return rows


def fold_figures(base: np.ndarray, adapted: np.ndarray, folded: np.ndarray) -> dict[str, float]:
    """Compare hidden states of base, base + adapter and baked model on one clip.

    Returns:
        `fold_error` (baked against base + adapter) and `adapter_effect` (base against base + adapter), RMS of the
        difference over the RMS of the hidden states. A fold loses nothing where the first is BF16 rounding (under 1 %)
        and far below the second.
    """
    scale = np.sqrt(np.mean(adapted**2))

    def distance(states: np.ndarray) -> float:
        return float(np.sqrt(np.mean((states - adapted) ** 2)) / scale)

    return {"fold_error": distance(folded), "adapter_effect": distance(base)}


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """A module in float32 for the time of the block; its parameters are what they were afterwards."""
    stored = module.parameters()
    module.set_dtype(mx.float32)
    try:
        yield
    finally:
        module.update(stored)
