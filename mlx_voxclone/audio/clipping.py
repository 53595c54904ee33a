"""How much of a recording is clipped, also after it was turned down or went through a lossy codec.

Speech has ever fewer samples the larger they are: of those beyond an amplitude, at least a third lies beyond 1.1 times
it. Clipping ends that at one amplitude: exactly in samples that were kept, within some percent after a lossy codec.
"""

import numpy as np

_SHIFT = 12  # 2048 bins per factor of 2: the upper bits of a float32, which grow with its logarithm
_LOWEST, _HIGHEST = 2.0**-10, 2.0**7
_EXACT, _SMEARED = 7, 282  # bins: factors of 1.0024 to 1.0034, and of 1.10
_FALL = 0.1  # of the samples beyond an amplitude, at most this share lies beyond that many bins more
_FEWEST = 0.002  # share of the samples; fewer may end by chance
_FEWEST_SMEARED = 0.02  # below, it may be a limiter's work


def _bin(amplitude: float) -> int:
    return int(np.float32(amplitude).view(np.int32)) >> _SHIFT


class ClippingMeter:
    """Counts the amplitudes of a channel that arrives in blocks.

    Args:
        subtype: of the file, by libsndfile's name.
    """

    def __init__(self, subtype: str) -> None:
        # 8-bit audio has its full scale at 127/128. Float audio beyond 1 is loud, not clipped: it kept its peaks.
        # Lossy decoders overshoot full scale.
        self._low = 0.99 if subtype.endswith("8") else 0.9995
        self._high = 1.0001 if subtype in ("FLOAT", "DOUBLE") else np.inf
        self._coarse = subtype.endswith("8") or subtype in ("ULAW", "ALAW")
        self._counts = np.zeros(_bin(_HIGHEST) - _bin(_LOWEST) + 2, np.int64)
        self._full = self._seen = 0

    def add(self, size: np.ndarray) -> None:
        """Append magnitudes [S], float32."""
        self._full += int(np.count_nonzero((size >= self._low) & (size <= self._high)))
        bins = (np.ascontiguousarray(size, np.float32).view(np.int32) >> _SHIFT) - (_bin(_LOWEST) - 1)
        np.clip(bins, 0, len(self._counts) - 1, out=bins)
        self._counts += np.bincount(bins, minlength=len(self._counts))
        self._seen += len(size)

    def share(self) -> float:
        """Of the samples so far, the share that is clipped."""
        if not self._seen:
            return 0.0
        full = self._full / self._seen
        if self._coarse:  # so few steps that any of them may be the last
            return full
        beyond = np.cumsum(self._counts[::-1])[::-1] / self._seen  # share of what is at least that large
        beyond[0] = 0  # the silent ones
        exact = _ended(beyond, _EXACT)
        smeared = _ended(beyond, _SMEARED)
        return float(max(full, exact or (smeared if smeared >= _FEWEST_SMEARED else 0.0)))


def _ended(beyond: np.ndarray, bins: int) -> float:
    """The largest share beyond an amplitude of which next to nothing lies beyond `bins` more; 0 without."""
    later = np.concatenate([beyond[bins:], np.zeros(bins)])
    ended = (beyond >= _FEWEST) & (later <= _FALL * beyond)
    return float(beyond[ended].max(initial=0.0))
