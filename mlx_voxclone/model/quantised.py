"""Weights in 8, 6 or 4 bits: which of them, in which form, and the linears that multiply with them.

Quantised are the linears of the language model and of the flow head: what every frame reads. Left as they are: both
embeddings, of which a frame reads a few rows; the codec; and the head's two narrow ends, `input_projection` and
`acoustic_codebook_output`, which are small. (Measured in docs/LOG.md, "Speaking in 8, 6 and 4 bits".)

The form is MLX's affine one, as mlx-lm and mlx-audio have it: groups of inputs share a scale and a bias in BF16,
`w = scale * level + bias`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.model.widths import Quantisation

PACKED, SCALES, BIASES = "weight", "scales", "biases"  # the three tensors of a quantised linear
_LEAVES = {"attention": ("wq", "wk", "wv", "wo"), "feed_forward": ("w1", "w2", "w3")}
_HEAD = ("time_projection", "llm_projection", "semantic_codebook_output")


class Packed(NamedTuple):
    """A quantised weight `[out, in]`: `levels` uint32 `[out, in * bits / 32]`, `scales` and `biases` BF16
    `[out, in / group_size]`."""

    levels: mx.array
    scales: mx.array
    biases: mx.array

    def named(self, module: str) -> dict[str, mx.array]:
        """Its tensors by name."""
        return dict(zip(tensor_names(module), self))


def tensor_names(module: str) -> tuple[str, str, str]:
    """Names of the tensors of a quantised linear: packed levels, scales, biases."""
    return f"{module}.{PACKED}", f"{module}.{SCALES}", f"{module}.{BIASES}"


def pack(weight: mx.array, quantisation: Quantisation) -> Packed:
    """Quantise a weight `[out, in]` of any float type; lazily."""
    levels, scales, biases = mx.quantize(weight, quantisation.group_size, quantisation.bits)
    return Packed(levels, scales.astype(mx.bfloat16), biases.astype(mx.bfloat16))


def unpack(packed: Packed, quantisation: Quantisation) -> mx.array:
    """The weight `[out, in]` that a quantised one stands for, float32."""
    scales, biases = packed.scales.astype(mx.float32), packed.biases.astype(mx.float32)
    return mx.dequantize(packed.levels, scales, biases, quantisation.group_size, quantisation.bits)


def quantised_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """The linears of a `Voxtral` that are quantised: name, module that holds it, its name there."""
    head = model.acoustic_transformer
    for prefix, layers in (("layers", model.layers), ("acoustic_transformer.layers", head.layers)):
        for i, layer in enumerate(layers):
            for block, leaves in _LEAVES.items():
                for leaf in leaves:
                    yield f"{prefix}.{i}.{block}.{leaf}", layer[block], leaf
    for leaf in _HEAD:
        yield f"acoustic_transformer.{leaf}", head, leaf


def make_quantised(model: nn.Module, quantisation: Quantisation) -> list[str]:
    """Put a quantised linear in the place of every one that is quantised, with weights of no meaning yet: nothing is
    computed.

    Returns:
        The linears' names.

    Raises:
        ConfigError: groups that do not fill a linear's inputs.
    """
    names = []
    for name, room, leaf in quantised_linears(model):
        outputs, inputs = room[leaf].weight.shape
        quantisation.check_inputs(name, inputs)
        linear = nn.QuantizedLinear(inputs, outputs, False, quantisation.group_size, quantisation.bits)
        setattr(room, leaf, linear)
        names.append(name)
    return names
