"""The text files of a miniature checkpoint: `params.json` with the release's keys, and a tokenizer of 320 ids.

Sizes keep to what every reader of the layout supports: linear layers with inputs in multiples of 64 (groups of 8-bit
quantisation), codec windows 2, 4, 8, 16, code tables of whole blocks of 128 rows.
"""

import base64
from dataclasses import dataclass
from typing import Any

N_SPECIAL = 40
# Ids as in the release for all that a speech prompt needs; the others keep their places.
_SPECIAL = {
    0: "<unk>",
    1: "<s>",
    2: "</s>",
    3: "[INST]",
    4: "[/INST]",
    5: "[AVAILABLE_TOOLS]",
    6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]",
    8: "[/TOOL_RESULTS]",
    9: "[TOOL_CALLS]",
    10: "[IMG]",
    11: "<pad>",
    12: "[IMG_BREAK]",
    13: "[IMG_END]",
    14: "[PREFIX]",
    15: "[MIDDLE]",
    16: "[SUFFIX]",
    17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]",
    24: "[AUDIO]",
    25: "[BEGIN_AUDIO]",
    34: "[TRANSCRIBE]",
    35: "[REPEAT_AUDIO_TEXT]",
    36: "[NEXT_AUDIO_TEXT]",
}
_MERGES = [" t", " a", "he", "in", "re", "on", "er", " s", "at", "nd", "ou", " w"]
_MERGES += [" the", "is", "or", " b", "ed", "en", " and", "ing", " o", "es", "it", "ll"]
# A word with the space before it, a digit, a run of anything else.
_PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


@dataclass(frozen=True)
class Sizes:
    """What a preset chooses; all else follows the release."""

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    head_layers: int
    codec_dim: int
    codec_head_dim: int
    codec_hidden_dim: int
    semantic_codebook_size: int
    semantic_dim: int
    n_heads: int = 4
    n_kv_heads: int = 2
    codec_n_heads: int = 4
    vocab_size: int = 0  # rows of the text embedding; 0: the tokenizer's 320


PRESETS = {
    "tiny": Sizes(64, 2, 16, 128, 2, 64, 16, 128, 128, 16),
    "small": Sizes(128, 4, 32, 256, 2, 128, 32, 256, 256, 32),
    # The release's own: 8 GB of random numbers, to rehearse time, memory and disk with.
    "full": Sizes(3072, 26, 128, 9216, 3, 1024, 128, 4096, 8192, 256, 32, 8, 8, 131072),
}

# Of the miniature that was trained (benchmarks/speaking), and can speak.
SPEAKING_SIZES = Sizes(192, 5, 32, 512, 3, 128, 32, 256, 256, 32, n_heads=6, n_kv_heads=3)


def params_json(sizes: Sizes, voices: dict[str, int]) -> dict[str, Any]:
    """`params.json` of a miniature: the keys of the release's, the sizes of a preset."""
    lm = {"dim": sizes.dim, "head_dim": sizes.head_dim, "hidden_dim": sizes.hidden_dim}
    lm |= {"n_heads": sizes.n_heads, "n_kv_heads": sizes.n_kv_heads, "use_biases": False}
    return {
        **lm,
        "n_layers": sizes.n_layers,
        "causal": True,
        "rope_theta": 1000000.0,
        "norm_eps": 1e-05,
        "vocab_size": sizes.vocab_size or N_SPECIAL + 256 + len(_MERGES),
        "max_seq_len": 65536,
        "model_parallel": 1,
        "tied_embeddings": True,
        "model_type": "voxtral_tts",
        "max_position_embeddings": 128000,
        "multimodal": {
            "bos_token_id": 1,
            "audio_model_args": _audio_model_args(sizes, lm),
            "audio_tokenizer_args": _audio_tokenizer_args(sizes) | {"voice": voices},
        },
    }


def _audio_model_args(sizes: Sizes, lm: dict[str, Any]) -> dict[str, Any]:
    return {
        "semantic_codebook_size": sizes.semantic_codebook_size,
        "acoustic_codebook_size": 21,
        "n_acoustic_codebook": 36,
        "audio_encoding_args": {
            "codebook_pattern": "parallel",
            "interleave_audio_tokens_per_segment": 8192,
            "interleave_text_tokens_per_segment": 8192,
            "single_trailing_segment": False,
            "num_codebooks": 37,
            "sampling_rate": 24000,
            "frame_rate": 12.5,
        },
        "audio_token_id": 24,
        "begin_audio_token_id": 25,
        "input_embedding_concat_type": "sum",
        "acoustic_transformer_args": {
            "input_dim": sizes.dim,
            **lm,
            "n_layers": sizes.head_layers,
            "rope_theta": 10000.0,
            "sigma": 1e-05,
            "sigma_max": 1.0,
        },
        "p_uncond": 0.0,
        "text_feature_bugged": False,
        "condition_dropped_token_id": 39,
    }


def _audio_tokenizer_args(sizes: Sizes) -> dict[str, Any]:
    return {
        "channels": 1,
        "sampling_rate": 24000,
        "pretransform_patch_size": 240,
        "patch_proj_kernel_size": 7,
        "semantic_codebook_size": sizes.semantic_codebook_size,
        "semantic_dim": sizes.semantic_dim,
        "acoustic_codebook_size": 21,
        "acoustic_dim": 36,
        "conv_weight_norm": True,
        "causal": True,
        "attn_sliding_window_size": 16,
        "half_attn_window_upon_downsampling": True,
        "dim": sizes.codec_dim,
        "hidden_dim": sizes.codec_hidden_dim,
        "head_dim": sizes.codec_head_dim,
        "n_heads": sizes.codec_n_heads,
        "n_kv_heads": sizes.codec_n_heads,
        "qk_norm_eps": 1e-06,
        "qk_norm": True,
        "use_biases": False,
        "norm_eps": 0.01,
        "layer_scale": True,
        "layer_scale_init": 0.01,
        "decoder_transformer_lengths_str": "2,2,2,2",
        "decoder_convs_kernels_str": "3,4,4,4",
        "decoder_convs_strides_str": "1,2,2,2",
    }


def tekken_json(voice_rows: dict[str, int]) -> dict[str, Any]:
    """`tekken.json` of a miniature: 40 special tokens, the 256 bytes, 24 merges; mistral-common loads it."""
    pieces = [bytes([i]) for i in range(256)] + [merge.encode() for merge in _MERGES]
    return {
        "config": {
            "pattern": _PATTERN,
            "num_vocab_tokens": len(pieces),
            "default_vocab_size": N_SPECIAL + len(pieces),
            "default_num_special_tokens": N_SPECIAL,
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(p).decode(), "token_str": _readable(p)}
            for i, p in enumerate(pieces)
        ],
        "special_tokens": [
            {"rank": i, "token_str": _SPECIAL.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(N_SPECIAL)
        ],
        "audio": {
            "sampling_rate": 24000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 240, "window_size": 960},
            "voice_num_audio_tokens": voice_rows,
        },
    }


def _readable(piece: bytes) -> str | None:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return None
