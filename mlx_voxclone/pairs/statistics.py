"""How often each code occurs: what an encoder uses, and what codes that are known to be right look like.

Few frames differ from anything by chance alone: 500 of them hold at most 500 of 8192 semantic codes. So each divergence
comes with its chance level: the mean divergence of the same frames dealt out at random to two sides of the same sizes
(what is expected if both came from one source, exact as far as frames can be exchanged; those of one recording
resemble each other, so that even a right encoder lies somewhat above it on few recordings).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.invert import EXACT, TABLE, CodeTable, invert
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.model.config import CodecConfig

_DEALS, _DEAL_SEED = 8, 0  # the mean over 8192 codes hardly moves between deals
_TRIED_ROWS = 4  # of a preset: where none of them is explained, the others would take minutes for nothing


@dataclass(frozen=True, eq=False)
class CodeStatistics:
    """Counts of codes.

    Attributes:
        semantic: int64 `[K]`.
        levels: int64 `[A, L]`, of each acoustic codebook.
    """

    semantic: np.ndarray
    levels: np.ndarray

    @classmethod
    def from_codes(cls, codes: Iterable[np.ndarray], config: CodecConfig) -> "CodeStatistics":
        """Count 0-based codes, integers `[37, T]` each (T may be 0).

        Raises:
            ValueError: codes of another shape or type, or outside their codebook.
        """
        sizes = config.codebook_sizes
        counts = [np.zeros(size, dtype=np.int64) for size in sizes]
        for item in map(np.asarray, codes):
            if item.ndim != 2 or item.shape[0] != len(sizes) or item.dtype.kind not in "iu":
                raise ValueError(f"codes must be integers [{len(sizes)}, T], got {item.dtype} {list(item.shape)}")
            for count, row in zip(counts, item):
                if row.size and not 0 <= row.min() <= row.max() < len(count):
                    raise ValueError(f"a code outside 0..{len(count) - 1}: {row.min()} to {row.max()} occur")
                count += np.bincount(row, minlength=len(count))
        return cls(counts[0], np.stack(counts[1:]))

    def __add__(self, other: "CodeStatistics") -> "CodeStatistics":
        """Of the frames of both. Raises ValueError for codebooks of other sizes."""
        self._check_same_sizes(other)
        return CodeStatistics(self.semantic + other.semantic, self.levels + other.levels)

    @property
    def frames(self) -> int:
        return int(self.semantic.sum())

    @property
    def semantic_share(self) -> np.ndarray:
        """float64 `[K]`, sums to 1 (all alike where there are no frames)."""
        return _shares(self.semantic)

    @property
    def level_shares(self) -> np.ndarray:
        """float64 `[A, L]`, each row sums to 1 (all alike where there are no frames)."""
        return _shares(self.levels)

    @property
    def usage(self) -> float:
        """Share of the semantic codebook that occurs."""
        return float((self.semantic > 0).mean())

    @property
    def entropy_bits(self) -> float:
        """Of the semantic codes, at most log2(K); NaN without frames. Few frames lower it: at most log2(frames)."""
        return float(_entropy(self.semantic))

    @property
    def level_entropy_bits(self) -> float:
        """Mean over the acoustic codebooks, at most log2(L); NaN without frames."""
        return float(_entropy(self.levels).mean())

    def divergence(self, other: "CodeStatistics") -> "Divergence":
        """Jensen-Shannon divergence, in bits: 0 for equal counts, at most 1, the same in both directions.

        One frame in all is added to each codebook of each side, spread evenly over its codes: it decides only where
        there are hardly any frames. Sides of very different sizes diverge by chance, see `chance_divergence`.

        Raises:
            ValueError: codebooks of other sizes.
        """
        self._check_same_sizes(other)
        return Divergence(
            float(_jensen_shannon(self.semantic, other.semantic)),
            float(_jensen_shannon(self.levels, other.levels).mean()),
        )

    def chance_divergence(self, other: "CodeStatistics") -> "Divergence":
        """The divergence to expect if both came from one source: the mean over 8 random deals of the frames of both.

        The same at every call. Raises ValueError for codebooks of other sizes.
        """
        self._check_same_sizes(other)
        rng, found = np.random.default_rng(_DEAL_SEED), []
        mine, pooled = [self.semantic, *self.levels], [*(self + other)._books()]
        for _ in range(_DEALS):
            dealt = [_deal(rng, counts, int(own.sum())) for counts, own in zip(pooled, mine)]
            rest = [counts - part for counts, part in zip(pooled, dealt)]
            side, opposite = (CodeStatistics(books[0], np.stack(books[1:])) for books in (dealt, rest))
            found.append(side.divergence(opposite))
        return Divergence(*(float(np.mean(values)) for values in zip(*((d.semantic, d.levels) for d in found))))

    def metrics(self, prior: "CodeStatistics | None" = None, prefix: str = "") -> dict[str, float]:
        """For the log of an evaluation; with a prior also the divergences from it, and their chance levels."""
        values = {
            "semantic_codes_used": self.usage,
            "semantic_entropy_bits": self.entropy_bits,
            "level_entropy_bits": self.level_entropy_bits,
        }
        if prior is not None:
            found, chance = self.divergence(prior), self.chance_divergence(prior)
            values |= {
                "semantic_divergence_bits": found.semantic,
                "semantic_divergence_by_chance": chance.semantic,
                "level_divergence_bits": found.levels,
                "level_divergence_by_chance": chance.levels,
            }
        return {prefix + name: value for name, value in values.items()}

    def save(self, path: str | Path) -> None:
        """Write `semantic` and `levels`, replacing an older file. Raises CheckpointError where that fails."""
        save_tensors(path, {"semantic": self.semantic, "levels": self.levels}, overwrite=True)

    @classmethod
    def load(cls, path: str | Path, config: CodecConfig) -> "CodeStatistics":
        """Read what `save` wrote.

        Raises:
            CheckpointError: missing, damaged, no such file, or of codebooks of other sizes.
        """
        file = TensorFile(path)
        expected = {
            "semantic": (config.semantic_codebook_size,),
            "levels": (config.acoustic_dim, config.acoustic_codebook_size),
        }
        found = {}
        for name, shape in expected.items():
            info = file.info(name)
            if info.dtype != "I64" or info.shape != shape:
                raise CheckpointError(
                    f"{path}: {name} is {info.dtype} {list(info.shape)}, I64 {list(shape)} is expected; counted for"
                    " another model, or no file of code statistics"
                )
            found[name] = np.array(file.stored(name))
        statistics = cls(**found)
        if (
            min(counts.min() for counts in found.values()) < 0
            or (found["levels"].sum(axis=1) != statistics.frames).any()
        ):
            raise CheckpointError(f"{path}: its counts contradict each other; delete it and count again")
        return statistics

    def _books(self) -> Iterable[np.ndarray]:
        yield self.semantic
        yield from self.levels

    def _check_same_sizes(self, other: "CodeStatistics") -> None:
        mine, theirs = ((s.semantic.shape, s.levels.shape) for s in (self, other))
        if mine != theirs:
            raise ValueError(f"statistics of codebooks of other sizes: {mine} and {theirs}")


@dataclass(frozen=True)
class Divergence:
    """In bits, 0 to 1: of the semantic codes, and the mean over the acoustic codebooks of that of their levels."""

    semantic: float
    levels: float


@dataclass(frozen=True, eq=False)
class PresetStatistics:
    """What the voices of a release hold.

    Attributes:
        statistics: of all frames whose codes were recovered.
        explained: frames recovered, by voice.
        skipped: why nothing of a voice was taken, by voice.
    """

    statistics: CodeStatistics
    explained: dict[str, int]
    skipped: dict[str, str]


def preset_statistics(
    release: Release,
    voices: Sequence[str] | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> PresetStatistics | None:
    """Statistics of the codes behind a release's voices, as `checkpoint.invert` recovers them.

    Of each voice the frames that are explained exactly and in one way are counted. A voice none of whose first frames
    can be is skipped (made for another model, or a table too narrow to search). Voices that were added to a release
    count too, unless `voices` leaves them out.

    Args:
        release: the opened directory.
        voices: names; None: all.
        progress: hears of the voices done, one at a time.

    Returns:
        None where there are no voices.

    Raises:
        CheckpointError: no such voice among those named; an audio table that cannot be used.
    """
    names = release.voices() if voices is None else list(voices)
    if unknown := [name for name in names if name not in release.voices()]:
        raise CheckpointError(
            f"{release.path}: no voice called {unknown[0]!r}; there are: {', '.join(release.voices())}"
        )
    if not names:
        return None
    try:
        table = CodeTable(release.tensors.numpy(TABLE), release.config.codec.code_sizes)
    except ValueError as e:
        raise CheckpointError(f"{release.path}: {e}") from None
    recovered, skipped = {}, {}
    for name in names:
        try:
            rows = np.array(release.voice(name).astype(mx.float32))
            codes = _explained(table, rows)
        except (CheckpointError, ValueError) as e:  # unreadable, of another width, not finite
            codes, skipped[name] = None, str(e)
        if codes is not None and codes.shape[1]:
            recovered[name] = codes
        else:
            skipped.setdefault(name, "none of its frames could be explained by the model's audio table")
        if progress is not None:
            progress(1)
    statistics = CodeStatistics.from_codes(recovered.values(), release.config.codec)
    return PresetStatistics(statistics, {name: codes.shape[1] for name, codes in recovered.items()}, skipped)


def _explained(table: CodeTable, rows: np.ndarray) -> np.ndarray:
    """Codes `[37, n]` of the rows that are explained; none where none of the first are."""
    first = invert(table, rows[:_TRIED_ROWS])
    if not first.rows(EXACT):
        return first.codes[:, :0]
    rest = invert(table, rows[_TRIED_ROWS:])
    return np.concatenate([found.codes[:, found.rows(EXACT)] for found in (first, rest)], axis=1)


def _shares(counts: np.ndarray) -> np.ndarray:
    totals = counts.sum(axis=-1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), 1 / counts.shape[-1])


def _entropy(counts: np.ndarray) -> np.ndarray:
    """Bits, over the last axis; NaN where nothing was counted."""
    shares = _shares(counts)
    bits = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return np.where(counts.sum(axis=-1) > 0, bits, math.nan)


def _jensen_shannon(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of counts, over the last axis, in bits; smoothed as `divergence` says."""
    p, q = ((counts + 1 / counts.shape[-1]) / (counts.sum(axis=-1, keepdims=True) + 1) for counts in (a, b))
    middle = (p + q) / 2
    return np.clip((p * np.log2(p / middle) + q * np.log2(q / middle)).sum(axis=-1) / 2, 0, 1)


def _deal(rng: np.random.Generator, counts: np.ndarray, n: int) -> np.ndarray:
    """How many of each kind are among `n` drawn without replacement."""
    return rng.multivariate_hypergeometric(counts, n, method="marginals")
