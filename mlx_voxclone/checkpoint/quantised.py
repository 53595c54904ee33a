"""Quantised weights in and out of files: made tensor by tensor while loading, read as stored, and their names.

At no moment is more of the model in memory than what is quantised of it, and one tensor in full.
"""

import re
from collections.abc import Callable, Iterable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.checkpoint.dtypes import to_mlx
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.model.quantised import BIASES, SCALES, pack
from mlx_voxclone.model.widths import Quantisation

TEXT_TABLE = "mm_audio_embeddings.tok_embeddings.weight"
_CODEC_LINEAR = re.compile(r"audio_tokenizer\..*\.(attention|feed_forward)\.w[a-z0-9]\.weight")
# mlx-audio 0.6 knows the release's names of the language model's linears for their weights alone, not for scales and
# biases: a quantised checkpoint has its own names for them.
_THEIRS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
_OURS = {theirs: ours for ours, theirs in _THEIRS.items()}
_PREFIX = "language_model.model.model."


def to_mlx_audio(name: str) -> str:
    """The name by which a quantised checkpoint stores a tensor of a language model's linear; others keep theirs."""
    found = re.fullmatch(r"(layers\.\d+)\.(\w+\.\w+)\.(\w+)", name)
    if found is None or found[2] not in _THEIRS:
        return name
    return f"{_PREFIX}{found[1]}.{_THEIRS[found[2]]}.{found[3]}"


def from_mlx_audio(name: str) -> str:
    """The release's name of a tensor as a quantised checkpoint stores it."""
    found = re.fullmatch(re.escape(_PREFIX) + r"(layers\.\d+)\.(\w+\.\w+)\.(\w+)", name)
    if found is None or found[2] not in _OURS:
        return name
    return f"{found[1]}.{_OURS[found[2]]}.{found[3]}"


def quantise_weights(
    weights: dict[str, mx.array],
    modules: Iterable[str],
    quantisation: Quantisation,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Put the quantised tensors of linears in the place of their weights, one linear after the other.

    Args:
        weights: name -> lazy array, changed in place. Linears whose weight is not there are passed over.
        modules: names of linears.
        progress: called with the bytes of weights quantised since the last call, and those in all.
    """
    present = [module for module in modules if f"{module}.weight" in weights]
    total = sum(weights[f"{module}.weight"].nbytes for module in present)
    for module in present:
        weight = weights.pop(f"{module}.weight")
        packed = pack(weight, quantisation)
        mx.eval(packed)
        weights |= packed.named(module)
        if progress is not None:
            progress(weight.nbytes, total)
        del weight, packed
        mx.clear_cache()


def kept_type(name: str, value: mx.array, modules: frozenset[str], dtype: mx.Dtype) -> bool:
    """Whether a tensor of a quantised model stays in the type that it is stored in, where the rest is of `dtype`.

    Those are packed levels; and, in float32, scales, biases and the linears of the codec (which is always), as each
    product widens them: to the bit what float32 gives, in half of its memory.
    """
    module, _, leaf = name.rpartition(".")
    if module in modules:
        return value.dtype == mx.uint32 or (leaf in (SCALES, BIASES) and dtype == mx.float32)
    return value.dtype == mx.bfloat16 and is_codec_linear(name)


def is_codec_linear(name: str) -> bool:
    """Whether a tensor is the weight of a linear of the codec's transformers."""
    return _CODEC_LINEAR.fullmatch(name) is not None


class StoredEmbedding(nn.Module):
    """An embedding whose table stays in its file: rows are read when they are looked up.

    Args:
        file: that holds the table, which must stay as it is.
        name: of the table `[rows, dim]`.
        dtype: of what is looked up.
    """

    def __init__(self, file: TensorFile, name: str, dtype: mx.Dtype):
        super().__init__()
        self._file, self._name, self._dtype = file, name, dtype

    def __call__(self, ids: mx.array) -> mx.array:
        """Ids `[...]` to rows `[..., dim]`."""
        rows = self._file.stored(self._name)[np.array(ids)]
        return to_mlx(rows, self._file.info(self._name).dtype).astype(self._dtype)
