"""What a user brings: a folder of audio, JSON Lines, an LJSpeech `metadata.csv`, a known corpus, or one recording.

Reading a manifest opens no audio; whether a file is there and can be used is for `prepare` to say, file by file. A
mistake in the manifest itself stops at once, with file and line.
"""

import difflib
import json
import os
from pathlib import Path

from mlx_voxclone.data.corpora import read_corpus
from mlx_voxclone.data.entries import (
    AUDIO_SUFFIXES,
    BY_QUALITY,
    CLIPS,
    HELDOUT,
    INDEX,
    MANIFEST,
    METADATA,
    SUMMARY,
    TRAIN,
    Entry,
    Listing,
    Repetitions,
    best_of_each,
    is_prepared,
    is_utf8,
    read_lines,
    read_text,
    same_file,
    shared,
    tidy,
    walk_folders,
    words,
)
from mlx_voxclone.errors import DataError

__all__ = ["CLIPS", "MANIFEST", "SUMMARY", "Entry", "Listing", "is_prepared", "is_utf8", "read_listing", "read_source"]
_KEYS = ("audio", "text", "speaker", "language", "ref_audio", "split")


def read_source(source: str | Path) -> list[Entry]:
    """The entries of `read_listing`."""
    return read_listing(source).entries


def read_listing(source: str | Path) -> Listing:
    """Read whatever the user names.

    A folder is read by its `manifest.jsonl` or `metadata.csv` if it has one, as LibriSpeech, LibriTTS or Common Voice
    if it is laid out so, else by the audio in it. A file is a manifest by its suffix (`.jsonl`, `.csv`), else one
    recording.

    Returns:
        At least one entry, in a fixed order, and notes for the user.
    Raises:
        DataError: nothing there, nothing in it, or a mistake in a manifest (with file and line).
    """
    source = Path(source)
    if source.is_dir():
        if (source / INDEX).is_file():
            raise DataError(f"{source}: holds shards, made already; use it as it is, or name the recordings")
        if (source / MANIFEST).is_file():
            if is_prepared(source):
                raise DataError(f"{source}: holds prepared clips already; use it as it is, or name the recordings")
            return Listing(read_jsonl(source / MANIFEST))
        if (source / METADATA).is_file():
            return Listing(read_metadata_csv(source / METADATA))
        return read_corpus(source) or folder_listing(source)
    if not source.exists():
        raise DataError(
            f"{source}: no such file or directory; a folder of audio, a manifest or a recording is expected"
        )
    suffix = source.suffix.lower()
    if suffix in (".jsonl", ".json"):
        return Listing(read_jsonl(source))
    if suffix in (".csv", ".psv"):
        return Listing(read_metadata_csv(source))
    if suffix in AUDIO_SUFFIXES:
        return Listing([Entry(str(source), source.stem, _text_beside(source), listing=str(source))])
    raise DataError(f"{source}: neither audio nor a manifest by its name; .jsonl, .csv, .wav, .flac, ... are expected")


def read_folder(folder: str | Path) -> list[Entry]:
    """The entries of `folder_listing`."""
    return folder_listing(folder).entries


def folder_listing(folder: str | Path) -> Listing:
    """All audio below a folder, sorted by path; hidden files and prepared data are left out.

    A file that links lead to as well is taken once, and so is one that lies there in several formats: the lossless one.

    The text is that of a `.txt` of the same name beside the audio. The speaker is the subfolder (the first one under
    `folder`), for audio that lies in none the folder's own name.

    Raises:
        DataError: no audio in it; a `.txt` that is not UTF-8.
    """
    folder = Path(folder)
    entries, left = [], {}
    for directory, audio, _ in walk_folders(folder):
        names, others = best_of_each(audio)
        left |= {directory / name: best for name, best in others.items()}
        for path in (directory / name for name in names):
            inside = path.relative_to(folder).parts
            speaker = inside[0] if len(inside) > 1 else folder.resolve().name
            entries.append(Entry(str(path), speaker, _text_beside(path), listing=str(folder)))
    if not entries:
        raise DataError(f"{folder}: no audio in this folder; WAV, FLAC, MP3, OGG or AIFF files are expected")
    files: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.audio.is_symlink(), entry.audio.as_posix())):
        files.setdefault(same_file(entry.audio), entry)  # the file itself comes before the links to it
    notes = []
    if left:
        (name, best), count = next(iter(left.items())), len(left)
        what = "1 file seems to be a copy" if count == 1 else f"{count} files seem to be copies"
        notes.append(f"{what} in another format, by name, and left out: such as {name.name}, as {best} is there")
    return Listing(sorted(files.values(), key=lambda entry: entry.audio.as_posix()), notes)


