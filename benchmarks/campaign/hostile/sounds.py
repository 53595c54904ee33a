"""Audio files whose headers promise what is not there."""

import struct
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.campaign.hostile.scene import PREPARE, SAY, Probe, Scene

READERS: dict[str, tuple[str, ...]] = {
    "reference.wav": ("encode", "reference.wav", "--model", "model", "--output", "new.safetensors"),
    "ann.wav": (*SAY, "--ref-audio", "ann.wav"),
    "bob.wav": ("voices", "add", "--model", "model", "--output", "new", "bob=bob.wav"),
    "recordings/synthetic-0/000.wav": ("prepare", "recordings", *PREPARE),
    "made/a.wav": ("evaluate", "made", "--speaker-model", "none", "--whisper-model", "none", "--output", "found"),
}


def _wav(samples: bytes, channels: int = 1, rate: int = 24_000, bits: int = 16, form: int = 1, **sizes: int) -> bytes:
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels & 0xFFFF, rate & 0xFFFFFFFF, rate * block & 0xFFFFFFFF,
                       sizes.get("block", block) & 0xFFFF, bits)  # fmt: skip
    fmt = b"fmt " + struct.pack("<I", sizes.get("fmt", len(head))) + head
    data = b"data" + struct.pack("<I", sizes.get("data", len(samples))) + samples
    before = sizes.get("list")
    listed = b"" if before is None else b"LIST" + struct.pack("<I", before) + b"INFO"
    whole = b"WAVE" + fmt + listed + data
    return b"RIFF" + struct.pack("<I", sizes.get("riff", len(whole))) + whole


def _rf64(samples: bytes) -> bytes:
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, 2**63 - 1, 2**63 - 1, 2**63 - 1, 2**32 - 1)
    rest = _wav(samples)[12:]
    return b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + ds64 + rest


def _flac(samples: bytes) -> bytes:
    """A stream that promises 2^36 - 1 samples in 8 channels, and a picture of 16 MB that is not there."""
    packed = (655_349 << 44) | (7 << 41) | (15 << 36) | (2**36 - 1)
    info = struct.pack(">HH", 16, 65535) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + b"\x00" + len(info).to_bytes(3, "big") + info + b"\x86\xff\xff\xff" + samples[:4000]


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "a thousand channels": lambda s: _wav(s, channels=1000),
    "65535 channels": lambda s: _wav(s, channels=65535, block=65535),
    "no channel": lambda s: _wav(s, channels=0),
    "a rate of 2^31": lambda s: _wav(s, rate=2**31),
    "a rate of 1 Hz": lambda s: _wav(s, rate=1),
    "a rate of 0": lambda s: _wav(s, rate=0),
    "data of 4 GB": lambda s: _wav(s, data=0xFFFFFFFF, riff=0xFFFFFFFF),
    "a format chunk of 4 GB": lambda s: _wav(s, fmt=0xFFFFFFF0),
    "a list of 2 GB before the data": lambda s: _wav(s, list=0x7FFFFFFF),
    "blocks of no bytes": lambda s: _wav(s, block=0),
    "2^63 samples": _rf64,
    "a FLAC of 2^36 samples": _flac,
    "floats that are not finite": lambda s: _wav(struct.pack("<f", float("nan")) * 48_000, bits=32, form=3),
    "floats of 10^38": lambda s: _wav(struct.pack("<ff", 3e38, -3e38) * 24_000, bits=32, form=3),
}


def headers() -> Iterator[Probe]:
    """Every header wherever audio is read."""
    for attack, made in HEADERS.items():
        for file, argv in READERS.items():
            yield Probe(attack, f"{file} ({argv[0]})", argv, partial(_make, file=file, made=made))


def _make(scene: Scene, file: str, made: Callable[[bytes], bytes]) -> None:
    path = scene.place / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made((scene.place / "reference.wav").read_bytes()[44:]))
