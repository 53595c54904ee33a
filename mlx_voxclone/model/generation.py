"""Generation: frame t+1 is queued before the host reads frame t; several sequences at once.

The graph of a frame reads the codes of the last one where they are, on the device. It is submitted before the host
waits for those, so the device goes on while the host looks, stores, decodes or writes. That a frame is END is thus
noticed when the next one is under way already: that one is thrown away.

In a batch every sequence is as if it were alone. Prompts are read one by one, exactly as a single one is; their keys
and values are then aligned at their ends: the shorter ones get empty columns on the left that nothing sees, and every
item keeps its own positions. An item that ended leaves the batch with its keys and values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_voxclone.model.blocks.layers import KVCache
from mlx_voxclone.model.codes import from_lm
from mlx_voxclone.model.config import CFG_ALPHA, END_CODE
from mlx_voxclone.model.flow_head import checked_frames
from mlx_voxclone.model.voxtral import Voxtral

READ_AT_ONCE = 2048  # positions of a prompt: a longer one is read in pieces, so that its activations stay small
NOISE_FRAMES = 64  # drawn at once; part of what a seed stands for


def frame_noise(seed: int, dim: int) -> Iterator[mx.array]:
    """The sampling noise `[1, dim]` of every frame in turn, standard normal; the seed and the frame's number decide."""
    key = mx.random.key(seed)
    while True:
        key, draw = mx.random.split(key)
        block = mx.random.normal((NOISE_FRAMES, dim), key=draw)  # [64, dim]
        for i in range(NOISE_FRAMES):
            yield block[i : i + 1]  # [1, dim]


class FrameQueue:
    """Submits frames to the device, one after the other.

    Args:
        model: faster where its products of one input are joined (`Voxtral.merge`).
        cache: of the prompts, one per layer, extended by every frame.
        n_steps: Euler steps of the flow, None: the configuration's.
        cfg_alpha: guidance strength.
    """

    def __init__(self, model: Voxtral, cache: Sequence[KVCache], n_steps: int | None, cfg_alpha: float) -> None:
        self._model, self._cache, self._n_steps, self._cfg_alpha = model, cache, n_steps, cfg_alpha
        self._times: mx.array | None = None

    def first(self, hidden: mx.array, noise: mx.array, may_end: bool = True) -> mx.array:
        """Submit the frame that follows the prompts' last hidden states `[B, dim]`.

        Returns:
            The LM's codes (with +2) `[B, 37]`, under way; so does `after`.
        """
        head = self._model.acoustic_transformer
        if self._times is None:  # for all frames
            self._times = head.euler_times(self._n_steps, hidden.dtype)
        codes = head.decode_frame(hidden, noise, self._n_steps, self._cfg_alpha, self._times, may_end)
        mx.async_eval(codes)
        return codes

    def after(self, codes: mx.array, noise: mx.array) -> mx.array:
        """Submit the frame that follows `codes`, which need not be there yet."""
        embedded = self._model.embed_codes(codes)[:, None]  # [B, 37] -> [B, 1, dim]
        hidden = self._model.hidden_states(embedded, self._cache)[:, -1]  # [B, dim]
        return self.first(hidden, noise)


def join_products(model: Voxtral) -> None:
    """Fewer and larger products per frame, in a model that nothing trains.

    Joined products round in another way than separate ones, and stay joined: a training whose model had spoken would
    not be the training of a model that had not.
    """
    if model.speaks_only:
        model.merge()


def generate(
    model: Voxtral,
    prompt: mx.array,
    *,
    max_frames: int,
    seed: int = 0,
    n_steps: int | None = None,
    cfg_alpha: float = CFG_ALPHA,
    may_be_empty: bool = True,
) -> Iterator[np.ndarray]:
    """Speak: yield one frame of 0-based codes `[37]` at a time until END (not yielded) or `max_frames`.

    Args:
        model: see `join_products` for what it does to one that nothing trains.
        prompt: embeddings `[1, T, dim]` from `embed_prompt`.
        max_frames: upper limit of frames; the generator returns True at END, False when cut off there.
        seed: of the sampling noise; the global generator is not touched. A larger `max_frames` changes no frame.
        n_steps: Euler steps of the flow, None: the configuration's.
        cfg_alpha: guidance strength.
        may_be_empty: False: it does not end at its first frame.

    Raises:
        FloatingPointError: the model's numbers are not finite (damaged weights, or far too much guidance).
    """
    if max_frames < 1:
        return False
    join_products(model)
    cache = model.new_cache()
    hidden = read_prompt(model, prompt, cache)
    return (yield from spoken_frames(model, hidden, cache, max_frames, seed, n_steps, cfg_alpha, may_be_empty))


