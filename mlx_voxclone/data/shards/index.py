"""`index.jsonl` of sharded data: what every clip is and where its audio lies, known without reading any audio.

A line names a shard, `{"shard": PLACE, "bytes": size of the file, "sha256": of the file}`, and the lines below it, up
to the next such line, are the clips in it:

    {"id", "offset", "size", "sha256", "samples", "first", "gain", "text", "speaker", "language", "split", "reference",
     "source", "start", "marked"}

`offset`, `size` (bytes) and `sha256` are those of an audio file inside the shard, of which `samples` samples at 24 kHz
are the clip, from sample `first` on and times `gain`. `marked`: the side where the source itself puts it, if it does.
Of a shard with `"whole": true` each clip is all of its file. PLACE is relative to the index, a path, or an address.

A corpus has millions of clips. Of each, 25 bytes stay in memory; the rest is read from the index where it is asked for.
"""

import json
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.data.clips import REFERENCE
from mlx_voxclone.data.entries import HELDOUT, TRAIN
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import open_plain, parse_json

SPLITS = (TRAIN, HELDOUT, REFERENCE)
LARGEST_MEMBER = 1 << 28  # bytes of one audio file; it is read as a whole
LONGEST_LINE = 1 << 20  # bytes: a text is a sentence or a few
_MOST_SAMPLES, _LAST_SAMPLE = 3600 * 24_000, 1 << 31  # of a clip, an hour; of the recording it is a part of
_ID = re.compile(r"[\w~][\w.~-]{0,199}")  # ids become file names
_HEX = re.compile(r"[0-9a-f]{16,64}")
ROW_KEYS = (
    *("id", "offset", "size", "sha256", "samples", "first", "gain", "text", "speaker", "language", "split"),
    *("reference", "source", "start", "marked"),
)
_values = itemgetter(*ROW_KEYS)
_REMAKE = "make the shards again with voxclone prepare"


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file.

    Attributes:
        place: as the index has it.
        sha256: of the whole file; None where the index states none.
        whole: whether each clip is all of its audio file.
    """

    place: str
    size: int
    sha256: str | None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A clip's line."""

    id: str
    offset: int
    size: int
    sha256: str
    samples: int
    first: int
    gain: float
    text: str | None
    speaker: str
    language: str | None
    split: str
    reference: str | None
    source: str
    start: float
    marked: str | None = None


