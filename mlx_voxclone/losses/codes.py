"""Losses on true codes: of pairs of audio and the codes that the missing encoder would have given it.

Two terms, each with a weight of its own: cross-entropy over the semantic codebook, and regression of the acoustic
latents to their levels. Both read raw latents, before tanh, and 0-based codes, and the semantic one the codebook that
quantises: the most probable code is the encoded one.
"""

import mlx.core as mx

from mlx_voxclone.audio.spectral.plain import Lengths, check_lengths
from mlx_voxclone.losses._reduce import check_pair, cut_to_valid, frame_means, reduce_items
from mlx_voxclone.model.quantizer import values_to_levels


def semantic_code_loss(
    z: mx.array,
    codes: mx.array,
    codebook: mx.array,
    lengths_frames: Lengths | None = None,
    reduction: str = "mean",
    *,
    temperature: float = 1.0,
) -> mx.array:
    """Mean over frames of -log softmax(-||z - row||^2 / temperature) at the true code's row, in nats.

    `z` [B, T, D] semantic latents, `codes` [B, T] integers, `codebook` [K, D] as `SemanticCodebook.embedding` gives it,
    `temperature` in units of squared distance. Unlike the commitment loss it also pushes z away from the other rows.
    The gradient goes to `z` alone: the codebook never moves.

    `lengths_frames`: valid frames per item (None: all). "none" gives [B], "mean" their mean weighted by frames. A code
    outside 0..K-1 in a valid frame gives +inf rather than a plausible number. Raises ValueError for shapes, lengths,
    reductions, dtypes or temperatures that do not fit.
    """
    if z.ndim != 3 or codes.shape != z.shape[:2] or codebook.ndim != 2 or codebook.shape[1] != z.shape[2]:
        shapes = [list(array.shape) for array in (z, codes, codebook)]
        raise ValueError(f"latents [B, T, D], codes [B, T] and codebook [K, D] do not fit: {shapes}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    _check_codes(codes)
    lengths = check_lengths(lengths_frames, z)
    z, codes = cut_to_valid(z, lengths), _codes_to_valid(codes, lengths)
    # ||z||^2 is the same for every row and cancels; without it, and with the codebook's centre taken as the origin,
    # float32 neither overflows nor loses the small differences between rows in what they have in common.
    rows = mx.stop_gradient(codebook.astype(mx.float32))
    centre = rows.mean(axis=0)
    rows = rows - centre  # [K, D]
    logits = (2.0 * ((z - centre) @ rows.T) - mx.sum(mx.square(rows), axis=-1)) / temperature  # [B, T, K]
    values = _negative_log_likelihood(logits, codes)  # [B, T]
    return reduce_items(frame_means(values[..., None], lengths), lengths, reduction)  # [B] before reduction


def acoustic_code_loss(
    z: mx.array,
    codes: mx.array,
    lengths_frames: Lengths | None = None,
    reduction: str = "mean",
    *,
    levels: int = 21,
    margin: float = 0.5,
) -> mx.array:
    """Mean of how far tanh(z) lies outside the inner part of the true level's cell, in levels (1 is 2 / (levels - 1)).

    Per value: max(0, |tanh(z) - value| - margin * half a cell), for latents and codes [B, T, A] (the quantiser gives
    codes as [B, A, T]). Inside, value and gradient are zero: the code is right there and nothing is gained from the
    centre. The two outermost values are out of tanh's reach: without margin, they would drive z to infinity. `margin`
    0 asks for the centre, 1 for the cell's edge, where rounding in BF16 decides; a half keeps clear of it. The distance
    counts plainly, not squared, so that outside the margin the loss is the mean level error but for a constant.

    The gradient goes to `z` alone. `lengths_frames`: valid frames per item (None: all). "none" gives [B], "mean" their
    mean weighted by frames. A code outside 0..levels-1 in a valid frame gives +inf rather than a plausible number.
    Raises ValueError for shapes, lengths, reductions, dtypes, levels or margins that do not fit.
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin must be in 0..1, a fraction of half a level's cell, got {margin}")
    position, codes, lengths = _on_level_scale(z, codes, lengths_frames, levels)
    excess = mx.maximum(mx.abs(position - codes) - 0.5 * margin, 0.0)  # [B, T, A]
    excess = mx.where((codes >= 0) & (codes < levels), excess, mx.inf)
    return reduce_items(frame_means(excess, lengths), lengths, reduction)  # [B] before reduction


def _on_level_scale(
    z: mx.array, codes: mx.array, lengths_frames: Lengths | None, levels: int
) -> tuple[mx.array, mx.array, list[int] | mx.array]:
    """(tanh(z) from 0 at the lowest level to levels - 1 at the highest, codes, lengths), cut to what is valid."""
    check_pair(z, codes, 3)
    _check_codes(codes)
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    lengths = check_lengths(lengths_frames, z)
    position = values_to_levels(mx.tanh(cut_to_valid(z, lengths)), levels)
    return position, _codes_to_valid(codes, lengths), lengths


def _negative_log_likelihood(logits: mx.array, codes: mx.array) -> mx.array:
    """-log softmax of logits [..., K] at codes [...]; +inf where a code is not in 0..K-1."""
    possible = (codes >= 0) & (codes < logits.shape[-1])
    chosen = mx.take_along_axis(logits, mx.where(possible, codes, 0)[..., None], axis=-1)[..., 0]
    return mx.where(possible, mx.logsumexp(logits, axis=-1) - chosen, mx.inf)


def _codes_to_valid(codes: mx.array, lengths: Lengths) -> mx.array:
    """As `cut_to_valid`, int32; integers up to 2^24 pass its float32 unchanged, larger ones stay out of range."""
    return cut_to_valid(codes, lengths).astype(mx.int32)


def _check_codes(codes: mx.array) -> None:
    if not mx.issubdtype(codes.dtype, mx.integer):
        raise ValueError(f"codes must be integers, got {codes.dtype}")
