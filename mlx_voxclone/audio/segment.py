"""Where speech is: energy-based silence trimming and cutting at pauses.

Works on frame levels (one per 10 ms), which a pass over a file block by block yields in O(frames) memory: 3 hours are
1.08 million numbers. Thresholds come from percentiles of the levels, so neither gain nor a steady noise floor matters;
hysteresis keeps the weak ends of words. Cutting is a dynamic programme over the pauses: the cheapest sequence of pieces
of allowed length that together hold all speech.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FRAME_SECONDS = 0.01
MARGIN_SECONDS = 0.1  # kept around speech: onsets and breath belong to the voice
NORMAL_LEVEL, NORMAL_PEAK = -23.0, 0.99  # dB of full scale; what normalising brings speech to, and its limit
SILENT_LEVEL = -60.0  # dB of full scale; a file whose speech stays below is silence (16-bit noise is at about -98)
_LOWEST_LEVEL = -75.0  # dB; digital silence counts as this, so that it does not drag the noise floor down
_ABOVE_FLOOR = 10.0  # dB over the noise floor where speech starts, if the speech is loud enough for that:
_BELOW_SPEECH = (16.0, 35.0)  # dB under the speech level; the start threshold stays in between
_HYSTERESIS = 5.0  # dB lower threshold for going on than for starting
_CLICK_SECONDS = 0.03  # louder, but shorter: no speech
_ABOVE_SILENCE = 8.0  # dB over the noise floor beside speech, where soft speech is looked for,
_LOWEST_SOFT = -85.0  # dB; nothing below is sound
_SOFT_SECONDS = (0.2, 0.6)  # of which so much must be that loud, within so much,
_TAIL_SECONDS = 0.3  # apart from speech that dies away
_PAUSE_SECONDS = 0.15  # a shorter gap is a stop consonant
_PLEASANT_SECONDS = 10.0  # the length that pieces are drawn to
_BLOCK = 1 << 16  # frames that are smoothed at once
_LONG_PAUSE_SECONDS = 0.7  # silence inside a piece costs from here on


@dataclass(frozen=True)
class Span:
    """Part of a recording, in frames of `FRAME_SECONDS`: `start` included, `end` not."""

    start: int
    end: int

    @property
    def seconds(self) -> float:
        return (self.end - self.start) * FRAME_SECONDS


class LevelMeter:
    """Frame levels of a recording that arrives in blocks of any size; a constant offset is no sound and not counted."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._seen, self._rest = sample_rate, 0, np.zeros(0, np.float32)
        self._powers: list[np.ndarray] = []  # per frame: of the samples less their mean
        self._means: list[np.ndarray] = []
        self._sum = 0.0
        self._frames = 0

    def add(self, samples: np.ndarray) -> None:
        """Append samples [S], mono, full scale 1."""
        self._sum += float(samples.sum(dtype=np.float64))
        samples = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        per_frame = self._rate * FRAME_SECONDS
        frames = math.floor((self._seen + len(samples)) / per_frame + 1e-9)
        # Frame k ends at sample round(k * rate / 100): exact in the long run also for rates that 100 does not divide.
        edges = np.rint(np.arange(self._frames, frames + 1) * per_frame).astype(np.int64) - self._seen
        if len(edges) > 1:
            whole, sizes = samples[: edges[-1]].astype(np.float64), np.diff(edges)
            means = np.add.reduceat(whole, edges[:-1]) / sizes
            powers = np.add.reduceat(np.square(whole), edges[:-1]) / sizes - np.square(means)
            self._means.append(means.astype(np.float32))
            self._powers.append(np.maximum(powers, 0).astype(np.float32))
            self._frames = frames
            self._seen, samples = self._seen + int(edges[-1]), samples[edges[-1] :]
        self._rest = np.array(samples, np.float32)  # a copy: the block need not stay alive

    def levels(self) -> np.ndarray:
        """Levels so far in dB of full scale (RMS), float32 [frames]; a last part frame counts as one."""
        powers, means = self._powers, self._means
        if len(self._rest):
            powers, means = [*powers, self._rest.var(keepdims=True)], [*means, self._rest.mean(keepdims=True)]
        if not powers:
            return np.zeros(0, np.float32)
        offset = self._sum / (self._seen + len(self._rest))
        power = np.concatenate(powers) + np.square(np.concatenate(means) - np.float32(offset))
        return 10 * np.log10(np.maximum(power, 1e-12))


