"""What a user brings: a folder of audio, JSON Lines, a table such as `metadata.csv`, a known corpus, or one recording.

Reading a manifest opens no audio; whether a file is there and can be used is for `prepare` to say, file by file. A
mistake in the manifest itself stops at once, with file and line.
"""

import dataclasses
import os
from pathlib import Path

from mlx_voxclone.data.entries import (
    AUDIO_SUFFIXES,
    INDEX,
    MANIFEST,
    METADATA,
    Entry,
    Listing,
    best_of_each,
    is_prepared,
    same_file,
    walk_folders,
)
from mlx_voxclone.data.listings.beside import TextsBeside
from mlx_voxclone.data.listings.corpora import read_corpus
from mlx_voxclone.data.listings.json_lines import read as read_json_lines
from mlx_voxclone.data.listings.names import Names, composed
from mlx_voxclone.data.listings.table_entries import read as read_table
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.foreign import absent, in_icloud

_TABLES = (".csv", ".psv", ".tsv", ".list", ".lst")
_LISTS = (*_TABLES, ".jsonl")


def read_source(source: str | Path) -> list[Entry]:
    """The entries of `read_listing`."""
    return read_listing(source).entries


def read_listing(source: str | Path) -> Listing:
    """Read whatever the user names.

    A folder is read by its `manifest.jsonl` or `metadata.csv` if it has one, as LibriSpeech, LibriTTS or Common Voice
    if it is laid out so, else by the audio in it. A file is a manifest by its suffix (`.jsonl`, `.csv`, `.tsv`,
    `.list`), else one recording.

    Returns:
        At least one entry, in a fixed order, and notes for the user.
    Raises:
        DataError: nothing there, nothing in it, a folder that may not be read, or a mistake in a manifest (with file
            and line).
    """
    source = Path(source)
    if source.is_dir():
        if os.path.isfile(source / INDEX):
            raise DataError(f"{source}: already holds shards; use it as it is, or name the recordings")
        if is_prepared(source):
            raise DataError(f"{source}: already holds prepared clips; use it as it is, or name the recordings")
        return _noted(_read_directory(source), _waiting(source))
    if not source.exists():
        raise DataError(
            f"{source}: no such file or directory; a folder of audio, a manifest or a recording is expected"
        )
    suffix = source.suffix.lower()
    if suffix in (".jsonl", ".json"):
        return read_json_lines(source)
    if suffix in _TABLES:
        return read_table(source)
    if suffix in AUDIO_SUFFIXES:
        text = TextsBeside(source.parent).find(source)
        return Listing([Entry(str(source), composed(source.stem), text, listing=str(source))])
    raise DataError(f"{source}: not the name of an audio file or a manifest; expected .jsonl, .csv, .wav, .flac, ...")


def _read_directory(source: Path) -> Listing:
    for name, read in ((MANIFEST, read_json_lines), (METADATA, read_table)):
        if os.path.lexists(source / name):
            return read(source / name)
        if (found := Names().find(source, name, str(source))) is not None:
            return read(source / found)
        if why := absent(source / name):
            raise DataError(f"{source / name}: {why}")
    corpus = read_corpus(source)
    return corpus or _noted(folder_listing(source), _unread_lists(source))


def _noted(listing: Listing, notes: list[str]) -> Listing:
    return dataclasses.replace(listing, notes=[*listing.notes, *notes]) if notes else listing


def folder_listing(folder: str | Path) -> Listing:
    """All audio below a folder, sorted by path; hidden files and prepared data are left out.

    A file that links lead to as well is taken once, and so is one that lies there in several formats: the lossless one.

    The text is that of a `.txt` of the same name beside the audio. The speaker is the subfolder (the first one under
    `folder`) with composed accents, for audio that lies in none the folder's own name.

    Raises:
        DataError: no audio in it; a `.txt` that is not UTF-8, no plain file, or a link that leads elsewhere.
    """
    folder = Path(folder)
    entries, left = [], {}
    texts = TextsBeside(folder)
    for directory, audio, _ in walk_folders(folder):
        names, others = best_of_each(audio)
        left |= {directory / name: best for name, best in others.items()}
        copies: dict[str, list[str]] = {}
        for name, best in others.items():
            copies.setdefault(best, []).append(str(directory / name))
        for path in (directory / name for name in names):
            inside = path.relative_to(folder).parts
            speaker = composed(inside[0] if len(inside) > 1 else folder.resolve().name)
            same = tuple(copies.get(path.name, ()))
            entries.append(Entry(str(path), speaker, texts.find(path), listing=str(folder), others=same))
    if not entries:
        waiting = _waiting(folder)
        reason = f"; {waiting[0]}" if waiting else "; WAV, FLAC, MP3, OGG or AIFF files are expected"
        raise DataError(f"{folder}: no audio in this folder{reason}")
    files: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.audio.is_symlink(), entry.audio.as_posix())):
        files.setdefault(same_file(entry.audio), entry)  # the file itself comes before the links to it
    notes = []
    if left:
        (name, best), count = next(iter(left.items())), len(left)
        what = "1 file seems to be a copy" if count == 1 else f"{count} files seem to be copies"
        notes.append(f"{what} in another format, by name, and left out: such as {name.name}, as {best} is there")
    return Listing(sorted(files.values(), key=lambda entry: entry.audio.as_posix()), notes)


def _waiting(folder: Path) -> list[str]:
    """A note where files of a folder are still in iCloud."""
    found = sorted(name for _, _, names in os.walk(folder) for name in in_icloud(names))
    if not found:
        return []
    count = "1 file is" if len(found) == 1 else f"{len(found)} files are"
    return [f"{count} still in iCloud, such as {found[0]}: download {'it' if len(found) == 1 else 'them'} first"]


def _unread_lists(folder: Path) -> list[str]:
    """A note where a folder that is read by its audio alone holds a list of recordings as well."""
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(_LISTS) and not name.startswith("."))
    return [f"{names[0]} is not read: name it in place of the folder if it lists the recordings"] if names else []
