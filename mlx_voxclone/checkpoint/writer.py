"""Writing without ever leaving half a file: temporary name, flush, fsync, verification, rename.

Whatever ends a write early (Ctrl-C, an exception, a full disk), the target is as it was and the temporary file is gone.
After a power cut or `kill -9` a temporary may stay behind; nothing reads it, and the next command that writes beside it
clears it (`process/temporaries.py`).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.dtypes import DTYPES, dtype_name, to_bytes
from mlx_voxclone.checkpoint.reader import MAX_HEADER, METADATA, StoredBytes, TensorFile
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process import temporaries

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SPARE = 16 << 20  # bytes of the disk left free: directory entries, the file system's own needs


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


def free_bytes(place: str | Path) -> int:
    """Bytes free on the disk where `place` is, or would be."""
    return shutil.disk_usage(existing_parent(place)).free


def same_disk(place: str | Path, other: str | Path) -> bool:
    """Whether two places are, or would be, on one disk."""
    return existing_parent(place).stat().st_dev == existing_parent(other).stat().st_dev


def existing_parent(place: str | Path) -> Path:
    """The place itself, or the nearest directory above that exists."""
    place = Path(place).absolute()
    while not place.exists():
        place = place.parent
    return place


def free_space_check(directory: str | Path, nbytes: int) -> None:
    """Refuse to start what cannot fit.

    Args:
        directory: where to write; need not exist yet.
        nbytes: bytes to be written.

    Raises:
        CheckpointError: less than `nbytes` (and a small reserve) are free.
    """
    free = free_bytes(directory)
    if free < nbytes + _SPARE:
        need, have = _gigabytes(nbytes + _SPARE), _gigabytes(free)
        raise CheckpointError(f"{directory}: no space left: {need} needed, {have} free; free some and run again")


@contextlib.contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; it takes that name when the block ends without an exception.

    Args:
        path: target; its directory is made if need be.
        overwrite: replace an existing file instead of refusing it.

    Raises:
        CheckpointError: the target exists, or cannot be written.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    with _os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporaries.made(path) as temporary:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _refuse_existing(path, overwrite)
            os.replace(temporary, path)
            _sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Build a directory under a temporary name beside `path`; it appears whole when the block ends well.

    Args:
        path: target: must not exist, or be an empty directory.

    Yields:
        The temporary directory to fill.

    Raises:
        CheckpointError: the target exists, cannot be written, or another process is writing it.
    """
    path = Path(path)
    refuse_existing_directory(path)
    with _os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_writer(path)
        with temporaries.made(path, directory=True) as temporary:
            _refuse_writer(path, but=temporary)
            yield temporary
            for root, _, files in os.walk(temporary):
                for name in files:
                    _sync_file(Path(root, name))
                _sync_directory(Path(root))
            refuse_existing_directory(path)
            os.replace(temporary, path)  # over an empty directory too
            _sync_directory(path.parent)


def refuse_existing_directory(path: str | Path) -> None:
    """Raise CheckpointError unless `path` is free or an empty directory."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        if any(path.iterdir()):
            raise CheckpointError(f"{path}: the output directory exists and is not empty; choose another name")
    elif os.path.lexists(path):
        raise CheckpointError(f"{path}: exists and is not a directory; choose another name for the output")


def write_text_atomic(path: str | Path, text: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text; readers see the old content or the new, never a part."""
    with atomic_file(path, overwrite=overwrite) as file:
        file.write(text.encode("utf-8"))


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
                raise CheckpointError(f"{target}: {entry.name} reads back otherwise than written; check the disk")
    if len(file) != len(entries):
        raise CheckpointError(f"{target}: {len(file)} tensors read back, {len(entries)} written; check the disk")


def _sha256(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir() or (os.path.lexists(path) and not overwrite):
        raise CheckpointError(f"{path}: exists already; choose another name or move it away")


def _refuse_writer(path: Path, but: Path | None = None) -> None:
    """Refuse a directory that another process is making, or two would do the work of which one comes to nothing."""
    if (pid := temporaries.writer_of(path, but)) is not None:
        raise CheckpointError(f"{path}: process {pid} is writing it; wait for that, or choose another name")


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses, as one line."""
    try:
        yield
    except OSError as e:
        if e.errno in _NO_SPACE:
            raise CheckpointError(f"{path}: not written, no space left on its disk; free some and run again") from e
        reason = (e.strerror or str(e)).lower()
        raise CheckpointError(f"{path}: not written ({e.filename or path}: {reason})") from e


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a rename durable. File systems that cannot sync a directory (some network ones) are left alone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
