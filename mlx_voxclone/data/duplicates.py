"""Clips that sound the same: found by equal words of their fingerprints, kept if enough of what is around agrees."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from mlx_voxclone.audio.fingerprint import SILENT, WORDS_PER_SECOND

_SAME_SECONDS = 1.5  # of audible sound that must agree; all of a shorter clip,
_SHORTEST_SECONDS = 0.6  # down to this
_MOST_ERRORS = 0.18  # share of bits, at best; copies have up to 0.1, other speech 0.3 and more
_VOTES = 3  # equal words at one offset before two clips are compared
_NEIGHBOURS = 3  # of equal words, each is compared with so many
_MOST_WORDS = 1 << 24  # that are looked up, of all clips together; of more, a share chosen by their value
_BLOCK = 1 << 16  # words that are compared with their neighbours at once: bounds what is in memory beside them
_TABLE = np.array([bin(k).count("1") for k in range(1 << 16)], np.uint8)


def groups(prints: Sequence[np.ndarray], known: Sequence[int] = ()) -> list[int]:
    """Which clips sound the same as another, or share a stretch of it.

    Args:
        prints: per clip, the words of `audio.fingerprint`.
        known: per clip, a clip not after it that it is the same as, or itself.
    Returns:
        Per clip, the number of the first clip of its group; its own where it is alone.
    """
    parents = list(known or range(len(prints)))
    for a, b, offset in _candidates(prints):
        if (ra := root(parents, a)) != (rb := root(parents, b)) and alike(prints[a], prints[b], offset):
            parents[max(ra, rb)] = min(ra, rb)
    return [root(parents, k) for k in range(len(prints))]


def root(parents: list[int], k: int) -> int:
    """The first of a group, where each member names one before it, or itself."""
    while parents[k] != k:
        parents[k] = parents[parents[k]]
        k = parents[k]
    return k


def alike(a: np.ndarray, b: np.ndarray, offset: int) -> bool:
    """Whether two clips agree where `a[k]` is `b[k + offset]`, for `_SAME_SECONDS` or all of the shorter one."""
    first, last = max(0, -offset), min(len(a), len(b) - offset)
    if last <= first:
        return False
    a_part, b_part = a[first:last], b[first + offset : last + offset]
    heard = (a_part != SILENT) & (b_part != SILENT)
    errors = a_part[heard] ^ b_part[heard]
    shorter = min(np.count_nonzero(a), np.count_nonzero(b))
    needed = min(round(_SAME_SECONDS * WORDS_PER_SECOND), round(0.8 * shorter))
    if len(errors) < max(needed, round(_SHORTEST_SECONDS * WORDS_PER_SECOND)):
        return False
    wrong = np.cumsum(np.concatenate([[0], _TABLE[errors & 0xFFFF].astype(int) + _TABLE[errors >> 16]]))
    return bool((wrong[needed:] - wrong[:-needed]).min() <= _MOST_ERRORS * 32 * needed)


def _candidates(prints: Sequence[np.ndarray]) -> Iterable[tuple[int, int, int]]:
    """(clip, later clip, offset) of pairs that have `_VOTES` equal words at about one offset."""
    if not prints:
        return
    ends = np.cumsum([len(one) for one in prints])
    keys = _keys(prints, int(ends[-1]))
    if len(keys) < 2:
        return
    keys.sort()
    lengths = np.array([len(one) for one in prints])
    starts, width = ends - lengths, 2 * int(lengths.max()) + 1
    found = []
    for step in range(1, _NEIGHBOURS + 1):
        for first in range(0, len(keys) - step, _BLOCK):
            part = keys[first : first + _BLOCK + step]
            equal = np.flatnonzero((part[step:] ^ part[:-step]) >> np.uint64(32) == 0)
            one, other = ((part[equal + k] & np.uint64(0xFFFFFFFF)).astype(np.int64) for k in (0, step))
            a, b = (np.searchsorted(ends, place, side="right") for place in (one, other))
            apart = (other - starts[b]) - (one - starts[a]) + width // 2
            found.append(((a * len(prints) + b) * width + apart)[a != b])
    pairs, votes = np.unique(np.concatenate(found), return_counts=True)
    near = np.diff(pairs) == 1  # the next offset of the same clips
    together = votes + np.append(np.where(near, votes[1:], 0), 0) + np.append(0, np.where(near, votes[:-1], 0))
    order = np.argsort(-together, kind="stable")
    for k in order[together[order] >= _VOTES].tolist():
        clips, apart = divmod(int(pairs[k]), width)
        yield *divmod(clips, len(prints)), apart - width // 2


def _keys(prints: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Word and place, in one number, of the audible words of all clips, or of a share of them that copies share."""
    share = max(1, -(-count // _MOST_WORDS))
    keys, filled, at = np.empty(count, np.uint64), 0, 0  # what is not filled takes no memory
    for one in prints:
        chosen = np.flatnonzero(
            (one != SILENT) & (one * np.uint32(2654435761) >> np.uint32(8) & 0xFFFF < 65536 // share)
        )
        words = one[chosen].astype(np.uint64) << np.uint64(32) | (chosen + at).astype(np.uint64)
        keys[filled : filled + len(words)] = words
        filled, at = filled + len(words), at + len(one)
    return keys[:filled]


class Sounds:
    """Some clips, against which any number of others are compared, one after the other."""

    def __init__(self, prints: Iterable[np.ndarray]) -> None:
        self._prints = list(prints)
        lengths = [len(one) for one in self._prints]
        words = np.concatenate([np.zeros(0, np.uint32), *self._prints]).astype(np.uint32)
        clips = np.repeat(np.arange(len(lengths)), lengths)
        places = np.concatenate([np.zeros(0, np.int64), *map(np.arange, lengths)])
        order = np.argsort(words, kind="stable")
        order = order[words[order] != SILENT]
        self._words, self._places = words[order], np.stack([clips[order], places[order]], axis=1).astype(np.int64)

    def hold(self, words: np.ndarray) -> bool:
        """Whether a clip sounds the same as one of them, or shares a stretch with it."""
        return self.match(words) is not None

    def match(self, words: np.ndarray) -> int | None:
        """Index of a clip that sounds like `words` (uint32 [W]), or shares a stretch with them; None: there is none."""
        first, last = (np.searchsorted(self._words, words, side=side) for side in ("left", "right"))
        votes: dict[tuple[int, int], int] = defaultdict(int)
        for at in np.flatnonzero((last > first) & (words != SILENT)).tolist():
            for k, place in self._places[first[at] : last[at]].tolist():
                votes[k, place - at] += 1
        for (k, offset), count in sorted(votes.items(), key=lambda item: -item[1]):
            near = count + votes.get((k, offset + 1), 0) + votes.get((k, offset - 1), 0)
            if near >= _VOTES and alike(words, self._prints[k], offset):
                return k
        return None
