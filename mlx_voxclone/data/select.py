"""What a run uses of prepared data: the keys of `data`, where they differ from those that it was prepared with.

Speaker, language, limits of seconds and the held-out share are applied to the clips as they are, what would need the
recordings is refused. A value that is the default says nothing: the data stays as it was prepared.
"""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.segment import FRAME_SECONDS
from mlx_voxclone.data.clips import REFERENCE, Clip, PreparedData
from mlx_voxclone.data.entries import HELDOUT, MANIFEST, SUMMARY, TRAIN, read_lines, unknown_name
from mlx_voxclone.data.listings.names import composed
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.shards.data import LEFT_OUT, ShardData, fetched_beside
from mlx_voxclone.data.shards.fetch import is_remote
from mlx_voxclone.data.shards.index import SPLITS, Row
from mlx_voxclone.data.shards.scan import is_tar_source
from mlx_voxclone.data.split import Piece, divided
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.files.texts import base_language

APPLIED = ("speaker", "language", "min_seconds", "max_seconds", "heldout", "heldout_speakers")
FIXED = (
    "normalise",
    "trim_silence",
    "speech_detector",
    "min_sampling_rate",
    "max_clipped",
    "numbers_in_words",
    "transcribe",
    "check_texts",
)
_DEFAULT = PrepareOptions()


@dataclass(frozen=True)
class Preparation:
    """How prepared data was made, as far as it says so.

    Attributes:
        place: of the data.
        options: those of `prepare`; the defaults where it does not say.
        source: what it was made from; None: not known.
    """

    place: str | Path
    options: PrepareOptions = _DEFAULT
    source: str | None = None

    @classmethod
    def of(cls, place: str | Path, cache: Path | None = None) -> "Preparation":
        """What the summary beside prepared clips or an index tells.

        Args:
            cache: through which it is fetched from a server.

        Raises:
            DataError: a server that does not answer.
        """
        text = fetched_beside(place, SUMMARY, cache) if is_remote(place) else _beside(Path(place))
        try:
            identity = parse_json(text or "")["identity"]
            known = {key: value for key, value in identity["options"].items() if type(value) in _TYPES.get(key, ())}
            return cls(place, PrepareOptions(**known), str(identity["source"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError):
            return cls(place)

    @property
    def is_known(self) -> bool:
        return self.source is not None

    def value(self, key: str) -> Any:
        """Of one option, in the types of JSON."""
        return _plain(getattr(self.options, key))

    def how_to_add_texts(self) -> str:
        """What to do about clips without text."""
        source = self.source or "RECORDINGS"
        if is_tar_source(source):
            return "put a .txt or .json beside the audio in the shards, and index them again"
        made = "prepare RECORDINGS" if self.source is None else f"prepare {shlex.quote(source)}"
        shards = " --shards SIZE" if is_remote(self.place) else ""
        return f"make it with texts, `voxclone {made} --output OTHER{shards} --transcribe`, and set data.path to that"


def _beside(place: Path) -> str | None:
    try:
        return ((place if place.is_dir() else place.parent) / SUMMARY).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("speaker", "language"), (str, type(None))),
    "speech_detector": (str,),
    **dict.fromkeys(("min_seconds", "max_seconds", "heldout", "max_clipped"), (int, float)),
    **dict.fromkeys(("normalise", "trim_silence", "numbers_in_words", "transcribe", "check_texts"), (bool,)),
    "heldout_speakers": (list,),
    "min_sampling_rate": (int,),
}


def select(
    data: PreparedData | ShardData,
    options: PrepareOptions,
    before: Preparation,
    insisted: Collection[str] = (),
) -> tuple[PreparedData | ShardData, list[str]]:
    """The clips that the options ask for.

    Args:
        data: all clips.
        options: what is wanted; what has its default is left as it was prepared.
        before: how the data was made.
        insisted: keys that the user has set for this very run: a default among them is meant as it stands.

    Returns:
        The data, and lines for the user about what was done.

    Raises:
        DataError: what cannot be had from prepared clips; a speaker or language that none of them has; nothing left.
    """
    asked, kept = _asked(options, before, insisted)
    _refuse_fixed(asked, before, data)
    lines = _without_effect(asked, before)
    if kept:
        lines.append(f"kept as prepared: {', '.join(f'{key} {_shown(before.value(key))}' for key in kept)}")
    if not any(key in asked for key in APPLIED):
        return data, lines
    chosen = _Choice(data, asked, before, options.seed)
    splits, more = chosen.splits()
    lines += more
    if splits == chosen.were:
        return _filled(data, splits, chosen), lines
    return _taken(data, splits, chosen), lines


