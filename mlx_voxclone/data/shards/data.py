"""Sharded data as training reads it: what `PreparedData` is for a directory of clips, of any size and from anywhere."""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, read_samples
from mlx_voxclone.audio.source import AudioBytes
from mlx_voxclone.data.clips import REFERENCE
from mlx_voxclone.data.entries import HELDOUT, INDEX, TRAIN
from mlx_voxclone.data.shards.fetch import MOST_OF_INDEX, fetch, is_remote
from mlx_voxclone.data.shards.index import SPLITS, Row, ShardIndex
from mlx_voxclone.data.shards.order import ShardOrder
from mlx_voxclone.data.shards.store import CACHE_GB, ShardStore, default_cache
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.files.atomic import atomic_file

MOST_HELDOUT = 512  # clips to measure by, however many the index holds out: each is copied out of its shard
MIX = 4  # more would mix better and need more of the cache, which holds these and as many more
LEFT_OUT = len(SPLITS)  # in the place of a number in `SPLITS`
FOR_TRAINING = "reference, not held out"  # the voice prompts that training clips may get


def is_sharded(place: str | Path) -> bool:
    """Whether a place is an index of shards, a directory with one, or an address that may have one."""
    if is_remote(place):
        return not str(place).endswith(".tar")
    place = Path(place)
    return (place.name == INDEX and place.is_file()) or (place / INDEX).is_file()


