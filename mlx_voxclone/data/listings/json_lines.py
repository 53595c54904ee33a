"""JSON Lines of recordings: this program's own keys, and those of NeMo and other makers of lists."""

import difflib
import json
from pathlib import Path
from typing import Any

from mlx_voxclone.data.entries import (
    HELDOUT,
    TRAIN,
    Entry,
    Listing,
    Repetitions,
    is_utf8,
    read_lines,
    same_file,
    shared,
)
from mlx_voxclone.data.listings.columns import AUDIO, ID, NORMALISED, SPEAKER, TEXT, UNUSED, joined, role_of
from mlx_voxclone.data.listings.names import Names, composed
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.files.texts import damage, tidy, words

_KEYS = ("audio", "text", "speaker", "language", "ref_audio", "split")


class _Repeated(ValueError):
    """A key that stands in an object twice."""


def read(path: Path) -> Listing:
    """JSON Lines `{"audio": path, "text"?, "speaker"?, "language"?, "ref_audio"?: path, "split"?}`.

    Paths are relative to the file. A missing speaker is named after the manifest's folder. `split` is "heldout" (to
    measure by) or "train". Other makers' names of these keys are understood (`columns.py`), such as NeMo's
    `{"audio_filepath", "text", "duration"}`.

    Raises:
        DataError: no JSON object in a line, a missing, repeated, unknown or wrongly typed key, a recording listed
            twice, no line.
    """
    folder, listing, speaker = path.parent, str(path), composed(path.resolve().parent.name)
    entries: list[Entry] = []
    repetitions, names, foreign = Repetitions(), Names(), _Foreign()
    for number, line in read_lines(path):
        where = f"{listing}:{number}"
        content = _checked(line, where, foreign)
        reference = content.get("ref_audio")
        entry = Entry(
            file=names.path(folder, content["audio"], where),
            speaker=shared(tidy(content.get("speaker") or "")) or speaker,
            text=words(content.get("text") or ""),
            language=shared(tidy(content.get("language") or "")),
            ref_file=shared(names.path(folder, reference, where)) if reference else None,
            folder=folder,
            listing=listing,
            line=number,
            split=shared(content.get("split")),
        )
        if entry.ref_audio is not None and same_file(entry.ref_audio) == same_file(entry.audio):
            raise DataError(
                f"{entry.where}: ref_audio is the recording itself; a model would learn to copy, name another one"
            )
        repetitions.refuse(entry)
        entries.append(entry)
    if not entries:
        raise DataError(f"{path}: the manifest lists no audio")
    return Listing(entries, [*foreign.notes(path), *names.notes(path)])


class _Foreign:
    """Keys that other makers of lists use: which were read as what, and which were not used."""

    def __init__(self) -> None:
        self._read: dict[str, str] = {}
        self._unused: dict[str, None] = {}

    def own(self, content: dict[str, Any], where: str) -> dict[str, Any]:
        """The content by this program's keys.

        Raises:
            DataError: an unknown key, two for one thing, a part of a recording.
        """
        if content.keys() <= set(_KEYS):
            return content
        found: dict[str, tuple[str, Any]] = {}
        for key, value in content.items():
            role = key if key in _KEYS else role_of(key) if isinstance(key, str) else None
            if role is None:
                near = difflib.get_close_matches(str(key), _KEYS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
                raise DataError(f"{where}: unknown key {key!r}; {hint}")
            if key == "offset" and value not in (0, None):
                raise DataError(f"{where}: offset {value}: a part of a recording; cut it into a file of its own")
            if role in (UNUSED, ID):
                self._unused[key] = None
            elif role in found:
                raise DataError(f"{where}: both {found[role][0]!r} and {key!r} could be the {role}; remove one of them")
            else:
                found[role] = (key, value)
        if found.get(NORMALISED, ("", None))[1]:
            found[TEXT] = found[NORMALISED]
        found.pop(NORMALISED, None)
        self._read.update({key: role for role, (key, _) in found.items() if key != role})
        return {role: value for role, (_, value) in found.items()}

    def notes(self, path: Path) -> list[str]:
        """What was read as what."""
        if not self._read and not self._unused:
            return []
        style = " (as NeMo has it)" if "audio_filepath" in self._read else ""
        used = [f"{key} as {role}" for key, role in self._read.items()]
        unused = f"not used: {joined(self._unused)}" if self._unused else ""
        read_as = f"read {joined(used)}{style}" if used else ""
        return [f"{path.name}: " + "; ".join(filter(None, [read_as, unused]))]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Repeated(next(key for key in keys if keys.count(key) > 1))
    return content


def _checked(line: str, where: str, foreign: _Foreign) -> dict:
    """The object in a line, of known keys that hold texts or nothing, and audio."""
    try:
        content = parse_json(line, _once)
    except _Repeated as e:
        raise DataError(f"{where}: {str(e)!r} appears twice; remove one of them") from None
    except ValueError as e:
        raise DataError(f"{where}: not JSON ({e}); one object per line is expected") from None
    if not isinstance(content, dict):
        raise DataError(f'{where}: expected an object like {{"audio": "a.wav", "text": "..."}}, found {line[:40]}')
    content = foreign.own(content, where)
    if type(content.get(SPEAKER)) is int:
        content = content | {SPEAKER: str(content[SPEAKER])}
    for key, value in content.items():
        if not (isinstance(value, str) or (value is None and key != AUDIO)):
            raise DataError(f"{where}: {key} must be a text, found {json.dumps(value)[:40]}")
        if value is not None and not is_utf8(value):
            raise DataError(f"{where}: {key} holds half a surrogate pair, no character: {json.dumps(value)[:40]}")
        if value and "\0" in value:
            raise DataError(f"{where}: {key} holds a null character: {json.dumps(value)[:40]}")
        if value and key != AUDIO and (reason := damage(value)):
            raise DataError(f"{where}: {key} holds {reason}: {value[:40]!r}")
    if not content.get(AUDIO):
        raise DataError(f'{where}: "audio" is missing')
    if content.get("split") not in (None, TRAIN, HELDOUT):
        raise DataError(f'{where}: split must be "{TRAIN}" or "{HELDOUT}", found {json.dumps(content["split"])[:40]}')
    return content
