"""Prepared clips: what `prepare` wrote, as training and evaluation read it."""

import hashlib
import json
import math
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from sys import intern

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_samples
from mlx_voxclone.data.entries import HELDOUT, MANIFEST, TRAIN, lies_inside, read_lines
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json

CLIP_KEYS = ("id", "audio", "samples", "text", "speaker", "language", "split", "reference", "source", "start")
_values = itemgetter(*CLIP_KEYS)
REFERENCE = "reference"
_FOR_TRAINING = "reference, not held out"  # of a speaker's voice prompts, those that no held-out clip is of
_MOST_SAMPLES = 3600 * SAMPLE_RATE  # of a clip


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

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """float32 [samples], or those from `start` to `stop` alone.

        Raises:
            DataError: the file is missing, damaged or of another length than when it was prepared.
        """
        samples, count = read_samples(self.path, start, stop)
        if count != self.samples:
            raise DataError(f"{self.path}: {count} samples where {self.samples} were prepared; prepare the data again")
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
    _heard: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # recordings that are held out
    _choice: str = field(default="", repr=False, compare=False)  # digest of what was chosen of the clips

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
        data = cls.of(directory, (_clip(line, directory, path, n) for n, line in read_lines(path, blank=True)))
        _refuse_repetition(data.clips, path)
        root = os.fspath(directory)
        for clip in data.clips:
            if not os.path.isfile(os.path.join(root, clip.audio)):
                raise DataError(f"{clip.path}: missing from the prepared data; prepare it again")
        if not data.train:
            raise DataError(f"{directory}: the prepared data has no clip to train on")
        return data

    @classmethod
    def of(cls, directory: Path, clips: Iterable[Clip], choice: str = "") -> "PreparedData":
        """The clips of a directory.

        Args:
            choice: digest of what was chosen of them; empty: they are all there are.

        Raises:
            DataError: a clip names a reference that is not among them.
        """
        splits: dict[str, list[Clip]] = {TRAIN: [], HELDOUT: [], REFERENCE: []}
        by_speaker: dict[tuple[str, str], list[Clip]] = defaultdict(list)
        named: dict[str, str] = {}  # per reference that a clip names: that clip
        for clip in clips:
            splits[clip.split].append(clip)
            by_speaker[clip.speaker, clip.split].append(clip)
            if clip.reference is not None:
                named.setdefault(clip.reference, clip.id)
        by_id = {clip.id: clip for own in splits.values() for clip in own if clip.id in named} if named else {}
        for reference, clip_id in named.items():
            if reference not in by_id:
                where = directory / MANIFEST
                raise DataError(f"{where}: clip {clip_id} names the unknown reference {reference}")
        heard = frozenset(clip.source for clip in splits[HELDOUT] if clip.source) if splits[REFERENCE] or named else ()
        for prompt in splits[REFERENCE]:
            if prompt.source not in heard:
                by_speaker[prompt.speaker, _FOR_TRAINING].append(prompt)
        lists = (splits[split] for split in (TRAIN, HELDOUT, REFERENCE))
        return cls(directory, *lists, by_id, dict(by_speaker), _heard=frozenset(heard), _choice=choice)

    def chosen(self, splits: Mapping[str, str], language: str | None = None) -> "PreparedData":
        """The same with only some of the clips, or with others held out.

        Args:
            splits: of the clips that stay, by id.
            language: of those that have none.

        Raises:
            DataError: a clip that stays names a reference that does not.
        """
        clips = [
            replace(clip, split=splits[clip.id], language=clip.language or language)
            for clip in self.clips
            if clip.id in splits
        ]
        choice = hashlib.sha256(json.dumps([language, sorted(splits.items())]).encode()).hexdigest()
        return PreparedData.of(self.directory, clips, choice)

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
        prompts; failing that, for a held-out clip, their training clips. A training clip never gets a held-out one, nor
        a prompt that is a held-out recording, whoever named it.

        Returns:
            At most `limit` (a large corpus has thousands; then the draw depends on the clip's id alone), in a fixed
            order; empty if the speaker has nothing else.
        """
        if clip.reference is not None and not (clip.split == TRAIN and self._is_heard(self._by_id[clip.reference])):
            return [self._by_id[clip.reference]]
        splits = [TRAIN, _FOR_TRAINING] if clip.split == TRAIN else [clip.split, REFERENCE]
        splits += [TRAIN] if clip.split == HELDOUT else []
        return next((found for found in (self._others(clip, split, limit) for split in splits) if found), [])

    def _is_heard(self, prompt: Clip) -> bool:
        """Whether a voice prompt is held out, as a clip or as another's recording."""
        return prompt.split == HELDOUT or (prompt.split == REFERENCE and prompt.source in self._heard)

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
        digest = hashlib.sha256(self._choice.encode())
        with (self.directory / MANIFEST).open("rb") as stream:
            for line in sorted(line.rstrip(b"\r\n") for line in stream):
                digest.update(line + b"\n")
        return digest.hexdigest()


def _clip(line: str, directory: Path, path: Path, number: int) -> Clip:
    try:
        content = parse_json(line)
        id_, audio, samples, text, speaker, language, split, reference, source, start = _values(content)
        for value in (id_, audio, speaker, source, split):
            if not isinstance(value, str):
                raise TypeError(f"{value!r} where a text is expected")
        for value in (text, language, reference, content.get("digest")):
            if not (value is None or isinstance(value, str)):
                raise TypeError(f"{value!r} where a text or null is expected")
        if content.get("marked") not in (None, TRAIN, HELDOUT):
            raise ValueError(f"marked {content['marked']!r}")
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
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        reason = f"{type(e).__name__}: {e}" if line.strip() else "an empty line"
        raise DataError(f"{path}:{number}: damaged ({reason}); prepare the data again") from None
    if not lies_inside(audio):
        raise DataError(f"{path}:{number}: {audio!r} does not lie inside {directory}; prepare the data again")
    if clip.split not in (TRAIN, HELDOUT, REFERENCE) or type(samples) is not int or not 0 < samples <= _MOST_SAMPLES:
        raise DataError(
            f"{path}:{number}: damaged (split {clip.split!r}, {clip.samples!r} samples); prepare the data again"
        )
    if not id_ or not speaker or type(start) not in (int, float) or not 0 <= start < math.inf:
        raise DataError(
            f"{path}:{number}: damaged (id {id_!r}, speaker {speaker!r}, start {start!r}); prepare the data again"
        )
    return clip


def _refuse_repetition(clips: list[Clip], path: Path) -> None:
    """Two clips of one id would be each other's codes."""
    hashes = np.sort(np.fromiter((hash(clip.id) for clip in clips), np.int64, len(clips)))
    if not (hashes[1:] == hashes[:-1]).any():
        return
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise DataError(f"{path}: clip {clip.id} is listed twice; prepare the data again")
        seen.add(clip.id)
