"""Cutting a long recording together with its text: pauses that lie between two words, and the best series of clips.

A clip begins and ends in a pause, with words that were heard as they are written, or nearly so, and have such a
neighbour; so what belongs to it is certain, whatever Whisper misheard inside. What is written and what was heard are
compared letter by letter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlx_voxclone.audio.segment import FRAME_SECONDS, MARGIN_SECONDS
from mlx_voxclone.data.hearing.check import MOST_WRONG
from mlx_voxclone.whisper.compare import distance, letters
from mlx_voxclone.whisper.matching import solid, stretch, with_near
from mlx_voxclone.whisper.words import Word

_PAUSE_SECONDS = 0.15  # a shorter gap is a stop consonant
_NEAR = 0.25  # seconds of speech: so near a pause the border of two words is,
_APART, _APART_WITHIN = 0.1, 0.04  # and so much nearer than others, or if the pause lies right in it
_PLEASANT = 10.0  # seconds of a clip
_SHOWN = 12  # words of a part that is left out
_LOST = 4.0  # cost of a second that comes into no clip
_ENDS, _PARTS = ".!?…。！？", ",;:—–،、，；："


@dataclass(frozen=True)
class Cut:
    """A clip: seconds in the recording, its words of the text, and the share of letters that were heard otherwise."""

    start: float
    end: float
    first: int  # word of the text
    last: int  # behind its last
    wrong: float
    heard: tuple[int, int]  # its words of those that were heard


@dataclass(frozen=True)
class Left:
    """A part that comes into no clip, in seconds, and why: `reason` is `not-in-text` or `text-differs`."""

    start: float
    end: float
    reason: str
    heard: str
    written: str


class Stretches:
    """The words of a text beside those that were heard, and how much differs between any two that agree."""

    def __init__(self, written: Sequence[str], heard: Sequence[str], pairs: Sequence[tuple[int, int]]) -> None:
        """`written` and `heard` are words by `compare.letters`; `pairs` are from `matching.match`."""
        self._written, self._heard = written, heard
        pairs = solid(pairs, len(written), len(heard))
        # Up to the heard word h: letters that differ, and faults, in it and in the stretches before it.
        self._wrong, self._faults = np.zeros(len(heard)), np.zeros(len(heard), int)
        for (wa, ha), (wb, hb) in pairwise(pairs):
            self._faults[hb] += stretch(written[wa + 1 : wb], heard[ha + 1 : hb])[1]
        pairs = with_near(pairs, written, heard)
        self.place = np.full(len(heard), -1)
        for w, h in pairs:
            self.place[h] = w
            self._wrong[h] += distance(written[w], heard[h])
        for (wa, ha), (wb, hb) in pairwise(pairs):
            self._wrong[hb] += stretch(written[wa + 1 : wb], heard[ha + 1 : hb])[0]
        self._wrong, self._faults = self._wrong.cumsum(), self._faults.cumsum()
        self._letters = np.concatenate([[0], np.cumsum([len(word) for word in written])])

    def agree(self, first: int, last: int) -> tuple[int, int, float] | None:
        """The words of the text of the heard words `first` to `last` - 1, and the share of letters that differ.

        None where its first or its last word is not certain, or a phrase is missing or another one.
        """
        if not (self._certain(first, 1, last) and self._certain(last - 1, -1, first - 1)):
            return None
        begin, end = int(self.place[first]), int(self.place[last - 1]) + 1
        if end <= begin or self._faults[last - 1] > self._faults[first]:
            return None
        own = distance(self._written[begin], self._heard[first])
        wrong = own + self._wrong[last - 1] - self._wrong[first]
        return begin, end, float(wrong / max(1, self._letters[end] - self._letters[begin]))

    def _certain(self, at: int, step: int, stop: int) -> bool:
        """Whether a heard word is one of the text, and the next inside the clip (if there is one) the next of it."""
        if self.place[at] < 0:
            return False
        inside = [k for k in range(at + step, at + 3 * step, step) if (k < stop if step > 0 else k > stop)]
        return not inside or any(self.place[k] == self.place[at] + (k - at) for k in inside)


def pauses(mask: np.ndarray, words: Sequence[Word]) -> list[tuple[float, float, int]]:
    """Pauses between two words: (start, end) in seconds and how many words lie before.

    Args:
        mask: bool [frames of 10 ms], from `audio.segment.speech_mask`.
        words: heard, in order, with seconds into the recording; none lies in a pause, see `whisper.words`.
    """
    if not words or not mask.any():
        return []
    spoken = np.cumsum(mask) * FRAME_SECONDS  # seconds of speech up to each frame
    # Between two words lies what their punctuation was heard in, which may reach beyond the pause.
    before = np.array([0.0, *(_at(spoken, word.end) for word in words)])
    after = np.array([*(_at(spoken, word.start) for word in words), spoken[-1]])
    changes = np.flatnonzero(np.diff(np.concatenate([[True], mask, [True]]).astype(np.int8)))
    found = []
    for first, last in changes.reshape(-1, 2).tolist():
        seconds = first * FRAME_SECONDS, last * FRAME_SECONDS
        if first == 0 or last == len(mask):
            found.append((*seconds, 0 if first == 0 else len(words)))
        elif last - first >= _PAUSE_SECONDS / FRAME_SECONDS:
            here = float(spoken[first - 1])
            away = np.maximum(0.0, np.maximum(before - here, here - after))  # of each border of two words
            nearest, second = np.argsort(away, kind="stable")[:2].tolist()
            apart = _APART if away[nearest] else _APART_WITHIN
            if away[nearest] <= _NEAR and away[second] >= away[nearest] + apart:
                found.append((*seconds, nearest))
    if not found or found[0][2] != 0:
        found.insert(0, (0.0, max(0.0, words[0].start - MARGIN_SECONDS), 0))
    if found[-1][2] != len(words):
        found.append((words[-1].end + MARGIN_SECONDS, len(mask) * FRAME_SECONDS, len(words)))
    return _ascending(found)


def _at(spoken: np.ndarray, seconds: float) -> float:
    k = min(len(spoken), max(0, round(seconds / FRAME_SECONDS)))
    return float(spoken[k - 1]) if k else 0.0


def _ascending(found: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Of pauses at the same border of words, the longest."""
    kept: list[tuple[float, float, int]] = []
    for pause in found:
        if kept and pause[2] <= kept[-1][2]:
            if pause[2] == kept[-1][2] and pause[1] - pause[0] > kept[-1][1] - kept[-1][0]:
                kept[-1] = pause
            continue
        kept.append(pause)
    return kept


