"""When Whisper says what: from its cross-attention to states of its text decoder per latent frame. Numpy only.

Whisper hears 30 s, whatever a clip's length; the rest is padding with zeros. Each text token attends to 1500 encoder
frames, most of which lie behind a short clip. Everything here is confined to the clip's own frames first, before any
normalisation: attention to the padding would otherwise be spread over the clip.

Source: Whisper's own word timing (Radford et al. 2022 and the code released with it: softmax within the audio, how far
each position stands out in a frame, median filter over time, mean over the alignment heads) and arXiv 2603.25551, which
turns it into a soft alignment.
"""

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE

ENCODER_FRAME = SAMPLE_RATE // 50  # samples per encoder frame, 20 ms; frame j is centred on sample 480 j
LATENT_FRAME = 1920  # samples per latent frame; frame i covers [1920 i, 1920 (i + 1))
CONTEXT_FRAMES = 1500  # Whisper's 30 s


def encoder_frames(samples: int) -> int:
    """Encoder frames whose centre lies within a clip of `samples` at 24 kHz (at least 1)."""
    return -(-samples // ENCODER_FRAME)


def latent_frames(samples: int) -> int:
    """Latent frames of a clip of `samples` at 24 kHz, the last one begun counting as one."""
    return -(-samples // LATENT_FRAME)


def attention_within(scores: np.ndarray, frames: int) -> np.ndarray:
    """Attention within the clip alone: softmax of raw scores [..., 1500] over their first `frames`, float64.

    What the padding is attended with does not matter, not even as a share of the sum. float64, so that even a frame
    which is hardly attended at all keeps a share (float32 loses it at a difference of 104).
    """
    within = scores[..., :frames].astype(np.float64)
    within = np.exp(within - within.max(axis=-1, keepdims=True))
    return within / within.sum(axis=-1, keepdims=True)


def median_over_time(weights: np.ndarray, width: int) -> np.ndarray:
    """Running median along the last axis, mirrored at the ends (the edge itself not repeated); `width` is odd."""
    if width == 1:
        return weights
    from scipy.ndimage import median_filter  # here: --help does without it

    return median_filter(weights, size=(1,) * (weights.ndim - 1) + (width,), mode="mirror")


def smoothed_attention(scores: np.ndarray, frames: int, median: int) -> np.ndarray:
    """`attention_within` of scores [..., N, 1500], then the median over time: [..., N, frames]."""
    return median_over_time(attention_within(scores, frames), median)


def over_tokens(attention: np.ndarray) -> np.ndarray:
    """Each frame's distribution over the tokens: [..., N, F], nonnegative, divided by its sum over N.

    A frame that all tokens attend to alike (heads rest on one) so belongs to no token in particular. So does a frame
    that none attends to.
    """
    attention = attention + np.finfo(np.float64).tiny
    return attention / attention.sum(axis=-2, keepdims=True)


def token_scores(scores: np.ndarray, predicting: slice, frames: int, median: int) -> np.ndarray:
    """How far the attention of each token stands out in each frame: the matrix in which Whisper finds a path.

    In every head and frame the mean over all positions is taken off, and what remains is divided by their spread. So
    all heads count alike, and a frame to which a token attends little counts where the other positions attend to it
    less. The median over time and the mean over the heads follow.

    Args:
        scores: raw cross-attention [heads, P, 1500] of all positions, see `Reading`.
        predicting: of these positions, those that predict the N tokens.
        frames: the clip's own encoder frames.
        median: width of the median filter in encoder frames, odd.
    Returns:
        [N, frames] float64; 0 where all positions attend alike.
    """
    attention = attention_within(scores, frames)
    mean, spread = attention.mean(axis=-2, keepdims=True), attention.std(axis=-2, keepdims=True)
    standing_out = (attention - mean) / np.maximum(spread, np.finfo(np.float64).tiny)  # at most sqrt(P - 1)
    return median_over_time(standing_out[..., predicting, :], median).mean(axis=0)


def token_weights(scores: np.ndarray, predicting: slice, frames: int, median: int) -> np.ndarray:
    """The soft alignment: softmax over the tokens of `token_scores`, whose arguments these are.

    Returns:
        [N, frames] float64, each column a distribution over the tokens.
    """
    odds = np.exp(token_scores(scores, predicting, frames, median))
    return odds / odds.sum(axis=0)


def to_latent_frames(states: np.ndarray, samples: int) -> np.ndarray:
    """States at encoder frames [F, D] to the centres of the clip's latent frames [ceil(samples / 1920), D].

    Linear in time. The centre of latent frame i, sample 1920 i + 960, is encoder frame 4 i + 2; where the clip ends
    before the centre of its last frame, its last encoder frame stands for it.
    """
    centres = np.arange(latent_frames(samples)) * LATENT_FRAME + LATENT_FRAME / 2
    return _at(states, centres / ENCODER_FRAME)


def crop_states(states: np.ndarray, start_sample: int, n_frames: int) -> np.ndarray:
    """States of a crop whose first sample is the clip's `start_sample`, which need not be a multiple of 1920.

    Args:
        states: a clip's states [T, D], at the centres of its own latent frames.
        start_sample: of the crop within the clip, at 24 kHz.
        n_frames: latent frames of the crop.
    Returns:
        [n_frames, D] in the type of `states`: at the centres of the crop's frames, linearly between the two nearest of
        the clip's (at its end, the last).
    Raises:
        ValueError: the crop does not begin within the clip, or reaches more than a frame beyond it.
    """
    last = len(states) - 1
    if not 0 <= start_sample < len(states) * LATENT_FRAME or start_sample / LATENT_FRAME + n_frames - 1 >= last + 1:
        raise ValueError(f"{n_frames} frames from sample {start_sample} do not lie in a clip of {len(states)} frames")
    return _at(states, start_sample / LATENT_FRAME + np.arange(n_frames)).astype(states.dtype)


def _at(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows [T, D] read at fractional positions, linearly; beyond the ends the outermost row."""
    positions = np.clip(positions, 0, len(rows) - 1)
    lower = np.minimum(positions.astype(np.int64), max(0, len(rows) - 2))
    part = (positions - lower)[:, None]
    upper = np.minimum(lower + 1, len(rows) - 1)
    return rows[lower] * (1 - part) + rows[upper] * part


def monotone_share(weights: np.ndarray) -> np.ndarray:
    """How far a soft alignment is one that advances through text and time together: [..., N, F] -> [...] in (0, 1].

    Dynamic time warping: of all paths from (first token, first frame) to (last, last) that go on by a token or by a
    frame, the one that collects most (both at once would only skip what there is to collect); divided by the number of
    frames. Each column of `weights` sums to 1, so 1 says that every frame belongs to the tokens that this one path
    gives it, and tokens that all attend to the same frames get little over 1 / N.

    Row by row, as best[t] = weight[t] + max(best of the row before[t], best[t - 1]) is a running maximum once the row's
    running sum is taken off.
    """
    best = np.cumsum(weights[..., 0, :], axis=-1)
    for row in range(1, weights.shape[-2]):
        here = weights[..., row, :]
        collected = np.cumsum(here, axis=-1)
        best = collected + np.maximum.accumulate(best - (collected - here), axis=-1)
    return best[..., -1] / weights.shape[-1]