def read_jsonl(path: str | Path) -> list[Entry]:
    """JSON Lines `{"audio": path, "text"?, "speaker"?, "language"?, "ref_audio"?: path, "split"?}`.

    Paths are relative to the file. A missing speaker is named after the manifest's folder. `split` is "heldout" (to
    measure by) or "train".

    Raises:
        DataError: no JSON object in a line, a missing, unknown or wrongly typed key, a recording listed twice, no line.
    """
    path = Path(path)
    folder, listing, speaker = path.parent, str(path), path.resolve().parent.name
    entries: list[Entry] = []
    repetitions = Repetitions()
    for number, line in read_lines(path):
        content = _checked(line, f"{listing}:{number}")
        reference = content.get("ref_audio")
        entry = Entry(
            file=os.path.expanduser(content["audio"]),
            speaker=shared(tidy(content.get("speaker") or "")) or speaker,
            text=words(content.get("text") or ""),
            language=shared(tidy(content.get("language") or "")),
            ref_file=shared(os.path.expanduser(reference)) if reference else None,
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
    repetitions = Repetitions()
    for number, line in read_lines(path):
        columns = line.split("|")
        if len(columns) not in (2, 3) or not columns[0].strip() or "\0" in columns[0]:
            found = f"found {len(columns)} columns"
            raise DataError(f"{path}:{number}: expected `id|text` or `id|text|normalised text`, {found}")
        text = next((t for t in map(words, reversed(columns[1:])) if t), None)
        audio = _find_audio(path.parent, columns[0].strip())
        entry = Entry(str(audio), speaker, text, listing=str(path), line=number)
        repetitions.refuse(entry)
        entries.append(entry)
    if not entries:
        raise DataError(f"{path}: the manifest lists no audio")
    return entries


def _checked(line: str, where: str) -> dict:
    """The object in a line, of known keys that hold texts or nothing, and audio."""
    try:
        content = json.loads(line)
    except ValueError as e:
        raise DataError(f"{where}: not JSON ({e}); one object per line is expected") from None
    if not isinstance(content, dict):
        raise DataError(f'{where}: expected an object like {{"audio": "a.wav", "text": "..."}}, found {line[:40]}')
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
        if value and "\0" in value:
            raise DataError(f"{where}: {key} holds a null character: {json.dumps(value)[:40]}")
    if not content.get("audio"):
        raise DataError(f'{where}: "audio" is missing')
    if content.get("split") not in (None, TRAIN, HELDOUT):
        raise DataError(f'{where}: split must be "{TRAIN}" or "{HELDOUT}", found {json.dumps(content["split"])[:40]}')
    return content


def _find_audio(base: Path, name: str) -> Path:
    """The file an id stands for; the likeliest name if there is none, for `prepare` to report as missing."""
    suffixes = [""] if Path(name).suffix.lower() in AUDIO_SUFFIXES else list(BY_QUALITY)
    candidates = [folder / f"{name}{suffix}" for suffix in suffixes for folder in (base, base / "wavs")]
    return next((c for c in candidates if c.is_file()), base / (name if suffixes == [""] else f"{name}.wav"))


def _text_beside(audio: Path) -> str | None:
    path = audio.with_suffix(".txt")
    return words(read_text(path)) if path.is_file() else None
