"""How near a recovered encoder comes to the hidden one: codes, units, sound.

On original recordings the hidden encoder's codes are right by definition. On decoded audio (its codes of the same
recordings, through the decoder) the true codes are known, and the hidden encoder, made to read its own decoded audio,
gives the mark to reach. Chance is what the same codes would score with their frames shuffled: it follows from the
counts of the codes alone.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.errors import DataError
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.pairs.statistics import CodeStatistics

POOLED = "pooled"
_PIECE = 10 * SAMPLE_RATE  # distances are taken over pieces of at most this, which bounds the memory
_STFT_SIZES = (2048, 1024, 512, 256)  # as the trainer's; the paper's eight cost five times as much and say the same
_SHORTEST = SAMPLE_RATE // 10  # a shorter rest of a clip says nothing about its spectrum and is left out


class ScoredClip(Protocol):
    """What is read of a clip (`corpus.CorpusClip`)."""

    id: str
    path: Path
    kind: str
    units: np.ndarray | None
    """`[frames]`: label of each latent frame, negative where there is none; None: the clip has no labels."""


@dataclass(frozen=True)
class UnitClassifier:
    """Linear classifier of the units of speech on the quantised semantic latent."""

    weight: np.ndarray
    """`[units, semantic_dim]`"""
    bias: np.ndarray
    """`[units]`"""

    def units(self, codec: Codec) -> np.ndarray:
        """The unit that each semantic code stands for, `[codes]`."""
        rows = np.array(codec.quantizer.semantic_codebook.embedding)
        return np.argmax(rows @ self.weight.T + self.bias, axis=1)


class CodeTally:
    """Counts over the frames of true codes and found ones `[37, T]` of the same audio.

    Args:
        config: sizes of the codebooks.
        unit_of: unit of each semantic code, `[codes]`.
    """

    def __init__(self, config: CodecConfig, unit_of: np.ndarray):
        self.frames = self.semantic = self.units = 0
        self.labelled = self.wrong_unit = 0
        self._unit_of, self._levels = unit_of, config.acoustic_codebook_size
        self.level_error = self.level_exact = 0
        semantic, levels = (2, config.semantic_codebook_size), (2, config.acoustic_dim, self._levels)
        self.semantic_counts = np.zeros(semantic, dtype=np.int64)  # of the true codes, of the found ones
        self.level_counts = np.zeros(levels, dtype=np.int64)

    def add(self, true: np.ndarray, found: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Count a clip's frames; `labels [frames]` as in `ScoredClip.units`."""
        self.frames += true.shape[1]
        self.semantic += int((true[0] == found[0]).sum())
        units = self._unit_of[found[0]]
        self.units += int((self._unit_of[true[0]] == units).sum())
        if labels is not None:
            known = labels >= 0
            self.labelled += int(known.sum())
            self.wrong_unit += int((labels != units)[known].sum())
        difference = np.abs(true[1:] - found[1:])
        self.level_error += int(difference.sum())
        self.level_exact += int((difference == 0).sum())
        books = np.arange(true.shape[0] - 1)[:, None]
        for place, codes in enumerate((true, found)):
            np.add.at(self.semantic_counts[place], codes[0], 1)
            np.add.at(self.level_counts[place], (books, codes[1:]), 1)

    def merge(self, other: "CodeTally") -> None:
        """Add another's counts to these."""
        for name, value in vars(other).items():
            if not name.startswith("_"):
                setattr(self, name, getattr(self, name) + value)

    def agreement(self) -> dict[str, float]:
        """`semantic`, `units`, `level_exact` in %; `level_error`, the mean absolute difference in levels."""
        levels = self.frames * self.level_counts.shape[1]
        return {
            "semantic": 100 * self.semantic / self.frames,
            "units": 100 * self.units / self.frames,
            "level_error": self.level_error / levels,
            "level_exact": 100 * self.level_exact / levels,
        }

    def chance(self) -> dict[str, float]:
        """`agreement` to be expected if the frames of the found codes were shuffled."""
        true, found = self.semantic_counts / self.frames
        units = [np.bincount(self._unit_of, weights=share) for share in (true, found)]
        level_true, level_found = self.level_counts / self.frames
        distance = np.abs(np.subtract.outer(np.arange(self._levels), np.arange(self._levels)))
        return {
            "semantic": 100 * float(true @ found),
            "units": 100 * float(units[0] @ units[1]),
            "level_error": float(np.mean(np.sum((level_true @ distance) * level_found, axis=1))),
            "level_exact": 100 * float(np.mean(np.sum(level_true * level_found, axis=1))),
        }

    def unit_error(self) -> float | None:
        """% of the labelled frames whose found code stands for another unit; None: no labels."""
        return 100 * self.wrong_unit / self.labelled if self.labelled else None

    def usage(self, place: int) -> dict[str, float]:
        """Of the true codes (0) or the found ones (1): share of the semantic codes in use (%), entropies in bits."""
        counts = CodeStatistics(self.semantic_counts[place], self.level_counts[place])
        return {
            "codes_used": 100 * counts.usage,
            "code_entropy": counts.entropy_bits,
            "level_entropy": counts.level_entropy_bits,
        }


