"""Cross-entropy over the semantic codebook (arXiv 2603.25551; masking as the serving code's sampler does it)."""

import mlx.core as mx
import numpy as np


def semantic_cross_entropy(logits: mx.array, targets: mx.array, n_valid_rows: int) -> mx.array:
    """Negative log-likelihoods [...] in nats of `targets` [...] under `logits` [..., rows].

    Row 0 (EMPTY) and rows >= `n_valid_rows` (codebook size + 2; the rest pads the head to a multiple of 128) can never
    be spoken, so they are set to -inf before the float32 log-softmax: set to 0, they would keep probability and push
    every other logit up. Rows that are -inf already stay so.

    A target that is not in 1..n_valid_rows-1 gives +inf rather than a plausible number. Raises ValueError for shapes
    that do not fit.
    """
    if logits.shape[:-1] != targets.shape:
        shapes = [list(array.shape) for array in (logits, targets)]
        raise ValueError(f"logits [..., rows] and targets [...] do not fit: {shapes}")
    rows = logits.shape[-1]
    if not 1 < n_valid_rows <= rows:
        raise ValueError(f"n_valid_rows must be in 2..{rows}, the rows of the logits, got {n_valid_rows}")

    logits = logits.astype(mx.float32)
    possible = (targets >= 1) & (targets < n_valid_rows)
    row = np.arange(rows)
    logits = mx.where(mx.array((row >= 1) & (row < n_valid_rows)), logits, -mx.inf)
    safe = mx.where(possible, targets, 1).astype(mx.int32)
    chosen = mx.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]  # [..., rows] -> [...]
    return mx.where(possible, mx.logsumexp(logits, axis=-1) - chosen, mx.inf)