def spoken_frames(
    model: Voxtral,
    hidden: mx.array,
    cache: Sequence[KVCache],
    max_frames: int,
    seed: int,
    n_steps: int | None,
    cfg_alpha: float,
    may_be_empty: bool = True,
) -> Iterator[np.ndarray]:
    """The frames that follow a prompt which has been read: its last hidden state `[1, dim]` and its cache."""
    queue, noise = FrameQueue(model, cache, n_steps, cfg_alpha), frame_noise(seed, model.config.codec.acoustic_dim)
    present = queue.first(hidden, next(noise), may_be_empty)  # [1, 37]
    for left in range(max_frames - 1, -1, -1):
        following = queue.after(present, next(noise)) if left else None
        frame = checked_frames(np.array(present))[0]  # [37]
        if frame[0] == END_CODE:
            return True
        yield from_lm(frame)
        present = following
    return False


@dataclass(frozen=True)
class GeneratedCodes:
    """What the model generated for one prompt.

    Attributes:
        codes: 0-based `[37, T]`, int32, without the END frame.
        ended: the model predicted END; False: cut off at the limit.
    """

    codes: np.ndarray
    ended: bool


class _Alignment:
    """The empty columns before each item of a batch, and what follows from them; one for the caches of all layers."""

    def __init__(self, empty: np.ndarray) -> None:
        self.empty = empty
        self._of: tuple[int, mx.array, mx.array | None] | None = None
        self._kept: tuple[tuple[int, ...], int, _Alignment] | None = None

    def at(self, offset: int) -> tuple[mx.array, mx.array | None]:
        """Positions `[B]` of a token in column `offset`; the columns it may see, `[B, 1, 1, offset + 1]`, None: all."""
        if self._of is None or self._of[0] != offset:
            empty = mx.array(self.empty)
            seen = (mx.arange(offset + 1) >= empty[:, None])[:, None, None] if self.empty.any() else None
            self._of = offset, offset - empty, seen
        return self._of[1:]

    def join(self, more: int, empty: int) -> "_Alignment":
        """With `more` empty columns before all items, and another item that has `empty` ones."""
        return _Alignment(np.append(self.empty + more, empty).astype(np.int32))

    def keep(self, rows: Sequence[int]) -> "tuple[int, _Alignment]":
        """Columns that only items now gone had filled, and the alignment without them."""
        if self._kept is None or self._kept[0] != tuple(rows):
            empty = self.empty[list(rows)]
            unused = int(empty.min())
            self._kept = tuple(rows), unused, _Alignment(empty - unused)
        return self._kept[1:]


