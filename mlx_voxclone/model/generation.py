"""Generation of several sequences at once, each as if it were alone.

Prompts are read one by one, exactly as a single one is, and their keys and values are then aligned at their ends: the
shorter ones get empty columns on the left that nothing sees, and every item keeps its own positions. An item that ended
leaves the batch with its keys and values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from mlx_voxclone.config import CFG_ALPHA, END_CODE, N_SPECIAL_CODES
from mlx_voxclone.model.acoustic import checked_frames
from mlx_voxclone.model.layers import KVCache

if TYPE_CHECKING:
    from mlx_voxclone.model.voxtral import Voxtral


@dataclass(frozen=True)
class GeneratedCodes:
    """What the model said to one prompt.

    Attributes:
        codes: 0-based `[37, T]`, int32, without the END frame.
        ended: the model said END; False: cut off at the limit.
    """

    codes: np.ndarray
    ended: bool


class BatchCache(KVCache):
    """Keys and values of one layer for sequences of unequal length, aligned at their ends.

    Args:
        caches: one per sequence, each of batch size 1.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        super().__init__()
        self.offset = max(cache.offset for cache in caches)
        empty = [self.offset - cache.offset for cache in caches]
        self.keys = mx.concatenate([_padded(c.keys[:, :, : c.offset], n) for c, n in zip(caches, empty)])
        self.values = mx.concatenate([_padded(c.values[:, :, : c.offset], n) for c, n in zip(caches, empty)])
        self._empty = np.array(empty, dtype=np.int32)

    @property
    def positions(self) -> mx.array:
        return mx.array(self.offset - self._empty)

    def mask(self, length: int) -> mx.array | None:
        """`[B, 1, 1, T]`, True where a key may be seen; None where nothing is empty."""
        if length != 1:
            raise ValueError(f"a batch goes on by one frame at a time, not {length}")
        if not self._empty.any():
            return None
        return (mx.arange(self.offset + 1) >= mx.array(self._empty)[:, None])[:, None, None]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these items of the batch alone."""
        self._empty = self._empty[rows]
        unused = int(self._empty.min())  # columns that only the longer prompts of items now gone had filled
        self._empty = self._empty - unused
        self.keys, self.values = (x[mx.array(rows), :, unused:] for x in (self.keys, self.values))
        self.offset -= unused


def _padded(x: mx.array, columns: int) -> mx.array:
    return mx.pad(x, [(0, 0), (0, 0), (columns, 0), (0, 0)])


def generate_batch(
    model: "Voxtral",
    prompts: Sequence[mx.array],
    *,
    max_frames: int,
    seeds: Sequence[int],
    n_steps: int | None = None,
    cfg_alpha: float = CFG_ALPHA,
    on_frame: Callable[[int], None] | None = None,
) -> list[GeneratedCodes]:
    """Speak several prompts at once.

    An item's codes are those of `Voxtral.generate` for its prompt and seed alone, but for rounding: matrix products of
    one row and of several may differ in the last bit, which tips a code over once in very many frames in float32 and
    more often in bfloat16.

    The cache holds at most `len(prompts) * (longest prompt + frames so far)` positions, in steps of 256.

    Args:
        prompts: embeddings `[T_i, dim]` from `embed_prompt`, without its batch axis.
        max_frames: upper limit of frames of each item.
        seeds: of the sampling noise, one per prompt; the global generator is not touched.
        n_steps: Euler steps of the flow, None: the configuration's.
        cfg_alpha: guidance strength.
        on_frame: hears after every frame how many items are still speaking.

    Returns:
        One result per prompt, in the same order.

    Raises:
        ValueError: not as many seeds as prompts.
        FloatingPointError: the model's numbers are not finite.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    frames: list[list[np.ndarray]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    speaking = list(range(len(prompts)))
    if speaking and max_frames > 0:
        hidden, cache = _read_prompts(model, prompts)
        keys = [mx.random.split(mx.random.key(seed), max_frames) for seed in seeds]
    for i in range(max_frames if speaking else 0):
        noise = [mx.random.normal((1, model.config.codec.acoustic_dim), key=keys[item][i]) for item in speaking]
        codes = model.acoustic_transformer.decode_frame(hidden, mx.concatenate(noise), n_steps, cfg_alpha)
        stay = []
        for row, frame in enumerate(checked_frames(np.array(codes))):
            if frame[0] == END_CODE:
                ended[speaking[row]] = True
            else:
                frames[speaking[row]].append(frame - N_SPECIAL_CODES)
                stay.append(row)
        if on_frame is not None:
            on_frame(len(stay))
        if not stay:
            break
        if len(stay) < len(speaking):
            speaking, codes = [speaking[row] for row in stay], codes[mx.array(stay)]
            for layer in cache:
                layer.keep(stay)
        hidden = model.hidden_states(model.embed_codes(codes)[:, None], cache)[:, -1]
    none = np.zeros((model.config.codec.n_codebooks, 0), dtype=np.int32)
    return [GeneratedCodes(np.stack(f, axis=1) if f else none, e) for f, e in zip(frames, ended)]


def _read_prompts(model: "Voxtral", prompts: Sequence[mx.array]) -> tuple[mx.array, list[BatchCache]]:
    """The last hidden states `[B, dim]` and a cache of the batch per layer."""
    hidden, caches = [], []
    for prompt in prompts:
        caches.append(model.new_cache())
        hidden.append(model.hidden_states(prompt[None], caches[-1])[:, -1])
        mx.eval(hidden[-1], [(c.keys, c.values) for c in caches[-1]])  # the activations of one prompt at a time
    batch = [BatchCache(layer) for layer in zip(*caches)]
    mx.eval([(c.keys, c.values) for c in batch])
    return mx.concatenate(hidden), batch
