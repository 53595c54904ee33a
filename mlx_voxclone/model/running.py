"""Sequences that are spoken together and come and go between two frames: continuous batching.

Each is as if it were alone, as in `generation`: prompts are read one by one, and every sequence keeps its own positions
and its own noise. Here, too, a frame is under way before the one before it is looked at.
"""

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_voxclone.model.blocks.layers import KVCache
from mlx_voxclone.model.codes import from_lm
from mlx_voxclone.model.config import CFG_ALPHA, END_CODE
from mlx_voxclone.model.generation import BatchCache, FrameQueue, frame_noise, read_prompt
from mlx_voxclone.model.voxtral import Voxtral


@dataclass
class Step:
    """One frame of every sequence.

    Attributes:
        frames: by key: 0-based codes `[37]`, int32.
        ended: keys of those that said END. They have left.
        damaged: keys of those whose numbers were not finite. They have left.
    """

    frames: dict[Hashable, np.ndarray] = field(default_factory=dict)
    ended: list[Hashable] = field(default_factory=list)
    damaged: list[Hashable] = field(default_factory=list)


class RunningBatch:
    """A batch that sequences join and leave.

    Args:
        model: what it is when a sequence joins and when frames are made must be the same.
        n_steps: Euler steps of the flow, None: the configuration's.
        cfg_alpha: guidance strength.
    """

    def __init__(self, model: Voxtral, n_steps: int | None = None, cfg_alpha: float = CFG_ALPHA) -> None:
        self._model = model
        self._cache: list[KVCache] = []  # per layer; the queue extends what is in it
        self._queue = FrameQueue(model, self._cache, n_steps, cfg_alpha)
        self._alone = (n_steps, cfg_alpha)
        self._noise: dict[Hashable, Iterator[mx.array]] = {}  # by key, in the order of the rows
        self._under_way: mx.array | None = None  # [B, 37]

    def __len__(self) -> int:
        return len(self._noise)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._noise))

    def join(self, key: Hashable, prompt: mx.array, seed: int, may_be_empty: bool = True) -> None:
        """Read a prompt `[T, dim]`; its first frame comes with the next `step`.

        Args:
            key: of the sequence, until it has left.
            seed: of the sampling noise.
            may_be_empty: False: it does not end at its first frame.
        """
        cache = self._model.new_cache()
        hidden = read_prompt(self._model, prompt[None], cache)  # [1, dim]
        noise = frame_noise(seed, self._model.config.codec.acoustic_dim)
        codes = FrameQueue(self._model, cache, *self._alone).first(hidden, next(noise), may_be_empty)  # [1, 37]
        if self._under_way is None:
            for layer in cache:
                self._cache.append(BatchCache([layer], self._cache[0] if self._cache else None))
            self._under_way = codes
        else:
            for i, (layer, own) in enumerate(zip(self._cache, cache)):
                layer.join(own, self._cache[0] if i else None)
            self._under_way = mx.concatenate([self._under_way, codes])
        self._noise[key] = noise

    def step(self) -> Step:
        """The next frame of every sequence; those that have ended leave."""
        step = Step()
        if self._under_way is None:
            return step
        present = self._under_way
        self._under_way = self._queue.after(present, mx.concatenate([next(noise) for noise in self._noise.values()]))
        mx.eval(present)  # other threads run meanwhile
        for key, codes in zip(self._noise, np.array(present)):
            if (codes < 0).any():
                step.damaged.append(key)
            elif codes[0] == END_CODE:
                step.ended.append(key)
            else:
                step.frames[key] = from_lm(codes)
        self.leave([*step.ended, *step.damaged])
        return step

    def leave(self, keys: Collection[Hashable]) -> None:
        """Go on without these; keys that have left already are no mistake."""
        stay = [row for row, key in enumerate(self._noise) if key not in keys]
        if len(stay) == len(self._noise):
            return
        self._noise = {key: noise for key, noise in self._noise.items() if key not in keys}
        if not stay:
            self.clear()
            return
        self._under_way = self._under_way[mx.array(stay)]
        for layer in self._cache:
            layer.keep(stay)

    def clear(self) -> None:
        """Go on without any."""
        self._noise, self._under_way = {}, None
        self._cache.clear()
