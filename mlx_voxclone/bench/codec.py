"""The codec beside what else there is: a step of training its encoder, and decoding.

The peers are the serving code's codec (vLLM-Omni on PyTorch, on the CPU) and mlx-audio's, in interpreters that
`measure.SERVING` and `measure.MLX_AUDIO` name. Both have as many threads as this process, random weights of the same
sizes, and the same clip or codes.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_voxclone.audio.spectral.plain import mel_filterbank
from mlx_voxclone.bench.encoder_step import (
    LEVEL,
    MEL,
    EncoderStep,
    build_codec,
    count_operations,
    preset_config,
    preset_params,
)
from mlx_voxclone.bench.measure import (
    MLX_AUDIO,
    SERVING,
    PeerProcess,
    Row,
    beside,
    interpreter,
    median,
    peak_resident,
    product_rate,
    sample,
    threads,
)
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CodecConfig

SERVING_SCRIPT = "serving_codec.py"


def measure_encoder_step(
    preset: str = "release", clip_seconds: float = 4.0, repeats: int = 5, peers: bool = True
) -> Row:
    """Steps of training the encoder on one clip, see `encoder_step`; PyTorch beside it does the same step.

    Args:
        preset: sizes of the codec: "release", or a miniature's.
        clip_seconds: length of the clip.
        repeats: timed steps of each side, after a first one.
        peers: also run those that are installed.

    Returns:
        Speed in seconds of audio per second. `share` is by CPU time on a CPU and by the clock elsewhere; `more` has the
        operations by part, the rates of large products, the losses before each step, numbers of parameters and threads.

    Raises:
        ValueError: a clip shorter than one sample, or no repeats.
        DataError: a peer failed.
    """
    config = preset_config(preset)
    samples = _samples(clip_seconds, repeats, config)
    waveform = (LEVEL * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
    step, losses = EncoderStep(build_codec(config), mx.array(waveform)[None]), []
    given = {"waveform": waveform, "mel_filters": np.array(mel_filterbank(config.sampling_rate, *MEL))}
    with peer_processes("encoder-step", preset, given, peers) as processes:
        rate, cpu_rate = product_rate()
        taken, theirs = beside(lambda: losses.append(step()), processes, repeats)
    took, operations = median(taken), count_operations(step.codec, samples)
    trained, all_of_it = _size(step.codec.trainable_parameters()), _size(step.codec.parameters())
    share = operations.total / took.seconds / rate
    share_by_cpu = operations.total / took.cpu_seconds / cpu_rate
    return Row(
        name="encoder step",
        what=f"encoder of {trained / 1e6:.1f} M parameters through a frozen decoder, {clip_seconds:g} s, float32",
        speed=samples / config.sampling_rate / took.seconds,
        unit="s of audio/s",
        seconds=took.seconds,
        cpu_seconds=took.cpu_seconds,
        peak=took.peak,
        share=share_by_cpu if mx.default_device() == mx.cpu else share,
        peers=theirs,
        more={
            "threads": threads(),
            "seconds": [s.seconds for s in taken],
            "cpu_seconds": [s.cpu_seconds for s in taken],
            "losses": losses,
            "operations": asdict(operations) | {"total": operations.total},
            "product_rate": rate,
            "product_rate_by_cpu_time": cpu_rate,
            "share_by_the_clock": share,
            "encoder_parameters": trained,
            "frozen_parameters": all_of_it - trained,
            "peak_resident": peak_resident(),
        },
    )


def measure_decode(
    preset: str = "release",
    clip_seconds: float = 30.0,
    repeats: int = 3,
    peers: bool = True,
    lengths: tuple[float, ...] = (),
) -> Row:
    """Decoding codes to sound in float32, beside PyTorch and mlx-audio.

    Args:
        preset: sizes of the codec: "release", or a miniature's.
        clip_seconds: seconds of sound.
        repeats: timed runs of each side, after a first one.
        peers: also run those that are installed.
        lengths: seconds of sound that are decoded once more each for their memory, put together and piece by piece.

    Returns:
        Speed in seconds of audio per second; `more["memory"]` has for each of the lengths the peak of MLX's memory and
        how much the process has grown in RAM by then, in bytes.

    Raises:
        ValueError: a clip shorter than one sample, or no repeats.
        DataError: a peer failed.
    """
    config = preset_config(preset)
    frames = config.n_frames(_samples(clip_seconds, repeats, config))
    mx.random.seed(0)
    codec = Codec(config, encoder=False)
    mx.eval(codec.parameters())
    codes = random_codes(config, frames)
    with peer_processes("decode", preset, {"codes": codes}, peers) as processes:
        taken, theirs = beside(lambda: codec.decode_audio(codes), processes, repeats)
    took, memory = median(taken), []
    for seconds in lengths:
        longer, before = random_codes(config, config.n_frames(round(seconds * config.sampling_rate))), peak_resident()
        peaks = [sample(lambda: sum(map(len, codec.decode_pieces(longer)))).peak]  # noqa: B023
        peaks.append(sample(lambda: codec.decode_audio(longer)).peak)  # noqa: B023
        memory.append({"seconds": seconds, "peak": max(peaks), "process_grew": peak_resident() - before})
    return Row(
        name="decode",
        what=f"{frames / config.frame_rate:g} s of audio from {frames} frames of codes, float32",
        speed=frames / config.frame_rate / took.seconds,
        unit="s of audio/s",
        seconds=took.seconds,
        cpu_seconds=took.cpu_seconds,
        peak=took.peak,
        peers=theirs,
        more={"threads": threads(), "cpu_seconds": [s.cpu_seconds for s in taken], "memory": memory},
    )


def random_codes(config: CodecConfig, frames: int) -> np.ndarray:
    """0-based codes `[37, frames]`, int32."""
    sizes = np.array(config.codebook_sizes)[:, None]
    return np.random.default_rng(0).integers(0, sizes, (len(sizes), frames)).astype(np.int32)


@contextmanager
def peer_processes(
    work: str,
    preset: str,
    given: Mapping[str, np.ndarray],
    peers: bool = True,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Iterator[list[PeerProcess]]:
    """The peers that are installed and can do the work, started one after the other and warm.

    Args:
        work: "encoder-step" or "decode".
        preset: sizes of the codec.
        given: what they work on, by the names that their scripts take.
        peers: False gives none.
        weights: of the codec, by the checkpoint's names without its prefix; None: random ones.
    """
    found = []
    if peers:
        found.append((interpreter(SERVING, "vllm_omni"), SERVING_SCRIPT, [str(threads()), work]))
    if peers and work == "decode":
        found.append((interpreter(MLX_AUDIO, "mlx_audio"), "mlx_audio_codec.py", []))
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        params, arrays = Path(directory) / "params.json", Path(directory) / "given.npz"
        params.write_text(json.dumps(preset_params(preset)), encoding="utf-8")
        np.savez(arrays, **given, **{f"weight.{name}": array for name, array in (weights or {}).items()})
        yield [
            stack.enter_context(
                PeerProcess(python, script, str(params), str(arrays), *more, preload=script != SERVING_SCRIPT)
            )
            for python, script, more in found
            if python
        ]


def _samples(clip_seconds: float, repeats: int, config: CodecConfig) -> int:
    samples = round(clip_seconds * config.sampling_rate)
    if samples < 1 or repeats < 1:
        raise ValueError(f"needs a clip and at least one repeat, got {clip_seconds:g} s and {repeats} repeats")
    return samples


def _size(parameters: dict) -> int:
    return sum(array.size for _, array in tree_flatten(parameters))
