"""A complete miniature checkpoint in the release's layout, from a seed: to try, to test, to run the smoke test on.

It has everything the release has and lacks what the release lacks, the codec encoder. Its LM is random. Its codec
decoder is random up to the last layer, which is a bank of windowed sinusoids at harmonics of 100 Hz, so that its
output is coloured like a voice and an encoder has something to learn.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from mlx_voxclone.checkpoint.dtypes import bfloat16_to_float32, float32_to_bfloat16, to_mlx
from mlx_voxclone.checkpoint.micro_layout import PRESETS, params_json, tekken_json
from mlx_voxclone.checkpoint.release import CONFIG, PARAMS, TEKKEN, WEIGHTS, Release, expected_shapes
from mlx_voxclone.checkpoint.voices import write_voice
from mlx_voxclone.checkpoint.writer import Entry, atomic_directory, write_safetensors
from mlx_voxclone.config import END_CODE, N_SPECIAL_CODES, VoxtralConfig
from mlx_voxclone.errors import CheckpointError

VOICES = {"casual_female": 14, "casual_male": 19, "neutral_female": 25}  # name -> rows, END included
LAYER_SCALE = 0.1
# Divided by the root of the number of channels: brings decoded random codes to an RMS of 0.07, the level of speech.
OUTPUT_GAIN = 0.32
_TABLE = "mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"


def make_micro(output: str | Path, preset: str = "tiny", seed: int = 0) -> Path:
    """Write a miniature checkpoint; the same preset and seed give the same bytes.

    Args:
        output: directory to make: `params.json`, `config.json`, `tekken.json`, `consolidated.safetensors` (BF16, no
            encoder), `voice_embedding/` with three voices.
        preset: `tiny` (0.8 M parameters) or `small` (2.9 M).
        seed: of all random numbers.

    Returns:
        The directory.

    Raises:
        CheckpointError: unknown preset, or `output` exists and is not empty.
    """
    if preset not in PRESETS:
        raise CheckpointError(f"preset {preset!r}: there are {' and '.join(PRESETS)}")
    params = params_json(PRESETS[preset], {name: i for i, name in enumerate(VOICES)})
    config = VoxtralConfig.from_dict(params)
    weights = _weights(config, seed)
    with atomic_directory(output) as directory:
        text = json.dumps(params, indent=2) + "\n"
        (directory / PARAMS).write_text(text, encoding="utf-8")
        (directory / CONFIG).write_text(text, encoding="utf-8")  # mlx-audio opens no directory without it
        (directory / TEKKEN).write_text(json.dumps(tekken_json(VOICES), indent=1) + "\n", encoding="utf-8")
        entries = [Entry(name, "BF16", bits.shape, lambda bits=bits: bits) for name, bits in sorted(weights.items())]
        write_safetensors(directory / WEIGHTS, entries, {"format": "pt"})
        table = bfloat16_to_float32(weights[_TABLE])
        for name, rows in VOICES.items():
            embedding = _voice(config, table, rows - 1, np.random.default_rng([seed, zlib.crc32(name.encode())]))
            write_voice(directory, name, to_mlx(float32_to_bfloat16(embedding), "BF16"))
        Release(directory).check()
    return Path(output)


def _weights(config: VoxtralConfig, seed: int) -> dict[str, np.ndarray]:
    """BF16 bits of every tensor but the encoder's; each has random numbers of its own, whatever the others need."""
    shapes = expected_shapes(config, ["lm", "head", "decoder"])
    values = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values[name] = _initial(name, shape, config, rng)
    for name in values:  # these two are stored in parts that only together mean something
        if name.endswith(".original0"):
            v = bfloat16_to_float32(float32_to_bfloat16(values[name[:-1] + "1"]))
            gain = OUTPUT_GAIN / v.shape[1] ** 0.5 if ".output_proj." in name else 1.0
            values[name] = gain * np.sqrt(np.square(v).sum(axis=(1, 2), keepdims=True))
        elif name.endswith(".embedding_sum"):
            usage = bfloat16_to_float32(float32_to_bfloat16(values[name.replace("embedding_sum", "cluster_usage")]))
            values[name] = values[name] * usage[:, None]
    return {name: float32_to_bfloat16(v) for name, v in values.items()}


def _initial(name: str, shape: tuple[int, ...], config: VoxtralConfig, rng: np.random.Generator) -> np.ndarray:
    last = name.rsplit(".", 2)[-2:]
    if last[-1] in ("attention_scale", "ffn_scale"):
        return np.full(shape, LAYER_SCALE, dtype=np.float32)
    if last[0].endswith("norm"):
        return np.ones(shape, dtype=np.float32)
    if last[-1] == "cluster_usage":
        return rng.uniform(0.5, 4.0, shape).astype(np.float32)
    if last[-1] == "original0":
        return np.ones(shape, dtype=np.float32)  # set from original1
    if ".output_proj." in name:
        return _harmonic_bank(shape, config, rng)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if last[-1] == "embedding_sum":
        return np.float32(0.5) * noise
    if name == _TABLE:
        return noise / np.float32(np.sqrt(config.codec.n_codebooks))  # so that a frame's sum has unit variance
    if name.endswith("tok_embeddings.weight"):
        return noise
    fan_in = shape[0] * shape[2] / 2 if _is_transposed(name) else np.prod(shape[1:])
    return noise / np.float32(np.sqrt(fan_in))


def _is_transposed(name: str) -> bool:
    """The decoder's lengthening convolutions: `[in, out, kernel]`, each output sees half of the kernel (stride 2)."""
    return name.startswith(tuple(f"audio_tokenizer.decoder_blocks.{i}.conv." for i in (2, 4, 6)))


def _harmonic_bank(shape: tuple[int, ...], config: VoxtralConfig, rng: np.random.Generator) -> np.ndarray:
    """`[patch, channels, kernel]`: each channel adds one Hann-windowed sinusoid of two patches (20 ms) per frame.

    Frequencies are harmonics of the patch rate, 100 Hz, spaced as the ear hears (mel) and falling in level above
    500 Hz; two channels, a quarter of a period apart, share each. So a steady channel is a steady tone.
    """
    patch, channels, kernel = shape
    rate = config.codec.sampling_rate
    mel = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (100, 5000)), channels // 2)
    harmonics = np.round(700 * (10 ** (mel / 2595) - 1) * patch / rate)
    frequency = np.repeat(np.maximum(harmonics, 1) * rate / patch, 2)
    phase = np.tile([0.0, np.pi / 2], channels // 2)
    time = np.arange(2 * patch)
    window = 0.5 - 0.5 * np.cos(np.pi * time / patch)
    level = np.minimum(1.0, 500 / frequency)
    tones = level * window[:, None] * np.cos(2 * np.pi * frequency * time[:, None] / rate + phase)
    v = 1e-3 * rng.standard_normal(shape)
    v[:, :, kernel - 1] += tones[:patch]  # the last tap sees the current frame
    v[:, :, kernel - 2] += tones[patch:]
    return v.astype(np.float32)


def _voice(config: VoxtralConfig, table: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """`[frames + 1, dim]`: sums of the table's rows for random codes, then the END frame `[1, 0, 0, ...]`."""
    sizes, offsets = np.array(config.codec.code_sizes), np.array(config.codec.code_offsets)
    codes = rng.integers(N_SPECIAL_CODES, sizes, size=(frames, len(sizes)))
    end = np.zeros((1, len(sizes)), dtype=codes.dtype)
    end[0, 0] = END_CODE
    return table[np.concatenate([codes, end]) + offsets].sum(axis=1)
