"""Time, memory and arithmetic of one optimiser step of the encoder through the frozen decoder.

    python -m benchmarks.encoder_step [--clip-seconds 4] [--steps 5] [--json FILE]

The step is that of task `encoder` on one clip of noise with the codec of the release's sizes and random weights, all in
float32: encode, quantise straight through, decode, L1 + multi-resolution STFT + mel + commitment, gradient of the
encoder, clipping, AdamW. What it costs does not depend on what weights and clip hold.

The operations counted are those of the matrix products, two per multiply-add, found by walking the codec with the
number of frames that each of its blocks gets:

- forward, `rows * weight`: convolutions (each one product here) and linear layers; attention scores and values, with
  the masked places of each block of queries, as they are computed; the distances to the semantic codebook; the mel
  filters;
- backward: once more for the gradient of each operand that needs one. A trained weight takes two products (its own
  gradient and its input's), a frozen one takes one, and so does the first convolution, as the waveform needs no
  gradient. Attention has no weights: both operands of its two products need gradients, in the frozen decoder too.

Not counted are Fourier transforms and everything per element: norms, softmax, activations, weight norm, AdamW. The time
is of all of it, so the share of the machine's matrix-product rate says how much of it goes elsewhere. There is a share
by time on the clock and one by CPU time; where other processes take the cores, only the latter means anything.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from mlx_voxclone.audio.spectral import frame_count
from mlx_voxclone.checkpoint.micro_layout import PRESETS, params_json
from mlx_voxclone.checkpoint.writer import write_text_atomic
from mlx_voxclone.config import CodecConfig, VoxtralConfig
from mlx_voxclone.losses import commitment_loss, log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.model.attention import MIN_BLOCK
from mlx_voxclone.model.codec import Codec, CodecTransformer
from mlx_voxclone.model.conv import CausalConv1d
from mlx_voxclone.train.encoder_task import freeze_all_but_encoder

RELEASE = Path(__file__).parents[1] / "tests" / "fixtures" / "golden" / "params.json"
STFT_SIZES, MEL = (2048, 1024, 512, 256), (1024, 80)  # the defaults of configs/voxtral_encoder.yaml
COMMITMENT = 0.1
GEMM_SIZE, GEMM_REPEATS = 2048, 3  # repeats before each step
LEVEL = 0.07  # RMS of the clip: that of speech


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one step, in the products of each part."""

    encoder_forward: int
    encoder_backward: int
    quantiser: int
    decoder_forward: int
    decoder_backward: int
    mel_filters: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def count_operations(codec: Codec, samples: int) -> Operations:
    """Operations of one step on one clip of `samples` samples (at least 1); see the module's description."""
    config = codec.config
    frames = -(-samples // config.patch_size)
    first, frames = _convolution(codec.input_proj, frames)
    weights, attention, frames = _blocks(codec.encoder_blocks, frames)
    distances = 2 * frames * config.semantic_codebook_size * config.semantic_dim
    decoder_weights, decoder_attention, frames = _blocks(codec.decoder_blocks, frames)
    decoder_weights += _convolution(codec.output_proj, frames)[0]
    n_fft, n_mels = MEL
    filters = 2 * frame_count(samples, n_fft, n_fft // 4) * (n_fft // 2 + 1) * n_mels
    return Operations(
        encoder_forward=first + weights + attention,
        encoder_backward=first + 2 * (weights + attention),
        quantiser=distances,
        decoder_forward=decoder_weights + decoder_attention,
        decoder_backward=decoder_weights + 2 * decoder_attention,
        mel_filters=3 * filters,  # of both sounds, and back through one of them
    )


def _blocks(blocks: list[nn.Module], frames: int) -> tuple[int, int, int]:
    """Operations with weights and of attention, and the frames that come out."""
    weights = attention = 0
    for block in blocks:
        if isinstance(block, CodecTransformer):
            for layer in block.layers:
                matrices = tree_flatten(layer.parameters())
                weights += sum(2 * frames * matrix.size for _, matrix in matrices if matrix.ndim == 2)
                attention += _attention(layer.attention, frames)
        else:
            more, frames = _convolution(block, frames)
            weights += more
    return weights, attention, frames


def _convolution(block: nn.Module, frames: int) -> tuple[int, int]:
    """Every output frame, or every input frame of a transposed one, meets every element of the weight once."""
    size = block.conv.parametrizations.weight.original1.size
    if isinstance(block, CausalConv1d):
        frames = -(-frames // block.stride)
        return 2 * frames * size, frames
    return 2 * frames * size, frames * block.stride


def _attention(attention: nn.Module, frames: int) -> int:
    """Scores and values: each block of queries against itself and the window before it."""
    window, width = attention.window, attention.n_heads * attention.head_dim
    block = min(max(window, MIN_BLOCK), max(frames, window))
    queries = -(-frames // block) * block
    return 2 * (2 * queries * (window + block) * width)


# ---- the step --------------------------------------------------------------------------------------------------------


def build_codec(config: CodecConfig, seed: int = 0) -> Codec:
    """Random float32 weights; the encoder alone is trainable."""
    mx.random.seed(seed)
    codec = Codec(config, encoder=True)
    freeze_all_but_encoder(codec)
    mx.eval(codec.parameters())
    return codec


def loss(codec: Codec, waveform: mx.array) -> mx.array:
    """The weighted sum of the terms of task `encoder` for `waveform [1, samples]`."""
    quantised, z, rows = codec.quantizer.straight_through(codec.encode_latents(waveform))
    decoded = codec.decode_latents(quantised)[:, : waveform.shape[1]]
    terms = waveform_l1(decoded, waveform) + multi_resolution_stft_loss(decoded, waveform, sizes=STFT_SIZES)
    return terms + log_mel_loss(decoded, waveform, scales=[MEL]) + COMMITMENT * commitment_loss(z, rows)


def train_step(codec: Codec, optimizer: optim.Optimizer, waveform: mx.array) -> float:
    """One evaluated step; returns the loss before it."""
    value, gradients = nn.value_and_grad(codec, partial(loss, codec))(waveform)
    gradients, _ = optim.clip_grad_norm(gradients, 1.0)
    optimizer.update(codec, gradients)
    del gradients
    mx.eval(value, codec.trainable_parameters(), optimizer.state)
    return value.item()


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(config: CodecConfig, clip_seconds: float, steps: int) -> dict:
    """Run one step to warm up and `steps` timed ones; the machine's rate is taken before each, under the same load.

    Returns:
        Figures by name, JSON-ready: seconds, bytes, operations and operations per second.

    Raises:
        ValueError: the clip is shorter than one sample, or there are no steps.
    """
    samples = round(clip_seconds * config.sampling_rate)
    if samples < 1 or steps < 1:
        raise ValueError(f"needs a clip and at least one step, got {clip_seconds:g} s and {steps} steps")
    mx.reset_peak_memory()
    codec = build_codec(config)
    waveform = LEVEL * mx.random.normal((1, samples))
    optimizer = optim.AdamW(learning_rate=1e-4, betas=[0.9, 0.99])
    products, took, losses = [], [], []
    for _ in range(steps + 1):
        products += time_products(GEMM_SIZE, GEMM_REPEATS)
        took.append(_time(lambda: losses.append(train_step(codec, optimizer, waveform))))
    operations = count_operations(codec, samples)
    seconds, cpu_seconds = zip(*took[1:])
    (step, cpu_step), (product, cpu_product) = (map(statistics.median, zip(*pairs)) for pairs in (took[1:], products))
    in_products = operations.total / (2 * GEMM_SIZE**3)  # as many of those products take as many operations
    trained, all_of_it = _size(codec.trainable_parameters()), _size(codec.parameters())
    return {
        "machine": f"{platform.system()} {platform.machine()}, {mx.default_device()}, MLX {mx.__version__}",
        "clip_seconds": samples / config.sampling_rate,
        "encoder_parameters": trained,
        "frozen_parameters": all_of_it - trained,
        "seconds_per_step": step,
        "cpu_seconds_per_step": cpu_step,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "warm_up_seconds": took[0][0],
        "losses": losses,
        "peak_memory": mx.get_peak_memory(),
        "peak_resident": peak_resident(),
        "operations": asdict(operations) | {"total": operations.total},
        "gemm_rate": 2 * GEMM_SIZE**3 / product,
        "gemm_seconds": [seconds for seconds, _ in products],
        "gemm_cpu_seconds": [seconds for _, seconds in products],
        "step_rate": operations.total / step,
        "share_of_gemm_rate": in_products * product / step,
        "share_by_cpu_time": in_products * cpu_product / cpu_step,
    }


def time_products(size: int, repeats: int) -> list[tuple[float, float]]:
    """Seconds and CPU seconds of each of some float32 products of square matrices, after a first one."""
    a, b = (mx.random.normal((size, size)) for _ in range(2))
    mx.eval(a, b, a @ b)
    return [_time(lambda: mx.eval(a @ b)) for _ in range(repeats)]


def peak_resident() -> int:
    """The most memory the process has had in RAM so far, in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # kilobytes everywhere but there


def _time(function: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock, and CPU seconds of all threads."""
    began, began_cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began, time.process_time() - began_cpu


def _size(parameters: dict) -> int:
    return sum(array.size for _, array in tree_flatten(parameters))


# ---- command line ----------------------------------------------------------------------------------------------------


def describe(figures: dict) -> str:
    """The figures as lines to read."""
    operations = figures["operations"]
    parts = ", ".join(f"{name.replace('_', ' ')} {n / 1e9:.2f}" for name, n in operations.items() if name != "total")
    seconds = figures["seconds"]
    return "\n".join(
        [
            figures["machine"],
            f"encoder of {figures['encoder_parameters'] / 1e6:.1f} M parameters, decoder and codebook of "
            f"{figures['frozen_parameters'] / 1e6:.1f} M frozen, one clip of {figures['clip_seconds']:g} s, float32",
            f"step: {figures['seconds_per_step']:.2f} s (median of {len(seconds)}, {min(seconds):.2f} to "
            f"{max(seconds):.2f}; the first {figures['warm_up_seconds']:.2f}), "
            f"{figures['cpu_seconds_per_step']:.2f} s of CPU time",
            f"memory: {figures['peak_memory'] / 1e9:.2f} GB of arrays at the peak, the process "
            f"{figures['peak_resident'] / 1e9:.2f} GB resident",
            f"operations: {operations['total'] / 1e9:.1f} GFLOP ({parts})",
            f"rate: {figures['step_rate'] / 1e9:.1f} GFLOP/s, {figures['share_of_gemm_rate']:.0%} of the "
            f"{figures['gemm_rate'] / 1e9:.1f} GFLOP/s of products of {GEMM_SIZE} x {GEMM_SIZE}; "
            f"{figures['share_by_cpu_time']:.0%} by CPU time",
        ]
    )


def read_config(preset: str) -> CodecConfig:
    """`release`: the sizes of the release's `params.json`; else those of a miniature."""
    if preset == "release":
        return VoxtralConfig.from_file(RELEASE).codec
    return VoxtralConfig.from_dict(params_json(PRESETS[preset], {})).codec


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_step", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["release", *PRESETS], default="release", help="sizes of the codec")
    parser.add_argument("--clip-seconds", type=float, default=4.0, help="length of the clip (default: %(default)g)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps after a first one (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args(argv)
    if not 0.08 <= arguments.clip_seconds <= 60 or arguments.steps < 1:
        parser.error("--clip-seconds must be from 0.08 to 60 and --steps at least 1")
    figures = measure(read_config(arguments.preset), arguments.clip_seconds, arguments.steps)
    print(describe(figures))
    if arguments.json is not None:
        write_text_atomic(arguments.json, json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