def _asked(options: PrepareOptions, before: Preparation, insisted: Collection[str]) -> tuple[dict[str, Any], list[str]]:
    """The values that differ from those of the preparation; the keys of those that do as defaults, and so do not count.

    Raises:
        DataError: a default that was insisted on: whether it is meant could not be told when the run is gone on with.
    """
    asked, kept = {}, []
    for key in (*APPLIED, *FIXED):
        value, was = _plain(getattr(options, key)), before.value(key)
        if value == was:
            continue
        if value != _plain(getattr(_DEFAULT, key)):
            asked[key] = value
        elif key in insisted:
            raise DataError(
                f"data.{key}: {_shown(value)}, but {before.place} was prepared with {_shown(was)}; leave it out to keep"
                " that, or prepare the recordings again"
            )
        else:
            kept.append(key)
    return asked, kept


def _without_effect(asked: dict[str, Any], before: Preparation) -> list[str]:
    """Take away what changes nothing, with a line for each: looser limits than those that it was prepared with; a share
    to hold out of clips whose split somebody has made without `prepare`."""
    lines = []
    for key, looser in (("min_seconds", -1), ("max_seconds", 1)):
        was = before.value(key)
        if key in asked and looser * (asked[key] - was) > 0:
            lines.append(f"data.{key}: {asked.pop(key):g} has no effect on clips prepared with {was:g}")
    if "heldout" in asked and not before.is_known:
        del asked["heldout"]
        lines.append(
            "data.heldout: no effect, as the data does not record how it was prepared; its held-out clips stay"
        )
    return lines


def _refuse_fixed(asked: Mapping[str, Any], before: Preparation, data: PreparedData | ShardData) -> None:
    for key in FIXED:
        if key not in asked:
            continue
        if key != "transcribe":
            raise DataError(
                f"data.{key}: {_shown(asked[key])} cannot be applied to {before.place}, whose clips are already made"
                f" (with {_shown(before.value(key))}); leave it out, or prepare the recordings again"
            )
        count = sum(clip.text is None for clip in _facts(data) if clip.split != REFERENCE)
        if count:
            raise DataError(
                f"data.transcribe: {count} clips of {before.place} have no text, and clips that are prepared are not"
                f" transcribed; {before.how_to_add_texts()}"
            )


def _facts(data: PreparedData | ShardData) -> Iterator[Clip | Row]:
    """What is known of each clip, in a fixed order."""
    if isinstance(data, ShardData):
        yield from (row for _, row in data.rows())
    else:
        yield from data.clips


