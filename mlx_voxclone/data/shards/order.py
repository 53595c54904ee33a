"""The order of an epoch over sharded data: random, and yet each shard is needed in one stretch of it.

Shards come in random order, `mix` of them at a time; the items of these few are shuffled together, then come the next.
An epoch's order is a function of (seed, epoch) and its part at any position is made without what comes before, so that
a resumed run goes on exactly, without replay. Every item comes once.
"""

from collections.abc import Iterator

import numpy as np


class ShardOrder:
    """Places of items, `order[first:last]` as int64; only the few shards that these lie in are looked at.

    Args:
        ends: `[S]`, number of items in the first 1, 2, ... S shards; items are numbered shard by shard.
        mix: shards whose items are shuffled together.
        seed, epoch: what the order depends on.
    """

    def __init__(self, ends: np.ndarray, mix: int, seed: int, epoch: int) -> None:
        self._ends = np.asarray(ends, np.int64)
        self._starts = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)
        self._key = (seed, epoch)
        shards = np.random.default_rng([seed, epoch]).permutation(np.flatnonzero(self._ends > self._starts))
        self.groups = [shards[k : k + mix] for k in range(0, len(shards), mix)]
        sizes = [int((self._ends[group] - self._starts[group]).sum()) for group in self.groups]
        self._bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._made: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, part: slice) -> np.ndarray:
        first, last, step = part.indices(len(self))
        if step != 1:
            raise ValueError("an order is taken in stretches")
        parts = [np.zeros(0, np.int64)]
        for group, begin, end in self._stretches(first, last):
            parts.append(self._items(group)[begin:end])
        return np.concatenate(parts)

    def _stretches(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Group, and first and last place in it, of every group that has places from `first` to `last`."""
        group = int(np.searchsorted(self._bounds, first, side="right")) - 1
        while first < last:
            begin, end = int(self._bounds[group]), int(self._bounds[group + 1])
            yield group, first - begin, min(last, end) - begin
            first, group = end, group + 1

    def _items(self, group: int) -> np.ndarray:
        if self._made[0] != group:
            items = np.concatenate([np.arange(self._starts[s], self._ends[s]) for s in self.groups[group]])
            self._made = (group, np.random.default_rng([*self._key, group]).permutation(items))
        return self._made[1]
