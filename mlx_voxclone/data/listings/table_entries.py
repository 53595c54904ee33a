"""Recordings that a table lists: `metadata.csv` and its relatives (`layouts.py`, `tables.py`)."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlx_voxclone.data.entries import HELDOUT, TRAIN, Entry, Listing, Repetitions, same_file, shared
from mlx_voxclone.data.listings.columns import (
    AUDIO,
    KNOWN,
    LANGUAGE,
    REFERENCE,
    SPEAKER,
    SPLIT,
    TEXT,
    assign,
    described,
    language_of,
    role_of,
)
from mlx_voxclone.data.listings.layouts import RAW, Layout, layout_of, odd_row
from mlx_voxclone.data.listings.names import SUFFIXES, Names, composed, has_audio_suffix
from mlx_voxclone.data.listings.tables import Table
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import damage, tidy, words

_SPLITS = {"train": TRAIN, "heldout": HELDOUT}
_WORDY = 2.5  # words of a text, on average


def read(path: Path) -> Listing:
    """A table of recordings, as the columns' names or what they hold tell (`layouts.layout_of`).

    The audio is named by a path from the file, or by an id that is `ID.wav`, `ID.flac`, ... beside the file or in
    `wavs/`. A missing speaker is named after the folder.

    Returns:
        Entries in the order of the rows, and how the table was read.
    Raises:
        DataError: columns that can be read in more than one way (both are shown), a row of another form, a recording
            listed twice, no row.
    """
    table = Table.open(path)
    if table.header is not None:
        columns = assign(table.header, f"{path}:1")
        layout = Layout(columns, len(table.header), described(table.header, columns))
    else:
        if next(table.rows(1), None) is None:
            raise DataError(f"{path}: the manifest lists no audio")
        layout = layout_of(table)
    reader = _Reader(path, layout, table)
    entries = list(reader.entries())
    if not entries:
        raise DataError(f"{path}: the manifest lists no audio")
    reader.refuse_unknown_header()
    notes = [f"{path.name}: {'columns' if table.header else 'read as'} {layout.name}", *reader.names.notes(path)]
    return Listing(entries, notes)


@dataclass
class _Reader:
    path: Path
    layout: Layout
    table: Table
    names: Names = field(default_factory=Names)
    found: int = 0  # recordings that are there
    words: int = 0
    first: tuple[int, list[str]] | None = None  # the first row, if its recording is not there

    def entries(self) -> Iterator[Entry]:
        repetitions = Repetitions()
        folder_speaker, listing = composed(self.path.resolve().parent.name), str(self.path)
        for number, cells in self.table.rows():
            self._check_count(number, cells)
            cell = {
                role: cells[column].strip() if column < len(cells) else ""
                for role, column in self.layout.columns.items()
            }
            where = f"{listing}:{number}"
            for role, value in cell.items():
                if not value and role == AUDIO:
                    raise DataError(f"{where}: names no recording")
                if "\0" in value or (reason := damage(value)):
                    what = "a null character" if "\0" in value else reason
                    raise DataError(f"{where}: {role} holds {what}; fix it or remove the line")
            text = words(cell.get(TEXT, "")) or words(cell.get(RAW, ""))
            file, there = self._audio(cell[AUDIO], where)
            reference = cell.get(REFERENCE)
            entry = Entry(
                str(self.path.parent / file),
                shared(tidy(cell.get(SPEAKER, ""))) or folder_speaker,
                text,
                _language(cell.get(LANGUAGE, "")),
                ref_file=None if not reference else str(self.path.parent / self._audio(reference, where)[0]),
                listing=listing,
                line=number,
                split=self._split(cell.get(SPLIT, ""), where),
            )
            if entry.ref_audio is not None and same_file(entry.ref_audio) == same_file(entry.audio):
                raise DataError(f"{where}: the reference is the recording itself; name another one")
            repetitions.refuse(entry)
            if there:
                self.found += 1
                self.words += len((text or "").split())
            elif self.found == 0 and self.first is None and self.table.header is None:
                self.first = (number, cells)
            yield entry

    def _check_count(self, number: int, cells: list[str]) -> None:
        count = self.layout.count
        if len(cells) != count and not (self.layout.shorter and 2 <= len(cells) < count):
            raise odd_row(self.table, number, cells, count)

    def _audio(self, name: str, where: str) -> tuple[str, bool]:
        """The file of a name or id, from the list's folder, and whether it is there; else the likeliest name."""
        base = self.path.parent
        name = self.names.path(base, name, where)
        has_suffix = has_audio_suffix(name)
        candidates = [f"{name}{suffix}" for suffix in ([""] if has_suffix else SUFFIXES)]
        if not has_suffix and os.path.isfile(base / name):
            return name, True
        places = ("", "wavs/")
        for place in places:  # as written, before any other spelling
            for candidate in candidates:
                if os.path.isfile(base / f"{place}{candidate}"):
                    return f"{place}{candidate}", True
        for place in places:
            for candidate in candidates:
                if (found := self.names.find(base, f"{place}{candidate}", where)) is not None:
                    return found, True
        return (name if has_suffix else f"{name}.wav"), False

    def _split(self, value: str, where: str) -> str | None:
        if not value:
            return None
        if value not in _SPLITS:
            raise DataError(f'{where}: split must be "{TRAIN}" or "{HELDOUT}", found "{value[:40]}"')
        return _SPLITS[value]

    def refuse_unknown_header(self) -> None:
        """Refuse a first line that names columns, none of which is known: it would count as a missing recording.

        Raises:
            DataError: it is one.
        """
        if self.first is None:
            return
        number, cells = self.first
        named = role_of(cells[0]) is not None
        single = all(re.fullmatch(r"[^\W\d]+", cell.strip()) for cell in cells)
        if named or (single and self.found >= 3 and self.words >= _WORDY * self.found):
            raise DataError(
                f"{self.path}:{number}: {self.table.mark.join(cells)[:80]!r} is neither a recording that is there nor a"
                f" line of column names that are known, such as {KNOWN}; rename them or delete the line"
            )


def _language(code: str) -> str | None:
    return shared(language_of(code) or tidy(code)) if code else None
