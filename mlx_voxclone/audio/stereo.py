"""Which of a stereo file's channels to take: their mix, or one of them where mixing would harm.

The levels of both channels and of their mix decide, where something is heard: a channel that is silent or much softer
costs level when mixed, opposed ones cancel each other, two that hold different voices give both at once.
"""

from dataclasses import dataclass

import numpy as np

from mlx_voxclone.audio.segment import LevelMeter, smoothed, speech_mask

MIXED = -1
UNUSABLE = {
    "opposed": "its two channels cancel each other when mixed to mono; invert or extract one",
    "two-voices": "its two channels differ, as where each holds another voice; extract the one that is wanted",
}
_SOFTER = 12.0  # dB between the channels: mixing costs 4 dB of the louder one, and the softer one adds nothing
_OPPOSED = -0.5  # correlation
_ALIKE = 0.25  # correlation from which on mixing costs less than 2 dB
_ONE_SOUND = 0.6  # correlation from which on both hold the same sound
_TURNS = 10.0  # dB by which now one channel is louder, now the other, ...
_TURN_SHARE = 0.15  # ... for this share of the time each
_TOGETHER = 0.5  # correlation of the levels in dB of one sound in two microphones, at least


@dataclass(frozen=True)
class Channel:
    """The channel to take: `MIXED`, 0 or 1; why, as a word, where it is not the mix; `usable` if any will do."""

    number: int = MIXED
    why: str = ""
    usable: bool = True


class StereoMeter:
    """Levels of a stereo recording that arrives in blocks: its channels and their mix."""

    def __init__(self, sample_rate: int) -> None:
        self.left, self.right, self.mix = (LevelMeter(sample_rate) for _ in range(3))

    def add(self, block: np.ndarray) -> None:
        """Append frames [S, 2], full scale 1."""
        self.left.add(np.ascontiguousarray(block[:, 0]))
        self.right.add(np.ascontiguousarray(block[:, 1]))
        self.mix.add(block.mean(axis=1, dtype=np.float32))

    def channel(self) -> Channel:
        """The channel to take. Not usable: `opposed`, or `two-voices` for channels that hold different sounds."""
        left, right, mix = self.left.levels(), self.right.levels(), self.mix.levels()
        active = speech_mask(np.maximum(left, right))
        if not active.any():
            return Channel()
        powers = [float(np.mean(10.0 ** (levels[active] / 10))) for levels in (left, right, mix)]
        louder = int(powers[1] > powers[0])
        if powers[1 - louder] < powers[louder] * 10 ** (-_SOFTER / 10):
            return Channel(louder, "one")
        together = (4 * powers[2] - powers[0] - powers[1]) / 2  # mix = (left + right) / 2
        correlation = together / np.sqrt(powers[0] * powers[1])
        if correlation < _OPPOSED:
            return Channel(why="opposed", usable=False)
        if correlation < _ONE_SOUND and _move_apart(smoothed(left)[active], smoothed(right)[active]):
            return Channel(why="two-voices", usable=False)
        return Channel() if correlation > _ALIKE else Channel(louder, "differ")


def _move_apart(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether levels [frames] in dB are those of two sounds: they take turns, or rise and fall by themselves."""
    apart = left - right
    if min(np.mean(apart > _TURNS), np.mean(apart < -_TURNS)) > _TURN_SHARE:
        return True
    spread = float(np.std(left) * np.std(right))
    together = float(np.mean((left - left.mean()) * (right - right.mean())))
    return together < _TOGETHER * spread
