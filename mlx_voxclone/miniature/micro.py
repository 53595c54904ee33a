"""A complete miniature checkpoint in the release's layout, from a seed: to try, to test, to run the smoke test on.

It has everything the release has and lacks what the release lacks, the codec encoder. Its LM is random. Its codec
decoder is a crude vocoder in the weights of the real architecture: acoustic values are levels of frequency bands, made
audible by harmonics of 100 Hz, with random transformers that disturb it a little. So an encoder has something to learn.
"""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.dtypes import bfloat16_to_float32, float32_to_bfloat16, to_mlx
from mlx_voxclone.checkpoint.release import CONFIG, PARAMS, TEKKEN, WEIGHTS, Release, expected_shapes
from mlx_voxclone.checkpoint.voices import write_voice
from mlx_voxclone.checkpoint.writer import Entry, write_safetensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.miniature.layout import PRESETS, Sizes, params_json, tekken_json
from mlx_voxclone.model.codes import with_end
from mlx_voxclone.model.config import N_SPECIAL_CODES, VoxtralConfig

VOICES = {"casual_female": 14, "casual_male": 19, "neutral_female": 25}  # name -> rows, END included
LAYER_SCALE = 0.1
NOISE = 0.1  # of the decoder's convolutions, in place of a perfect vocoder's zeros
# Divided by the root of the number of channels: brings decoded random codes to an RMS of 0.07, the level of speech.
OUTPUT_GAIN = 0.45
RELEASED = ("lm", "head", "decoder")
SPEAKING = "speaking"
SPEAKING_FILES = Path(__file__).resolve().parents[1] / "miniature" / "speaking"
ENCODER_FILE = Path("withheld", "encoder.safetensors")  # of the speaking miniature, within its directory
_BLOCK = 1 << 24  # numbers made at a time
_TABLE = "mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight"


