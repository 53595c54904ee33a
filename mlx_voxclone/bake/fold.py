"""Folding LoRA adapters into the stored weights: in float32, rounded once, and what rounding does to them measured.

A small change of a BF16 weight partly falls under its last bit: rounded to the nearest number, a change of 0.1 % of the
weight keeps half of its effect. So a row's rounding errors are fed back into the elements that are still to be rounded,
such that they cancel for the inputs that the change reads (`compensated`). Into an 8-bit weight most of a change would
be lost whatever is done; the originals are what adapters are folded into, whatever they were trained on.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.mix import AdapterMix, LowRank
from mlx_voxclone.checkpoint.dtypes import DTYPES, decode, encode
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import part_of
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.model.quantised import Packed, pack, unpack
from mlx_voxclone.model.widths import Quantisation

ROUNDINGS = ("compensated", "nearest")
LOSSY = 0.05  # of a change's effect: from here on a user should know
_BLOCK, _THREADS = 256, 8  # rows folded at a time and at once: bounds the float32 copies
_SHARE, _LAST = 8, 4  # columns rounded at a time: an eighth of those left, at least 4
_DAMPING = 0.1  # of the feedback; chosen by benchmarks.fold_rounding
_LARGE = 0.02  # relative change of a weight from which the nearest numbers keep everything (same benchmark)


@dataclass(frozen=True)
class FoldedWeight:
    """What folding did to one weight: sums over its elements. `stored` is what the change has become.

    Args:
        name: of the weight.
        dtype: it is stored in.
        change: square of the change.
        stored: square of the difference between the weight after and before.
        product: of the two.
        error: square of (weight after - (weight before + change)), the rounding.
        weight: square of the weight before.
        read: square of the rounding for inputs that the change reads, those in the span of its `a`.
    """

    name: str
    dtype: str
    change: float
    stored: float
    product: float
    error: float
    weight: float
    read: float

    @property
    def rounding_error(self) -> float:
        """Norm of the rounding error relative to the change's; 0 where there is no change."""
        return (self.error / self.change) ** 0.5 if self.change else 0.0

    @property
    def relative_change(self) -> float:
        """Norm of the change relative to the weight's."""
        return (self.change / self.weight) ** 0.5 if self.weight else 0.0

    @property
    def kept(self) -> float:
        """How much of the change is there, measured along it: 1 is all. What rounding adds beside it does not count."""
        return self.product / self.change if self.change else 1.0

    @property
    def lost(self) -> float:
        """Of the change's direction: 1 - cosine between what it was and what it has become."""
        if not self.change:
            return 0.0
        return 1.0 - self.product / (self.change * self.stored) ** 0.5 if self.stored else 1.0

    @property
    def effect_lost(self) -> float:
        """Norm of the rounding relative to the change's, for inputs that the change reads; 0 where there is no change.
        What rounding adds for other inputs, noise of the size of the type's own rounding, does not count."""
        return (self.read / self.change) ** 0.5 if self.change else 0.0


