"""What a user brings: a folder of audio, JSON Lines, an LJSpeech `metadata.csv`, or one recording.

Reading a manifest opens no audio; whether a file is there and can be used is for `prepare` to say, file by file. A
mistake in the manifest itself stops at once, with file and line.
"""

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from mlx_voxclone.errors import DataError

MANIFEST, METADATA = "manifest.jsonl", "metadata.csv"
SUMMARY, CLIPS = "summary.json", "clips"  # beside a manifest: what `prepare` writes
# The last ones cannot be decoded here, but somebody who brings them should hear so.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".rf64"}
    | {".m4a", ".aac", ".mp4", ".wma", ".webm"}
)
_KEYS = ("audio", "text", "speaker", "language", "ref_audio")


@dataclass(frozen=True)
class Entry:
    """One recording that the user lists."""

    audio: Path
    speaker: str
    text: str | None = None
    language: str | None = None
    ref_audio: Path | None = None
    where: str = ""  # `file:line`, or the folder


def read_source(source: str | Path) -> list[Entry]:
    """Read whatever the user names.

    A folder is read by its `manifest.jsonl` or `metadata.csv` if it has one, else by the audio in it. A file is a
    manifest by its suffix (`.jsonl`, `.csv`), else one recording.

    Returns:
        At least one entry, in a fixed order.
    Raises:
        DataError: nothing there, nothing in it, or a mistake in a manifest (with file and line).
    """
    source = Path(source)
    if source.is_dir():
        if (source / MANIFEST).is_file():
            if is_prepared(source):
                raise DataError(f"{source}: holds prepared clips already; use it as it is, or name the recordings")
            return read_jsonl(source / MANIFEST)
        if (source / METADATA).is_file():
            return read_metadata_csv(source / METADATA)
        return read_folder(source)
    if not source.exists():
        raise DataError(
            f"{source}: no such file or directory; a folder of audio, a manifest or a recording is expected"
        )
    suffix = source.suffix.lower()
    if suffix in (".jsonl", ".json"):
        return read_jsonl(source)
    if suffix in (".csv", ".psv"):
        return read_metadata_csv(source)
    if suffix in AUDIO_SUFFIXES:
        return [Entry(source, source.stem, _text_beside(source), where=str(source))]
    raise DataError(f"{source}: neither audio nor a manifest by its name; .jsonl, .csv, .wav, .flac, ... are expected")


