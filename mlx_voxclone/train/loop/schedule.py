"""What depends on the step: the learning rate (linear warm-up, then half a cosine down to a floor), and what is due."""

import math


def learning_rate(step: int, total: int, *, peak: float, warmup: int, min_ratio: float) -> float:
    """Rate of the step after `step` complete ones (0 <= step < total).

    Step i of the warm-up has `peak * (i + 1) / warmup`, so that none is wasted at zero; the cosine starts at `peak`
    and the last step of the run has `peak * min_ratio` exactly (Loshchilov and Hutter 2017, equation 5, one period).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return peak * (min_ratio + (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def due(step: int, every: int) -> bool:
    """Whether something that is done at the start and then every `every` steps is due; 0: at the start only."""
    return step == 0 or (every > 0 and step % every == 0)