@dataclass(frozen=True, slots=True)
class ShardClip:
    """One clip; see `data.clips.Clip`."""

    row: int
    line: Row = field(repr=False)
    data: "ShardData" = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.line.id

    @property
    def samples(self) -> int:
        return self.line.samples

    @property
    def speaker(self) -> str:
        return self.line.speaker

    @property
    def text(self) -> str | None:
        return self.line.text

    @property
    def language(self) -> str | None:
        return self.line.language or self.data.language

    @property
    def reference(self) -> str | None:
        return self.line.reference

    @property
    def source(self) -> str:
        return self.line.source

    @property
    def start(self) -> float:
        return self.line.start

    @property
    def split(self) -> str:
        return SPLITS[self.data.split[self.row]]

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 [samples], or those from `start` to `stop` alone.

        Raises:
            DataError: its shard is missing, cut off, changed or cannot be fetched, or its audio is damaged.
        """
        line, shard = self.line, int(self.data.index.shard[self.row])
        keep = self.split != TRAIN
        content = self.data.store.read(shard, line.offset, line.size, line.sha256, keep=keep)
        source = AudioBytes(f"{self.data.index.shards[shard].place}: {line.source or line.id}", content)
        if self.data.index.shards[shard].whole:
            samples, count = read_samples(source, start, stop)
        else:
            end = (line.first + line.samples) / SAMPLE_RATE
            whole = read_audio(source, start=line.first / SAMPLE_RATE, end=end)
            samples, count = whole[start:stop], len(whole)
        if count != line.samples:
            raise DataError(f"{source}: {count} samples where the index states {line.samples}; make it again")
        return samples if line.gain == 1 else samples * np.float32(line.gain)


class Listed(Sequence[ShardClip]):
    """Clips of an index, read from it where they are asked for.

    Args:
        rows: their numbers, ascending.
    """

    def __init__(self, data: "ShardData", rows: np.ndarray) -> None:
        self._data, self._rows = data, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self._data.clip(row) for row in self._rows[number]]
        return self._data.clip(self._rows[number])


class ShardClips(Listed):
    """All clips of a split."""

    def __iter__(self) -> Iterator[ShardClip]:
        """In the order of the index, shard by shard; whoever reads them so has the next shard fetched meanwhile."""
        self._data.store.follow([[int(shard)] for shard in np.unique(self._data.index.shard[self._rows])])
        for row in self._rows:
            yield self._data.clip(row)

    @property
    def lengths(self) -> np.ndarray:
        """Samples of each, `[N]`."""
        return self._data.index.samples[self._rows]

    def order(self, ends: np.ndarray, seed: int, epoch: int) -> ShardOrder:
        """The order of an epoch over items of these clips.

        Args:
            ends: `[N]`, number of items in the first 1, 2, ... N clips.
        """
        return self._data.order(self._rows, ends, seed, epoch)


class ShardData:
    """What `PreparedData` tells, for shards.

    Attributes:
        split: per row of the index: number in `SPLITS`, or `LEFT_OUT`.
        language: of clips that have none.

    Args:
        place: a directory with an index, the index, or the address of either.
        cache: directory for what is fetched; None: the user's cache directory.
        cache_gb: of fetched shards in it.
        mix: shards whose clips are mixed at a time.
        say: receives a line for the user.

    Raises:
        DataError: no index, a damaged one, or a shard on this disk missing or cut off.
        ConfigError: the cache does not hold `mix` shards.
    """

    def __init__(
        self,
        place: str | Path,
        cache: Path | None = None,
        cache_gb: float = CACHE_GB,
        mix: int = MIX,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        cache = cache or default_cache()
        path, self.directory = _index_of(place, cache, say)
        self.index, self.mix = ShardIndex(path), mix
        self.store = ShardStore(self.index.shards, self.directory, cache, cache_gb * 1e9, say)
        self.store.check_local()
        for warning in self.store.check_room(mix):
            say(f"warning: {warning}")
        self._say, self._choice = say, ""
        self._divide(self.index.split, None)

    def _divide(self, split: np.ndarray, language: str | None) -> None:
        self.split, self.language = split, language
        rows = {name: np.flatnonzero(split == k).astype(np.int32) for k, name in enumerate(SPLITS)}
        if not len(rows[TRAIN]):
            raise DataError(f"{self.index.path}: has no clip to train on")
        rows[FOR_TRAINING] = rows[REFERENCE]
        self._heard: frozenset[str] = frozenset()  # recordings that are held out
        if len(rows[REFERENCE]):
            self._heard = frozenset(filter(None, (self.index.row(int(row)).source for row in rows[HELDOUT])))
            clean = [self.index.row(int(row)).source not in self._heard for row in rows[REFERENCE]]
            rows[FOR_TRAINING] = rows[REFERENCE][np.array(clean, bool)]
        if len(rows[HELDOUT]) > MOST_HELDOUT:
            self._say(f"data: of {len(rows[HELDOUT])} held-out clips the first {MOST_HELDOUT} are measured by")
            rows[HELDOUT] = rows[HELDOUT][:MOST_HELDOUT]
        self.train, self.heldout, self.prompts = (ShardClips(self, rows[name]) for name in SPLITS)
        self._rows = rows
        self._by_speaker: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Number and line of every clip of the index, in its order."""
        return ((number, self.index.row(number)) for number in range(len(self.index)))

    def chosen(self, split: np.ndarray, language: str | None = None) -> "ShardData":
        """The same with only some of the clips, or with others held out; arguments as the attributes."""
        found = copy(self)
        found._choice = hashlib.sha256(json.dumps(language).encode() + split.tobytes()).hexdigest()
        found._divide(split, language)
        return found

    def clip(self, row: int) -> ShardClip:
        """A clip by its number in the index."""
        return ShardClip(int(row), self.index.row(int(row)), self)

    @property
    def clips(self) -> ShardClips:
        """All of them, in the order of the index."""
        return ShardClips(self, np.sort(np.concatenate([self._rows[name] for name in SPLITS])))

    @property
    def speakers(self) -> list[str]:
        """Names of those who speak in `train` or `heldout`, sorted."""
        numbers = np.unique(self.index.speaker[np.concatenate([self._rows[TRAIN], self._rows[HELDOUT]])])
        return sorted(self.index.speakers[k] for k in numbers)

    @property
    def is_remote(self) -> bool:
        """Whether the index lies on a server."""
        return isinstance(self.directory, str)

    @property
    def hours(self) -> float:
        """Of `train` and `heldout` together."""
        return sum(int(c.lengths.sum(dtype=np.int64)) for c in (self.train, self.heldout)) / SAMPLE_RATE / 3600

    def references(self, clip: ShardClip, limit: int = 64) -> Sequence[ShardClip]:
        """Voice prompts for a clip: see `PreparedData.references`."""
        if clip.reference is not None:
            if clip.reference not in self.index.prompts:
                raise DataError(f"{self.index.path}: clip {clip.id} names the unknown reference {clip.reference}")
            prompt = self.clip(self.index.prompts[clip.reference])
            if clip.split != TRAIN or prompt.source not in self._heard:
                return [prompt]
        splits = [TRAIN, FOR_TRAINING] if clip.split == TRAIN else [clip.split, REFERENCE]
        splits += [TRAIN] if clip.split == HELDOUT else []
        return next((found for found in (self._others(clip, split, limit) for split in splits) if found), [])

    def _others(self, clip: ShardClip, split: str, limit: int) -> Listed:
        """Up to `limit` other clips of its speaker in a split; how many there are costs no time."""
        if split not in self._by_speaker:
            speakers = self.index.speaker[self._rows[split]]
            order = np.argsort(speakers, kind="stable")
            self._by_speaker[split] = speakers[order], self._rows[split][order]
        speakers, rows = self._by_speaker[split]
        first, last = np.searchsorted(speakers, self.index.speaker[clip.row] + np.array([0, 1]))
        place = first + int(np.searchsorted(rows[first:last], clip.row))
        inside = split == clip.split
        count = last - first - inside
        chosen = np.arange(count)
        if count > limit:
            chosen = np.sort(np.random.default_rng(zlib.crc32(clip.id.encode())).choice(count, limit, replace=False))
        return Listed(self, rows[first + chosen + (inside & (first + chosen >= place))])

    def order(self, rows: np.ndarray, ends: np.ndarray, seed: int, epoch: int) -> "FollowedOrder":
        """The order of an epoch over items of clips `rows`; the shards to come are fetched ahead."""
        numbers = self.index.shard[rows]
        last_clip = np.searchsorted(numbers, np.arange(len(self.index.shards)), side="right")
        ends = np.concatenate([[0], ends])[last_clip]
        return FollowedOrder(self.store, ends, self.mix, seed, epoch)

    def fingerprint(self) -> str:
        """Identity of the data, not of where it lies: sha256, to notice a change on resuming."""
        return self.index.digest + self._choice


