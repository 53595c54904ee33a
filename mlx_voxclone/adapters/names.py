"""Names of what LoRA adapts, in memory and in files, as mlx-lm has them: `layers.0.attention.wq.lora_a`, `.lora_b`."""

import re
from collections.abc import Iterable

ATTENTION, FEED_FORWARD = ("wq", "wk", "wv", "wo"), ("w1", "w2", "w3")
TARGETS = ATTENTION + FEED_FORWARD  # linears of a layer, by their last names
HALVES = ("lora_a", "lora_b")  # parameters of an adapted linear: A [in, rank], B [rank, out]
_MODULE = re.compile(r"layers\.(\d+)\.(?:attention|feed_forward)\.(" + "|".join(TARGETS) + ")")


def block_of(target: str) -> str:
    """The part of a layer that has a linear: `attention` or `feed_forward`."""
    return "attention" if target in ATTENTION else "feed_forward"


def module_name(layer: int, target: str) -> str:
    """Of a linear of the backbone: `layers.0.attention.wq`."""
    return f"layers.{layer}.{block_of(target)}.{target}"


def layer_and_target(module: str) -> tuple[int, str] | None:
    """What `module_name` made a name of; None: of no linear of a backbone."""
    match = _MODULE.fullmatch(module)
    return None if match is None else (int(match[1]), match[2])


def tensor_names(module: str) -> tuple[str, str]:
    """Of a module's A and B."""
    return f"{module}.{HALVES[0]}", f"{module}.{HALVES[1]}"


def is_adapter_tensor(name: str) -> bool:
    """Whether a name is that of an A or a B."""
    return name.rpartition(".")[2] in HALVES


def modules(names: Iterable[str]) -> list[str]:
    """The adapted modules behind tensor names, sorted: `layers.0.attention.wq`, ..."""
    return sorted({name.rpartition(".")[0] for name in names})
