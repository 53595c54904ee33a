"""Pairs in voices that nobody has: the codes of pairs are moved, and the frozen decoder makes their sound.

A pair stays exact under any change of its codes. What makes a voice is, for a good part, where the acoustic values lie
and how far they spread: each voice of the pairs has a mean and a standard deviation per acoustic dimension. A new voice
lies on the line through two voices, between them or a little beyond (BEYOND says how far), and a pair is moved from its
own voice's mean and deviation to the new ones. What is said and when, the semantic codes, stays. Voices drawn around
the mean of all voices instead taught an encoder much less (docs/LOG.md).
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.locks import held
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.quantizer import levels_to_values, values_to_levels
from mlx_voxclone.pairs.files import (
    FORMAT,
    MOVED,
    SETTINGS,
    SHARDS,
    ShardWriter,
    SpokenPair,
    digest_of,
    fill_shards,
    read_shard,
    settle,
)

BEYOND = 0.4  # how far a new voice may lie beyond one of its two voices, as a share of their distance
DEVIATIONS = (0.02, 0.8)  # least and greatest standard deviation of a new voice, of values in -1..1
UNCHANGED = "unchanged"  # why a copy is left out: rounding made its codes those of the pair, or of an earlier copy
_DRAWS = 8  # new voices that are tried before


@dataclass(frozen=True)
class VoiceSpread:
    """Where the acoustic values of voices lie.

    Attributes:
        names: of the V voices.
        means, log_deviations: `[V, A]`, of values in -1..1 over all frames of a voice; logarithms are natural.
    """

    names: tuple[str, ...]
    means: np.ndarray
    log_deviations: np.ndarray

    @classmethod
    def of(cls, codes: Mapping[str, Sequence[np.ndarray]], levels: int) -> "VoiceSpread":
        """Measure voices.

        Args:
            codes: of each voice, 0-based `[1 + A, T]`.
            levels: of an acoustic code.
        """
        names = tuple(sorted(codes))
        values = [levels_to_values(np.concatenate(codes[name], axis=1)[1:], levels) for name in names]  # [A, frames]
        means = np.stack([v.mean(axis=1) for v in values])
        deviations = np.stack([v.std(axis=1) for v in values])
        return cls(names, means, np.log(np.maximum(deviations, DEVIATIONS[0])))

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a new voice, `[A]` each."""
        first, second = rng.choice(len(self.names), 2, replace=False)
        weight = rng.uniform(-BEYOND, 1 + BEYOND)
        mean, log_deviation = (
            weight * table[first] + (1 - weight) * table[second] for table in (self.means, self.log_deviations)
        )
        return mean, np.exp(log_deviation).clip(*DEVIATIONS)


def moved_codes(
    codes: np.ndarray,
    own: tuple[np.ndarray, np.ndarray],
    new: tuple[np.ndarray, np.ndarray],
    levels: int,
) -> np.ndarray:
    """Codes `[1 + A, T]` moved from a voice to another, int32; the semantic ones stay.

    Args:
        codes: 0-based.
        own, new: mean and standard deviation `[A]` of either voice.
        levels: of an acoustic code.
    """
    (mean, deviation), (new_mean, new_deviation) = own, new
    values = (levels_to_values(codes[1:], levels) - mean[:, None]) / deviation[:, None]  # [A, T]
    values = (values * new_deviation[:, None] + new_mean[:, None]).clip(-1.0, 1.0)
    acoustic = np.rint(values_to_levels(values, levels))
    return np.concatenate([codes[:1], acoustic]).astype(np.int32)


class Mover:
    """Draws and makes the moved copies of a directory of pairs, each by a seed of its own.

    Args:
        source: a complete directory of pairs; all of their codes stay in memory.
        levels: of an acoustic code.
        seed: of all draws; beside it each pair's id and the copy's number decide.

    Raises:
        DataError: fewer than two voices, so that there is nothing to mix.
        CheckpointError: a damaged shard.
    """

    def __init__(self, source: Path, levels: int, seed: int = 0) -> None:
        self.levels, self._seed = levels, seed
        self.shards: list[list[tuple[dict[str, Any], np.ndarray]]] = []
        for path in sorted(source.glob(SHARDS)):
            file, lines, _ = read_shard(path)
            self.shards.append([(line, file.codes(line["id"])) for line in lines])
        voices: dict[str, list[np.ndarray]] = {}
        for line, codes in (pair for shard in self.shards for pair in shard):
            voices.setdefault(line["voice"], []).append(codes)
        if len(voices) < 2:
            raise DataError(f"{source}: pairs of {len(voices)} voice; moving mixes voices, so it needs two or more")
        self.spread = VoiceSpread.of(voices, levels)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all codes, in order."""
        return digest_of(np.ascontiguousarray(codes) for shard in self.shards for _, codes in shard)

    def copies(self, line: Mapping[str, Any], codes: np.ndarray, moves: int) -> list[np.ndarray]:
        """Codes of the copies of a pair, fewer than `moves` where too many came out as it is or alike."""
        spread, row = self.spread, self.spread.names.index(line["voice"])
        own = spread.means[row], np.exp(spread.log_deviations[row])
        found = [codes]
        for number in range(moves):
            rng = np.random.default_rng([self._seed, zlib.crc32(line["id"].encode()), number])
            for _ in range(_DRAWS):
                moved = moved_codes(codes, own, spread.draw(rng), self.levels)
                if not any(np.array_equal(moved, other) for other in found):
                    found.append(moved)
                    break
        return found[1:]


def move_pairs(
    codec: Codec,
    source: Path,
    output: Path,
    moves: int,
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    progress: Callable[[int], None] = lambda copies: None,
) -> int:
    """Write moved copies of all pairs of a directory; go on after the last complete shard where there are some.

    A shard holds the copies of one of the source's. The voice of a copy is `moved/VOICE`, its id that of its pair with
    the copy's number behind it.

    Args:
        codec: decodes them, as it did the source's.
        source: complete directory of pairs.
        output: directory to make or to go on with.
        moves: copies of each pair.
        settings: what identifies the source, for `settings.json`; its codec and format are added here.
        seed: see `Mover`.
        progress: called with the number of copies that are done.

    Returns:
        The number of copies that are there.

    Raises:
        DataError: see `Mover`; other settings than the directory's. CheckpointError: see `fill_shards`.
    """
    mover = Mover(source, codec.config.acoustic_codebook_size, seed)
    made_by = read_json(source / SETTINGS)
    chosen = {"moves": moves, "beyond": BEYOND, "deviations": list(DEVIATIONS), "seed": seed}

    def fill(number: int, writer: ShardWriter) -> None:
        for line, codes in mover.shards[number]:
            copies = mover.copies(line, codes, moves)
            for k, moved in enumerate(copies):
                samples = codec.decode_audio(moved)
                said = {key: line[key] for key in ("text", "language")}
                writer.add(SpokenPair(f"{line['id']}-{k}", moved, samples, voice=MOVED + line["voice"], **said))
            for _ in range(moves - len(copies)):
                writer.reject(UNCHANGED)
            progress(moves)

    sizes = [moves * len(shard) for shard in mover.shards]
    with held(output):
        settle(output, {**settings, **chosen, "format": FORMAT, "codec": made_by["codec"], "pairs": mover.digest})
        return sum(len(kept) for kept, _ in fill_shards(output, sizes, fill, progress))