class FollowedOrder(ShardOrder):
    """An order whose shards are fetched ahead of the reading, across the end of the epoch too."""

    def __init__(self, store: ShardStore, ends: np.ndarray, mix: int, seed: int, epoch: int) -> None:
        super().__init__(ends, mix, seed, epoch)
        self._store = store
        store.follow(self.groups, after=ShardOrder(ends, mix, seed, epoch + 1).groups[:1])

    def close(self) -> None:
        """Nobody reads on: wakes who waits for a shard."""
        self._store.abandon()


def _index_of(place: str | Path, cache: Path, say: Callable[[str], None]) -> tuple[Path, Path | str]:
    """The index file, and where shards are named from."""
    if is_remote(place):
        address = str(place) if str(place).endswith(".jsonl") else f"{str(place).rstrip('/')}/{INDEX}"
        say(f"data: fetching {address}")
        try:
            return _fetched_index(address, cache), address.rpartition("/")[0]
        except DataError as e:
            if "missing on the server" not in str(e):
                raise
            raise DataError(
                f"{e}; for shards without an index run `voxclone prepare ADDRESS --output DIR` and train from DIR"
            ) from None
    place = Path(place)
    path = place / INDEX if place.is_dir() else place
    return path, path.parent


def fetched_beside(place: str | Path, name: str, cache: Path | None) -> str | None:
    """A text that lies beside an index on a server; None: there is none.

    Raises:
        DataError: see `fetch`.
    """
    folder = str(place).rpartition("/")[0] if str(place).endswith(".jsonl") else str(place).rstrip("/")
    try:
        return _fetched_index(f"{folder}/{name}", cache or default_cache()).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    except DataError as e:
        if "missing on the server" not in str(e):
            raise
        return None


def _fetched_index(address: str, cache: Path) -> Path:
    """The index of remote shards, or what lies beside it, fetched anew into the cache.

    Raises:
        DataError: see `fetch`.
    """
    target = cache / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.jsonl"
    try:
        with atomic_file(target, overwrite=True) as file:
            fetch(address, file, None, None, most=MOST_OF_INDEX)
    except CheckpointError as e:
        raise DataError(f"{e}; set data.cache to a directory that can be written") from None
    return target
