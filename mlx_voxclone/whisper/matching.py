"""Which words of a written text are which of those that were heard: two long sequences, alike in most places.

Runs of words that occur once on each side are found first, longest runs first, and of these the longest series in the
same order is kept; what lies between is compared in full where it is short. A page that one side lacks so costs nothing
but itself.
"""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from mlx_voxclone.whisper.compare import distance, has_digit, letters, units

_RUNS = (5, 3, 2, 1)  # words of a run that has to be the only one of its kind
_FULL = 1 << 22  # pairs of words that are compared in full, between runs
_LONGEST = 400  # letters that are compared; of a longer stretch, the longer side counts
_SKIPPED = 3  # words that one side has and the other lacks: from so many on, they were not said, or not written
_NUMBER = 10  # words of a number, at most
_PHRASE, _OTHER = 20, 0.5  # letters of a phrase, and the share of them from which on it is another one
_ALIKE = 0.5  # share of letters from which on two words are not nearly the same
_NEAR_PAIRS = 900  # of words that are compared by their letters, between two equal ones
_CHANCE = 2  # equal words in a row between two differences, which may be equal by chance


def match(written: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (place in `written`, place in `heard`) of equal words, both ascending."""
    pairs: list[tuple[int, int]] = []
    jobs = [(0, len(written), 0, len(heard), 0)]
    while jobs:
        w0, w1, h0, h1, level = jobs.pop()
        if w0 == w1 or h0 == h1:
            continue
        small = (w1 - w0) * (h1 - h0) <= _FULL
        if level < len(_RUNS) and not (small and level):
            anchors = _unique(written[w0:w1], heard[h0:h1], _RUNS[level])
            edges = [(w0, h0), *((w0 + w, h0 + h) for w, h in anchors), (w1, h1)]
            for k, ((wa, ha), (wb, hb)) in enumerate(itertools.pairwise(edges)):
                if k:
                    pairs.append((wa, ha))
                jobs.append((wa + (k > 0), wb, ha + (k > 0), hb, level + 1))
        elif small:
            pairs += [(w0 + w, h0 + h) for w, h in _in_full(written[w0:w1], heard[h0:h1])]
    return sorted(pairs)


def stretch(written: Sequence[str], heard: Sequence[str]) -> tuple[int, bool]:
    """What differs between two words that agree.

    Args:
        written, heard: the words between them, by `compare.letters`.
    Returns:
        Edits of letters, blanks not counted; none where a number is written in figures on one side alone. And whether a
        phrase is missing on one side, or another one.
    """
    a, b = "".join(written), "".join(heard)
    if a == b:
        return 0, False
    if a and b and has_digit(a) != has_digit(b) and max(len(written), len(heard)) <= _NUMBER:
        return 0, False
    missing = abs(len(written) - len(heard)) >= _SKIPPED and 2 * min(len(a), len(b)) <= max(len(a), len(b))
    if max(len(a), len(b)) > _LONGEST:
        return max(len(a), len(b)), True
    wrong = distance(a, b)
    longer = max(len(a), len(b))
    return wrong, missing or (longer >= _PHRASE and wrong > _OTHER * longer)


def solid(pairs: Sequence[tuple[int, int]], n_written: int, n_heard: int) -> list[tuple[int, int]]:
    """Pairs of `match` without one or two words between differences on both sides, which may be equal by chance.

    Args:
        n_written, n_heard: words of the two sides, at whose ends there is no difference.
    """
    runs: list[list[tuple[int, int]]] = []
    for pair in pairs:
        if runs and (pair[0] - 1, pair[1] - 1) == runs[-1][-1]:
            runs[-1].append(pair)
        else:
            runs.append([pair])
    ends = (0, 0), (n_written - 1, n_heard - 1)
    kept = [run for run in runs if len(run) > _CHANCE or run[0] == ends[0] or run[-1] == ends[1]]
    return [pair for run in kept for pair in run]


def with_near(pairs: Sequence[tuple[int, int]], written: Sequence[str], heard: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of equal words, and between them those of words that are nearly so: misheard, or spelt otherwise."""
    edges = [(-1, -1), *pairs, (len(written), len(heard))]
    found = list(pairs)
    for (wa, ha), (wb, hb) in pairwise(edges):
        if wb - wa > 1 and hb - ha > 1 and (wb - wa) * (hb - ha) <= _NEAR_PAIRS:
            near = _near(written[wa + 1 : wb], heard[ha + 1 : hb])
            found += [(wa + 1 + w, ha + 1 + h) for w, h in near]
    return sorted(found)


def _near(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of words, ascending on both sides, that are most alike together; none differs by half or more."""
    alike = np.zeros((len(a) + 1, len(b) + 1))
    gains = np.zeros((len(a), len(b)))
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            share = distance(one, other) / max(len(one), len(other))
            gains[i, j] = (1 - share) * min(len(one), len(other)) if share < _ALIKE else 0.0
            alike[i + 1, j + 1] = max(alike[i, j + 1], alike[i + 1, j], alike[i, j] + gains[i, j])
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if gains[i - 1, j - 1] and alike[i, j] == alike[i - 1, j - 1] + gains[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif alike[i, j] == alike[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def difference(written: str, heard: str) -> float:
    """How much of a text was heard otherwise, from 0 to 1: edits of letters, as a share of the longer one's."""
    sides = [[letters(text[a:b]) for a, b in units(text)] for text in (written, heard)]
    edges = [(-1, -1), *match(*sides), (len(sides[0]), len(sides[1]))]
    wrong = sum(
        stretch(sides[0][wa + 1 : wb], sides[1][ha + 1 : hb])[0] for (wa, ha), (wb, hb) in itertools.pairwise(edges)
    )
    return min(1.0, wrong / max(1, *(sum(map(len, side)) for side in sides)))


def _unique(a: Sequence[str], b: Sequence[str], size: int) -> list[tuple[int, int]]:
    """Words of runs that occur once on each side, of the longest series of such runs in one order."""
    places = []
    for side in (a, b):
        found: dict[tuple[str, ...], int] = {}
        for k in range(len(side) - size + 1):
            run = tuple(side[k : k + size])
            found[run] = -1 if run in found else k
        places.append(found)
    common = sorted((k, places[1][run]) for run, k in places[0].items() if k >= 0 and places[1].get(run, -1) >= 0)
    runs = _longest_series(common)
    words: list[tuple[int, int]] = []
    for w, h in runs:
        for step in range(size):
            if not words or (w + step > words[-1][0] and h + step > words[-1][1]):
                words.append((w + step, h + step))
    return words


def _longest_series(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of pairs, ascending by the first, that ascends by the second too."""
    tails: list[int] = []  # the smallest second of a series of each length,
    last: list[int] = []  # and its place in `pairs`
    before: list[int] = []
    for k, (_, second) in enumerate(pairs):
        at = bisect_left(tails, second)
        before.append(last[at - 1] if at else -1)
        if at == len(tails):
            tails.append(second)
            last.append(k)
        else:
            tails[at], last[at] = second, k
    series, k = [], last[-1] if last else -1
    while k >= 0:
        series.append(pairs[k])
        k = before[k]
    return series[::-1]


def _in_full(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Equal words on the path of fewest edits."""
    known: dict[str, int] = {}
    left, right = ([known.setdefault(word, len(known)) for word in side] for side in (a, b))
    right, steps = np.array(right), np.arange(len(b) + 1)
    rows = np.empty((len(a) + 1, len(b) + 1), np.int32)
    rows[0] = steps
    for k, word in enumerate(left, 1):
        here = rows[k]
        here[0] = k
        here[1:] = np.minimum(rows[k - 1, :-1] + (right != word), rows[k - 1, 1:] + 1)
        here[:] = np.minimum.accumulate(here - steps) + steps
    pairs, i, j = [], len(a), len(b)
    while i and j:
        same = left[i - 1] == right[j - 1]
        if rows[i, j] == rows[i - 1, j - 1] + (not same):
            i, j = i - 1, j - 1
            if same:
                pairs.append((i, j))
        elif rows[i, j] == rows[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