class ShardIndex:
    """The index file, open, with what is asked often in memory.

    Attributes:
        shards: in the order of the file.
        shard, samples, split, speaker: per row: number of its shard, length, number in `SPLITS`, number in `speakers`.
        speakers: names, in the order of their first clip.
        prompts: rows of split `reference` by id.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            DataError: no such file, a damaged line (with its number), an id or a shard listed twice, no clip.
        """
        self.path = Path(path)
        self.shards: list[Shard] = []
        self.speakers: list[str] = []
        self.prompts: dict[str, int] = {}
        self._places: set[str] = set()
        columns = {name: array(code) for name, code in (("line", "q"), ("shard", "i"), ("samples", "i"))}
        columns |= {"split": array("B"), "speaker": array("i")}
        ids, numbers, digest = array("q"), {}, sha256()
        for number, offset, line in self._lines():
            if not line:
                raise self._damaged(number, "an empty line")
            content = self._parsed(line, number)
            if "shard" in content:
                self._add_shard(content, number)
                digest.update(repr((self.shards[-1].size, self.shards[-1].sha256)).encode())
                continue
            row = self._row(content, number)
            digest.update(line)
            speaker = numbers.setdefault(row.speaker, len(self.speakers))
            if speaker == len(self.speakers):
                self.speakers.append(row.speaker)
            if row.split == REFERENCE:
                self.prompts[row.id] = len(ids)
            values = (offset, len(self.shards) - 1, row.samples, SPLITS.index(row.split), speaker)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            ids.append(hash(row.id))
        self.digest = digest.hexdigest()
        self._line, types = np.array(columns.pop("line"), np.int64), {"split": np.uint8}
        self.shard, self.samples, self.split, self.speaker = (
            np.array(column, types.get(name, np.int32)) for name, column in columns.items()
        )
        if not len(ids):
            raise DataError(f"{self.path}: lists no clip; {_REMAKE}")
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as e:
            raise DataError(f"{self.path}: cannot be read ({e.strerror})") from None
        self._refuse_repetition(np.array(ids, np.int64))

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            os.close(file)

    def __len__(self) -> int:
        return len(self.samples)

    def row(self, number: int) -> Row:
        """Read a row again. Any thread may.

        Raises:
            DataError: the file is not what it was when it was opened.
        """
        start, length = int(self._line[number]), 2048
        line = os.pread(self._file, length, start)
        while b"\n" not in line and len(line) == length:
            length *= 8
            line = os.pread(self._file, length, start)
        try:
            row = _row(parse_json(line.partition(b"\n")[0]))
        except (ValueError, KeyError, TypeError):
            row = None
        if row is None or row.samples != self.samples[number]:
            raise DataError(f"{self.path}: changed while in use; start again")
        return row

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """Number (from 1), offset and content of each line."""
        number = offset = 0
        try:
            with open_plain(self.path) as stream:
                while line := stream.readline(LONGEST_LINE + 1):
                    number += 1
                    if len(line) > LONGEST_LINE:
                        raise DataError(f"{self.path}:{number}: a line of over a megabyte is no clip; {_REMAKE}")
                    yield number, offset, line.strip()
                    offset += len(line)
        except OSError as e:
            raise DataError(f"{self.path}: cannot be read ({(e.strerror or str(e)).lower()})") from None

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            content = parse_json(line)
        except ValueError as e:
            raise self._damaged(number, str(e)) from None
        if not isinstance(content, dict):
            raise self._damaged(number, "no object")
        return content

    def _add_shard(self, content: dict[str, Any], number: int) -> None:
        place, size, digest = content["shard"], content.get("bytes"), content.get("sha256")
        if not isinstance(place, str) or not place or "\0" in place or type(size) is not int or size < 0:
            raise self._damaged(number, f"shard {place!r} of {size!r} bytes")
        if digest is not None and not (isinstance(digest, str) and _HEX.fullmatch(digest)):
            raise self._damaged(number, f"sha256 {digest!r}")
        whole = content.get("whole", False)
        if type(whole) is not bool:
            raise self._damaged(number, f"whole {whole!r}")
        if place in self._places:
            raise DataError(f"{self.path}:{number}: shard {place} is listed already; list it once, with all its clips")
        self._places.add(place)
        self.shards.append(Shard(place, size, digest, whole))

    def _row(self, content: dict[str, Any], number: int) -> Row:
        try:
            row = _row(content)
        except (KeyError, TypeError, ValueError) as e:
            reason = f"{e.args[0]} is missing" if isinstance(e, KeyError) else str(e)
            raise self._damaged(number, reason) from None
        if not self.shards:
            raise self._damaged(number, "a clip before the first shard")
        if row.offset + row.size > self.shards[-1].size:
            raise self._damaged(number, f"{row.id} lies beyond the end of {self.shards[-1].place}")
        return row

    def _refuse_repetition(self, hashes: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(np.diff(hashes[order]) == 0)
        for k in same:
            one, other = (self.row(int(order[k + d])) for d in (0, 1))
            if one.id == other.id:
                raise DataError(f"{self.path}: clip {one.id} is listed twice; {_REMAKE}")

    def _damaged(self, number: int, reason: str) -> DataError:
        return DataError(f"{self.path}:{number}: damaged ({reason}); {_REMAKE}")


def _row(content: dict[str, Any]) -> Row:
    """Raises KeyError, TypeError or ValueError for what no index of ours holds."""
    row = Row(*_values({**_DEFAULTS, **content}))
    if not isinstance(row.id, str) or not _ID.fullmatch(row.id):
        raise ValueError(f"id {row.id!r} is no name of letters, digits, _ . ~ -")
    counts = (row.offset, row.size, row.samples, row.first)
    if any(type(n) is not int for n in counts) or min(counts) < 0 or row.first > _LAST_SAMPLE:
        raise ValueError(f"{row.id}: offset, size, samples, first are {', '.join(map(repr, counts))}")
    if not 0 < row.size <= LARGEST_MEMBER or not 0 < row.samples <= _MOST_SAMPLES:
        raise ValueError(f"{row.id}: {row.samples} samples in {row.size} bytes")
    if not isinstance(row.sha256, str) or not _HEX.fullmatch(row.sha256):
        raise ValueError(f"{row.id}: sha256 {row.sha256!r}")
    if type(row.gain) not in (int, float) or not 0 < row.gain < 1e4 or type(row.start) not in (int, float):
        raise ValueError(f"{row.id}: gain {row.gain!r}, start {row.start!r}")
    if not isinstance(row.speaker, str) or not isinstance(row.source, str) or row.split not in SPLITS:
        raise ValueError(f"{row.id}: speaker {row.speaker!r}, source {row.source!r}, split {row.split!r}")
    if not all(value is None or isinstance(value, str) for value in (row.text, row.language, row.reference)):
        raise ValueError(f"{row.id}: text, language or reference is no text")
    if row.marked not in (None, TRAIN, HELDOUT):
        raise ValueError(f"{row.id}: marked {row.marked!r}")
    return row


_DEFAULTS = {
    "first": 0,
    "gain": 1.0,
    "source": "",
    "start": 0.0,
    **dict.fromkeys(("text", "language", "reference", "marked")),
}


def shard_line(shard: Shard) -> str:
    """The line of a shard."""
    content = {"shard": shard.place, "bytes": shard.size, "sha256": shard.sha256}
    return json.dumps(content | ({"whole": True} if shard.whole else {}), ensure_ascii=False) + "\n"


def row_line(row: dict[str, Any]) -> str:
    """The line of a clip; what is as usual is left out."""
    kept = {key: row[key] for key in ROW_KEYS if key in row and (key not in _DEFAULTS or row[key] != _DEFAULTS[key])}
    return json.dumps(kept, ensure_ascii=False) + "\n"