class BatchCache(KVCache):
    """Keys and values of one layer for sequences of unequal length, aligned at their ends.

    Args:
        caches: one per sequence, each of batch size 1.
        beside: the same batch's cache of another layer.
    """

    def __init__(self, caches: Sequence[KVCache], beside: "BatchCache | None" = None) -> None:
        super().__init__()
        self.offset = max(cache.offset for cache in caches)
        empty = [self.offset - cache.offset for cache in caches]
        # [1, H, T_i, D] each -> [B, H, T, D]
        self.keys = mx.concatenate([_padded(c.keys[:, :, : c.offset], n) for c, n in zip(caches, empty)])
        self.values = mx.concatenate([_padded(c.values[:, :, : c.offset], n) for c, n in zip(caches, empty)])
        self._alignment = beside._alignment if beside is not None else _Alignment(np.array(empty, dtype=np.int32))

    @property
    def positions(self) -> mx.array:
        return self._alignment.at(self.offset)[0]

    def mask(self, length: int) -> mx.array | None:
        """`[B, 1, 1, T]`, True where a key may be seen; None where nothing is empty."""
        if length != 1:
            raise ValueError(f"a batch goes on by one frame at a time, not {length}")
        return self._alignment.at(self.offset)[1]

    def join(self, cache: KVCache, beside: "BatchCache | None" = None) -> None:
        """Let one more sequence, a cache of batch size 1, go on with these as their last.

        Args:
            beside: the same batch's cache of another layer, which the sequence has joined.
        """
        length = max(self.offset, cache.offset)
        both = [(c, length - c.offset) for c in (self, cache)]
        self.keys = mx.concatenate([_padded(c.keys[:, :, : c.offset], n) for c, n in both])
        self.values = mx.concatenate([_padded(c.values[:, :, : c.offset], n) for c, n in both])
        self._alignment = beside._alignment if beside is not None else self._alignment.join(*(n for _, n in both))
        self.offset = length

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these items of the batch alone."""
        unused, self._alignment = self._alignment.keep(rows)
        self.keys, self.values = (x[mx.array(rows), :, unused:] for x in (self.keys, self.values))  # [B', H, T', D]
        self.offset -= unused


def _padded(x: mx.array, columns: int) -> mx.array:
    """`[1, H, T, D]` -> `[1, H, columns + T, D]`, zeros first."""
    return mx.pad(x, [(0, 0), (0, 0), (columns, 0), (0, 0)])


def generate_batch(
    model: Voxtral,
    prompts: Sequence[mx.array],
    *,
    max_frames: int,
    seeds: Sequence[int],
    n_steps: int | None = None,
    cfg_alpha: float = CFG_ALPHA,
    on_frame: Callable[[int], None] | None = None,
    may_be_empty: bool = True,
) -> list[GeneratedCodes]:
    """Speak several prompts at once.

    An item's codes are those of `generate` for its prompt and seed alone, but for rounding: matrix products of
    one row and of several may differ in the last bit, which tips a code over once in very many frames in float32 and
    more often in bfloat16.

    The cache holds at most `len(prompts) * (longest prompt + frames so far)` positions, in steps of 256.

    Args:
        prompts: embeddings `[T_i, dim]` from `embed_prompt`, without its batch axis.
        max_frames: upper limit of frames of each item.
        seeds: of the sampling noise, one per prompt; the global generator is not touched.
        n_steps: Euler steps of the flow, None: the configuration's.
        cfg_alpha: guidance strength.
        on_frame: called after every frame with the number of items that are still speaking.
        may_be_empty: False: no item ends at its first frame.

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
        join_products(model)
        noise = [frame_noise(seed, model.config.codec.acoustic_dim) for seed in seeds]
        hidden, cache = read_prompts(model, prompts)
        queue = FrameQueue(model, cache, n_steps, cfg_alpha)
        present = queue.first(hidden, _next_noise(noise, speaking), may_be_empty)  # [B, 37]
    for left in range(max_frames - 1 if speaking else -1, -1, -1):
        following = queue.after(present, _next_noise(noise, speaking)) if left else None
        stay = []
        for row, frame in enumerate(checked_frames(np.array(present))):
            if frame[0] == END_CODE:
                ended[speaking[row]] = True
            else:
                frames[speaking[row]].append(frame)
                stay.append(row)
        if on_frame is not None:
            on_frame(len(stay))
        if not stay:
            break
        if left and len(stay) < len(speaking):
            speaking, following = [speaking[row] for row in stay], following[mx.array(stay)]
            for layer in cache:
                layer.keep(stay)
        present = following
    books = model.config.codec.n_codebooks
    return [GeneratedCodes(from_lm(np.reshape(f, (len(f), books))), e) for f, e in zip(frames, ended)]


def _next_noise(noise: Sequence[Iterator[mx.array]], speaking: Sequence[int]) -> mx.array:
    return mx.concatenate([next(noise[item]) for item in speaking])  # [1, dim] each -> [B, dim]


def read_prompt(model: Voxtral, prompt: mx.array, cache: Sequence[KVCache]) -> mx.array:
    """The last hidden state `[1, dim]` of a prompt `[1, T, dim]`, whose keys and values the cache then holds.

    Memory beside the cache does not grow with T beyond `READ_AT_ONCE` positions.
    """
    length = prompt.shape[1]
    for layer in cache if length > READ_AT_ONCE else ():
        layer.expected = length
    for start in range(0, length, READ_AT_ONCE):
        hidden = model.hidden_states(prompt[:, start : start + READ_AT_ONCE], cache)[:, -1]  # [1, dim]
        if start + READ_AT_ONCE < length:
            mx.eval(hidden, [(layer.keys, layer.values) for layer in cache])
    return hidden


def read_prompts(model: Voxtral, prompts: Sequence[mx.array]) -> tuple[mx.array, list[BatchCache]]:
    """The last hidden states `[B, dim]` of prompts `[T_i, dim]`, read one by one; a cache of the batch per layer."""
    hidden, caches = [], []
    for prompt in prompts:
        caches.append(model.new_cache())
        hidden.append(read_prompt(model, prompt[None], caches[-1]))
        mx.eval(hidden[-1], [(c.keys, c.values) for c in caches[-1]])  # the activations of one prompt at a time
    batch: list[BatchCache] = []
    for layer in zip(*caches):
        batch.append(BatchCache(layer, batch[0] if batch else None))
    mx.eval([(c.keys, c.values) for c in batch])
    return mx.concatenate(hidden), batch  # [B, dim]
