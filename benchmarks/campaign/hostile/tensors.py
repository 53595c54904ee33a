"""Headers of safetensors files that lie about where tensors are, how many there are, and how large."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.campaign.hostile.scene import BY_REFERENCE, DECODE, SAY, Probe, Scene

READERS: dict[str, tuple[str, ...]] = {
    "model/consolidated.safetensors": DECODE,
    "codes.safetensors": DECODE,
    "adapters/adapters.safetensors": (*SAY, *BY_REFERENCE, "--adapters", "adapters"),
    "model/voice_embedding/casual_male.safetensors": (
        *SAY, "--voice", "model/voice_embedding/casual_male.safetensors"),
}  # fmt: skip


def _first(header: dict[str, Any]) -> str:
    return next(name for name in header if name != "__metadata__")


def _changed(data: bytes, **values: Any) -> bytes:
    """The first tensor's entry with other values."""
    header, body = _parts(data)
    header[_first(header)] |= values
    return _packed(json.dumps(header).encode(), body)


def _overlapping(data: bytes) -> bytes:
    header, body = _parts(data)
    size = header[_first(header)]["data_offsets"]
    for name in header:
        if name != "__metadata__":
            header[name]["data_offsets"] = size
    header["another"] = header[_first(header)]
    return _packed(json.dumps(header).encode(), body)


def _renamed(data: bytes) -> bytes:
    header, body = _parts(data)
    header["\x1b]0;owned\x07../../x"] = header.pop(_first(header))
    return _packed(json.dumps(header).encode(), body)


def _twice(data: bytes) -> bytes:
    header, body = _parts(data)
    name = _first(header)
    return _packed(json.dumps(header).encode()[:-1] + f", {json.dumps(name)}: ".encode()
                   + json.dumps(header[name]).encode() + b"}", body)  # fmt: skip


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _packed(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "tensors that overlap": _overlapping,
    "an offset of 2^63": lambda data: _changed(data, data_offsets=[0, 2**63]),
    "an offset before the file": lambda data: _changed(data, data_offsets=[-(2**40), 8]),
    "an end before its start": lambda data: _changed(data, data_offsets=[64, 0]),
    "a shape of 2^64 elements": lambda data: _changed(data, shape=[2**32, 2**32]),
    "a negative shape": lambda data: _changed(data, shape=[-4, -4]),
    "a shape of a million axes": lambda data: _changed(data, shape=[1] * 1_000_000),
    "a shape that is text": lambda data: _changed(data, shape="__import__('os')"),
    "a type of its own": lambda data: _changed(data, dtype="\x1b[31mF32"),
    "a name that moves the cursor": _renamed,
    "a name twice": _twice,
    "a header of 2^63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "a header of four gigabytes": lambda data: struct.pack("<Q", 4 << 30) + data[8:],
    "a header without a floor": lambda data: _packed(b'{"a":' * 200_000 + b"1" + b"}" * 200_000, b""),
    "300,000 tensors": lambda data: _packed(
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % k for k in range(300_000)) + b"}",
        b""),
    "metadata of a hundred megabytes": lambda data: _packed(
        b'{"__metadata__":{"a":"' + b"x" * 100_000_000 + b'"}}', b""),
}  # fmt: skip


def headers() -> Iterator[Probe]:
    """Every header on every file of tensors."""
    for attack, change in HEADERS.items():
        for file, argv in READERS.items():
            yield Probe(attack, f"{file} ({argv[0]})", argv, partial(_change, file=file, change=change))


def _change(scene: Scene, file: str, change: Callable[[bytes], bytes]) -> None:
    path = scene.place / file
    path.write_bytes(change(path.read_bytes()))
