"""torch's zip file of one tensor (`torch.save(tensor, path)`), read and written with neither torch nor unpickling.

A pickle is a program. This one is read by a stack machine of its own that knows the twenty opcodes such a file needs
and three names, imports nothing and calls nothing: any other opcode or name ends the reading. What the program states
(type, sizes, strides) is checked against the bytes of the storage. (Format: torch/serialization.py, torch/_utils.py.)
"""

import io
import math
import pickletools
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.dtypes import DTYPES, dtype_name, to_bytes, to_mlx
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_file
from mlx_voxclone.files.foreign import refuse_stand_in
from mlx_voxclone.files.plain import open_plain, reason_of

MAX_PROGRAM = 1 << 16  # bytes of data.pkl; one tensor needs under 200
MAX_STORAGE = 256 << 20  # bytes; ten minutes of voice rows of the release are 46 MB
MAX_MEMBERS = 64
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # of a member's flags: encrypted, strongly, or its header hidden
_INSIDE = re.compile(r"(?!\.{1,2}$|[A-Za-z]:$)[^\\\x00-\x1f]+")  # a part of a path that leads nowhere else
# Members that hold a number, and the largest that torch can mean: its own reader stops at version 10.
_NUMBERS = {"version": 10, ".format_version": 10, ".storage_alignment": 1 << 20}

_STORAGES = {"torch BFloat16Storage": "BF16", "torch FloatStorage": "F32", "torch HalfStorage": "F16"}
_STORAGE_OF = {dtype: name for name, dtype in _STORAGES.items()}
_REBUILD, _HOOKS = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"


@dataclass(frozen=True)
class _Name:
    """A global the program mentions; inert."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A persistent id: so many elements of a type in the member `data/KEY`."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    pass


_NO_HOOKS = object()
_MARK = _Mark()


class _Refused(Exception):
    """What is wrong with the file, in a few words."""


def read_pt(path: str | Path) -> mx.array:
    """Read the one tensor of a torch zip file.

    Args:
        path: a `.pt` file made by `torch.save(tensor, path)` or `write_pt`; BF16, float16 or float32.

    Returns:
        The tensor in its own type and shape.

    Raises:
        CheckpointError: missing, damaged, or anything else than one plain tensor.
    """
    path = Path(path)
    refuse_stand_in(path, CheckpointError)
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            members = _members(archive)
            tensor = _run(_read(archive, members, "data.pkl", MAX_PROGRAM))
            _check_rest(archive, members, f"data/{tensor.storage.key}")
            data = _read(archive, members, f"data/{tensor.storage.key}", MAX_STORAGE)
        return _build(tensor, data)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except _Refused as e:
        raise CheckpointError(f"{path}: not a torch file of one plain tensor ({e}); no code in it was run") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as e:
        raise CheckpointError(f"{path}: damaged or not a torch zip file ({e})") from None
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(e)})") from None


def write_pt(path: str | Path, array: "mx.array | np.ndarray", *, overwrite: bool = False) -> None:
    """Write one tensor as `torch.save` would, so that `torch.load(weights_only=True)` reads it. Same input, same bytes.

    Args:
        path: target; its stem names the folder inside, as torch does it.
        array: BF16 (MLX), float16 or float32.

    Raises:
        CheckpointError: the target exists or cannot be written.
        TypeError: another element type.
    """
    dtype = dtype_name(array)
    if dtype not in _STORAGE_OF:
        raise TypeError(f"a .pt file of {dtype} is not needed here")
    program = _program(dtype, tuple(array.shape))
    members = [("data.pkl", program), ("byteorder", b"little"), ("data/0", bytes(to_bytes(array))), ("version", b"3\n")]
    folder = re.sub(r"[^A-Za-z0-9_-]", "_", Path(path).stem)
    with atomic_file(path, overwrite=overwrite) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(f"{folder}/{name}", (1980, 1, 1, 0, 0, 0))
            # torch aligns the bytes of each member to 64, so that they can be mapped: an extra field fills the gap.
            gap = -(file.tell() + 30 + len(info.filename) + 4) % 64
            info.extra = b"FB" + gap.to_bytes(2, "little") + b"Z" * gap
            archive.writestr(info, data)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by their name inside the archive's one folder; also those that nothing reads are what torch writes."""
    infos = archive.infolist()
    names = [info.orig_filename for info in infos]
    if len(infos) > MAX_MEMBERS or len(set(names)) != len(names):
        raise _Refused("too many members, or two of one name")
    for info in infos:
        name = info.orig_filename
        if not all(map(_INSIDE.fullmatch, name.split("/"))):
            raise _Refused(f"a member called {name[:60]!r}, which leads out of its folder")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Refused(f"{name[:60]} is encrypted or packed in a way that torch does not use")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _Refused(f"{name[:60]} is no plain file")
    if sum(info.file_size for info in infos) > MAX_STORAGE + MAX_PROGRAM:
        largest = max(infos, key=lambda info: info.file_size)
        raise _Refused(f"{largest.filename[:60]} of {largest.file_size} bytes")
    folders = {name.partition("/")[0] for name in names}
    if len(folders) != 1:
        raise _Refused("not one folder")
    return {name.partition("/")[2]: info for name, info in zip(names, infos)}


