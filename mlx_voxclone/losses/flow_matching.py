"""Flow matching of the acoustic codes (Lipman et al. 2023; arXiv 2603.25551).

The head integrates its velocity from noise at t = 0 to the codes' values at t = 1. The path is straight:
x_t = (1 - t) x0 + t x1, velocity v = x1 - x0, the same for all t. `params.json` states a `sigma` of 1e-5, the noise
that the optimal-transport path would leave at t = 1 (v = x1 - (1 - sigma) x0). It is taken as zero here: the
difference, 1e-5 of the noise, is 5000 times smaller than half the distance between two levels, and with zero the exact
velocity carries the noise exactly onto the codes.
"""

import mlx.core as mx


def flow_matching_targets(x1: mx.array, x0: mx.array, t: mx.array) -> tuple[mx.array, mx.array]:
    """Points on the straight path and their velocity: (x_t, v), both float32 and of the shape of x1.

    x1 [..., D] data (values of levels), x0 [..., D] standard normal noise, t [...] times in [0, 1], one per frame.
    Raises ValueError for shapes that do not fit.
    """
    if x1.shape != x0.shape or t.shape != x1.shape[:-1]:
        shapes = [list(array.shape) for array in (x1, x0, t)]
        raise ValueError(f"data [..., D], noise [..., D] and times [...] do not fit: {shapes}")
    x1, x0, t = x1.astype(mx.float32), x0.astype(mx.float32), t.astype(mx.float32)[..., None]
    return (1 - t) * x0 + t * x1, x1 - x0


def flow_matching_loss(pred_v: mx.array, v: mx.array, weights: mx.array | None = None) -> mx.array:
    """Sum over frames of the mean over dimensions of (pred_v - v)^2, for velocities [..., D]; a scalar.

    `weights` (None: 1 everywhere) multiply the squares and need only be broadcast to [..., D]: of frames [..., 1], of
    dimensions [D], or of both. The gradient goes to `pred_v` alone. Raises ValueError for shapes that do not fit.
    """
    if pred_v.shape != v.shape:
        raise ValueError(f"velocities [..., D] do not fit: {[list(array.shape) for array in (pred_v, v)]}")
    pred_v, v = pred_v.astype(mx.float32), mx.stop_gradient(v.astype(mx.float32))
    squares = mx.square(pred_v - v)  # [..., D]
    if weights is not None:
        squares = squares * weights
    return squares.mean(axis=-1).sum()
