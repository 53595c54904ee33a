"""How weights are quantised: bits and groups, as an option says it and as a checkpoint states it."""

from dataclasses import dataclass
from typing import Any

from mlx_voxclone.errors import ConfigError

WIDTHS, GROUP_SIZES = (8, 6, 4), (32, 64, 128)
GROUP_SIZE = 64  # weights that share a scale: MLX's own default
KEY = "quantization"  # of params.json and config.json, as mlx-audio reads it


@dataclass(frozen=True)
class Quantisation:
    """How weights are quantised.

    Args:
        bits: of a weight: 8, 6 or 4.
        group_size: inputs that share a scale and a bias: 32, 64 or 128.

    Raises:
        ConfigError: another value.
    """

    bits: int
    group_size: int = GROUP_SIZE

    def __post_init__(self) -> None:
        for name, value, allowed in (("bits", self.bits, WIDTHS), ("group_size", self.group_size, GROUP_SIZES)):
            if type(value) is not int or value not in allowed:
                raise ConfigError(f"{name}: choose {', '.join(map(str, allowed[:-1]))} or {allowed[-1]}; got {value!r}")

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group_size}"

    @property
    def bits_stored(self) -> float:
        """Bits of a weight with its share of scale and bias."""
        return self.bits + 32 / self.group_size

    def params(self) -> dict[str, Any]:
        """The value of `KEY`."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": "affine"}

    @classmethod
    def stated(cls, params: dict[str, Any], where: str) -> "Quantisation | None":
        """What `params.json` says; None: its weights are not quantised.

        Raises:
            ConfigError: in a way that is not read here.
        """
        if (value := params.get(KEY)) is None:
            return None
        fault = f"{where}: {KEY} is read as MLX's affine groups alone"
        if not isinstance(value, dict) or value.get("mode", "affine") != "affine":
            raise ConfigError(fault)
        try:
            return cls(value["bits"], value.get("group_size", GROUP_SIZE))
        except (KeyError, ConfigError) as e:
            raise ConfigError(f"{fault}; {e}") from None

    def check_inputs(self, name: str, inputs: int) -> None:
        """Raise ConfigError unless groups fill the inputs of a linear."""
        if inputs % self.group_size:
            fitting = [size for size in GROUP_SIZES if not inputs % size]
            what = f"choose {' or '.join(map(str, fitting))}" if fitting else "this model cannot be quantised"
            raise ConfigError(f"group_size: {self.group_size}, but {name} has {inputs} inputs; {what}")
