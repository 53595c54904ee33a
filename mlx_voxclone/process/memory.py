"""How much memory MLX may take on an Apple GPU, from what the machine says of itself.

By itself MLX wires nothing, so that macOS pages weights out that every frame reads again; goes up to one and a half
times of what Metal recommends, which swaps; and keeps as many freed buffers as that.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlx_voxclone.process.amounts import format_bytes

WORKING_SET = "max_recommended_working_set_size"
_CACHED = 0.25  # of the working set, for freed buffers


@dataclass(frozen=True)
class MemoryLimits:
    """In bytes.

    Attributes:
        memory: arrays and freed buffers together; they stay resident (wired) on macOS 15 and newer.
        cache: freed buffers that are kept for the next arrays.
    """

    memory: int
    cache: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "MemoryLimits | None":
        """For a device as `mx.device_info` describes it; None for one that is no Apple GPU."""
        if not info.get(WORKING_SET):
            return None
        memory = int(info[WORKING_SET])
        return cls(memory, int(_CACHED * memory))

    def __str__(self) -> str:
        return f"{format_bytes(self.memory)} for MLX, wired; up to {format_bytes(self.cache)} of it for freed buffers"


def memory_limits() -> MemoryLimits | None:
    """Those of the Apple GPU that MLX computes on; None on another device."""
    import mlx.core as mx

    if not mx.metal.is_available() or mx.default_device() != mx.gpu:
        return None
    return MemoryLimits.of(mx.device_info())


def limit_memory() -> None:
    """Sets MLX's limits to `memory_limits`, if there are any."""
    import mlx.core as mx

    limits = memory_limits()
    if limits is not None:
        mx.set_memory_limit(limits.memory)
        mx.set_cache_limit(limits.cache)
        with suppress(RuntimeError, ValueError):  # the system allows less (`iogpu.wired_limit_mb`): nothing is wired
            mx.set_wired_limit(limits.memory)