@dataclass
class _Heard:
    """A held-out clip as the hidden encoder has it; codes int16 `[37, T]`."""

    clip: ScoredClip
    codes: np.ndarray
    again: np.ndarray  # its codes of the decoded audio
    distances: np.ndarray  # see `distances`


class Reference:
    """What the hidden encoder says of the clips, worked out once for all encoders that are compared with it.

    Held in memory are codes (3 KB per second of audio), never audio.

    Args:
        hidden: the codec with the hidden encoder.
        units: classifier on its semantic codes.
        clips: what to score on; of speakers that no training has heard, but for the kinds in `apart`.
        apart: kinds that are reported and left out of the pooled figures.
        progress: called with the number of clips done.

    Raises:
        DataError: no clips; labels that are not one per frame.
    """

    def __init__(
        self,
        hidden: Codec,
        units: UnitClassifier,
        clips: Sequence[ScoredClip],
        apart: Collection[str] = (),
        progress: Callable[[int], None] = lambda done: None,
    ):
        if all(clip.kind in apart for clip in clips):
            raise DataError("no held-out clips to score on")
        self._apart = frozenset(apart)
        self.config, self.unit_of = hidden.config, units.units(hidden)
        self._heard: list[_Heard] = []
        for clip in clips:
            audio = read_audio(clip.path)
            codes = hidden.audio_codes(audio)
            if clip.units is not None and len(clip.units) != codes.shape[1]:
                raise DataError(f"{clip.path}: {len(clip.units)} unit labels for {codes.shape[1]} frames")
            again = hidden.audio_codes(hidden.decode_audio(codes))
            self._heard.append(
                _Heard(clip, codes.astype(np.int16), again.astype(np.int16), distances(hidden, codes, audio))
            )
            progress(len(self._heard))

    def score(self, recovered: Codec) -> dict:
        """Compare an encoder with the hidden one.

        Args:
            recovered: the same decoder and quantiser with the encoder to be scored.

        Returns:
            `{"pooled": ..., "kinds": {kind: ...}}`, each of `clips`, `frames` (kinds also: `pooled`, whether they are
            counted there) and

            - `real` (original audio): `semantic`, `units`, `level_exact` (% of the hidden encoder's), `level_error`
              (levels), `unit_error` (% of the true labels, None without), `mel` and `stft` distance of the
              reconstruction and `mel_ratio`, `stft_ratio` to the hidden encoder's, `codes_used` (%), `code_entropy`,
              `level_entropy` (bits);
            - `decoded`: agreement with the true codes on decoded audio;
            - `hidden`: the hidden encoder's own figures: `unit_error`, `mel`, `stft` and usage on original audio, and
              its agreement with the true codes on decoded audio as `semantic`, `units`, `level_error`, `level_exact`;
            - `chance`, `chance_decoded`: agreement by chance on original and on decoded audio.
        """
        kinds: dict[str, _Kind] = defaultdict(lambda: _Kind(self.config, self.unit_of))
        for heard in self._heard:
            audio = read_audio(heard.clip.path)
            found = recovered.audio_codes(audio)
            found_decoded = recovered.audio_codes(recovered.decode_audio(heard.codes))
            kinds[heard.clip.kind].add(heard, found, found_decoded, distances(recovered, found, audio))
        pooled = _Kind(self.config, self.unit_of)
        results = {}
        for name in sorted(kinds):
            results[name] = {**kinds[name].result(), "pooled": name not in self._apart}
            if results[name]["pooled"]:
                pooled.merge(kinds[name])
        return {POOLED: pooled.result(), "kinds": results}


