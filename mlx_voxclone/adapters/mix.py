"""Adapters in use: one directory, or several added up with weights, as one low-rank change per linear layer.

Sums of low-rank changes are low-rank again: `w1 a1 b1 + w2 a2 b2 = [a1, a2] [w1 b1; w2 b2]`, so nothing is lost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlx_voxclone.adapters.files import AdapterConfig, load_adapters
from mlx_voxclone.adapters.names import modules, tensor_names
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.hub import ADAPTERS, local


class LowRank(NamedTuple):
    """The change of a weight `[out, in]`: `delta W = (a @ b).T`, float32 `a` `[in, r]` and `b` `[r, out]`."""

    a: np.ndarray
    b: np.ndarray

    def rows(self, rows: slice = slice(None)) -> np.ndarray:
        """Some rows of the change: float32 `[rows, in]`."""
        return self.b[:, rows].T @ self.a.T

    @property
    def square(self) -> float:
        """Sum of the squares of all elements, without making them."""
        a, b = (half.astype(np.float64) for half in self)
        return float(((a.T @ a) * (b @ b.T)).sum())


@dataclass(frozen=True)
class AdapterSource:
    """A directory of adapters and how much of their change is wanted: 1 as trained, 0.5 half of it, -1 its opposite."""

    directory: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "AdapterSource":
        """`DIR` or `DIR=WEIGHT`, DIR a path or an address on the hub; a directory whose whole name is `text` is taken
        as it is.

        Raises:
            CheckpointError: a weight that is 0 or not finite; nothing to be had from the hub.
        """
        directory, equals, weight = text.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            equals = ""
        if not equals or Path(text).is_dir():
            return cls(local(text, ADAPTERS))
        if not math.isfinite(value) or value == 0:
            raise CheckpointError(f"{text}: the weight must be a finite number other than 0")
        return cls(local(directory, ADAPTERS), value)

    def __str__(self) -> str:
        return str(self.directory) if self.weight == 1 else f"{self.directory}={self.weight:g}"


@dataclass(frozen=True)
class AdapterMix:
    """Adapters added up.

    Args:
        changes: module (`layers.0.attention.wq`) -> its change, weights and scales included; sorted by name.
        parts: each source with its configuration.
    """

    changes: dict[str, LowRank]
    parts: tuple[tuple[AdapterSource, AdapterConfig], ...]

    @property
    def where(self) -> str:
        """The sources, for messages."""
        return " + ".join(str(source) for source, _ in self.parts)


def mix_adapters(sources: "Sequence[AdapterSource | str | Path]", fingerprint: str, base: str | Path) -> AdapterMix:
    """Load adapters and add them up.

    Args:
        sources: at least one; a path stands for weight 1.
        fingerprint, base: of the model that they are for, see `AdapterConfig.check_base`.

    Raises:
        CheckpointError: what `load_adapters` refuses; another base; a directory given twice; shapes that differ.
    """
    sources = [s if isinstance(s, AdapterSource) else AdapterSource(Path(s)) for s in sources]
    places = [source.directory.resolve() for source in sources]
    if twice := next((source for k, source in enumerate(sources) if places[k] in places[:k]), None):
        raise CheckpointError(f"{twice.directory}: given twice; give it once, with a weight (DIR=2) if that is meant")
    found: dict[str, list[LowRank]] = {}
    parts = []
    for source in sources:
        tensors, config = load_adapters(source.directory)
        config.check_base(fingerprint, base, source.directory)
        parts.append((source, config))
        for name in modules(tensors):
            a, b = (np.array(tensors[half]) for half in tensor_names(name))
            change = LowRank(a, np.float32(source.weight * config.scale) * b)
            others = found.setdefault(name, [])
            if others and (others[0].a.shape[0], others[0].b.shape[1]) != (a.shape[0], b.shape[1]):
                raise CheckpointError(f"{source.directory}: {name} has another shape than in {sources[0].directory}")
            others.append(change)
    changes = {
        name: LowRank(np.concatenate([c.a for c in found[name]], axis=1), np.concatenate([c.b for c in found[name]]))
        for name in sorted(found)
    }
    return AdapterMix(changes, tuple(parts))
