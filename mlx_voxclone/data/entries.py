"""One recording as a source lists it, and what reading every form of source has in common."""

import difflib
import hashlib
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mlx_voxclone.data.listings.names import SUFFIXES
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.foreign import stand_in_bytes
from mlx_voxclone.files.names import cut
from mlx_voxclone.files.plain import open_plain, read_plain

MANIFEST, METADATA = "manifest.jsonl", "metadata.csv"
INDEX = "index.jsonl"  # beside shards
SUMMARY, CLIPS = "summary.json", "clips"  # beside a manifest: what `prepare` writes
TRAIN, HELDOUT = "train", "heldout"
_MARK = "\ufeff"  # byte order
AUDIO_SUFFIXES = frozenset(SUFFIXES)
_OF_THE_SYSTEM = ("lost+found", "System Volume Information")  # at the root of a disk; nobody may read them
LARGEST_TEXT = 1 << 20  # bytes; no recording that is trained on says more
LONGEST_NAME = 80  # bytes; numbers, suffixes and temporaries take up to 60 more, encrypted file systems 143 in all


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording that the user lists. Paths are kept as text: a corpus has millions."""

    file: str  # absolute, or relative to `folder`
    speaker: str
    text: str | None = None
    language: str | None = None
    ref_file: str | None = None  # like `file`
    folder: Path = Path()
    listing: str = ""  # the file or folder that lists it
    line: int = 0  # in that file, from 1; 0 where it has no lines
    split: str | None = None  # train or heldout, where the source itself says so
    others: tuple[str, ...] = ()  # like `file`: the same recording in other formats, the best first

    @property
    def audio(self) -> Path:
        return self.folder / self.file

    @property
    def ref_audio(self) -> Path | None:
        return None if self.ref_file is None else self.folder / self.ref_file

    @property
    def where(self) -> str:
        """`file:line`, or the folder."""
        return f"{self.listing}:{self.line}" if self.line else self.listing


@dataclass(frozen=True)
class Listing:
    """What a source lists, and what its user should know about it."""

    entries: list[Entry]
    notes: list[str] = field(default_factory=list)


class Repetitions:
    """Refuses what one file lists twice: the same recording could be in training and held out at once."""

    def __init__(self) -> None:
        self._lines: dict[bytes, int] = {}  # by a hash of the real path, which is shorter
        self._folders: dict[str, str] = {}

    def refuse(self, entry: Entry) -> None:
        """
        Raises:
            DataError: the recording was here before, by whichever link.
        """
        key = hashlib.blake2b(os.fsencode(self._same(entry)), digest_size=16).digest()
        if (before := self._lines.setdefault(key, entry.line)) != entry.line:
            raise DataError(f"{entry.where}: {entry.audio.name} is listed already at {entry.listing}:{before}")

    def _same(self, entry: Entry) -> str:
        """`same_file`, with each folder looked up once."""
        head, tail = os.path.split(os.path.join(entry.folder, entry.file))
        if tail in ("", ".", ".."):
            return same_file(os.path.join(head, tail))
        if head not in self._folders:
            self._folders[head] = os.path.realpath(head)
        path = os.path.join(self._folders[head], tail)
        return same_file(path) if os.path.islink(path) else os.path.normcase(path)


def same_file(path: str | Path) -> str:
    """One spelling per file, whichever link leads to it."""
    return os.path.normcase(os.path.realpath(path))


def shared(text: str | None) -> str | None:
    """The one copy in memory of a text that many entries have."""
    return sys.intern(text) if text else text


def best_of_each(audio: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Of audio files in one folder: one per name without suffix, sorted; and which one each other gave way to, the
    best of these first."""
    best: dict[str, str] = {}
    left: dict[str, str] = {}
    for name in sorted(audio, key=lambda name: (SUFFIXES.index(os.path.splitext(name)[1].lower()), name)):
        if (before := best.setdefault(os.path.splitext(name)[0], name)) != name:
            left[name] = before
    return sorted(best.values()), left