def cut(
    breaks: Sequence[tuple[float, float, int]],
    stretches: Stretches,
    text_after: Sequence[str],
    bounds: tuple[float, float],
    most_wrong: float = MOST_WRONG,
) -> list[Cut]:
    """The clips that keep most of a recording, cut in the longer pauses and behind sentences where there is a choice.

    Args:
        breaks: from `pauses`.
        text_after: what stands between each word of the text and the next one, as `. `.
        bounds: shortest and longest clip, seconds.
        most_wrong: share of letters that may differ.
    """
    n = len(breaks)
    best: list[float] = [0.0] + [math.inf] * (n - 1)
    came: list[tuple[int, Cut | None]] = [(0, None)] * n
    for j in range(1, n):
        lost = breaks[j][0] - breaks[j - 1][1]
        best[j], came[j] = best[j - 1] + _LOST * max(0.0, lost) + 1, (j - 1, None)
        for i in range(j - 1, -1, -1):
            start = breaks[i][1] - _margin(breaks[i], i == 0)
            end = breaks[j][0] + _margin(breaks[j], j == n - 1)
            if end - start > bounds[1]:
                break
            if end - start < bounds[0] or breaks[i][2] == breaks[j][2]:
                continue
            found = stretches.agree(breaks[i][2], breaks[j][2])
            if found is None or found[2] > most_wrong:
                continue
            cost = best[i] + ((end - start) / _PLEASANT - 1) ** 2 + _border(breaks[j], text_after[found[1] - 1])
            if cost < best[j]:
                best[j], came[j] = cost, (i, Cut(start, end, *found, (breaks[i][2], breaks[j][2])))
    out, j = [], n - 1
    while j > 0:
        j, clip = came[j]
        if clip is not None:
            out.append(clip)
    return out[::-1]


def _margin(pause: tuple[float, float, int], outer: bool) -> float:
    """Seconds of a pause that a clip beside it keeps."""
    return min(MARGIN_SECONDS, (pause[1] - pause[0]) / (1 if outer else 2))


def _border(pause: tuple[float, float, int], after: str) -> float:
    """Of a cut: less in a long pause, and behind a sentence."""
    behind = 0.0 if any(c in _ENDS for c in after) else 0.5 if any(c in _PARTS for c in after) else 2.0
    return behind + 0.2 / (0.1 + pause[1] - pause[0])


def left_out(cuts: Sequence[Cut], words: Sequence[Word], written: Sequence[str]) -> list[Left]:
    """The parts in which words were heard that are in no clip; `written` are the words of the text as they stand."""
    out: list[Left] = []
    behind = [(0, 0), *((c.heard[1], c.last) for c in cuts)]
    ahead = [*((c.heard[0], c.first) for c in cuts), (len(words), len(written))]
    for (begin, first), (end, last) in zip(behind, ahead, strict=True):
        if begin == end:
            continue
        differs = 2 * (last - first) >= end - begin
        heard = " ".join(word.text for word in words[begin : min(end, begin + _SHOWN)])
        missing = " ".join(written[first : min(last, first + _SHOWN)]) if differs else ""
        reason = "text-differs" if differs else "not-in-text"
        out.append(Left(words[begin].start, words[end - 1].end, reason, heard, missing))
    return out


def comparable(text: str, places: Sequence[tuple[int, int]]) -> list[str]:
    """The words of a text at `places` (from `compare.units`), as they are compared."""
    return [letters(text[first:last]) for first, last in places]