@dataclass
class _Choice:
    """Which clips stay, and on which side."""

    data: PreparedData | ShardData
    asked: Mapping[str, Any]
    before: Preparation
    seed: int
    were: dict[str, str] = field(default_factory=dict)  # the split of each clip, by id

    @property
    def language(self) -> str | None:
        return self.asked.get("language")

    def splits(self) -> tuple[dict[str, str], list[str]]:
        """The split of each clip that stays, by id, and what there is to say."""
        self._check_names()
        left, named, splits = Counter(), set(), {}
        for clip in _facts(self.data):
            self.were[clip.id] = intern(clip.split)
            reason = self._reason(clip)
            if reason is None:
                splits[clip.id] = intern(clip.split)
                named |= {clip.reference} - {None}
            elif clip.split != REFERENCE:
                left[reason] += 1
        for id_ in named - splits.keys():
            if id_ in self.were:
                splits[id_] = REFERENCE
        sides = Counter(splits.values())
        there = len(self.were) - sum(split == REFERENCE for split in self.were.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in left.items())
        if not sides[TRAIN] + sides[HELDOUT]:
            raise DataError(f"{self.before.place}: none of its {there} clips is left ({reasons})")
        lines = [f"{sum(left.values())} of {there} clips are left out: {reasons}"] if left else []
        measured = HELDOUT in self.were.values()
        if self.asked.keys() & {"heldout", "heldout_speakers"} or not sides[TRAIN] or (measured and not sides[HELDOUT]):
            lines += self._divide(splits)
        return splits, lines

    def _check_names(self) -> None:
        """Raise DataError for a speaker or language that is not there."""
        where, names = f" in {self.before.place}", {composed(name) for name in self.data.speakers}
        speaker, held = self.asked.get("speaker"), self.asked.get("heldout_speakers", ())
        for key, wanted in (("speaker", [speaker] if speaker else []), ("heldout_speakers", held)):
            for name in wanted:
                if name not in names:
                    raise unknown_name("speaker", name, names, f"{where} (data.{key})")
        if self.language is not None:
            clips = (clip for clip in _facts(self.data) if clip.split != REFERENCE)
            spoken = {clip.language for clip in clips if speaker in (None, composed(clip.speaker))}
            if not any(name is None or _same_language(name, self.language) for name in spoken):
                raise unknown_name("language", self.language, set(map(str, spoken)), f"{where} (data.language)")

    def _reason(self, clip: Clip | Row) -> str | None:
        """Why a clip is left out."""
        asked, seconds = self.asked, clip.samples / SAMPLE_RATE
        speaker = composed(clip.speaker)  # earlier versions wrote names as folders have them
        if asked.get("speaker", speaker) != speaker:
            return "of other speakers"
        if self.language is not None and clip.language and not _same_language(clip.language, self.language):
            return "in other languages"
        if clip.split == REFERENCE:
            return None
        if seconds < asked.get("min_seconds", 0.0) - FRAME_SECONDS / 2:
            return f"shorter than {asked['min_seconds']:g} s"
        if seconds > asked.get("max_seconds", seconds) + FRAME_SECONDS / 2:
            return f"longer than {asked['max_seconds']:g} s"
        return None

    def _divide(self, splits: dict[str, str]) -> list[str]:
        """Hold clips out anew, as `prepare` does it."""
        fraction, speakers = (self.asked.get(key, self.before.value(key)) for key in ("heldout", "heldout_speakers"))
        pieces = [piece for piece in _pieces(self.data) if splits.get(piece.id) in (TRAIN, HELDOUT)]
        if not self.before.is_known and HELDOUT in splits.values():
            fraction = 0.0  # but for the speakers that are named, the split stays
            pieces = [replace(p, marked=HELDOUT) if splits[p.id] == HELDOUT else p for p in pieces]
        held, notes = divided(pieces, fraction, speakers, self.seed)
        for piece in pieces:
            splits[piece.id] = HELDOUT if piece.id in held else TRAIN
        if TRAIN not in splits.values():
            raise DataError(f"{self.before.place}: every clip that is left is held out; there is nothing to train on")
        by = f", and all of {', '.join(speakers)}" if speakers else ""
        return [f"held out anew: {len(held)} of {len(pieces)} clips (data.heldout {fraction:g}{by})", *notes]


def _pieces(data: PreparedData | ShardData) -> list[Piece]:
    """The clips as the split sees them: which recording they are of, and whether their audio is another's."""
    found, keys = [], {}

    def recording(id_: str, source: str) -> str:
        key = id_.partition("~")[0]  # how `prepare` names the clips of a recording
        return keys.setdefault(source, key) if source else key

    if isinstance(data, ShardData):
        for _, row in data.rows():
            if row.split != REFERENCE:
                facts = row.samples / SAMPLE_RATE, hash((row.sha256, row.first)), row.marked
                speaker = intern(composed(row.speaker))
                found.append((row.start, Piece(row.id, recording(row.id, row.source), speaker, *facts)))
        return [piece for _, piece in sorted(found, key=itemgetter(0))]
    for _, line in read_lines(data.directory / MANIFEST):
        clip = parse_json(line)
        if clip["split"] != REFERENCE:
            facts = clip["samples"] / SAMPLE_RATE, clip.get("digest", clip["id"]), clip.get("marked")
            found.append(Piece(clip["id"], recording(clip["id"], clip["source"]), composed(clip["speaker"]), *facts))
    return found


def _taken(data: PreparedData | ShardData, splits: Mapping[str, str], choice: _Choice) -> PreparedData | ShardData:
    if isinstance(data, ShardData):
        numbers = {name: k for k, name in enumerate(SPLITS)} | {None: LEFT_OUT}
        column = np.fromiter((numbers[splits.get(row.id)] for _, row in data.rows()), np.uint8, len(data.index))
        return data.chosen(column, choice.language)
    return data.chosen(splits, choice.language)


def _filled(data: PreparedData | ShardData, splits: Mapping[str, str], choice: _Choice) -> PreparedData | ShardData:
    """Nothing is left out; some clips may be told their language."""
    if choice.language is None or all(clip.language for clip in _facts(data)):
        return data
    return _taken(data, splits, choice)


def _same_language(one: str, other: str) -> bool:
    """Whether two codes are of one language, whatever the region: `de` and `de-AT`."""
    return base_language(one) == base_language(other)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    """As a configuration has it."""
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
