"""Divergence between two predictions."""

import mlx.core as mx


def divergence(theirs: mx.array, ours: mx.array) -> mx.array:
    """Kullback-Leibler divergence in nats from a distribution to another, over the last axis of their logits, float32.

    Rows of `theirs` that are -inf have no part in it.
    """
    log_p, log_q = (
        x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (theirs.astype(mx.float32), ours.astype(mx.float32))
    )
    possible = mx.isfinite(log_p)
    p = mx.where(possible, mx.exp(log_p), 0.0)
    return mx.sum(p * (mx.where(possible, log_p, 0.0) - mx.where(possible, log_q, 0.0)), axis=-1)
