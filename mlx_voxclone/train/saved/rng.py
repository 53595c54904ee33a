"""MLX's random state: read, put back, and put aside for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


def get_rng() -> tuple[int, int]:
    """MLX's random state as two 32-bit words."""
    high, low = mx.random.state[0].tolist()
    return high, low


def set_rng(words: tuple[int, int]) -> None:
    """Puts MLX's random state back exactly to what `get_rng` gave."""
    high, low = words
    mx.random.seed((high << 32) | low)


@contextmanager
def kept_rng() -> Iterator[None]:
    """Whatever the block draws, the random state is afterwards what it was before."""
    words = get_rng()
    try:
        yield
    finally:
        set_rng(words)


@contextmanager
def separate_rng(seed: int) -> Iterator[None]:
    """Runs the block on random numbers of its own, so that evaluating or sampling does not change the training."""
    with kept_rng():
        mx.random.seed(seed)
        yield
