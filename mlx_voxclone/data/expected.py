"""The clips that a run will have, before it prepares them: by the headers of the recordings, no audio is read."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.entries import HELDOUT, TRAIN, Entry, is_prepared, unique_names
from mlx_voxclone.data.ingest import MAX_TRANSCRIBED_SECONDS
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.options import LETTERS_PER_SECOND, PrepareOptions
from mlx_voxclone.data.select import Preparation, select
from mlx_voxclone.data.shards.data import is_sharded
from mlx_voxclone.data.shards.scan import is_tar_source
from mlx_voxclone.data.split import Recording, hold_out
from mlx_voxclone.errors import DataError

ASSUMED_MINUTES, ASSUMED_SECONDS = 20, 6.0  # of transcribed speech in clips, where nothing can be looked at


def expected_data(path: Path | str | None, options: PrepareOptions) -> tuple[PreparedData, str]:
    """What `data.path` will be: as it is if it is prepared already, else about what `prepare` will make of it.

    The clips' audio does not exist. Silence that will be trimmed counts, and so do recordings that will be refused for
    what is in them. Texts that will be transcribed have 15 letters a second.

    Args:
        path: recordings, or prepared data; None, shards and what is not there: 20 minutes of one speaker are assumed.
        options: of the preparation.

    Returns:
        The clips, and a few words on where they are from.

    Raises:
        DataError: a listing with a mistake in it, damaged prepared data, no recording that could be used.
    """
    if path is None or is_sharded(path) or is_tar_source(path) or not Path(path).exists():
        count = round(60 * ASSUMED_MINUTES / ASSUMED_SECONDS)
        clips = [_clip(f"assumed-{k:03d}", ASSUMED_SECONDS, "speaker", _text(ASSUMED_SECONDS)) for k in range(count)]
        return _split(clips, {clip.id: clip.id for clip in clips}, {}, options), f"{ASSUMED_MINUTES} min assumed"
    if is_prepared(path):
        data, _ = select(PreparedData.load(path), options, Preparation.of(path))
    else:
        entries = read_listing(path).entries
        data = _prepared([e for e in entries if options.speaker in (None, e.speaker)], options, path)
    return data, f"{60 * data.hours:.2g} min in {len(data.train) + len(data.heldout)} clips"


def _prepared(entries: Sequence[Entry], options: PrepareOptions, path: Path | str) -> PreparedData:
    """The clips of listed recordings."""
    clips, recordings, marked = [], {}, {}
    for entry, key in zip(entries, unique_names(entries)):  # as they will be named, which decides what is held out
        pieces, seconds = _pieces(entry, options)
        text = entry.text or (_text(seconds) if options.transcribe else None)
        for k in range(pieces):
            clips.append(_clip(f"{key}~{k:03d}", seconds, entry.speaker, text, str(entry.audio)))
            recordings[clips[-1].id] = key
        marked[key] = entry.split
    if not clips:
        raise DataError(f"{path}: none of its recordings can be used; voxclone prepare says why")
    return _split(clips, recordings, marked, options)


def _pieces(entry: Entry, options: PrepareOptions) -> tuple[int, float]:
    """How many clips a recording gives, and the seconds of each."""
    longest = options.max_seconds if entry.text is None else MAX_TRANSCRIBED_SECONDS
    try:
        info = audio_info(entry.audio, most=math.inf if entry.text is None else longest)
    except AudioError:
        return 0, 0.0
    count = math.ceil(info.seconds / longest) if info.seconds else 0
    refused = info.sample_rate < options.min_sampling_rate or info.seconds < options.min_seconds
    return (0, 0.0) if refused or (entry.text is not None and count > 1) else (count, info.seconds / max(1, count))


def _text(seconds: float) -> str:
    """As long as what is said in so much speech."""
    return "a" * max(1, round(LETTERS_PER_SECOND * seconds))


def _clip(name: str, seconds: float, speaker: str, text: str | None, source: str = "") -> Clip:
    return Clip(name, f"{name}.flac", max(1, round(seconds * SAMPLE_RATE)), speaker, text, source=source)


def _split(clips: list[Clip], recordings: dict[str, str], marked: dict, options: PrepareOptions) -> PreparedData:
    """Held-out clips apart from the others.

    Args:
        recordings: by clip id, the recording that it is of.
        marked: by recording, the side that its source puts it on.
    """
    own: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        own[recordings[clip.id]].append(clip)
    groups = [
        Recording(key, some[0].speaker, [c.id for c in some], sum(c.seconds for c in some), marked.get(key))
        for key, some in own.items()
    ]
    held, _ = hold_out(groups, options.heldout, options.heldout_speakers, options.seed)
    sides: dict[str, list[Clip]] = {TRAIN: [], HELDOUT: []}
    by_speaker: dict[tuple[str, str], list[Clip]] = defaultdict(list)
    for clip in clips:
        side = HELDOUT if clip.id in held else TRAIN
        sides[side].append(replace(clip, split=side))
        by_speaker[clip.speaker, side].append(sides[side][-1])
    return PreparedData(Path(), sides[TRAIN], sides[HELDOUT], _by_speaker=dict(by_speaker))