def frame_levels(blocks: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Levels of a recording given as mono blocks [S]: dB of full scale, float32 [ceil(seconds / FRAME_SECONDS)]."""
    meter = LevelMeter(sample_rate)
    for block in blocks:
        meter.add(block)
    return meter.levels()


def speech_mask(levels: np.ndarray) -> np.ndarray:
    """Which frames hold speech.

    The noise floor is the 10th percentile of the (smoothed) levels, the speech level the 95th percentile of what lies
    clearly above it. Speech starts 10 dB above the floor, but 16 to 35 dB below the speech level, and lasts while the
    level stays less than 5 dB under that.

    Args:
        levels: [frames], dB, from `frame_levels`.
    Returns:
        bool [frames]; all False for silence.
    """
    if len(levels) == 0:
        return np.zeros(0, bool)
    smooth = smoothed(np.maximum(levels, _LOWEST_LEVEL))
    floor = float(np.percentile(smooth, 10))
    active = smooth[_without_peaks(smooth) > floor + _ABOVE_FLOOR]
    speech = float(np.percentile(active if len(active) else smooth, 95))
    if speech < SILENT_LEVEL:
        return np.zeros(len(levels), bool)
    if not len(active):  # no contrast: as loud from end to end
        return np.ones(len(levels), bool)
    start = min(max(floor + _ABOVE_FLOOR, speech - _BELOW_SPEECH[1]), speech - _BELOW_SPEECH[0])
    go_on = min(start, max(start - _HYSTERESIS, floor + 3))
    runs = _runs(smooth > go_on)
    mask = np.zeros(len(levels), bool)
    if len(runs) == 0:
        return mask
    peaks = np.maximum.reduceat(smooth, runs[:, 0])
    for first, last in runs[peaks > start].tolist():
        mask[first:last] = True
    return _without_clicks(mask)


def speech_level(levels: np.ndarray, mask: np.ndarray) -> float:
    """RMS level of the speech frames alone in dB of full scale (-inf where there are none)."""
    if not mask.any():
        return -math.inf
    return float(10 * np.log10(np.mean(np.power(10.0, levels[mask] / 10))))


def normal_gain(levels: np.ndarray, mask: np.ndarray, peak: float) -> float:
    """Factor that brings speech to -23 dB of full scale (RMS of its frames), but no peak beyond 0.99; 1 for silence."""
    if not mask.any() or peak == 0:
        return 1.0
    return min(10 ** ((NORMAL_LEVEL - speech_level(levels, mask)) / 20), NORMAL_PEAK / peak)


def soft_speech(levels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`speech_mask` with what lies before its first and after its last frame and is soft, but seems to be speech.

    That is more than 8 dB above the noise floor there, for at least 0.2 s of 0.6 s. A clip whose text says it needs it.

    Args:
        levels, mask: [frames], from `frame_levels` and `speech_mask`.
    """
    spoken = np.flatnonzero(mask)
    if len(spoken) == 0:
        return mask
    smooth, out = smoothed(np.maximum(levels, _LOWEST_SOFT)), mask.copy()
    tail, (needed, window) = _frames(_TAIL_SECONDS), map(_frames, _SOFT_SECONDS)
    for part in (slice(0, max(0, spoken[0] - tail)), slice(spoken[-1] + 1 + tail, len(mask))):
        if len(smooth[part]) >= window:
            loud = _without_clicks(smooth[part] > float(np.percentile(smooth[part], 10)) + _ABOVE_SILENCE)
            out[part] = loud & (np.convolve(loud, np.ones(window), "same") >= needed)
    return out


def trim(mask: np.ndarray) -> Span | None:
    """From the first to the last speech frame, with a short margin; None for silence."""
    spoken = np.flatnonzero(mask)
    if len(spoken) == 0:
        return None
    margin = _frames(MARGIN_SECONDS)
    return Span(max(0, int(spoken[0]) - margin), min(len(mask), int(spoken[-1]) + 1 + margin))


def cut_at_pauses(
    levels: np.ndarray, mask: np.ndarray, min_seconds: float = 2.0, max_seconds: float = 20.0
) -> list[Span]:
    """Cut a long recording into pieces that hold all speech.

    Cuts fall into pauses, the longer the better; speech that goes on for longer than `max_seconds` is cut where it is
    quietest. Long silences fall out. A piece shorter than `min_seconds` is widened into the silence around it. Where
    the two bounds lie close together, not all speech may come into pieces of that length: as little as can be is then
    in shorter ones.

    Args:
        levels: [frames], dB, from `frame_levels`.
        mask: [frames], from `speech_mask`.
    Returns:
        Pieces in order, not overlapping, none longer than `max_seconds`. None is shorter than `min_seconds` if the
        recording is not and that is at most a fifth of `max_seconds`: what cannot be joined (longer than the maximum
        together) then lies so far apart that half of the gap between is enough to widen a short piece.
    Raises:
        ValueError: bounds that no piece can have.
    """
    if not (0 < min_seconds <= max_seconds and max_seconds >= 1):
        raise ValueError(f"max_seconds ({max_seconds}) must be at least 1 and min_seconds ({min_seconds})")
    runs = _runs(_filled(mask, _frames(_PAUSE_SECONDS)))
    if len(runs) == 0:
        return []
    longest = int(max_seconds / FRAME_SECONDS + 1e-9)
    shortest = min(longest, math.ceil(min_seconds / FRAME_SECONDS - 1e-9))
    smooth = smoothed(levels)
    parts = _Parts(_split_long(runs, smooth, shortest, longest), smooth)
    pieces = [parts.piece(i, j) for i, j in _cheapest(parts, shortest, longest)]
    return _widened(pieces, len(mask), shortest)


class _Parts:
    """Stretches of speech between which a cut is possible, and the extent of a piece that joins some of them."""

    def __init__(self, runs: np.ndarray, smooth: np.ndarray) -> None:
        self.starts, self.ends, n_frames = runs[:, 0].tolist(), runs[:, 1].tolist(), len(smooth)
        edges = [0, *self.starts, n_frames], [0, *self.ends, n_frames]
        # gaps[k] lies before part k; the last one after the last part.
        self.gaps = [edges[0][k + 1] - edges[1][k] for k in range(len(self.starts) + 1)]
        margin = _frames(MARGIN_SECONDS)
        self.margins = [min(margin, gap // 2) for gap in self.gaps]
        self.margins[0], self.margins[-1] = min(margin, self.gaps[0]), min(margin, self.gaps[-1])
        silences = [max(0.0, gap * FRAME_SECONDS - _LONG_PAUSE_SECONDS) for gap in self.gaps]
        self.speech_until = np.cumsum([0, *np.diff(runs, axis=1)[:, 0]]).tolist()
        self.silence_until = np.cumsum(silences).tolist()
        self.cut_costs = [self._cut_cost(k, smooth) for k in range(1, len(self))]

    def _cut_cost(self, k: int, smooth: np.ndarray) -> float:
        """Of a cut before part k: 10 falling with the length of the pause; without one up to 20 the louder it is."""
        if self.gaps[k]:
            return 1 / (0.1 + self.gaps[k] * FRAME_SECONDS)
        at = self.starts[k]
        around = smooth[max(0, at - 100) : at + 100].max()
        return 10 + 10 * max(0.0, 1 - float(around - smooth[at]) / 20)

    def __len__(self) -> int:
        return len(self.starts)

    def piece(self, i: int, j: int) -> Span:
        """Parts i to j - 1 with their margins."""
        return Span(self.starts[i] - self.margins[i], self.ends[j - 1] + self.margins[j])

    def room(self, i: int, j: int) -> int:
        """Frames by which that piece can be widened whatever its neighbours do: half of each gap, all at the edges."""
        left = self.gaps[i] if i == 0 else self.gaps[i] // 2
        right = self.gaps[j] if j == len(self) else self.gaps[j] // 2
        return left - self.margins[i] + right - self.margins[j]


def _cheapest(parts: _Parts, shortest: int, longest: int) -> list[tuple[int, int]]:
    """The cheapest partition into pieces (i, j) no longer than `longest`; dynamic programme from left to right."""
    best, came_from = [0.0] + [math.inf] * len(parts), [0] * (len(parts) + 1)
    for j in range(1, len(parts) + 1):
        boundary = 0.0 if j == len(parts) else parts.cut_costs[j - 1]
        for i in range(j - 1, -1, -1):
            frames = parts.ends[j - 1] + parts.margins[j] - parts.starts[i] + parts.margins[i]
            if frames > longest:
                break
            cost = best[i] + boundary + (frames * FRAME_SECONDS / _PLEASANT_SECONDS - 1) ** 2
            cost += 5 * (parts.silence_until[j - 1] - parts.silence_until[i])
            missing = shortest - frames - parts.room(i, j)
            if missing > 0:  # it is lost; no other cost comes near that of a frame of speech
                cost += 1000 * (parts.speech_until[j] - parts.speech_until[i]) + missing
            if cost < best[j]:
                best[j], came_from[j] = cost, i
    path, j = [], len(parts)
    while j:
        path.append((came_from[j], j))
        j = came_from[j]
    return path[::-1]


def _split_long(runs: np.ndarray, smooth: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Offer cuts inside speech that runs on: the quietest frame of each window of a quarter of `shortest`.

    Runs up to a third of `longest` stay whole: pieces of allowed length can always be put together from such parts.
    Where the bounds lie close together, both are less: parts that fit between them, but few enough to be counted.
    """
    between, least = longest - shortest, max(1, longest // 40)
    limit, window = max(least, min(longest // 3, between)), min(shortest // 4, between // 3)
    window = max(window, min(least, shortest // 4), 1)
    out = []
    for start, end in runs.tolist():
        if end - start <= limit:
            out.append((start, end))
            continue
        cuts = [start]
        for at in range(start + window, end - 2 * window + 1, window):
            cuts.append(at + int(smooth[at : at + window].argmin()))
        out.extend(zip(cuts, [*cuts[1:], end]))
    return np.array([part for part in out if part[1] > part[0]])


def _widened(pieces: list[Span], n_frames: int, shortest: int) -> list[Span]:
    """Grow pieces below `shortest` into the silence around them, at most to the middle of a gap."""
    out = []
    for k, piece in enumerate(pieces):
        low = 0 if k == 0 else -(-(pieces[k - 1].end + piece.start) // 2)
        high = n_frames if k + 1 == len(pieces) else (piece.end + pieces[k + 1].start) // 2
        need = max(0, shortest - (piece.end - piece.start))
        left = min(piece.start - low, max(need // 2, need - (high - piece.end)))
        right = min(high - piece.end, need - left)
        out.append(Span(piece.start - left, piece.end + right))
    return out


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)


def smoothed(levels: np.ndarray) -> np.ndarray:
    """Mean power of 5 frames (50 ms), in dB: syllables stay, pitch periods and noise flicker go."""
    padded = np.pad(np.asarray(levels, np.float32), 2, mode="edge")
    smooth = np.empty(len(levels), np.float32)
    for first in range(0, len(levels), _BLOCK):  # in float64 all at once, hours would take hundreds of MB
        power = np.power(10.0, padded[first : first + _BLOCK + 4].astype(np.float64) / 10)
        total = np.concatenate([[0.0], np.cumsum(power)])
        smooth[first : first + _BLOCK] = 10 * np.log10(np.maximum((total[5:] - total[:-5]) / 5, 1e-12))
    return smooth


def _without_peaks(smooth: np.ndarray) -> np.ndarray:
    """Levels without lone peaks shorter than speech (morphological opening): a click is no speech level."""
    width = 2 * ((_frames(_CLICK_SECONDS) + 4) // 2) + 1
    for extreme in (np.min, np.max):
        padded = np.pad(smooth, width // 2, mode="edge")
        smooth = extreme(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    return smooth


def _runs(mask: np.ndarray) -> np.ndarray:
    """[n, 2]: start and end of each run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return changes.reshape(-1, 2)


def _filled(mask: np.ndarray, shorter_than: int) -> np.ndarray:
    """The mask with gaps between runs filled where they are shorter than that many frames."""
    mask = mask.copy()
    for start, end in _runs(~mask).tolist():
        if end - start < shorter_than and start > 0 and end < len(mask):
            mask[start:end] = True
    return mask


def _without_clicks(mask: np.ndarray) -> np.ndarray:
    """The mask without lone runs too short for speech (smoothing has widened each by 4 frames)."""
    runs = _runs(mask)
    keep = np.zeros(len(mask), bool)
    for start, end in runs[runs[:, 1] - runs[:, 0] > _frames(_CLICK_SECONDS) + 4].tolist():
        keep[start:end] = True
    return keep