def read_lines(path: Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, one at a time, without byte order marks; blank ones if asked for.

    Raises:
        DataError: not UTF-8 (with the line), not readable, no plain file, or another one's stand-in.
    """
    number = 0
    try:
        with open_plain(path) as stream:
            _refuse_stand_in(path, stream.peek(1024))
            for raw in stream:  # at line feeds alone: a text may hold a form feed or a line separator
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError:
                    raise DataError(f"{path}:{number + 1}: {_encoding(raw)}") from None
                for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
                    number += 1
                    line = line.removeprefix(_MARK)
                    if blank or line.strip():
                        yield number, line
    except OSError as e:
        raise _unreadable(path, e) from None


def read_text(path: Path) -> str:
    """A whole transcript.

    Raises:
        DataError: not UTF-8 (with the line), not readable, no plain file, too large, or another one's stand-in.
    """
    try:
        content = read_plain(path, LARGEST_TEXT)
        _refuse_stand_in(path, content)
        return content.decode("utf-8").removeprefix(_MARK)
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: {_encoding(e.object)}") from None
    except ValueError as e:
        raise DataError(f"{path}: too large for the text of a recording ({e})") from None
    except OSError as e:
        raise _unreadable(path, e) from None


def _refuse_stand_in(path: Path, head: bytes) -> None:
    if what := stand_in_bytes(head):
        raise DataError(f"{path}: {what}")


def _encoding(content: bytes) -> str:
    which = " (but UTF-16)" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
    return f"not UTF-8 text{which}; save it as UTF-8"


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})")


def lies_inside(name: str) -> bool:
    """Whether a path that a file lists stays below the directory that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def unknown_name(kind: str, wanted: str, names: Collection[str], where: str = "") -> DataError:
    """The error for a speaker or language that the data does not have; it tells those that are there."""
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    there = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
    return DataError(f"no {kind} {wanted!r}{where}; {hint}found: {there or 'none'}")


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
    files = all(os.path.isfile(directory / name) for name in (MANIFEST, SUMMARY))  # False where it may not be entered
    return files and os.path.isdir(directory / CLIPS)


def walk(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which follows links and leaves nothing out without a word.

    Raises:
        DataError: a folder may not be read.
    """

    def refuse(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{error.filename}: a folder that cannot be read ({reason}); allow it, or move it elsewhere")

    return os.walk(folder, followlinks=True, onerror=refuse)


def visible(folders: Iterable[str]) -> list[str]:
    """Of folders' names those that are neither hidden nor the system's own, sorted."""
    return sorted(name for name in folders if not name.startswith(".") and name not in _OF_THE_SYSTEM)


def walk_folders(folder: str | Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders with files in them at and below one, in a fixed order; hidden files and prepared data are left out.

    Each folder comes once, whichever links lead to it or back.

    Returns:
        Folder, the names of its audio (sorted), the names of its other files.
    Raises:
        DataError: a folder may not be read.
    """
    visited = set()
    for directory, subfolders, names in walk(folder):
        if (real := os.path.realpath(directory)) in visited or is_prepared(directory):  # a link back, our own output
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = visible(subfolders)
        names = [n for n in names if not n.startswith(".")]  # "._x.wav" is what macOS leaves on foreign disks, no audio
        audio = sorted(n for n in names if os.path.splitext(n)[1].lower() in AUDIO_SUFFIXES)
        if names:
            yield Path(directory), audio, sorted(set(names) - set(audio))


def unique_names(entries: Sequence[Entry], prefix: str = "", taken: Iterable[str] = ()) -> list[str]:
    """A file name per entry: the audio's, after the speaker's if there are several; unique also without case."""
    several = len({entry.speaker for entry in entries}) > 1
    used, names = {name.casefold() for name in taken}, []
    tried: dict[str, int] = {}  # the last number per name: those below it are used
    for entry in entries:
        stem = f"{entry.speaker}-{entry.audio.stem}" if several else entry.audio.stem
        base = re.sub(r"[^\w.-]+", "_", prefix + unicodedata.normalize("NFC", stem)).strip("._")
        base = cut(base, LONGEST_NAME) or "clip"
        number = tried.get(base.casefold(), 1)
        name = base if number == 1 else f"{base}_{number}"
        while name.casefold() in used:
            number += 1
            name = f"{base}_{number}"
        tried[base.casefold()] = number
        used.add(name.casefold())
        names.append(name)
    return names
