"""Cross-entropy over the semantic codebook (arXiv 2603.25551; masking as the serving code's sampler does it)."""

import mlx.core as mx
import numpy as np


def semantic_cross_entropy(logits: mx.array, targets: mx.array, mask: mx.array | None, n_valid_rows: int) -> mx.array:
    """Negative log-likelihoods [...] in nats of `targets` [...] under `logits` [..., rows].

    Row 0 (EMPTY) and rows >= `n_valid_rows` (codebook size + 2; the rest pads the head to a multiple of 128) can never
    be spoken, so they are set to -inf before the float32 log-softmax: set to 0, they would keep probability and push
    every other logit up. Rows that are -inf already stay so.

    `mask` [...] is true where a target counts (None: everywhere); elsewhere logits and targets may hold anything, NaN
    included, and their value is 0. A counted target that is not in 1..n_valid_rows-1 gives +inf rather than a plausible
    number.

    Raises ValueError for shapes that do not fit.
    """
    if logits.shape[:-1] != targets.shape or (mask is not None and mask.shape != targets.shape):
        shapes = [list(array.shape) for array in (logits, targets, mask) if array is not None]
        raise ValueError(f"logits [..., rows], targets [...] and mask [...] do not fit: {shapes}")
    rows = logits.shape[-1]
    if not 1 < n_valid_rows <= rows:
        raise ValueError(f"n_valid_rows must be in 2..{rows}, the rows of the logits, got {n_valid_rows}")

    logits = logits.astype(mx.float32)
    possible = (targets >= 1) & (targets < n_valid_rows)
    if mask is not None:
        mask = mask.astype(mx.bool_)
        # Before any arithmetic: a NaN multiplied by a zero gradient is still NaN.
        logits = mx.where(mask[..., None], logits, 0.0)
    row = np.arange(rows)
    logits = mx.where(mx.array((row >= 1) & (row < n_valid_rows)), logits, -mx.inf)
    safe = mx.where(possible, targets, 1).astype(mx.int32)
    chosen = mx.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]  # [..., rows] -> [...]
    values = mx.where(possible, mx.logsumexp(logits, axis=-1) - chosen, mx.inf)
    return values if mask is None else mx.where(mask, values, 0.0)
