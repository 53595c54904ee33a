"""Whether a language model and a codec belong together: the codes that one says, and those the other was trained on.

The codebook keeps how often each of its rows was used in the codec's training (`cluster_usage`). A language model of
the same checkpoint says the frequent ones often and the rare ones rarely. To another codec its codes are drawn at
random: their audio is noise, and what is learnt from it is worth nothing.
"""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.pairs.data import Pair

USAGE = "audio_tokenizer.quantizer.semantic_codebook.cluster_usage"
LEAST_DEVIATIONS = 4.0  # of the correlation of codes drawn at random, which is 1 / sqrt(rows - 1)
FRAMES_PER_ROW = 0.5  # fewer frames tell nothing


def usage_correlation(codes: np.ndarray, usage: np.ndarray) -> float | None:
    """Correlation of how often rows are said and how often the codec used them, both as logarithms.

    Args:
        codes: semantic codes `[N]`, 0-based.
        usage: `[K]`, at least 0.

    Returns:
        None where it tells nothing: few frames, or rows that were all used alike.
    """
    if len(codes) < FRAMES_PER_ROW * len(usage) or np.ptp(usage) == 0:
        return None
    said = np.log1p(np.bincount(codes, minlength=len(usage)))
    if np.ptp(said) == 0:
        return None
    return float(np.corrcoef(said, np.log(np.maximum(usage.astype(np.float64), 1e-5)))[0, 1])


def codebook_usage(release: Release) -> np.ndarray:
    """How often the codec's training used each row of the semantic codebook, float32 `[K]`."""
    return np.array(release.tensors.arrays([USAGE])[USAGE].astype(mx.float32))


def foreign_codec(release: Release, pairs: Iterable[Pair]) -> str | None:
    """A line to warn with where what a model said is not what its codec was trained on; None where it is.

    Args:
        release: the model.
        pairs: what it said, with its own voices; moved ones are passed over.
    """
    said = [pair for pair in pairs if not pair.is_moved]
    if not said:
        return None
    found = usage_correlation(np.concatenate([pair.stored[0] for pair in said]), codebook_usage(release))
    if found is None or found >= LEAST_DEVIATIONS / np.sqrt(release.config.codec.semantic_codebook_size - 1):
        return None
    return (
        f"{release.path}: language model and codec may be of different checkpoints: the codes that one says most are"
        f" not those that the other was trained on most (correlation {found:.2f}); listen to {said[0].audio.parent},"
        " and if that is noise, get the model again"
    )
