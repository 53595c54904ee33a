"""Prepared clips: what `prepare` wrote, as training and evaluation read it."""

import hashlib
import os
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from sys import intern

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.data.entries import HELDOUT, MANIFEST, TRAIN, read_lines
from mlx_voxclone.errors import DataError
from mlx_voxclone.plain_files import parse_json

CLIP_KEYS = ("id", "audio", "samples", "text", "speaker", "language", "split", "reference", "source", "start")
_values = itemgetter(*CLIP_KEYS)
REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of 24 kHz mono audio. Its path is kept as text: a corpus has millions."""

    id: str
    audio: str | Path  # absolute, or relative to `directory`
    samples: int
    speaker: str
    text: str | None = None
    language: str | None = None
    reference: str | None = None  # id of the clip that the user chose as this one's voice prompt
    source: str = ""  # the recording it comes from
    start: float = 0.0  # seconds into the recording
    split: str = TRAIN  # train, heldout or reference (listed only as a voice prompt)
    directory: Path = Path()

    @property
    def path(self) -> Path:
        return self.directory / self.audio

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def read(self) -> np.ndarray:
        """float32 [samples].

        Raises:
            DataError: the file is missing, damaged or of another length than when it was prepared.
        """
        samples = read_audio(self.path)
        if len(samples) != self.samples:
            raise DataError(
                f"{self.path}: {len(samples)} samples where {self.samples} were prepared; prepare the data again"
            )
        return samples


@dataclass(frozen=True)
class PreparedData:
    """A directory that `prepare` wrote.

    Attributes:
        train, heldout: clips to learn from and to measure by; no recording has clips in both.
        prompts: recordings that the user listed as voice prompts only.
    """

    directory: Path
    train: list[Clip]
    heldout: list[Clip]
    prompts: list[Clip] = field(default_factory=list)
    # Clips that others name as their reference; clips by speaker and split; where each is in those lists, once asked.
    _by_id: dict[str, Clip] = field(default_factory=dict, repr=False, compare=False)
    _by_speaker: dict[tuple[str, str], list[Clip]] = field(default_factory=dict, repr=False, compare=False)
    _places: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, directory: str | Path) -> "PreparedData":
        """Read a prepared directory; audio is opened only by `Clip.read`.

        Raises:
            DataError: no prepared data, a damaged manifest, or a clip's file missing.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        if not path.is_file():
            raise DataError(f"{directory}: holds no prepared data ({MANIFEST} is missing); run prepare first")
        splits: dict[str, list[Clip]] = {TRAIN: [], HELDOUT: [], REFERENCE: []}
        by_speaker: dict[tuple[str, str], list[Clip]] = defaultdict(list)
        named: dict[str, str] = {}  # per reference that a clip names: that clip
        for number, line in read_lines(path):
            clip = _clip(line, directory, path, number)
            splits[clip.split].append(clip)
            by_speaker[clip.speaker, clip.split].append(clip)
            if clip.reference is not None:
                named.setdefault(clip.reference, clip.id)
        by_id: dict[str, Clip] = {}
        data = cls(directory, splits[TRAIN], splits[HELDOUT], splits[REFERENCE], by_id, dict(by_speaker))
        root = os.fspath(directory)
        for clip in data.clips:
            if not os.path.isfile(os.path.join(root, clip.audio)):
                raise DataError(f"{clip.path}: missing from the prepared data; prepare it again")
            if clip.id in named:
                by_id[clip.id] = clip
        for reference, clip_id in named.items():
            if reference not in by_id:
                raise DataError(f"{path}: clip {clip_id} names the unknown reference {reference}")
        if not data.train:
            raise DataError(f"{directory}: the prepared data has no clip to train on")
        return data

    @property
    def clips(self) -> list[Clip]:
        """All clips: train, heldout, prompts."""
        return [*self.train, *self.heldout, *self.prompts]

    @property
    def speakers(self) -> list[str]:
        """Names of those who speak in `train` or `heldout`, sorted."""
        return sorted({clip.speaker for clip in (*self.train, *self.heldout)})

    @property
    def hours(self) -> float:
        """Of `train` and `heldout` together."""
        return sum(clip.seconds for clip in (*self.train, *self.heldout)) / 3600

    def references(self, clip: Clip, limit: int = 64) -> list[Clip]:
        """Voice prompts for a clip: other audio of its speaker, never the clip itself.

        The reference that the user named, if any. Else the speaker's other clips of the same split; failing that, their
        prompts; failing that, for a held-out clip, their training clips. A training clip never gets a held-out one.

        Returns:
            At most `limit` (a large corpus has thousands; then the draw depends on the clip's id alone), in a fixed
            order; empty if the speaker has nothing else.
        """
        if clip.reference is not None:
            return [self._by_id[clip.reference]]
        splits = [clip.split, REFERENCE, *([TRAIN] if clip.split == HELDOUT else [])]
        return next((found for found in (self._others(clip, split, limit) for split in splits) if found), [])

    def _others(self, clip: Clip, split: str, limit: int) -> list[Clip]:
        """Up to `limit` clips of the clip's speaker in a split, without itself; how many there are costs no time."""
        own = self._by_speaker.get((clip.speaker, split), [])
        if len(own) <= limit:
            return [other for other in own if other.id != clip.id]
        if (key := (clip.speaker, split)) not in self._places:
            self._places[key] = {other.id: k for k, other in enumerate(own)}
        place = self._places[key].get(clip.id, len(own))
        count = len(own) - (place < len(own))
        chosen = np.random.default_rng(zlib.crc32(clip.id.encode())).choice(count, limit, replace=False)
        return [own[k + (k >= place)] for k in sorted(chosen)]

    def fingerprint(self) -> str:
        """Identity of the data (clips, texts, splits, not where it lies): sha256, to notice a change on resuming."""
        digest = hashlib.sha256()
        with (self.directory / MANIFEST).open("rb") as stream:
            for line in sorted(line.rstrip(b"\r\n") for line in stream):
                digest.update(line + b"\n")
        return digest.hexdigest()


def _clip(line: str, directory: Path, path: Path, number: int) -> Clip:
    try:
        id_, audio, samples, text, speaker, language, split, reference, source, start = _values(parse_json(line))
        if not isinstance(audio, str):
            raise TypeError(f"audio is {audio!r}")
        clip = Clip(
            id_,
            audio,
            samples,
            intern(speaker),  # many clips have the same
            text,
            language and intern(language),
            reference and intern(reference),
            source,
            start,
            intern(split),
            directory,
        )
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path}:{number}: damaged ({type(e).__name__}: {e}); prepare the data again") from None
    if clip.split not in (TRAIN, HELDOUT, REFERENCE) or not isinstance(clip.samples, int) or clip.samples < 1:
        raise DataError(
            f"{path}:{number}: damaged (split {clip.split!r}, {clip.samples!r} samples); prepare the data again"
        )
    return clip
