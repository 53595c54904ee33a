"""Reading safetensors files: memory-mapped, any tensor alone, nothing of the header taken on trust.

Layout (https://github.com/huggingface/safetensors): 8 bytes header length, JSON header, then the tensors' bytes without
holes. A file is untrusted input: every statement of the header is checked against the file before a byte is used.
"""

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.dtypes import DTYPES, decode, to_mlx
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.foreign import refuse_stand_in
from mlx_voxclone.files.plain import open_plain, parse_json, reason_of

MAX_HEADER = 100_000_000  # bytes; the format's own limit
METADATA = "__metadata__"
_PIECE = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: safetensors dtype name (`BF16`, `F32`, ...), shape, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class TensorFile:
    """A safetensors file, mapped into memory and checked when opened.

    Args:
        path: the file.
        named: gives the name that a stored one stands for.

    Raises:
        CheckpointError: missing, truncated, or a header that contradicts the file.
    """

    def __init__(self, path: str | Path, named: Callable[[str], str] = str):
        self.path = Path(path)
        refuse_stand_in(self.path, CheckpointError)
        self._map, self._state = _open(self.path)
        self.metadata, stored = _parse(self._map, self._state[0], str(self.path))
        self._stored_names = {named(name): name for name in stored}
        if len(self._stored_names) != len(stored):
            raise CheckpointError(f"{self.path}: two tensors have names that stand for the same one")
        self._infos = {name: stored[its_name] for name, its_name in self._stored_names.items()}

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file under this name is another one, or was written to, since it was opened."""
        try:
            same = _state(os.stat(self.path)) == self._state
        except OSError:
            same = False
        if not same:
            raise CheckpointError(f"{self.path}: changed while it was copied; nothing was written, run again")

    def says(self, facts: Mapping[str, str]) -> bool:
        """Whether its metadata says all of this."""
        return all(self.metadata.get(key) == value for key, value in facts.items())

    def names(self) -> list[str]:
        """All tensor names, in the order of their bytes."""
        return list(self._infos)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, name: str) -> TensorInfo:
        """Type, shape and place of a tensor.

        Raises:
            CheckpointError: no tensor of this name.
        """
        try:
            return self._infos[name]
        except KeyError:
            raise CheckpointError(f"{self.path}: no tensor called {name}") from None

    def raw(self, name: str) -> memoryview:
        """The bytes of a tensor, read-only and without a copy."""
        info = self.info(name)
        return memoryview(self._map)[info.start : info.start + info.nbytes]

    def pieces(self, name: str) -> "StoredBytes":
        """The bytes of a tensor, to be read piece by piece: to copy them to another file."""
        info = self.info(name)
        return StoredBytes(self, info.start, info.nbytes)

    def stored(self, name: str) -> np.ndarray:
        """A tensor as stored, read-only and without a copy; BF16 as its bits in uint16."""
        info = self.info(name)
        return np.frombuffer(self.raw(name), dtype=DTYPES[info.dtype][0]).reshape(info.shape)

    def numpy(self, name: str) -> np.ndarray:
        """A tensor as float32 (integers as they are), in memory of its own where a conversion needs it."""
        return decode(self.stored(name), self.info(name).dtype)

    def codes(self, name: str, sizes: Sequence[int] | None = None) -> np.ndarray:
        """A tensor of codes, int32 `[codebooks, T]` with T of at least 1.

        Args:
            sizes: of each codebook, special codes not counted; None: any.

        Raises:
            CheckpointError: another type or shape, or a code outside its codebook.
        """
        codes, where = self.stored(name), f"{self.path}: {name}"
        if codes.dtype.kind not in "iu" or codes.ndim != 2 or not codes.size or self.info(name).dtype == "BF16":
            kind = f"{self.info(name).dtype} {list(codes.shape)}"
            raise CheckpointError(f"{where} is {kind}; codes are whole numbers [codebooks, frames]")
        if sizes is not None and len(sizes) != len(codes):
            raise CheckpointError(f"{where}: {len(codes)} codebooks where this model has {len(sizes)}")
        most = np.iinfo(np.int32).max if sizes is None else np.array(sizes)[:, None] - 1
        if (codes < 0).any() or (codes > most).any():
            raise CheckpointError(f"{where} holds codes outside the codebooks of this model; it is damaged")
        return codes.astype(np.int32)

    def array(self, name: str) -> mx.array:
        """A tensor as an MLX array of its own type, copied into memory now."""
        return to_mlx(self.stored(name), self.info(name).dtype)

    def arrays(self, names: "set[str] | list[str] | None" = None) -> dict[str, mx.array]:
        """Tensors as lazy MLX arrays: read from the file when they are first evaluated, each alone.

        The file must stay as it is until then; our own writers never change one in place.
        """
        loaded = mx.load(str(self.path), format="safetensors")
        wanted = self.names() if names is None else names
        return {name: loaded[self._stored_names[name]] for name in wanted}


class StoredBytes:
    """A stretch of a tensor file, read into memory of its own as it is iterated over.

    Each piece is gone when the next one is asked for. (Writing a file out of the mapping of another one was measured to
    take three times as long.)
    """

    def __init__(self, file: TensorFile, start: int, nbytes: int):
        self._file, self._start, self.nbytes = file, start, nbytes

    def __iter__(self) -> Iterator[memoryview]:
        """Raises CheckpointError if the file has changed since it was opened."""
        with open(self._file.path, "rb", buffering=0) as file:
            if _state(os.fstat(file.fileno())) != self._file._state:
                self._file.check_unchanged()
            file.seek(self._start)
            buffer, left = memoryview(bytearray(min(_PIECE, self.nbytes))), self.nbytes
            while left:
                count = file.readinto(buffer[: min(left, _PIECE)])
                if not count:
                    raise CheckpointError(f"{self._file.path}: cut off while it was copied; nothing was written")
                yield buffer[:count]
                left -= count


def _state(of: os.stat_result) -> tuple[int, ...]:
    return of.st_size, of.st_mtime_ns, of.st_ino, of.st_dev


def _open(path: Path) -> tuple[mmap.mmap, tuple[int, ...]]:
    try:
        with open_plain(path) as file:
            state = _state(os.fstat(file.fileno()))
            if (size := state[0]) < 8:
                raise CheckpointError(f"{path}: not a safetensors file ({size} bytes); copy or download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), state
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(e)})") from None


def _parse(data: mmap.mmap, size: int, where: str) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"{where}: not a safetensors file (its header would be {length} bytes long)")
    if 8 + length > size:
        raise CheckpointError(f"{where}: truncated inside its header ({size} bytes); copy or download it again")
    try:
        header = parse_json(data[8 : 8 + length].decode("utf-8"), _unique)
    except _DuplicateName as e:
        raise CheckpointError(f"{where}: the header names {e} twice") from None
    except ValueError:
        raise CheckpointError(f"{where}: not a safetensors file (its header is no JSON)") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{where}: not a safetensors file (its header is no JSON object)")
    metadata = header.pop(METADATA, None) or {}  # MLX writes null where there is none
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: {METADATA} must map names to text")
    infos = {name: _info(name, entry, 8 + length, where) for name, entry in header.items()}
    ordered = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].nbytes)))
    _check_places(ordered, 8 + length, size, where)
    return metadata, ordered


class _DuplicateName(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateName(next(k for k, _ in pairs if k in seen or seen.add(k)))
    return result


def _info(name: str, entry: Any, base: int, where: str) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: the header's entry of {name} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where}: {name} has the type {str(dtype)[:40]}; known are {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > 16:
        raise CheckpointError(f"{where}: {name} has no valid shape in the header")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: {name} has no valid offsets in the header")
    nbytes = math.prod(shape) * DTYPES[dtype][0].itemsize
    if offsets[1] - offsets[0] != nbytes:
        found = offsets[1] - offsets[0]
        raise CheckpointError(f"{where}: {name} ({dtype} {list(shape)}) needs {nbytes} bytes; the header gives {found}")
    return TensorInfo(dtype, tuple(shape), base + offsets[0], nbytes)


def _naturals(value: Any) -> bool:
    # type() is int: True is an int too, and 1.0 equals 1. The bound keeps products of hostile shapes small.
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def _check_places(ordered: dict[str, TensorInfo], start: int, size: int, where: str) -> None:
    for name, info in ordered.items():
        if info.start < start:
            raise CheckpointError(f"{where}: {name} overlaps the tensor before it")
        if info.start > start:
            raise CheckpointError(f"{where}: {info.start - start} bytes before {name} belong to no tensor")
        start += info.nbytes
        if start > size:
            raise CheckpointError(f"{where}: truncated at {name} ({size} bytes); copy or download it again")
    if start != size:
        raise CheckpointError(f"{where}: {size - start} bytes after the last tensor belong to none")
