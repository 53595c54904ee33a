"""Prepared clips -> tar shards and their index. The same clips give the same bytes.

Clips come in an order drawn by a hash, so that every shard holds clips of all speakers; those held out, and those
listed as voice prompts only, have shards of their own: nobody fetches them who only trains. Beside its audio, a clip
has a `.json` in the shard, with which others can read it (it is the form that WebDataset uses).
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_voxclone.data.entries import INDEX
from mlx_voxclone.data.shards.index import SPLITS, Shard, row_line, shard_line
from mlx_voxclone.data.split import draw
from mlx_voxclone.errors import DataError

SMALLEST = 10**6  # bytes of a shard
_BESIDE = ("text", "speaker", "language", "split", "reference", "source", "start")


class ShardWriter:
    """One tar file; tells where what was added lies."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, _Hashed(path)
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    @property
    def size(self) -> int:
        return self._tar.offset

    def add(self, name: str, content: bytes) -> int:
        """The offset of the content."""
        info = tarfile.TarInfo(name)  # mode 644, owner 0, time 0
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        blocks = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self._tar.offset - blocks

    def close(self, whole: bool = False) -> Shard:
        """`whole`: whether each clip is all of what was added for it."""
        self._tar.close()
        self._file.close()
        return Shard(self.path.name, self._file.size, self._file.digest.hexdigest(), whole)


class _Hashed(io.RawIOBase):
    """A file that is written once from start to end."""

    def __init__(self, path: Path) -> None:
        self._file, self.size, self.digest = path.open("wb"), 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, content) -> int:
        self._file.write(content)
        self.digest.update(content)
        self.size += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def write_shards(
    clips: Sequence[Mapping[str, Any]],
    directory: Path,
    size: int,
    seed: int = 0,
    progress: Callable[[Iterable, int, str], Iterable] = lambda items, total, what: items,
) -> int:
    """Pack clips into `shard-00000.tar`, ... and write the index beside them; their files are removed one by one.

    Args:
        clips: lines of a manifest; `audio` is relative to `directory`.
        size: bytes after which a shard ends; it is larger by less than a clip.
        seed: of the order.

    Returns:
        How many shards were written.
    """
    ordered = sorted(clips, key=lambda clip: (SPLITS.index(clip["split"]), draw(seed, clip["id"])))
    count = 0
    with (directory / INDEX).open("w", encoding="utf-8", errors="backslashreplace") as index:
        for split in SPLITS:
            own = [clip for clip in ordered if clip["split"] == split]
            wrapped = iter(progress(own, len(own), "shards")) if own else iter(())
            for lines in _packed(wrapped, directory, split, size):
                index.writelines(lines)
                count += 1
    return count


def _packed(clips: Iterator[Mapping[str, Any]], directory: Path, split: str, size: int) -> Iterator[list[str]]:
    """The lines of one shard after the other."""
    name = "shard" if split == SPLITS[0] else split
    number, clip = 0, next(clips, None)
    while clip is not None:
        writer, lines = ShardWriter(directory / f"{name}-{number:05d}.tar"), []
        while clip is not None and (not lines or writer.size < size):
            lines.append(row_line(_added(clip, directory, writer)))
            clip = next(clips, None)
        yield [shard_line(writer.close(whole=True)), *lines]
        number += 1


def _added(clip: Mapping[str, Any], directory: Path, writer: ShardWriter) -> dict[str, Any]:
    path = directory / clip["audio"]
    content = path.read_bytes()
    offset = writer.add(f"{clip['id']}{path.suffix}", content)
    beside = json.dumps({key: clip[key] for key in _BESIDE}, ensure_ascii=False, sort_keys=True)
    writer.add(f"{clip['id']}.json", beside.encode("utf-8", "backslashreplace"))
    path.unlink()
    digest = hashlib.sha256(content).hexdigest()[:32]
    return {**clip, "offset": offset, "size": len(content), "sha256": digest}


def parse_size(text: str) -> int:
    """`1GB`, `500 MB`, `2G` or a number of bytes.

    Raises:
        DataError: no size, or one below a megabyte.
    """
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    word = text.strip().lower().removesuffix("b").strip()
    unit = word[-1:] if word[-1:].isalpha() else ""
    try:
        size = float(word.removesuffix(unit)) * units[unit]
    except (ValueError, KeyError):
        raise DataError(f"--shards {text}: expected a size such as 1GB or 500MB") from None
    if not SMALLEST <= size < 1e15:
        raise DataError(f"--shards {text}: at least 1MB, and 1GB is usual")
    return int(size)
