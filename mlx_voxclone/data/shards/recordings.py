"""What a tar shard that somebody else has made tells: audio files, beside them `.json` or `.txt` of the same name."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlx_voxclone.data.clips import REFERENCE
from mlx_voxclone.data.entries import AUDIO_SUFFIXES, HELDOUT, TRAIN
from mlx_voxclone.data.entries import is_utf8 as is_text
from mlx_voxclone.data.listings.names import SUFFIXES, composed
from mlx_voxclone.data.shards.tar import Member, members
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.foreign import stand_in_bytes
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.files.texts import damage, tidy, words

_TEXTS = ("text", "sentence", "transcript", "transcription", "normalized_text")
_SPEAKERS = ("speaker", "speaker_id", "spk", "spk_id", "client_id")
_LANGUAGES = ("language", "lang", "locale")
_LARGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class Recording:
    """One audio file of a shard, with what was found beside it."""

    key: str
    member: Member
    text: str | None
    speaker: str
    language: str | None
    split: str | None


def recordings(path: Path, file: Any, skipped: Counter, speaker: str) -> Iterator[Recording]:
    """The audio files of a shard with what is told about them."""
    audio: dict[str, Member] = {}
    beside: dict[tuple[str, str], Member] = {}
    for member in members(path, skipped):
        name = PurePosixPath(member.name)
        suffix, key = name.suffix.lower(), str(name.with_suffix("")) if name.name else ""
        if suffix in AUDIO_SUFFIXES and not name.name.startswith("."):
            if key in audio:
                before = PurePosixPath(audio[key].name).suffix.lower()
                if before == suffix:
                    raise DataError(f"{path}: holds {key[:80]!r} twice; a shard has each recording once")
                skipped["second format"] += 1
                if SUFFIXES.index(before) < SUFFIXES.index(suffix):
                    continue
            audio[key] = member
        elif suffix in (".json", ".txt"):
            beside[key, suffix] = member
    for key, member in audio.items():
        told = _json(file, beside.get((key, ".json")))
        text = _first(told, _TEXTS) or _text(file, beside.get((key, ".txt"))) or ""
        if damage(text) or stand_in_bytes(text.encode()):
            skipped["damaged text"] += 1
            text = ""
        folder = PurePosixPath(key).parts[:-1]
        folder = [part for part in folder if part not in ("/", ".", "..")]
        own = composed(folder[-1]) if folder and is_text(folder[-1]) else speaker
        split = told.get("split") if told.get("split") in (TRAIN, HELDOUT) else None
        if told.get("split") == REFERENCE:
            skipped["voice prompt"] += 1
            continue
        yield Recording(key, member, words(text), _first(told, _SPEAKERS) or own, _first(told, _LANGUAGES), split)


def _json(file: Any, member: Member | None) -> dict[str, Any]:
    try:
        found = parse_json(_text(file, member) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(file: Any, member: Member | None) -> str | None:
    if member is None or member.size > _LARGEST_TEXT:
        return None
    content = os.pread(file.fileno(), member.size, member.offset)
    return tidy(content.decode("utf-8-sig", errors="replace"))


def _first(told: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first that is told, as text of characters."""
    for key in keys:
        value = told.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and "\0" not in value and is_text(value) and tidy(value):
            return tidy(value)
    return None


def unique_name(key: str, names: dict[str, int]) -> str:
    """A file name made of a key, unlike all before; `names`: those, with the last number that was put behind each."""
    base = re.sub(r"[^\w.-]+", "_", key.encode("utf-8", "replace").decode())
    base = base.encode()[-80:].decode("utf-8", "ignore").strip("._") or "clip"
    name, number = base, names.get(base.casefold(), 1)
    while name.casefold() in names:
        number += 1
        name = f"{base}_{number}"
    names[base.casefold()] = number
    names.setdefault(name.casefold(), 1)
    return name


def speaker_of(place: str) -> str:
    """Who speaks where nobody says so: named after the folder of the shards."""
    folder = PurePosixPath(place.partition("://")[2] or place).parent.name
    return composed(folder) if is_text(folder) and folder else "speaker"
