"""Which width speaks in real time here: what a frame reads of the weights, over how fast this machine reads them.

Speaking one text is bound by memory: each weight of the language model is read once for a frame, each of the flow
head's layers once for every Euler step. So the products themselves are timed, in the forms that they have there: one
row (the language model) and six (three tokens with and without guidance), on weights that no cache holds on a GPU.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.checkpoint.quantised import TEXT_TABLE, is_codec_linear
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, HEAD_PREFIX, expected_shapes
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.blocks.dequantised import dequantising
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.quantised import make_quantised
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import WIDTHS, Quantisation

ROWS, HEAD_ROWS = 1, 6
SPARE = 1.2  # times real time from which a machine has some to spare
_SHAPE = {"cpu": (2304, 3072), "gpu": (9216, 3072)}  # a quarter of the widest linear; the widest itself
_TRIED = {"cpu": 1, "gpu": 256_000_000}  # bytes of weights tried at once; at least one
_REPEATS = 3


@dataclass(frozen=True)
class FrameBytes:
    """What a frame reads of the weights, in bytes.

    Args:
        language_model: by products of one row.
        head: by those of the flow head, all Euler steps together.
        least: what cannot be left out: each number once for each product, without scales, biases and padding.
    """

    language_model: float
    head: float
    least: float

    @property
    def all(self) -> float:
        return self.language_model + self.head


@dataclass(frozen=True)
class Width:
    """Speaking in one width.

    Args:
        name: of the width.
        memory: bytes of the weights as `say` holds them.
        frame: bytes that a frame reads.
        rates: bytes per second that products read, of one row and of six.
        times_real_time: frames per second over the model's frame rate, if nothing but reading took time.
    """

    name: str
    memory: float
    frame: FrameBytes
    rates: tuple[float, float]
    times_real_time: float


@dataclass(frozen=True)
class Speaking:
    """What this machine can speak in.

    Args:
        bandwidth: bytes per second of a large copy, read and written.
        widths: the full width first, then from the widest to the narrowest.
    """

    bandwidth: float
    widths: tuple[Width, ...]


def frame_bytes(config: VoxtralConfig, quantisation: Quantisation | None, size: int = 2) -> FrameBytes:
    """What one frame reads.

    Args:
        config: of the model in full.
        quantisation: None: none.
        size: bytes of a number that is not quantised.
    """
    steps, quantised = config.acoustic.n_decoding_steps, _quantised(config, quantisation)
    lm = head = least = 0.0
    for name, shape in expected_shapes(config, ["lm", "head"]).items():
        reads = _reads(name, steps)
        each = size if name not in quantised else quantisation.bits_stored / 8
        if name.startswith(HEAD_PREFIX):
            head += reads * prod(shape) * each
        else:
            lm += reads * prod(shape) * each
        needed = (config.codec.code_sizes[0], *shape[1:]) if "semantic_codebook_output" in name else shape
        least += reads * prod(needed) * (size if name not in quantised else quantisation.bits / 8)
    row = config.backbone.dim * size * config.codec.n_codebooks  # of the codes' embedding
    return FrameBytes(lm + row, head, least + row)


def _quantised(config: VoxtralConfig, quantisation: Quantisation | None) -> frozenset[str]:
    """Names of the weights that are quantised."""
    modules = [] if quantisation is None else make_quantised(Voxtral(config), quantisation)
    return frozenset(f"{module}.weight" for module in modules)


def _reads(name: str, steps: int) -> int:
    """How often a frame reads a tensor of the language model or the head."""
    if not name.startswith(HEAD_PREFIX):
        return 0 if name.startswith("mm_audio_embeddings.") else 1
    if ".time_projection." in name:
        return 0  # the same for all frames
    return 1 if ".llm_projection." in name or ".semantic_codebook_output." in name else steps


def memory(config: VoxtralConfig, quantisation: Quantisation | None, size: int = 2) -> float:
    """Bytes of the weights as `say` holds them; `size`: of a number of LM and head that is not quantised."""
    quantised, total = _quantised(config, quantisation), 0.0
    for name, shape in expected_shapes(config, ["lm", "head", "decoder"]).items():
        each: float = 4 if name.startswith(CODEC_PREFIX) else size
        if quantisation is not None:
            each = 0 if name == TEXT_TABLE else 2 if is_codec_linear(name) else each
        total += prod(shape) * (quantisation.bits_stored / 8 if quantisation and name in quantised else each)
    return total


def speaking() -> Speaking:
    """Try it, on MLX's default device, for the release's sizes."""
    config = VoxtralConfig.from_dict(params_json(PRESETS["full"], {}))
    device = "cpu" if mx.default_device() == mx.cpu else "gpu"
    full = ("float32", 4) if device == "cpu" else ("bfloat16", 2)
    widths = [_width(config, device, full[0], None, full[1])]
    widths += [_width(config, device, f"{bits} bits", Quantisation(bits), full[1]) for bits in WIDTHS]
    mx.clear_cache()
    return Speaking(bandwidth(_TRIED["gpu"] if device == "gpu" else 64_000_000), tuple(widths))


def _width(config: VoxtralConfig, device: str, name: str, quantisation: Quantisation | None, size: int) -> Width:
    rates = product_rates(_SHAPE[device], quantisation, _TRIED[device], mx.float32 if size == 4 else mx.bfloat16)
    frame = frame_bytes(config, quantisation, size)
    seconds = frame.language_model / rates[0] + frame.head / rates[1]
    held = memory(config, quantisation, size)
    return Width(name, held, frame, rates, 1 / seconds / config.codec.frame_rate)


def product_rates(
    shape: tuple[int, int], quantisation: Quantisation | None, tried: int, dtype: mx.Dtype
) -> tuple[float, float]:
    """Bytes of weights per second that products read: of one row, and of six.

    Args:
        shape: of a weight, `[out, in]`.
        quantisation: None: in `dtype`.
        tried: bytes of weights, each multiplied with in turn.
        dtype: of what is multiplied.
    """
    each = prod(shape) * (dtype.size if quantisation is None else quantisation.bits_stored / 8)
    linears = [_linear(shape, quantisation, dtype) for _ in range(ceil(tried / each))]
    mx.eval([linear.parameters() for linear in linears])
    found = []
    for rows in (ROWS, HEAD_ROWS):
        x = mx.ones((rows, shape[1]), dtype)
        found.append(len(linears) * each / _seconds(lambda x=x: mx.eval([linear(x) for linear in linears])))
    return found[0], found[1]


def _linear(shape: tuple[int, int], quantisation: Quantisation | None, dtype: mx.Dtype) -> nn.Module:
    """A linear as `say` has it, with a weight of no meaning."""
    outputs, inputs = shape
    if quantisation is None:
        linear = nn.Linear(inputs, outputs, bias=False)
        linear.weight = linear.weight.astype(dtype)
        return linear
    linear = nn.QuantizedLinear(inputs, outputs, False, quantisation.group_size, quantisation.bits)
    linear.weight = mx.full(linear.weight.shape, 0x12345678, mx.uint32)
    linear.scales = mx.full(linear.scales.shape, 0.01, mx.bfloat16)
    linear.biases = mx.full(linear.biases.shape, -0.01, mx.bfloat16)
    if mx.default_device() == mx.cpu:
        dequantising(linear)
    return linear


def bandwidth(nbytes: int) -> float:
    """Bytes per second of a copy of so many bytes, read and written."""
    source = mx.zeros(nbytes // 4)
    mx.eval(source)
    return 2 * nbytes / _seconds(lambda: mx.eval(source + 1))


def _seconds(work: Callable[[], object]) -> float:
    """Median of some runs, after one that warms up."""
    work()
    runs = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        runs.append(time.perf_counter() - began)
    return max(statistics.median(runs), 1e-9)