def _check_rest(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], storage: str) -> None:
    """Refuse what stands beside the tensor and contradicts a file of one tensor as torch writes it."""
    if "byteorder" in members and _read(archive, members, "byteorder", 16) != b"little":
        raise _Refused("not little-endian")
    if other := sorted(name for name in members if name.startswith("data/") and name != storage):
        raise _Refused(f"{other[0][:60]} belongs to no tensor")
    for name, most in _NUMBERS.items():
        if name in members:
            text = _read(archive, members, name, 32).strip()
            if not text.isdigit() or not 1 <= int(text) <= most:
                raise _Refused(f"{name} is {text[:20]!r}")


def _read(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, limit: int) -> bytes:
    """A member's bytes, its checksum tested; never more than `limit`, whatever the directory of the zip claims."""
    info = members.get(name)
    if info is None:
        raise _Refused(f"no {name}")
    if info.file_size > limit:
        raise _Refused(f"{name} of {info.file_size} bytes")
    with archive.open(info) as member:
        data = member.read(limit + 1)
    if len(data) != info.file_size:
        raise _Refused(f"{name} is not of its stated size")
    return data


def _run(program: bytes) -> _Tensor:
    """Interpret the pickle of one tensor; see the module's text for what is allowed."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(program)):
            if opcode.name == "STOP":
                break
            _step(opcode.name, argument, stack, memo)
    except (IndexError, KeyError, ValueError) as e:
        raise _Refused("its pickle is broken") from e
    if len(stack) != 1 or not isinstance(stack[0], _Tensor):
        raise _Refused("its pickle holds something else")
    return stack[0]


def _step(opcode: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    match opcode:
        case "PROTO":
            if argument != 2:
                raise _Refused(f"pickle protocol {argument}")
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
            stack.append(argument)
        case "NEWFALSE" | "NEWTRUE":
            stack.append(opcode == "NEWTRUE")
        case "NONE":
            stack.append(None)
        case "MARK":
            stack.append(_MARK)
        case "EMPTY_TUPLE":
            stack.append(())
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            _fold(stack, len(stack) - int(opcode[-1]))
        case "TUPLE":
            mark = max(i for i, item in enumerate(stack) if item is _MARK)
            _fold(stack, mark + 1)
            del stack[mark]
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "GLOBAL":
            if argument not in (_REBUILD, _HOOKS, *_STORAGES):
                raise _Refused(f"it names {str(argument)[:60]!r}")
            stack.append(_Name(argument))
        case "BINPERSID":
            stack.append(_storage(stack.pop()))
        case "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, arguments))
        case _:
            raise _Refused(f"its pickle uses {opcode}")


def _fold(stack: list[Any], start: int) -> None:
    if start < 0:
        raise _Refused("its pickle is broken")
    items = tuple(stack[start:])
    del stack[start:]
    stack.append(items)


def _storage(identity: Any) -> _Storage:
    """The persistent id `("storage", type, key, location, number of elements)`; the location does not matter here."""
    if not isinstance(identity, tuple) or len(identity) != 5:
        raise _Refused("its storage is not described as torch does")
    kind, name, key, location, numel = identity
    known = isinstance(name, _Name) and name.name in _STORAGES
    texts = isinstance(kind, str) and kind == "storage" and isinstance(key, str) and isinstance(location, str)
    if not known or not texts or not re.fullmatch(r"[0-9]{1,9}", key) or not _natural(numel):
        raise _Refused("its storage is not described as torch does")
    return _Storage(_STORAGES[name.name], key, numel)


def _reduce(function: Any, arguments: Any) -> Any:
    """The two calls of such a file: an empty OrderedDict (no hooks) and the tensor itself."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _Refused("its pickle calls something")
    if function.name == _HOOKS and len(arguments) == 0:
        return _NO_HOOKS
    if function.name != _REBUILD or len(arguments) not in (6, 7):
        raise _Refused("its pickle calls something")
    storage, offset, shape, strides, requires_grad, hooks = arguments[:6]
    plain = isinstance(storage, _Storage) and isinstance(requires_grad, bool) and hooks is _NO_HOOKS
    if not plain or any(extra is not None for extra in arguments[6:]):
        raise _Refused("its tensor is not plain")
    if not _natural(offset) or not _naturals(shape) or not _naturals(strides) or len(shape) != len(strides):
        raise _Refused("its tensor has no valid shape")
    return _Tensor(storage, offset, shape, strides)


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _naturals(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(map(_natural, value))


def _build(tensor: _Tensor, data: bytes) -> mx.array:
    kind, storage = DTYPES[tensor.storage.dtype][0], tensor.storage
    if storage.numel * kind.itemsize != len(data):
        raise _Refused(f"{storage.numel} elements stated, {len(data)} bytes found")
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides))
    if count > storage.numel or (count and last >= storage.numel):
        raise _Refused("its tensor reaches beyond its storage")
    flat = np.frombuffer(data, dtype=kind)[tensor.offset :] if count else np.zeros(0, dtype=kind)
    steps = [step * kind.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False)
    return to_mlx(view.copy(), storage.dtype)


def _program(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The pickle (protocol 2) of a contiguous tensor in the storage `data/0`."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    storage = b"(" + _text("storage") + _global(_STORAGE_OF[dtype]) + _text("0") + _text("cpu")
    storage += _int(math.prod(shape)) + b"tQ"
    arguments = storage + _int(0) + _ints(shape) + _ints(strides) + b"\x89" + _global(_HOOKS) + b")R"
    return b"\x80\x02" + _global(_REBUILD) + b"(" + arguments + b"tR."


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _int(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def _ints(values: "tuple[int, ...] | list[int]") -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
