"""Corpora by their own layout: LibriSpeech, LibriTTS (also LibriTTS-R) and Common Voice.

Their own splits decide what is held out: dev and test, of those that are there. No speaker is on both sides.
"""

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlx_voxclone.data.entries import (
    AUDIO_SUFFIXES,
    CLIPS,
    HELDOUT,
    TRAIN,
    Entry,
    Listing,
    read_lines,
    read_text,
    shared,
    visible,
    walk,
    walk_folders,
)
from mlx_voxclone.data.listings.names import SUFFIXES
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import base_language, damage, words

_LIBRI_TEXTS = (".normalized.txt", ".original.txt")  # the first that is there counts
# Common Voice's tables that are read; a recording in several of them is what the first one says.
_TABLES = {"dev.tsv": HELDOUT, "test.tsv": HELDOUT, "train.tsv": TRAIN, "validated.tsv": TRAIN}
_COLUMNS = ("client_id", "path", "sentence")
_SHORTEST_NAME = 10  # characters of a client_id


def read_corpus(folder: str | Path) -> Listing | None:
    """Read a corpus that is laid out as it was published.

    Args:
        folder: LibriSpeech and LibriTTS: the root, a subset or a speaker's folder (any level down to the chapters);
            Common Voice: a language's folder, or the root if it holds one language.
    Returns:
        Entries in a fixed order, and notes for the user; None for a folder of another layout.
    Raises:
        DataError: a mistake in a transcript (with file and line), several languages, a folder that may not be read.
    """
    return _common_voice(Path(folder)) or _libri(Path(folder))


# LibriSpeech and LibriTTS: SUBSET/SPEAKER/CHAPTER/


def _libri(folder: Path) -> Listing | None:
    entries: list[Entry] = []
    outside: list[Path] = []
    corpus, shouted = None, 0
    for directory, audio, others in walk_folders(folder):
        place = Path(os.path.abspath(directory))
        speaker, chapter = place.parent.name, place.name
        own = re.compile(rf"{re.escape(speaker)}([-_]){re.escape(chapter)}\1\d+(_\d+)?")
        if not all(name.isascii() and name.isdigit() for name in (speaker, chapter)):
            outside += [directory / name for name in audio]
            continue
        files: dict[str, str] = {}
        for name in sorted(audio, key=lambda name: SUFFIXES.index(os.path.splitext(name)[1].lower())):
            stem = os.path.splitext(name)[0]
            if own.fullmatch(stem) and stem not in files:
                files[stem] = name
            else:
                outside.append(directory / name)
        table = f"{speaker}-{chapter}.trans.txt"
        if table in others:
            corpus, found = "LibriSpeech", _transcript(directory / table, own)
        else:
            found = {
                name.removesuffix(suffix): (directory / name, 0, _said(read_text(directory / name)))
                for suffix in reversed(_LIBRI_TEXTS)
                for name in others
                if name.endswith(suffix) and own.fullmatch(name.removesuffix(suffix))
            }
            corpus = "LibriTTS" if found else corpus
        split = HELDOUT if place.parent.parent.name.startswith(("dev-", "test-")) else TRAIN
        for stem in sorted({*files, *found}):
            listing, line, text = found.get(stem, (directory, 0, None))
            if table in others and text is not None and text == text.upper() != text.lower():
                text, shouted = _sentence_case(text), shouted + 1
            name = files.get(stem) or stem + (".flac" if table in others else ".wav")
            entries.append(
                Entry(name, shared(speaker), text, "en", None, directory, shared(str(listing)), line, shared(split))
            )
    if corpus is None or len(outside) >= len(entries):
        return None  # a folder of audio like any other
    notes = []
    if shouted:
        notes.append(f"{corpus}: texts in capitals are converted to lower case with an initial capital ({shouted})")
    if outside:
        notes.append(f"{corpus}: audio outside of its layout is left out ({len(outside)}), such as {outside[0]}")
    return _finished(corpus, entries, notes)


def _transcript(path: Path, own: re.Pattern) -> dict[str, tuple[Path, int, str | None]]:
    """File, line and text by id, of lines `ID TEXT`."""
    found: dict[str, tuple[Path, int, str | None]] = {}
    for number, line in read_lines(path):
        name, _, said = line.strip().replace("\t", " ").partition(" ")
        if not own.fullmatch(name):
            stem = path.name.removesuffix(".trans.txt")
            raise DataError(f"{path}:{number}: expected `{stem}-NUMBER TEXT`, found {line.strip()[:40]!r}")
        text = _said(said)
        if found.setdefault(name, (path, number, text))[2] != text:
            raise DataError(f"{path}:{number}: {name} is listed already at {path}:{found[name][1]} with another text")
    return found


def _sentence_case(text: str) -> str:
    """English in capitals as a sentence without them; names are not known."""
    text = re.sub(r"\bi\b", "I", text.lower())
    return text[:1].upper() + text[1:]


# Common Voice: LANGUAGE/clips/ and tables


def _common_voice(folder: Path) -> Listing | None:
    if _is_language(folder):
        return _language(folder)
    _, names, _ = next(walk(folder))
    inside = [folder / name for name in visible(names)]
    languages = [path for path in inside if _is_language(path)]
    if not languages:
        return None
    if len(languages) > 1:
        there = ", ".join(path.name for path in languages)
        raise DataError(f"{folder}: holds Common Voice in {len(languages)} languages; name one of them: {there}")
    for other in inside:
        if other not in languages and any(audio for _, audio, _ in walk_folders(other)):
            raise DataError(f"{folder}: holds Common Voice ({languages[0].name}) and other audio; name one of them")
    return _language(languages[0])


