"""Quantised weights of a new checkpoint, written tensor by tensor, as mlx-audio reads them."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlx_voxclone.bake.fold import FoldedWeight, Folding
from mlx_voxclone.checkpoint.quantised import to_mlx_audio
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import Entry
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.quantised import Packed, make_quantised, pack, tensor_names
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import Quantisation


class Quantising:
    """What of a base is quantised, and the tensors that come of it.

    Levels are made and written one linear at a time; scales and biases, a fifteenth of it all, wait in memory for
    their turn, which comes behind them.

    Args:
        base: the weights in full.
        config: of the model.
        quantisation: bits and groups.
        folding: adapters to fold in before, if any.

    Raises:
        ConfigError: groups that do not fill a linear's inputs.
    """

    def __init__(self, base: TensorFile, config: VoxtralConfig, quantisation: Quantisation, folding: Folding | None):
        self.quantisation = quantisation
        self._base, self._folding = base, folding
        self._modules = {f"{module}.weight": module for module in make_quantised(Voxtral(config), quantisation)}
        self._waiting: dict[str, np.ndarray] = {}

    def __contains__(self, weight: str) -> bool:
        """Whether a weight is one that is quantised."""
        return weight in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def measured(self, weight: str) -> FoldedWeight:
        """What folding and quantising do to a weight's change; `weight` is an adapted one."""
        return self._folded(weight)[1]

    def entries(self, weight: str, on_folded: Callable[[FoldedWeight], None]) -> list[Entry]:
        """The three tensors in the place of a weight.

        Args:
            on_folded: called with what folding did, if an adapter was folded in, when the tensors are made.
        """
        outputs, inputs = self._base.info(weight).shape
        names = tensor_names(self._modules[weight])
        groups = (outputs, inputs // self.quantisation.group_size)

        def levels() -> mx.array:
            packed = self._made(weight, on_folded)
            for name, part in zip(names[1:], packed[1:]):
                self._waiting[name] = np.array(part.view(mx.uint16))
            mx.clear_cache()
            return packed.levels

        def waiting(name: str) -> Entry:
            return Entry(to_mlx_audio(name), "BF16", groups, lambda: self._waiting.pop(name))

        packed = (outputs, inputs * self.quantisation.bits // 32)
        return [Entry(to_mlx_audio(names[0]), "U32", packed, levels), *map(waiting, names[1:])]

    def _made(self, weight: str, on_folded: Callable[[FoldedWeight], None]) -> Packed:
        if self._folding is not None and weight in self._folding.weights:
            packed, measured = self._folded(weight)
            on_folded(measured)
        else:
            packed = pack(self._base.array(weight), self.quantisation)
            mx.eval(packed)
        return packed

    def _folded(self, weight: str) -> tuple[Packed, FoldedWeight]:
        assert self._folding is not None
        return self._folding.fold_quantised(weight, self.quantisation)
