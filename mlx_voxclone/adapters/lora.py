"""Quantised base and LoRA: which linears, how they are wrapped, how their parameters are named.

Layers are mlx-lm's own (`mlx_lm.tuner.lora.LoRALinear`): `y = W x + scale * (x A) B` with `scale = alpha / rank`, A
`[in, rank]` and B `[rank, out]`, B zero at the start. mlx-lm is imported only when LoRA is used: it takes seconds.
"""

from collections.abc import Hashable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_voxclone.adapters.mix import LowRank
from mlx_voxclone.adapters.names import HALVES, TARGETS, block_of, is_adapter_tensor, layer_and_target, module_name
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.blocks.dequantised import DequantisedLinear
from mlx_voxclone.model.blocks.recompute import KeyedDropout
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.model.widths import GROUP_SIZE


def _room(layer: nn.Module, target: str) -> nn.Module:
    return layer[block_of(target)]


def quantise_backbone(model: Voxtral, bits: int) -> None:
    """Replace every linear of the backbone's layers by a quantised one, one after the other (memory of one linear).

    Raises:
        ConfigError: a linear's input width is no multiple of `GROUP_SIZE`.
    """
    on_cpu = mx.default_device() == mx.cpu
    for i, layer in enumerate(model.layers):
        for target in TARGETS:
            room, name = _room(layer, target), f"layers.{i}.*.{target}"
            linear = getattr(room, target)
            if linear.weight.shape[1] % GROUP_SIZE:
                raise ConfigError(
                    f"speaker.quantise.bits: {name} has {linear.weight.shape[1]} inputs, no multiple of {GROUP_SIZE},"
                    " which share a scale; set it to 0"
                )
            quantised = nn.QuantizedLinear.from_linear(linear, GROUP_SIZE, bits)
            if on_cpu:
                quantised.__class__ = DequantisedLinear
            setattr(room, target, quantised)
            del linear
            mx.eval(quantised.parameters())
        mx.eval(layer.parameters())
        mx.clear_cache()


def add_lora(
    model: Voxtral,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = TARGETS,
    layers: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Freeze the model and wrap `targets` of the last `layers` layers (None: all) in LoRA; only A and B train.

    Returns:
        The wrapped modules' names, e.g. `layers.0.attention.wq`.

    Raises:
        ConfigError: an unknown target, or nothing to wrap.
    """
    from mlx_lm.tuner.lora import LoRALinear

    unknown = sorted(set(targets) - set(TARGETS))
    if unknown or not targets:
        raise ConfigError(
            f"speaker.lora.targets: {unknown or 'empty'}; the backbone's linears are {', '.join(TARGETS)}"
        )
    count = len(model.layers) if layers is None else layers
    if not 1 <= count <= len(model.layers):
        raise ConfigError(f"speaker.lora.layers: {count}; the model has {len(model.layers)} layers")
    model.freeze()
    mx.random.seed(seed)  # A's initial values
    names = []
    for i in range(len(model.layers) - count, len(model.layers)):
        for target in targets:
            room = _room(model.layers[i], target)
            wrapped = LoRALinear.from_base(getattr(room, target), r=rank, scale=alpha / rank)
            wrapped.dropout = KeyedDropout(dropout)
            setattr(room, target, wrapped)
            names.append(module_name(i, target))
    # By key, and not unfreeze() alone: that would unfreeze the quantised weights too and break the gradient.
    model.unfreeze(keys=list(HALVES), strict=False)
    return names


def lora_parameters(model: Voxtral) -> dict[str, mx.array]:
    """A and B of every wrapped linear, named `layers.N.attention.wq.lora_a`."""
    return {k: v for k, v in tree_flatten(model.parameters()) if is_adapter_tensor(k)}


def is_adapted(linear: nn.Module) -> bool:
    """Whether a linear is wrapped in LoRA."""
    return HALVES[0] in linear


def remove_adapters(model: Voxtral) -> None:
    """Take LoRA off again: the model's linears are those that were wrapped."""
    for layer in model.layers:
        for target in TARGETS:
            linear = getattr(_room(layer, target), target)
            if "lora_a" in linear:
                setattr(_room(layer, target), target, linear.linear)


def apply_adapters(model: Voxtral, changes: Mapping[str, LowRank]) -> None:
    """Add low-rank changes to the linears that they name, kept apart (inference: nothing stays trainable).

    Raises:
        ConfigError: a name of no linear of the model, or another shape than it must have.
    """
    for (i, target), layer in adapted_linears(model, changes).items():
        setattr(_room(model.layers[i], target), target, layer)
    model.freeze()


def adapted_linears(model: Voxtral, changes: Mapping[str, LowRank]) -> dict[tuple[int, str], nn.Module]:
    """By layer and target: the model's linears wrapped in the changes that name them. The model stays as it is.

    Raises:
        ConfigError: as `apply_adapters`.
    """
    from mlx_lm.tuner.lora import LoRALinear

    made = {}
    for module, change in sorted(changes.items()):
        place = layer_and_target(module)
        if place is None or place[0] >= len(model.layers):
            raise ConfigError(f"adapter {module}: no linear of this model's {len(model.layers)} layers")
        room, target = _room(model.layers[place[0]], place[1]), place[1]
        wrapped = LoRALinear.from_base(getattr(room, target), r=change.a.shape[1], scale=1.0)
        for part, value in zip(HALVES, change):
            if value.shape != wrapped[part].shape:
                raise ConfigError(f"adapter {module}: shape {value.shape}, the model needs {wrapped[part].shape}")
            wrapped[part] = mx.array(value)
        made[place] = wrapped
    return made


class AdapterSwitch:
    """Several sets of adapters over one base in memory, of which the model carries one at a time.

    Args:
        model: without adapters; its linears stay the ones it has. It is left without any until `use` is called.
    """

    _BARE = object()  # stands for the model as it was given

    def __init__(self, model: Voxtral) -> None:
        self._model, self._used = model, self._BARE
        self._sets: dict[Hashable, dict[tuple[int, str], nn.Module]] = {self._BARE: {}, None: {}}

    def add(self, key: Hashable, changes: Mapping[str, LowRank]) -> None:
        """Make a set known; that of None, the default, has no changes otherwise. Raises ConfigError as
        `apply_adapters`."""
        self.use(self._BARE)
        self._sets[key] = adapted_linears(self._model, changes)
        mx.eval([layer.parameters() for layer in self._sets[key].values()])

    def use(self, key: Hashable) -> None:
        """Have the model carry a set that is known."""
        if key == self._used:
            return
        for (i, target), layer in self._sets[self._used].items():
            setattr(_room(self._model.layers[i], target), target, layer.linear)
        for (i, target), layer in self._sets[key].items():
            setattr(_room(self._model.layers[i], target), target, layer)
        self._used = key
