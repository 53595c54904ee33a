"""Folding LoRA adapters into the stored weights: in float32, rounded once, and the loss by rounding measured.

A small change of a BF16 weight partly falls under its last bit; into an 8-bit weight most of it would. So the BF16
originals are what adapters are folded into, whatever they were trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.adapters import AdapterConfig, delta, modules
from mlx_voxclone.checkpoint.dtypes import DTYPES, decode, encode
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import part_of
from mlx_voxclone.errors import CheckpointError

_BLOCK = 1024  # rows folded at a time: bounds the float32 copies


@dataclass(frozen=True)
class FoldedWeight:
    """What folding did to one weight, as squared Frobenius norms.

    Args:
        name: of the weight.
        change: of the delta.
        error: of (what was stored - (weight + delta)), the rounding.
        weight: of the weight before.
    """

    name: str
    change: float
    error: float
    weight: float

    @property
    def rounding_error(self) -> float:
        """Norm of the rounding error relative to the delta's; 0 where the delta is 0."""
        return (self.error / self.change) ** 0.5 if self.change else 0.0

    @property
    def relative_change(self) -> float:
        """Norm of the delta relative to the weight's."""
        return (self.change / self.weight) ** 0.5 if self.weight else 0.0


class Adapters:
    """Adapters that are known to belong to a base checkpoint.

    Args:
        tensors: `MODULE.lora_a`, `MODULE.lora_b`, as `load_adapters` returns them.
        config: their configuration.
        base: the checkpoint's tensors.
        fingerprint: of the checkpoint.
        where: directory of the adapters, for messages.

    Raises:
        CheckpointError: trained on another model, or modules that the checkpoint has not or has in other shapes.
    """

    def __init__(
        self, tensors: Mapping[str, mx.array], config: AdapterConfig, base: TensorFile, fingerprint: str, where: str
    ):
        config.check_base(fingerprint, base.path, where)
        names = modules(tensors)
        lost = [name for name in names if part_of(name) not in ("lm", "head") or f"{name}.weight" not in base]
        if lost:
            matching = f"{len(names) - len(lost)} of {len(names)} adapted modules are in {base.path}"
            raise CheckpointError(f"{where}: {matching}; not there: {', '.join(lost[:5])}{' ...' * (len(lost) > 5)}")
        for name in names:
            a, b, shape = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"], base.info(f"{name}.weight").shape
            if shape != (b.shape[1], a.shape[0]):
                raise CheckpointError(
                    f"{where}: {name} makes {[b.shape[1], a.shape[0]]}; its weight in {base.path} is {list(shape)}"
                )
        self._tensors, self._config, self._base = tensors, config, base
        self.where = where
        self.weights = [f"{name}.weight" for name in names]

    def fold(self, name: str) -> tuple[np.ndarray, FoldedWeight]:
        """Weight + delta of one of `weights`, in the stored type (BF16: its bits), and what rounding did.

        Raises:
            CheckpointError: a sum beyond the range of the stored type.
        """
        module = name.removesuffix(".weight")
        a, b = (np.array(self._tensors[module + suffix]) for suffix in (".lora_a", ".lora_b"))
        stored, dtype = self._base.stored(name), self._base.info(name).dtype
        folded = np.empty(stored.shape, DTYPES[dtype][0])
        change = error = weight = 0.0
        for start in range(0, stored.shape[0], _BLOCK):
            rows = slice(start, start + _BLOCK)
            before = decode(stored[rows], dtype)
            with np.errstate(over="ignore", invalid="ignore"):  # noticed below
                change_rows = delta(a, b[:, rows], self._config)
                wanted = before + change_rows
            folded[rows] = encode(wanted, dtype)
            after = decode(folded[rows], dtype)
            if not np.isfinite(after).all():
                raise CheckpointError(f"{self._base.path}: {name} with its adapter is beyond the range of {dtype}")
            change, error = change + _squares(change_rows), error + _squares(after - wanted)
            weight += _squares(before)
        return folded, FoldedWeight(name, change, error, weight)


def _squares(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
