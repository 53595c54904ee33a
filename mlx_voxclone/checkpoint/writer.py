"""Writing safetensors files: tensor after tensor, read again and compared before the file gets its name.

`files/atomic.py` sees to it that no half file is left.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.dtypes import DTYPES, dtype_name, to_bytes
from mlx_voxclone.checkpoint.reader import MAX_HEADER, METADATA, StoredBytes, TensorFile
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_file, free_space_check


class Entry(NamedTuple):
    """One tensor to write: `produce()` is called when its turn comes and returns its bytes, an array, or a
    stretch of another file (`TensorFile.pieces`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    produce: Callable[[], Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype][0].itemsize


def write_safetensors(
    path: str | Path,
    entries: Iterable[Entry | tuple[str, str, tuple[int, ...], Callable[[], Any]]],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Stream tensors into a safetensors file and read the file back before it gets its name.

    Two of them are in memory at a time: one is made while the one before it is written.

    Args:
        path: target file.
        entries: what to write; bytes in the order given, larger element types first.
        metadata: text for the header.
        overwrite: replace an existing file instead of refusing it.
        progress: called with the number of bytes just written.

    Returns:
        name -> SHA-256 (hex) of the tensor's bytes as read back from the file.

    Raises:
        CheckpointError: the target exists; no space; what was read back is not what was written.
        ValueError: entries that contradict themselves (a name twice, bytes that do not fit the shape).
    """
    entries = sorted((Entry(*e) for e in entries), key=lambda e: -DTYPES[e.dtype][0].itemsize)  # stable
    header = _header(entries, metadata)
    free_space_check(Path(path).parent, len(header) + sum(e.nbytes for e in entries))
    with atomic_file(path, overwrite=overwrite) as file:
        file.write(header)
        digests: dict[str, str] = {}
        waiting: list[tuple[Entry, Future]] = []

        def settle() -> None:
            entry, digest = waiting.pop()
            digests[entry.name] = digest.result()
            if progress is not None:
                progress(entry.nbytes)

        with ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as hashing:
            for entry in entries:
                made = entry.produce()
                data = made if isinstance(made, StoredBytes) else to_bytes(made)
                if data.nbytes != entry.nbytes:
                    raise ValueError(f"{entry.name}: {data.nbytes} bytes for {entry.dtype} {list(entry.shape)}")
                if waiting:
                    settle()
                waiting.append((entry, writing.submit(_put, file, data, hashing)))
                del made, data
            if waiting:
                settle()
            file.flush()
            synced = writing.submit(os.fsync, file.fileno())  # while it is read back
            _verify(Path(file.name), Path(path), entries, digests)
            synced.result()
    return digests


def _put(file: IO[bytes], data: memoryview | StoredBytes, hashing: ThreadPoolExecutor) -> str:
    """Write all of it; returns its SHA-256 (hex)."""
    digest = hashlib.sha256()
    for piece in data if isinstance(data, StoredBytes) else (data,):
        hashed = hashing.submit(digest.update, piece)  # while it is written
        file.write(piece)
        hashed.result()
    return digest.hexdigest()


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, "mx.array | np.ndarray"],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a few tensors (encoder, adapters, codes, optimiser state), sorted by name; see `write_safetensors`."""
    entries = [Entry(k, dtype_name(v), tuple(v.shape), lambda v=v: v) for k, v in sorted(tensors.items())]
    write_safetensors(path, entries, metadata, overwrite=overwrite)


def _header(entries: list[Entry], metadata: Mapping[str, str] | None) -> bytes:
    if len({e.name for e in entries}) != len(entries) or METADATA in {e.name for e in entries}:
        raise ValueError("tensor names must be unique")
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    place = 0
    for entry in entries:
        end = place + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors aligned, as the format recommends
    if len(text) > MAX_HEADER:
        raise ValueError(f"a header of {len(text)} bytes is beyond the format's limit")
    return len(text).to_bytes(8, "little") + text


def _verify(written: Path, target: Path, entries: list[Entry], digests: dict[str, str]) -> None:
    file = TensorFile(written)

    def as_written(entry: Entry) -> bool:
        info = file.info(entry.name)
        same = (info.dtype, info.shape) == (entry.dtype, tuple(entry.shape))
        return same and _sha256(file.raw(entry.name)) == digests[entry.name]

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for entry, same in zip(entries, pool.map(as_written, entries)):
            if not same:
                raise CheckpointError(f"{target}: {entry.name} does not read back as written; check the disk")
    if len(file) != len(entries):
        raise CheckpointError(f"{target}: {len(file)} tensors read back, {len(entries)} written; check the disk")


def _sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