def is_utf8(name: str) -> bool:
    """Whether UTF-8 can hold a name; a file system can hold others, which Python reads as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_prepared(directory: str | Path) -> bool:
    """Whether `prepare` wrote this directory."""
    directory = Path(directory)
    return (directory / MANIFEST).is_file() and (directory / SUMMARY).is_file() and (directory / CLIPS).is_dir()


def read_folder(folder: str | Path) -> list[Entry]:
    """All audio below a folder, sorted by path; hidden files and prepared data are left out.

    A file that links lead to as well is taken once.

    The text is that of a `.txt` of the same name beside the audio. The speaker is the subfolder (the first one under
    `folder`), for audio that lies in none the folder's own name.

    Raises:
        DataError: no audio in it; a `.txt` that is not UTF-8.
    """
    folder = Path(folder)
    entries, visited = [], set()
    for directory, subfolders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(directory)) in visited or is_prepared(directory):  # a link back, our own output
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for name in names:
            path = Path(directory, name)
            if name.startswith(".") or path.suffix.lower() not in AUDIO_SUFFIXES:
                continue  # "._x.wav" is what macOS leaves on foreign disks, no audio
            inside = path.relative_to(folder).parts
            speaker = inside[0] if len(inside) > 1 else folder.resolve().name
            entries.append(Entry(path, speaker, _text_beside(path), where=str(folder)))
    if not entries:
        raise DataError(f"{folder}: no audio in this folder; WAV, FLAC, MP3, OGG or AIFF files are expected")
    files: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.audio.is_symlink(), entry.audio.as_posix())):
        files.setdefault(_same(entry.audio), entry)  # the file itself comes before the links to it
    return sorted(files.values(), key=lambda entry: entry.audio.as_posix())


def read_jsonl(path: str | Path) -> list[Entry]:
    """JSON Lines `{"audio": path, "text"?, "speaker"?, "language"?, "ref_audio"?: path}`, paths relative to the file.

    A missing speaker is named after the manifest's folder.

    Raises:
        DataError: no JSON object in a line, a missing, unknown or wrongly typed key, a recording listed twice, no line.
    """
    path = Path(path)
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        entry = _entry(_object(line, where), path.parent, where)
        _refuse_repetition(entry, seen)
        entries.append(entry)
    if not entries:
        raise DataError(f"{path}: the manifest lists no audio")
    return entries


def read_metadata_csv(path: str | Path) -> list[Entry]:
    """LJSpeech's `id|text` or `id|raw text|normalised text` (then the latter counts); no quoting, no header.

    The audio is `ID.wav`, `ID.flac`, ... beside the file or in `wavs/`; the id may carry the suffix itself. The speaker
    is named after the folder.

    Raises:
        DataError: a line of another form, an id listed twice, no line.
    """
    path = Path(path)
    speaker = path.resolve().parent.name
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where, columns = f"{path}:{number}", line.split("|")
        if len(columns) not in (2, 3) or not columns[0].strip():
            raise DataError(f"{where}: expected `id|text` or `id|text|normalised text`, found {len(columns)} columns")
        text = next((t for t in map(_tidy, reversed(columns[1:])) if t), None)
        entry = Entry(_find_audio(path.parent, columns[0].strip()), speaker, text, where=where)
        _refuse_repetition(entry, seen)
        entries.append(entry)
    if not entries:
        raise DataError(f"{path}: the manifest lists no audio")
    return entries


def _lines(path: Path) -> list[str]:
    return _utf8(path).split("\n")  # not splitlines(): a text may hold a form feed or a line separator


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 text; save it as UTF-8") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({(e.strerror or str(e)).lower()})") from None


def _object(line: str, where: str) -> dict:
    try:
        content = json.loads(line)
    except ValueError as e:
        raise DataError(f"{where}: not JSON ({e}); one object per line is expected") from None
    if not isinstance(content, dict):
        raise DataError(f'{where}: expected an object like {{"audio": "a.wav", "text": "..."}}, found {line[:40]}')
    return content


def _entry(content: dict, base: Path, where: str) -> Entry:
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}"
            raise DataError(f"{where}: unknown key {key!r}; {hint}")
    for key, value in content.items():
        if not (isinstance(value, str) or (value is None and key != "audio")):
            raise DataError(f"{where}: {key} must be a text, found {json.dumps(value)[:40]}")
        if value is not None and not is_utf8(value):
            raise DataError(f"{where}: {key} holds half a surrogate pair, no character: {json.dumps(value)[:40]}")
    if not content.get("audio"):
        raise DataError(f'{where}: "audio" is missing')
    reference = content.get("ref_audio")
    entry = Entry(
        audio=base / Path(os.path.expanduser(content["audio"])),
        speaker=_tidy(content.get("speaker") or "") or base.resolve().name,
        text=_tidy(content.get("text") or ""),
        language=_tidy(content.get("language") or ""),
        ref_audio=base / Path(os.path.expanduser(reference)) if reference else None,
        where=where,
    )
    if entry.ref_audio is not None and _same(entry.ref_audio) == _same(entry.audio):
        raise DataError(f"{where}: ref_audio is the recording itself; a model would learn to copy, name another one")
    return entry


def _same(path: Path) -> str:
    """One spelling per file, whichever link leads to it."""
    return os.path.normcase(os.path.realpath(path))


def _refuse_repetition(entry: Entry, seen: dict[str, str]) -> None:
    """The same recording twice could be in training and held out at once."""
    key = _same(entry.audio)
    if key in seen:
        raise DataError(f"{entry.where}: {entry.audio.name} is listed already at {seen[key]}")
    seen[key] = entry.where


def _find_audio(base: Path, name: str) -> Path:
    """The file an id stands for; the likeliest name if there is none, for `prepare` to report as missing."""
    suffixes = [""] if Path(name).suffix.lower() in AUDIO_SUFFIXES else sorted(AUDIO_SUFFIXES)
    candidates = [folder / f"{name}{suffix}" for folder in (base, base / "wavs") for suffix in suffixes]
    return next((c for c in candidates if c.is_file()), base / (name if suffixes == [""] else f"{name}.wav"))


def _text_beside(audio: Path) -> str | None:
    path = audio.with_suffix(".txt")
    return _tidy(_utf8(path)) if path.is_file() else None


def _tidy(text: str) -> str | None:
    """One line with single spaces; None for nothing."""
    return " ".join(text.split()) or None
