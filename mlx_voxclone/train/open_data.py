"""What can be said of `data.path` before anything long: prepared data as a run uses it, and listed recordings.

No audio is read here. What was prepared is opened with the keys of `data` applied; of recordings only the listing is
looked at, which `prepare` will read again.
"""

import importlib.util
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.entries import Entry, is_prepared
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import selected_entries
from mlx_voxclone.data.recognise.mlx_audio import NAMED as RECOGNISER
from mlx_voxclone.data.select import APPLIED, FIXED, Preparation, select
from mlx_voxclone.data.shards.data import MIX, ShardData, is_sharded
from mlx_voxclone.data.shards.scan import is_tar_source
from mlx_voxclone.data.transcribe import NOT_INSTALLED, PACKAGE
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.stages.stage import prepare_options

_OF_SHARDS = ("cache", "cache_gb")
MOMENT = 60.0  # seconds of audio


def open_data(config: RunConfig, say: Callable[[str], None]) -> PreparedData | ShardData | None:
    """`data.path` if it is prepared, with the configuration's choice of clips; None: recordings to be prepared.

    Raises:
        DataError: damaged data, a choice that leaves nothing, mistakes in a listing, several speakers in task `clone`,
            no text where the task needs texts.
        ConfigError: a key of `data` that means nothing for what is there.
    """
    if config.task == "distill":
        return None
    place = config.data.path
    if is_sharded(place):
        data = _chosen(config, open_shards(config, place, say), say)
    elif is_prepared(place):
        _refuse_keys_of_shards(config)
        say(f"data: {place} is prepared already")
        data = _chosen(config, PreparedData.load(place), say)
    else:
        if not is_tar_source(place):
            _check_listing(config)
        return None
    check_speakers(config, data.speakers)
    return data


def open_shards(config: RunConfig, place: Path | str, say: Callable[[str], None]) -> ShardData:
    """All clips of an index, as `data` says how shards are read."""
    section = config.data
    data = ShardData(place, section.cache, section.cache_gb, MIX, say)
    say(f"data: {place}: {len(data.train) + len(data.heldout)} clips in {len(data.index.shards)} shards")
    return data


def check_speakers(config: RunConfig, speakers: Collection[str]) -> None:
    """Raise DataError if task `clone` would have to choose whose voice it makes."""
    if config.task == "clone" and len(speakers) > 1:
        names = sorted(speakers)
        there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise DataError(
            f"{config.data.path}: {len(names)} speakers ({there}), and task clone makes one voice:"
            " choose its speaker with"
            " data.speaker; if all are the same person, give them one name in a manifest"
        )


def no_texts(config: RunConfig) -> DataError:
    """The error where a task needs texts and no clip has one: what to do depends on what `data.path` is."""
    place = config.data.path
    if is_sharded(place) or is_prepared(place):
        what = Preparation.of(place, config.data.cache).how_to_add_texts()
    elif is_tar_source(place):
        what = "put a .txt or .json beside each audio file in the shards"
    else:
        what = "put them into the manifest, metadata.csv or a .txt beside each audio file"
        what += "" if config.data.transcribe else ", or set data.transcribe: true"
    return DataError(f"task {config.adapts} needs texts, and none of the clips has one: {what}")


def _chosen(config: RunConfig, data: PreparedData | ShardData, say: Callable[[str], None]) -> PreparedData | ShardData:
    """The clips that the keys of `data` ask for."""
    options, insisted = prepare_options(config), [k for k in (*APPLIED, *FIXED) if config.insists(f"data.{k}")]
    if not insisted and options == PrepareOptions(seed=config.seed) and isinstance(data, ShardData) and data.is_remote:
        return data  # nothing is asked for: no need to fetch how it was prepared
    before = Preparation.of(config.data.path, config.data.cache)
    data, lines = select(data, options, before, insisted)
    for line in lines:
        say(f"data: {line}")
    return data


def _refuse_keys_of_shards(config: RunConfig) -> None:
    default = type(config.data)()
    for key in _OF_SHARDS:
        if (value := getattr(config.data, key)) != getattr(default, key):
            where = config.where(f"data.{key}")
            raise ConfigError(
                f"{where}: data.{key}: {value} is for shards, and {config.data.path} holds clips; leave it out"
            )


def _check_listing(config: RunConfig) -> None:
    """Refuse recordings by what lists them. What depends on which of them can be used is said now only if it takes long
    to find that out."""
    options = prepare_options(config)
    entries = selected_entries(read_listing(config.data.path).entries, options)
    texts = sum(entry.text is not None for entry in entries)
    transcribes = options.transcribe and texts < len(entries)
    needed = []
    if options.check_texts or (transcribes and options.recogniser is None):
        needed.append((PACKAGE, NOT_INSTALLED))
    if transcribes and options.recogniser is not None:
        needed.append(RECOGNISER)
    for package, missing in needed:
        if importlib.util.find_spec(package) is None:
            raise DataError(missing.format(f"{package} is not there"))
    if _is_long(entries):
        check_speakers(config, {entry.speaker for entry in entries})
        if not texts and not options.transcribe and "speaker" in config.stages:
            raise no_texts(config)


def _is_long(entries: Sequence[Entry]) -> bool:
    """Whether preparing takes more than a moment, by the headers of the first recordings."""
    seconds = 0.0
    for entry in entries:
        with suppress(AudioError):
            seconds += audio_info(entry.audio, most=MOMENT - seconds).seconds
        if seconds > MOMENT:
            return True
    return False
