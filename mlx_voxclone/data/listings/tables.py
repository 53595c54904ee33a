"""Tables of recordings: the cells of each line, whichever mark divides them, quoted by a CSV writer or not.

Lists for speech (LJSpeech, Piper, XTTS, GPT-SoVITS) are divided by `|` and quote nothing; spreadsheets and pandas
quote what holds the mark or a quotation mark. Read are both: a cell is unquoted if all of it is in quotation marks and
those inside are doubled.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mlx_voxclone.data.entries import read_lines
from mlx_voxclone.data.listings.columns import is_header
from mlx_voxclone.errors import DataError

MARKS = {"|": "|", "\t": "tab", ",": "comma", ";": "semicolon"}
Row = tuple[int, list[str]]  # line number, cells


@dataclass(frozen=True)
class Table:
    """A file of rows.

    Args:
        mark: what divides the cells.
        header: names of the columns, where the first line has them.
    """

    path: Path
    mark: str
    header: list[str] | None = None

    @classmethod
    def open(cls, path: Path) -> "Table":
        """Find out what divides the cells, and whether the first line names the columns.

        Raises:
            DataError: empty, or nothing in the first line divides it.
        """
        first = next(iter(read_lines(path)), None)
        if first is None:
            raise DataError(f"{path}: the manifest lists no audio")
        number, line = first
        for mark in MARKS:
            cells = _divided(line, mark)
            if is_header(cells):
                return cls(path, mark, [cell.strip() for cell in cells])
        mark = next((mark for mark in MARKS if mark in line), None)
        if mark is None:
            raise DataError(
                f"{path}:{number}: expected `id|text` or a line that names the columns, found {line[:40]!r}"
            )
        return cls(path, mark)

    def rows(self, most: int | None = None) -> Iterator[Row]:
        """Number and cells of each line below the header.

        Raises:
            DataError: not UTF-8, or quoted in a way that no writer of CSV does.
        """
        rows = self._csv() if self.mark in ",;" else ((n, _divided(line, self.mark)) for n, line in self._lines())
        return islice(rows, 0 if self.header is None else 1, None if most is None else most + 1)

    def _lines(self) -> Iterator[tuple[int, str]]:
        return read_lines(self.path)

    def _csv(self) -> Iterator[Row]:
        """As a spreadsheet writes it: a quoted cell may hold the mark and line feeds."""
        number = 1

        def lines() -> Iterator[str]:
            nonlocal number
            for number, line in self._lines():  # noqa: B007 (the row is told its last line)
                yield line + "\n"

        reader = csv.reader(lines(), delimiter=self.mark, strict=True, skipinitialspace=True)
        try:
            for cells in reader:
                yield number, cells
        except csv.Error as e:
            raise DataError(
                f"{self.path}:{number}: not CSV as spreadsheets write it ({e}); a text that holds a {MARKS[self.mark]}"
                " or a quotation mark must be in quotation marks, with those inside doubled"
            ) from None


def _divided(line: str, mark: str) -> list[str]:
    """The cells of a line; quotation marks that no CSV writer has set are letters like any other."""
    if '"' not in line:
        return line.split(mark)
    cells, start = [], 0
    while start <= len(line):
        end = _quoted_end(line, start, mark)
        if end is not None:
            cells.append(line[start:end].strip()[1:-1].replace('""', '"'))
        else:
            end = line.find(mark, start)
            end = len(line) if end < 0 else end
            cells.append(line[start:end])
        start = end + 1
    return cells


def _quoted_end(line: str, start: int, mark: str) -> int | None:
    """Where a cell ends that is quoted as a whole; None: it is not."""
    if line[start : start + 1] != '"':
        return None
    place = start + 1
    while (place := line.find('"', place)) >= 0:
        if line[place + 1 : place + 2] == '"':
            place += 2
            continue
        return place + 1 if line[place + 1 : place + 2] in (mark, "") else None
    return None