def make_micro(
    output: str | Path,
    preset: str = "tiny",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a miniature checkpoint; the same preset and seed give the same bytes.

    Args:
        output: directory to make: `params.json`, `config.json`, `tekken.json`, `consolidated.safetensors` (BF16, no
            encoder), `voice_embedding/` with three voices or more.
        preset: `tiny` (0.8 M parameters), `small` (2.9 M) or `full` (the release's own sizes, 8 GB), all of random
            numbers; or `speaking`, a small one that was trained (`benchmarks/speaking`), with its encoder withheld in
            `withheld/encoder.safetensors`.
        seed: of all random numbers; `speaking` has none.
        progress: called with the bytes of weights written since the last call, and those in all.

    Returns:
        The directory.

    Raises:
        CheckpointError: unknown preset, or `output` exists and is not empty.
    """
    if preset == SPEAKING:
        return _copy_speaking(output, progress)
    if preset not in PRESETS:
        raise CheckpointError(f"preset {preset!r}: there are {', '.join([*PRESETS, SPEAKING])}")
    sizes = PRESETS[preset]
    config = VoxtralConfig.from_dict(params_json(sizes, {}))
    shapes = expected_shapes(config, RELEASED)
    table = bfloat16_to_float32(_value(_TABLE, shapes, config, seed))
    voices = {}
    for name, rows in VOICES.items():
        embedding = _voice(config, table, rows - 1, np.random.default_rng([seed, zlib.crc32(name.encode())]))
        voices[name] = to_mlx(float32_to_bfloat16(embedding), "BF16")
    return write_release(output, sizes, lambda name: _value(name, shapes, config, seed), voices, progress)


def write_release(
    output: str | Path,
    sizes: Sizes,
    value: Callable[[str], "np.ndarray | mx.array"],
    voices: Mapping[str, mx.array],
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a checkpoint directory of given sizes, in the release's layout and without an encoder.

    Args:
        value: gives each tensor by its name, BF16 (uint16 bits in numpy).
        voices: name -> rows `[N, dim]`, the END row last.
        progress: see `make_micro`.

    Raises:
        CheckpointError: `output` exists and is not empty.
    """
    shapes = expected_shapes(VoxtralConfig.from_dict(params_json(sizes, {})), RELEASED)
    entries = [Entry(name, "BF16", shapes[name], lambda name=name: value(name)) for name in sorted(shapes)]
    total = sum(entry.nbytes for entry in entries)
    tell = None if progress is None else lambda count: progress(count, total)
    with atomic_directory(output) as directory:
        write_safetensors(directory / WEIGHTS, entries, {"format": "pt"}, progress=tell)
        write_own_voices(directory, sizes, voices)
        Release(directory).check()
    return Path(output)


def write_own_voices(directory: Path, sizes: Sizes, voices: Mapping[str, mx.array]) -> None:
    """Write `voice_embedding/`, `params.json`, `config.json` and `tekken.json` of a checkpoint of given sizes.

    Args:
        directory: holds no voice of these names; text files that are there are replaced.
        voices: see `write_release`; their order is that of their numbers.

    Raises:
        CheckpointError: a bad name, or a voice's file exists.
    """
    params = json.dumps(params_json(sizes, {name: i for i, name in enumerate(voices)}), indent=2) + "\n"
    rows = {name: int(embedding.shape[0]) for name, embedding in voices.items()}
    (directory / PARAMS).write_text(params, encoding="utf-8")
    (directory / CONFIG).write_text(params, encoding="utf-8")  # mlx-audio opens no directory without it
    (directory / TEKKEN).write_text(json.dumps(tekken_json(rows), indent=1) + "\n", encoding="utf-8")
    for name, embedding in voices.items():
        write_voice(directory, name, embedding)


def _copy_speaking(output: str | Path, progress: Callable[[int, int], None] | None) -> Path:
    total = sum(path.stat().st_size for path in SPEAKING_FILES.rglob("*") if path.is_file())
    with atomic_directory(output) as directory:
        for path in sorted(SPEAKING_FILES.rglob("*")):
            if path.is_file():
                target = directory / path.relative_to(SPEAKING_FILES)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                if progress is not None:
                    progress(path.stat().st_size, total)
        Release(directory).check()
    return Path(output)


def _value(name: str, shapes: Mapping[str, tuple[int, ...]], config: VoxtralConfig, seed: int) -> np.ndarray:
    """BF16 bits of a tensor; each has random numbers of its own, whatever the others need."""
    shape, rng = shapes[name], np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith(".original0"):  # stored in parts that only together mean something
        v = bfloat16_to_float32(_value(name[:-1] + "1", shapes, config, seed))
        gain = OUTPUT_GAIN / v.shape[1] ** 0.5 if ".output_proj." in name else 1.0
        return float32_to_bfloat16(gain * np.sqrt(np.square(v).sum(axis=(1, 2), keepdims=True)))
    if name.endswith(".embedding_sum"):
        usage = bfloat16_to_float32(_value(name.replace("embedding_sum", "cluster_usage"), shapes, config, seed))
        return float32_to_bfloat16(np.float32(0.5) * rng.standard_normal(shape, dtype=np.float32) * usage[:, None])
    if (divisor := _noise_divisor(name, shape, config)) is None:
        return float32_to_bfloat16(_initial(name, shape, config, rng))
    bits, rows = np.empty(shape, np.uint16), max(1, _BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):  # a generator goes on where it stopped: the same numbers as at once
        block = rng.standard_normal((min(rows, shape[0] - start), *shape[1:]), dtype=np.float32)
        bits[start : start + rows] = float32_to_bfloat16(block / divisor)
    return bits


def _noise_divisor(name: str, shape: tuple[int, ...], config: VoxtralConfig) -> np.float32 | None:
    """Of a tensor that is nothing but noise, what unit noise is divided by; None for others."""
    parts = name.split(".")
    special = parts[-1] in ("attention_scale", "ffn_scale", "cluster_usage") or parts[-2].endswith("norm")
    if special or ".output_proj." in name or ".decoder_blocks.0.conv." in name or _is_transposed(name):
        return None
    if name == _TABLE:
        return np.float32(np.sqrt(config.codec.n_codebooks))  # so that a frame's sum has unit variance
    return np.float32(1 if name.endswith("tok_embeddings.weight") else np.sqrt(np.prod(shape[1:])))


def _initial(name: str, shape: tuple[int, ...], config: VoxtralConfig, rng: np.random.Generator) -> np.ndarray:
    last = name.rsplit(".", 2)[-2:]
    if last[-1] in ("attention_scale", "ffn_scale"):
        return np.full(shape, LAYER_SCALE, dtype=np.float32)
    if last[0].endswith("norm"):
        return np.ones(shape, dtype=np.float32)
    if last[-1] == "cluster_usage":
        return rng.uniform(0.5, 4.0, shape).astype(np.float32)
    if ".output_proj." in name:
        return _harmonic_bank(shape, config, rng)
    if ".decoder_blocks.0.conv." in name:
        return _spread(shape, config, rng)
    return _hold(shape, rng)


def _is_transposed(name: str) -> bool:
    """The decoder's lengthening convolutions: `[in, out, kernel]`, each output sees half of the kernel (stride 2)."""
    return name.startswith(tuple(f"audio_tokenizer.decoder_blocks.{i}.conv." for i in (2, 4, 6)))


def _harmonic_bank(shape: tuple[int, ...], config: VoxtralConfig, rng: np.random.Generator) -> np.ndarray:
    """`[patch, channels, kernel]`: each channel adds one Hann-windowed sound of two patches (20 ms) per frame.

    The sound is the harmonics of the patch rate, 100 Hz, that lie in the channel's band, with phases of its own and
    falling in level above 500 Hz, as speech does. Bands are equally wide on the mel scale; two channels share each.
    """
    patch, channels, kernel = shape
    rate, bands = config.codec.sampling_rate, channels // 2
    edges = np.linspace(0, 2595 * np.log10(1 + 0.48 * rate / 700), bands + 1)
    edges = 700 * (10 ** (edges / 2595) - 1) * patch / rate  # in harmonics
    time = np.arange(2 * patch)
    window = 0.5 - 0.5 * np.cos(np.pi * time / patch)
    sounds = np.zeros((2 * patch, channels))
    for channel in range(channels):
        low, high = edges[channel // 2], edges[channel // 2 + 1]
        harmonics = np.arange(np.ceil(low), np.ceil(high))
        harmonics = harmonics[harmonics > 0] if (harmonics > 0).any() else np.array([max(1.0, np.round(low))])
        level = np.minimum(1.0, 500 * patch / rate / harmonics) / np.sqrt(len(harmonics))
        phase = rng.uniform(0, 2 * np.pi, len(harmonics))
        sounds[:, channel] = np.cos(2 * np.pi / patch * time[:, None] * harmonics + phase) @ level
    sounds *= window[:, None]
    v = 1e-3 * rng.standard_normal(shape)
    v[:, :, kernel - 1] += sounds[:patch]  # the last tap sees the current frame
    v[:, :, kernel - 2] += sounds[patch:]
    return v.astype(np.float32)


def _spread(shape: tuple[int, ...], config: VoxtralConfig, rng: np.random.Generator) -> np.ndarray:
    """First convolution `[channels, latent, kernel]`: acoustic value k is the level of the k-th part of the bands.

    The semantic values and the past have a little influence of random kind.
    """
    channels, latent, kernel = shape
    values = config.codec.acoustic_dim
    place = (np.arange(channels) // 2 + 0.5) / (channels // 2) * values - 0.5
    v = NOISE * rng.standard_normal(shape) / np.sqrt(latent)
    v[:, latent - values :, kernel - 1] += np.maximum(0, 1 - np.abs(place[:, None] - np.arange(values)))
    return v.astype(np.float32)


def _hold(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Lengthening convolution `[channels, channels, kernel]`: each channel goes on, softly, with a little mixing."""
    channels, _, kernel = shape
    v = NOISE * rng.standard_normal(shape) / np.sqrt(channels)
    diagonal = np.arange(channels)
    v[diagonal, diagonal, : kernel // 2] += 0.75
    v[diagonal, diagonal, kernel // 2 :] += 0.25
    return v.astype(np.float32)


def _voice(config: VoxtralConfig, table: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """`[frames + 1, dim]`: sums of the table's rows for random codes, then the END frame `[1, 0, 0, ...]`."""
    sizes, offsets = np.array(config.codec.code_sizes), np.array(config.codec.code_offsets)
    codes = rng.integers(N_SPECIAL_CODES, sizes, size=(frames, len(sizes)))
    return table[with_end(codes) + offsets].sum(axis=1)
