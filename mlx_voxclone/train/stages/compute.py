"""Where and how precisely a run computes."""

from dataclasses import dataclass

import mlx.core as mx

from mlx_voxclone.settings.config import RunConfig


@dataclass(frozen=True)
class Compute:
    """Where and how precisely to compute, decided once per run."""

    precision: str  # "float32" or "bf16"

    @classmethod
    def of(cls, config: RunConfig) -> "Compute":
        """`auto` is bf16 on a GPU and float32 on the CPU, where bf16 is many times slower."""
        if config.precision != "auto":
            return cls(config.precision)
        return cls("float32" if mx.default_device() == mx.cpu else "bf16")

    @property
    def dtype(self) -> mx.Dtype:
        return mx.float32 if self.precision == "float32" else mx.bfloat16
