"""What the encoder learns from: crops of recordings, and crops of pairs whose true codes are known.

An item of a recording gets a random gain. One of a pair does not: the level is in the codes. A pair may be heard as if
recorded (its augmented audio): its codes stay the same. All items of a batch have one length, so that there is one
shape.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_voxclone.audio.augment import disperse
from mlx_voxclone.data.clips import Clip
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.loop.heldout import spread

MAX_HELDOUT_CROPS = 64  # an evaluation costs at most this many crops of each kind, however large the corpus
# Frames at the start of a crop from the middle of a pair that are not asked for their codes: the true ones depend on
# what was said before, which the encoder does not hear. The influence reaches 21 frames back, most of it three.
CONTEXT_FRAMES = 3
JUDGED_SHARE = 0.5  # of the items of a recording with judged codes: these teach its codes, the others its sound

States = Callable[[Clip | Pair, int, int], np.ndarray | None]
"""(recording or pair, first sample, frames) -> the teacher's states `[frames, D]` there, None where it understood
nothing."""


class EncoderItems:
    """Items and batches of task `encoder`; numpy only, so that a thread may make them.

    Args:
        train, heldout: recordings.
        pairs: true codes and their audio, if any.
        section: the configuration's `encoder` section.
        config: of the codec.
        seed: of crops, gains, the choice between recordings and pairs, quantisation.
        states: of a speech recogniser, if one teaches.
        judged: codes `[37, T]` of recordings by clip id, judged by the language model (`train/judge/judge.py`);
            half of the items of such a recording teach these codes, the other half its sound.

    Attributes:
        augmented: how often a pair is heard as if recorded, where `pairs --augment` made that; never and always were no
            better on clean recordings (docs/LOG.md).
        dispersed: how often the phases of a pair are changed on the way in, inaudibly; without it, what is learnt from
            pairs does not carry over to recordings (docs/LOG.md).
    """

    augmented, dispersed = 0.5, 1.0

    def __init__(
        self,
        train: Sequence[Clip],
        heldout: Sequence[Clip],
        pairs: PairData | None,
        section: EncoderSection,
        config: CodecConfig,
        seed: int,
        states: States | None = None,
        judged: Mapping[str, np.ndarray] | None = None,
    ):
        self.section, self.config, self.seed = section, config, seed
        self.crop = crop_samples(section, config)
        self.frames = self.crop // config.frame_size
        self._states, self._judged = states, judged or {}
        self._train, self._crops = train, Crops(train, self.crop)
        self._heldout = spread(Crops(heldout, self.crop), MAX_HELDOUT_CROPS)
        self._heldout_judged = [(clip, place) for clip, place in self._heldout if clip.id in self._judged]
        self.pairs = pairs
        own = (pairs.train, pairs.heldout) if pairs is not None else ([], [])
        self._pair_crops, held = ([(p, k) for p in side for k in range(-(-p.frames // self.frames))] for side in own)
        self._heldout_pairs = spread(held, MAX_HELDOUT_CROPS)

    def __len__(self) -> int:
        """Crops of recordings: an epoch visits every second of them once, whatever share of the items are pairs."""
        return len(self._crops)

    def order(self, seed: int, epoch: int) -> Any | None:
        """The data's own order of an epoch, where it has one: sharded data is read shard by shard."""
        own = getattr(self._train, "order", None)
        return None if own is None else own(self._crops.ends, seed, epoch)

    @property
    def measurable(self) -> bool:
        return bool(self._heldout)

    # --- training -------------------------------------------------------------------------------------------------

    def item(self, epoch: int, index: int, step: int) -> dict[str, Any]:
        """A crop near its place in the recording, shifted at random, at a random gain; or a crop of some pair."""
        rng = np.random.default_rng([self.seed, epoch, index])
        pairs = self.section.pairs
        if self._pair_crops and (rng.random() < pairs.share or step < pairs.alone_steps):
            item = self._pair_item(*self._pair_crops[rng.integers(len(self._pair_crops))], rng)
        else:
            clip, place = self._crops[index]
            coded = clip.id in self._judged and rng.random() < JUDGED_SHARE
            item = self._judged_item(clip, place, rng) if coded else self._clip_item(clip, place, rng)
        if self.section.quantisation_noise:
            frames = self.config.n_frames(len(item["waveform"]))
            sizes = (self.config.acoustic_dim, self.config.acoustic_codebook_size)
            item["quantisation"] = draw_quantisation(rng, frames, *sizes)
        return item | {"step": step}

    def _clip_item(self, clip: Clip, place: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Without `rng`: exactly at its place, at its own level."""
        start, gain = place * self.crop, 1.0
        if rng is not None:
            start = max(0, min(int((place + rng.uniform(-0.5, 0.5)) * self.crop), clip.samples - self.crop))
            gain = 10.0 ** (rng.uniform(*self.section.gain_db) / 20.0)
        wave = clip.read(start, start + self.crop)
        item = {"id": clip.id, "waveform": (wave * gain).astype(np.float32)}
        if self._states is not None:
            item["teacher"] = self._states(clip, start, self.config.n_frames(len(wave)))
        return item

    def _judged_item(self, clip: Clip, place: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """A crop of a recording with its judged codes, at its own level; without `rng` exactly at its place."""
        codes = self._judged[clip.id]
        cut, item = self._coded_crop(codes, place, rng)
        item |= {"id": clip.id, "waveform": clip.read(cut.start, cut.stop)}
        if self._states is not None and rng is not None:
            item["teacher"] = self._states(clip, cut.start, item["codes"].shape[1])
        return item

    def _coded_crop(
        self, codes: np.ndarray, place: int, rng: np.random.Generator | None
    ) -> tuple[slice, dict[str, Any]]:
        """Samples of a crop of whole frames, shifted at random with `rng`; its `codes` and `skip`."""
        first, frames = place * self.frames, codes.shape[1]
        if rng is not None:
            first = max(0, min(int((place + rng.uniform(-0.5, 0.5)) * self.frames), frames - self.frames))
        size, last = self.config.frame_size, min(first + self.frames, frames)
        skip = min(CONTEXT_FRAMES, last - first - 1) if first else 0
        return slice(first * size, last * size), {"codes": codes[:, first:last], "skip": skip}

    def _pair_item(self, pair: Pair, place: int, rng: np.random.Generator | None) -> dict[str, Any]:
        cut, item = self._coded_crop(pair.codes, place, rng)
        item["id"] = pair.name
        as_recorded = pair.augmented is not None and rng is not None and rng.random() < self.augmented
        item["waveform"] = pair.read(as_recorded, cut.start, cut.stop)
        if self._states is not None and rng is not None:
            item["teacher"] = self._states(pair, cut.start, item["codes"].shape[1])
        if rng is not None and self.dispersed and rng.random() < self.dispersed:
            item["waveform"] = disperse(item["waveform"], rng)
        return item

    # --- batches --------------------------------------------------------------------------------------------------

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pads to the crop's fixed length.

        Returns:
            `waveform` float32 `[B, crop]`, `lengths` (valid samples); with pairs `codes` int32 `[P, 37, T]`
            of the P items that have any, `coded` (their places in the batch), `coded_frames` and `skip` (frames with
            codes, and how many of the first are not asked for); with a teacher `teacher` `[Q, T, D]`, `taught`,
            `taught_frames` likewise; `quantisation` (fields of `QuantisationNoise`) and `step` if the items have them.
        """
        batch: dict[str, Any] = {
            "waveform": _padded([item["waveform"] for item in items], self.crop),
            "lengths": [len(item["waveform"]) for item in items],
        }
        if coded := [k for k, item in enumerate(items) if "codes" in item]:
            codes = [items[k]["codes"].T for k in coded]
            batch["codes"] = _padded(codes, self.frames).swapaxes(1, 2).astype(np.int32)
            batch |= {"coded": coded, "coded_frames": [len(c) for c in codes]}
            batch["skip"] = [items[k]["skip"] for k in coded]
        if taught := [k for k, item in enumerate(items) if item.get("teacher") is not None]:
            states = [items[k]["teacher"] for k in taught]
            batch |= {"teacher": _padded(states, self.frames), "taught": taught}
            batch["taught_frames"] = [len(s) for s in states]
        if "quantisation" in items[0]:
            drawn = [item["quantisation"] for item in items]
            batch["quantisation"] = {
                "semantic": np.array([one["semantic"] for one in drawn]),
                "acoustic": np.array([one["acoustic"] for one in drawn]),
                "offset": _padded([one["offset"] for one in drawn], self.frames),
            }
        if "step" in items[0]:
            batch["step"] = items[0]["step"]
        return batch

    def heldout_clips(self, size: int) -> Iterable[dict[str, Any]]:
        """Batches of held-out recordings, always the same."""
        for first in range(0, len(self._heldout), size):
            yield self.collate([self._clip_item(c, k, None) for c, k in self._heldout[first : first + size]])

    def heldout_pairs(self, size: int) -> Iterable[dict[str, Any]]:
        """Batches of held-out pairs, clean, always the same; none without pairs."""
        for first in range(0, len(self._heldout_pairs), size):
            yield self.collate([self._pair_item(p, k, None) for p, k in self._heldout_pairs[first : first + size]])

    def heldout_judged(self, size: int) -> Iterable[dict[str, Any]]:
        """Batches of held-out recordings with their judged codes, always the same; none without these."""
        for first in range(0, len(self._heldout_judged), size):
            chosen = self._heldout_judged[first : first + size]
            yield self.collate([self._judged_item(c, k, None) for c, k in chosen])


def draw_quantisation(rng: np.random.Generator, frames: int, acoustic_dim: int, levels: int) -> dict[str, Any]:
    """What of one training item is quantised, by the codec's own recipe (arXiv 2603.25551, SPEC section 4).

    Semantic: quantised for half of the items. Acoustic, drawn independently: quantised for half of them, uniform noise
    in [-1/levels, 1/levels] on tanh(z) for a quarter, untouched for the rest. One choice holds for the whole item. The
    paper states a magnitude of 1/21 and no more; taken as the largest absolute value, the noise nearly fills a level's
    cell, which reaches 1/20 to either side, as the error of rounding does. The sum is not clipped to [-1, 1].

    Returns:
        `semantic`, `acoustic` (true: quantised) and `offset [frames, acoustic_dim]` float32: the fields of
        `QuantisationNoise`, for one item.
    """
    semantic, kind = rng.random() < 0.5, rng.random()
    offset = np.zeros((frames, acoustic_dim), dtype=np.float32)
    if 0.5 <= kind < 0.75:
        offset = rng.uniform(-1.0 / levels, 1.0 / levels, offset.shape).astype(np.float32)
    return {"semantic": semantic, "acoustic": kind < 0.5, "offset": offset}


def crop_samples(section: EncoderSection, config: CodecConfig) -> int:
    """`encoder.crop_seconds` as samples, whole frames.

    Raises:
        ConfigError: shorter than a frame.
    """
    crop = round(section.crop_seconds * config.frame_rate) * config.frame_size
    if crop < config.frame_size:
        raise ConfigError(f"encoder.crop_seconds: {section.crop_seconds} is shorter than one frame (0.08 s)")
    return crop


class Crops(Sequence[tuple[Clip, int]]):
    """The crops of at most `crop` samples, clip after clip, each made when it is asked for: (clip, its place in it).

    Attributes:
        ends: int64 `[N]`, number of crops in the first 1, 2, ... N clips.
    """

    def __init__(self, clips: Sequence[Clip], crop: int) -> None:
        lengths = getattr(clips, "lengths", None)  # sharded data tells them without a clip being made
        if lengths is None:
            lengths = np.fromiter((clip.samples for clip in clips), np.int64, len(clips))
        self._clips, self.ends = clips, np.cumsum(-(-lengths.astype(np.int64) // crop))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip = int(np.searchsorted(self.ends, index, side="right"))
        return self._clips[clip], index - (int(self.ends[clip - 1]) if clip else 0)


def _padded(rows: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Arrays `[n_i, ...]` as one float32 `[B, size, ...]`, zeros behind each."""
    padded = np.zeros((len(rows), size, *rows[0].shape[1:]), dtype=np.float32)
    for place, row in zip(padded, rows):
        place[: len(row)] = row
    return padded
