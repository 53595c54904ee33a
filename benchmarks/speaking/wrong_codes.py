"""Wrong codes among those that a language model hears, so that it learns not to lean on them.

In training the model hears the true frames of what it has said so far, in speaking its own, with their mistakes. One
that learned from few clips goes by what came before more than by the text, and a mistake leads to the next (exposure
bias: Bengio et al. 2015, Scheduled Sampling). Wrong codes that are heard, and never to be said, take that away.
"""

import numpy as np

from mlx_voxclone.model.config import N_SPECIAL_CODES, CodecConfig


def disturbed(
    codes: np.ndarray, semantic: float, acoustic: float, codec: CodecConfig, rng: np.random.Generator
) -> np.ndarray:
    """LM codes `[T, 37]` of which some are wrong: the share `semantic` of the semantic ones drawn at random, the share
    `acoustic` of the acoustic ones a level up or down. END frames stay."""
    codes = codes.copy()
    frames = codes[:, 0] >= N_SPECIAL_CODES
    wrong = (rng.uniform(size=len(codes)) < semantic) & frames
    codes[wrong, 0] = rng.integers(0, codec.semantic_codebook_size, wrong.sum()) + N_SPECIAL_CODES
    moved = (rng.uniform(size=codes[:, 1:].shape) < acoustic) & frames[:, None]
    step = np.where(moved, 2 * rng.integers(0, 2, moved.shape) - 1, 0)
    highest = codec.acoustic_codebook_size + N_SPECIAL_CODES - 1
    levels = np.clip(codes[:, 1:] + step, N_SPECIAL_CODES, highest)
    codes[:, 1:] = np.where(frames[:, None], levels, codes[:, 1:])
    return codes
