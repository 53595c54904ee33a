"""When each word is said: Whisper's own way from cross-attention to times. Numpy only.

Source: the code released with Whisper (`timing.py`): attention of the alignment heads within the audio, normalised over
all positions, median over time, mean over the heads (`alignment.token_scores`), then dynamic time warping; a token
begins where the path first reaches it.
"""

from dataclasses import dataclass

import numpy as np

from mlx_voxclone.whisper.alignment import token_scores
from mlx_voxclone.whisper.compare import units

MEDIAN = 7  # width of the median filter over time in encoder frames of 20 ms: that of Whisper's own word timing
FRAME = 0.02  # seconds per encoder frame


@dataclass(frozen=True)
class Word:
    """A word of a text and when it is said.

    Attributes:
        text: as it is written, without punctuation.
        start, end: seconds into the clip.
    """

    text: str
    start: float
    end: float


def token_frames(scores: np.ndarray, predicting: slice, frames: int, speech: np.ndarray | None = None) -> np.ndarray:
    """Where each of N tokens begins, the end of text the last, by dynamic time warping.

    Args:
        scores: raw cross-attention of the alignment heads [heads, P, 1500] at all positions, see `Reading`.
        predicting: of these positions, those that predict the tokens.
        frames: the clip's own encoder frames.
        speech: bool [frames]: only these frames are attended to, so that no word lies in a pause; None: all.
    Returns:
        int [N + 1]: the frame of each token's begin; the last one is where the last token ends.
    """
    kept = np.arange(frames) if speech is None or not speech[:frames].any() else np.flatnonzero(speech[:frames])
    median = MEDIAN if len(kept) > MEDIAN // 2 else 1
    matrix = token_scores(scores[..., kept], predicting, len(kept), median)  # [N, kept]
    rows, columns = warped(-matrix)
    starts = columns[np.flatnonzero(np.diff(rows, prepend=-1))]
    return np.append(kept[starts], kept[-1] + 1)


def warped(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest path through `cost` [N, M] from corner to corner that goes on by a row, a column or both.

    Returns:
        rows and columns of the path, int [length] each.
    """
    n, m = cost.shape
    best = np.full((n + 1, m + 1), np.inf)
    best[0, 0] = 0
    came = np.zeros((n + 1, m + 1), np.int8)  # 0: both, 1: a row, 2: a column
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        before = np.stack([best[i - 1, j - 1], best[i - 1, j], best[i, j - 1]])
        # As Whisper does: a step by both or by a row only where it is cheaper than each of the others.
        which = np.where((before[0] < before[1]) & (before[0] < before[2]), 0, 2)
        which = np.where((before[1] < before[0]) & (before[1] < before[2]), 1, which)
        best[i, j] = cost[i - 1, j - 1] + before[which, np.arange(len(i))]
        came[i, j] = which
    came[0, :], came[:, 0] = 2, 1
    rows, columns, i, j = [], [], n, m
    while i > 0 or j > 0:
        rows.append(max(i - 1, 0))
        columns.append(max(j - 1, 0))
        step = came[i, j]
        i, j = i - (step != 2), j - (step != 1)
    return np.array(rows[::-1]), np.array(columns[::-1])


def timed_words(text: str, token_ends: list[int], starts: np.ndarray) -> list[Word]:
    """The words of a text with their times.

    Args:
        text: what the tokens say.
        token_ends: characters of `text` that the tokens up to each one say, nondecreasing [N - 1].
        starts: from `token_frames`, [N + 1] with the end of text among the tokens.
    """
    ends, words = np.array(token_ends), []
    for first, last in units(text):
        begin = int(np.searchsorted(ends, first, side="right"))
        final = int(np.searchsorted(ends, last - 1, side="right"))
        begin, final = min(begin, len(ends) - 1), min(final, len(ends) - 1)
        words.append(Word(text[first:last], float(starts[begin] * FRAME), float(starts[final + 1] * FRAME)))
    return words