def score(hidden: Codec, recovered: Codec, units: UnitClassifier, clips: Iterable[ScoredClip]) -> dict:
    """Score one encoder; see `Reference.score`."""
    return Reference(hidden, units, list(clips)).score(recovered)


class _Kind:
    """The sums over the clips of a kind."""

    def __init__(self, config: CodecConfig, unit_of: np.ndarray):
        self.clips = 0
        self.real, self.decoded, self.again = (CodeTally(config, unit_of) for _ in range(3))
        self.own = CodeTally(config, unit_of)  # the hidden encoder with itself: its unit error
        self.ours, self.theirs = np.zeros(3), np.zeros(3)

    def add(self, heard: _Heard, found: np.ndarray, found_decoded: np.ndarray, distances: np.ndarray) -> None:
        self.clips += 1
        self.real.add(heard.codes, found, heard.clip.units)
        self.own.add(heard.codes, heard.codes, heard.clip.units)
        self.decoded.add(heard.codes, found_decoded)
        self.again.add(heard.codes, heard.again)
        self.ours, self.theirs = self.ours + distances, self.theirs + heard.distances

    def merge(self, other: "_Kind") -> None:
        self.clips += other.clips
        for name in ("real", "decoded", "again", "own"):
            getattr(self, name).merge(getattr(other, name))
        self.ours, self.theirs = self.ours + other.ours, self.theirs + other.theirs

    def result(self) -> dict:
        ours, theirs = (dict(zip(("mel", "stft"), (s[:2] / s[2]).tolist())) for s in (self.ours, self.theirs))
        ratios = {f"{name}_ratio": ours[name] / theirs[name] for name in ours}
        own = {"unit_error": self.own.unit_error(), **theirs, **self.own.usage(0)}
        real = {**self.real.agreement(), "unit_error": self.real.unit_error(), **ours, **ratios, **self.real.usage(1)}
        return {
            "clips": self.clips,
            "frames": self.real.frames,
            "real": real,
            "decoded": self.decoded.agreement(),
            "hidden": {**self.again.agreement(), **own},
            "chance": self.real.chance(),
            "chance_decoded": self.decoded.chance(),
        }


def distances(codec: Codec, codes: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Of what `codec` makes of `codes [37, T]` to `audio [samples]`: `[3]` sums to be added up over clips.

    (log-mel distance * samples, multi-resolution STFT distance * samples, samples): their quotients are means.
    """
    decoded, sums = codec.decode_audio(codes), np.zeros(3)
    for start in range(0, len(audio), _PIECE):
        target = audio[start : start + _PIECE]
        if len(target) < _SHORTEST and start:
            break
        pair = mx.array(decoded[None, start : start + len(target)]), mx.array(target[None])
        values = [log_mel_loss(*pair).item(), multi_resolution_stft_loss(*pair, sizes=_STFT_SIZES).item()]
        sums += len(target) * np.array([*values, 1.0])
    return sums