class Folding:
    """Adapters that are known to fit a base checkpoint, and how they are folded into it.

    Args:
        mix: the adapters.
        base: the checkpoint's tensors.
        rounding: `compensated`, or `nearest`.

    Raises:
        CheckpointError: modules that the checkpoint has not or has in other shapes.
    """

    def __init__(self, mix: AdapterMix, base: TensorFile, rounding: str = ROUNDINGS[0]):
        if rounding not in ROUNDINGS:
            raise CheckpointError(f"rounding {rounding!r}: choose {' or '.join(ROUNDINGS)}")
        names, where = list(mix.changes), mix.where
        lost = [name for name in names if part_of(name) not in ("lm", "head") or f"{name}.weight" not in base]
        if lost:
            matching = f"{len(names) - len(lost)} of {len(names)} adapted modules are in {base.path}"
            raise CheckpointError(f"{where}: {matching}; missing: {', '.join(lost[:5])}{' ...' * (len(lost) > 5)}")
        for name, change in mix.changes.items():
            made, shape = (change.b.shape[1], change.a.shape[0]), base.info(f"{name}.weight").shape
            if shape != made:
                raise CheckpointError(
                    f"{where}: {name} has the shape {list(made)}; its weight in {base.path} is {list(shape)}"
                )
        self.mix, self._base, self._rounding = mix, base, rounding
        self.weights = [f"{name}.weight" for name in names]

    def fold(self, name: str, dtype: str | None = None) -> tuple[np.ndarray, FoldedWeight]:
        """Weight + change of one of `weights`, and what rounding did.

        Args:
            name: of the weight.
            dtype: to store it in (None: as the base does); BF16 is returned as its bits.

        Raises:
            CheckpointError: a sum beyond the range of the type.
        """
        change = self.mix.changes[name.removesuffix(".weight")]
        stored, source = self._base.stored(name), self._base.info(name).dtype
        dtype = dtype or source
        folded = np.empty(stored.shape, DTYPES[dtype][0])
        basis = _basis(change)
        feedback = _Feedback(basis) if self._needs_feedback(change, name, dtype) else None
        span = basis.astype(np.float32)

        def fold_rows(start: int) -> list[float]:
            rows = slice(start, start + _BLOCK)
            before = decode(stored[rows], source)
            with np.errstate(over="ignore", invalid="ignore"):  # noticed below
                wanted_change = change.rows(rows)
                wanted = before + wanted_change
                folded[rows] = feedback.round(wanted, dtype) if feedback is not None else encode(wanted, dtype)
            after = decode(folded[rows], dtype)
            if not np.isfinite(after).all():
                raise CheckpointError(f"{self._base.path}: {name} with its adapter exceeds the range of {dtype}")
            return _sums(before, wanted_change, after, span)

        return folded, FoldedWeight(name, dtype, *_over_rows(fold_rows, stored.shape[0]))

    def fold_quantised(self, name: str, quantisation: Quantisation) -> tuple[Packed, FoldedWeight]:
        """Weight + change of one of `weights`, quantised, and what that did to the change.

        Raises:
            CheckpointError: a sum beyond the range of float32.
        """
        folded, _ = self.fold(name, "F32")
        packed = pack(mx.array(folded), quantisation)
        mx.eval(packed)
        after = np.array(unpack(packed, quantisation))
        change = self.mix.changes[name.removesuffix(".weight")]
        stored, source = self._base.stored(name), self._base.info(name).dtype
        span = _basis(change).astype(np.float32)

        def measure_rows(start: int) -> list[float]:
            rows = slice(start, start + _BLOCK)
            return _sums(decode(stored[rows], source), change.rows(rows), after[rows], span)

        kind = f"{quantisation.bits}-bit"
        return packed, FoldedWeight(name, kind, *_over_rows(measure_rows, stored.shape[0]))

    def _needs_feedback(self, change: LowRank, name: str, dtype: str) -> bool:
        if self._rounding == "nearest" or dtype == "F32":
            return False
        stored, source, weight = self._base.stored(name), self._base.info(name).dtype, 0.0
        for start in range(0, stored.shape[0], _BLOCK):
            rows = decode(stored[start : start + _BLOCK], source)
            weight += _square(rows)
        return 0 < change.square < _LARGE**2 * weight


class _Feedback:
    """Rounding the rows of a weight so that their errors cancel in the span of what a change reads.

    Columns are rounded in blocks. With Q an orthonormal basis of the span and c the error so far in terms of it, each
    row's next block is shifted by its part of the smallest shift of all columns left that would make up for c: by
    `-c (Q' Q + d)^-1 Q'`, Q's rows of the columns left, d a damping that spreads the shift.

    Args:
        basis: see `_basis`.
    """

    def __init__(self, basis: np.ndarray):
        count, rank = basis.shape
        self._blocks: list[tuple[slice, np.ndarray, np.ndarray]] = []
        start = 0
        while start < count:
            rest = basis[start:]
            size = min(count - start, max(_LAST, (count - start) // _SHARE))
            damped = rest.T @ rest + _DAMPING * len(rest) / count * np.eye(rank)
            share = np.linalg.solve(damped, rest[:size].T)
            self._blocks.append((slice(start, start + size), share.astype(np.float32), rest[:size].astype(np.float32)))
            start += size

    def round(self, wanted: np.ndarray, dtype: str) -> np.ndarray:
        """float32 `[rows, in]` as stored in `dtype`."""
        folded = np.empty(wanted.shape, DTYPES[dtype][0])
        error = np.zeros((wanted.shape[0], self._blocks[0][1].shape[0]), np.float32)
        for columns, share, basis in self._blocks:
            folded[:, columns] = encode(wanted[:, columns] - error @ share, dtype)
            error += (decode(folded[:, columns], dtype) - wanted[:, columns]) @ basis
        return folded


def _sums(before: np.ndarray, change: np.ndarray, after: np.ndarray, span: np.ndarray) -> list[float]:
    """The figures of a `FoldedWeight` for some rows."""
    got, error = after - before, after - (before + change)
    pairs = ((change, change), (got, got), (change, got), (error, error), (before, before))
    return [*(_product(x, y) for x, y in pairs), _square(error @ span)]


def _over_rows(work: Callable[[int], list[float]], rows: int) -> list[float]:
    """Sums of what `work` gives for each block of rows, called with its first one."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return [sum(column) for column in zip(*pool.map(work, range(0, rows, _BLOCK)))]


def _basis(change: LowRank) -> np.ndarray:
    """Orthonormal columns that span what a change reads, float64 `[in, min(in, r)]`."""
    return np.linalg.qr(change.a.astype(np.float64))[0]


def _square(x: np.ndarray) -> float:
    return _product(x, x)


def _product(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", x, y, dtype=np.float64))