def _is_language(folder: Path) -> bool:
    return os.path.isdir(folder / CLIPS) and any(os.path.isfile(folder / table) for table in _TABLES)


def _language(folder: Path) -> Listing:
    found: dict[str, Entry] = {}  # by path; the speaker is the whole client_id for now
    repeated = 0
    for table, split in _TABLES.items():
        if not (folder / table).is_file():
            continue
        for entry in _rows(folder, table, split):
            before = found.setdefault(entry.file, entry)
            if before is not entry and before.listing == entry.listing:
                if (before.speaker, before.text) != (entry.speaker, entry.text):
                    raise DataError(f"{entry.where}: {entry.audio.name} is listed already at {before.where}, otherwise")
                repeated += 1
    if not found:
        raise DataError(f"{folder}: its tables list no audio")
    names = _short_names({entry.speaker for entry in found.values()})
    entries = [
        dataclasses.replace(entry, speaker=names[entry.speaker], file=_clip_file(folder, entry.file))
        for entry in found.values()
    ]
    notes = [f"Common Voice: rows that repeat another are taken once ({repeated})"] if repeated else []
    return _finished("Common Voice", entries, notes)


def _rows(folder: Path, table: str, split: str) -> Iterator[Entry]:
    path, header = folder / table, None
    listing = str(path)
    for number, line in read_lines(path):
        columns = line.split("\t")  # no quoting: a quotation mark is one
        if header is None:
            header = {name.strip(): k for k, name in enumerate(columns)}
            if missing := [name for name in _COLUMNS if name not in header]:
                raise DataError(f"{path}:{number}: has no column {', '.join(missing)}; Common Voice's tables have them")
            needed = max(header[name] for name in _COLUMNS)
            continue
        if not needed < len(columns) <= len(header):
            raise DataError(f"{path}:{number}: {len(columns)} columns where the header names {len(header)}")
        client, audio, text = (columns[header[name]].strip() for name in _COLUMNS)
        if not client:
            raise DataError(f"{path}:{number}: client_id is empty")
        if not audio.strip(".") or re.search(r"[/\\\0]", audio):
            raise DataError(f"{path}:{number}: path must be the name of a file in {CLIPS}/, found {audio[:40]!r}")
        k = header.get("locale", len(columns))
        locale = (columns[k].strip() if k < len(columns) else "") or folder.resolve().name
        language = shared(base_language(locale))
        yield Entry(audio, shared(client), _unquoted(text), language, None, folder, listing, number, split)


def _unquoted(text: str) -> str | None:
    """A sentence that some releases wrote as CSV does, in quotation marks with those inside doubled."""
    inner = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner.replace('""', ""):
        text = inner.replace('""', '"')
    return _said(text)


def _clip_file(folder: Path, name: str) -> str:
    """The file of a row, also of another format than the published MP3; the likeliest name if there is none."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in AUDIO_SUFFIXES:
        stem, name = name, f"{name}.mp3"
    if not os.path.isfile(folder / CLIPS / name):
        others = (stem + suffix for suffix in SUFFIXES)
        name = next((other for other in others if os.path.isfile(folder / CLIPS / other)), name)
    return f"{CLIPS}/{name}"


def _short_names(clients: Iterable[str]) -> dict[str, str]:
    """`cv-` and the first characters of each client_id: ten, more where several begin with the same."""
    names: dict[str, str] = {}
    pending, length = sorted(clients), _SHORTEST_NAME
    while pending:
        groups: dict[str, list[str]] = defaultdict(list)
        for client in pending:
            groups[client[:length]].append(client)
        pending = []
        for start, own in groups.items():
            if len(own) == 1:
                names[own[0]] = f"cv-{start}"
            else:
                pending += own
        length += _SHORTEST_NAME
    return names


# What they have in common


def _said(text: str) -> str | None:
    """A transcript; None where there is none, or a wrong decoding has damaged it."""
    return None if damage(text) else words(text)


def _finished(corpus: str, entries: list[Entry], notes: list[str]) -> Listing:
    """Both sides of the split, or none where the corpus has one only; what a user should know."""
    held = {entry.speaker for entry in entries if entry.split == HELDOUT}
    if all(entry.split == TRAIN for entry in entries):
        entries = [dataclasses.replace(entry, split=None) for entry in entries]
    elif all(entry.split == HELDOUT for entry in entries):
        entries = [dataclasses.replace(entry, split=None) for entry in entries]
        notes.append(f"{corpus}: recordings of dev or test alone; the option heldout says how many are held out")
    else:
        kept = [entry for entry in entries if entry.split == HELDOUT or entry.speaker not in held]
        if left := len(entries) - len(kept):
            notes.append(f"{corpus}: speakers of dev or test are left out of training ({left} recordings)")
        entries = kept
        notes.append(f"{corpus}: its own dev and test recordings are held out")
    if missing := sum(entry.text is None for entry in entries):
        notes.append(f"{corpus}: recordings without a transcript are kept without text ({missing})")
    return Listing(entries, notes)
