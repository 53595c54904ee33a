"""Pickles, torch files, arrays of objects, tar and zip archives."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.campaign.hostile.scene import BY_REFERENCE, DECODE, MADE, PREPARE, SAY, SECRET, Probe, Scene

_BLOCK = 1 << 26  # bytes of zeros that a bomb repeats
_VOICE = "model/voice_embedding/casual_male.pt"


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _pickled(scene: Scene, protocol: int) -> bytes:
    return pickle.dumps(_Touch(scene.outside / MADE), protocol)


def _torch_zip(scene: Scene) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("archive/data.pkl", _pickled(scene, 2))
        packed.writestr("archive/data/0", bytes(128))
        packed.writestr("archive/version", "3\n")
    return file.getvalue()


def _led_out(scene: Scene, name: str) -> bytes:
    """The good voice's file with one more member, whose name leads out."""
    file = io.BytesIO((scene.place / _VOICE).read_bytes())
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr(name, "written")
    return file.getvalue()


def _objects(scene: Scene, save: Callable) -> bytes:
    file = io.BytesIO()
    save(file, np.array([_Touch(scene.outside / MADE)], dtype=object), allow_pickle=True)
    return file.getvalue()


def _zip_bomb(scene: Scene, claimed: int | None = None) -> bytes:
    """`archive/data.pkl` of four gigabytes in some megabytes, which may claim to be small."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    content = block * 60 + zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    name, size = b"archive/data.pkl", 60 * _BLOCK if claimed is None else claimed
    facts = struct.pack("<HHHIIIHH", 8, 0, 0, 0, len(content), size, len(name), 0)
    local = b"PK\3\4" + struct.pack("<HH", 20, 0) + facts + name
    entry = b"PK\1\2" + struct.pack("<HHH", 20, 20, 0) + facts + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local) + len(content), 0)
    return local + content + entry + end


CODE: dict[str, Callable[[Scene], bytes]] = {
    "a pickle": partial(_pickled, protocol=4),
    "an old pickle": partial(_pickled, protocol=0),
    "a torch file that runs code": _torch_zip,
    "a torch file with a member above it": partial(_led_out, name=f"../../../outside/{MADE}"),
    "a torch file with an absolute member": partial(_led_out, name=f"/tmp/{MADE}-by-a-probe"),
    "an array of objects": partial(_objects, save=np.save),
    "a packed array of objects": lambda scene: _objects(scene, lambda f, a, allow_pickle: np.savez(f, codes=a)),
    "four gigabytes of zeros": _zip_bomb,
    "four gigabytes that claim to be ten bytes": partial(_zip_bomb, claimed=10),
}
READERS: dict[str, tuple[str, ...]] = {  # file -> the command that reads it
    "x.pt": (*SAY, "--voice", "x.pt"),
    _VOICE: (*SAY, "--voice", "casual_male"),
    "y.pt": ("voices", "invert", "--model", "model", "y.pt", "--output", "new.safetensors"),
    "z.pt": ("voices", "add", "--model", "model", "--output", "new", "ann=z.pt"),
    "codes.npz": (DECODE[0], "codes.npz", *DECODE[2:]),
    "codes.safetensors": DECODE,
    "encoder.bin": (
        "encode",
        "reference.wav",
        "--model",
        "model",
        "--encoder",
        "encoder.bin",
        "--output",
        "n.safetensors",
    ),
    "adapters/adapters.safetensors": (*SAY, *BY_REFERENCE, "--adapters", "adapters"),
    "recordings/synthetic-0/000.wav": ("prepare", "recordings", *PREPARE),
}


def code() -> Iterator[Probe]:
    """Everything that unpickling would run, wherever a file is read."""
    for attack, content in CODE.items():
        for file, argv in READERS.items():
            yield Probe(attack, f"{file} ({argv[0]})", argv, partial(_written, file=file, content=content))


def _written(scene: Scene, file: str, content: Callable[[Scene], bytes]) -> None:
    data, path = content(scene), scene.place / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


# ---- tar -----------------------------------------------------------------------------------------------------------


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    if size is not None:
        info.size = size
    return info


def _audio(scene: Scene) -> bytes:
    return (scene.place / "reference.wav").read_bytes()


def _tar(scene: Scene, *more: tuple[tarfile.TarInfo, bytes | None], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A shard of three good recordings and what is given."""
    file, good = io.BytesIO(), sorted((scene.place / "recordings").rglob("*.wav"))[:3]
    with tarfile.open(fileobj=file, mode="w", format=form) as packed:
        for info, content in (*((_member(f"good{k}.wav"), path.read_bytes()) for k, path in enumerate(good)), *more):
            if content is not None:
                info.size = len(content)
            packed.addfile(info, None if content is None else io.BytesIO(content))
    return file.getvalue()


def _named(scene: Scene, name: str) -> bytes:
    return _tar(scene, (_member(name), _audio(scene)))


def _linked(scene: Scene, kind: bytes) -> bytes:
    target = str(scene.secret)
    return _tar(scene, (_member("linked.txt", kind, target), None), (_member("linked.wav"), _audio(scene)))


def _through(scene: Scene) -> bytes:
    """A link to a directory outside, and a file below it."""
    return _tar(
        scene, (_member("d", tarfile.SYMTYPE, str(scene.outside)), None), (_member(f"d/{MADE}.wav"), _audio(scene))
    )


def _pax(scene: Scene, headers: dict[str, str]) -> bytes:
    info = _member("p.wav")
    info.pax_headers = headers
    return _tar(scene, (info, _audio(scene)))


def _many(scene: Scene) -> bytes:
    header = _member("e.json").tobuf(tarfile.USTAR_FORMAT)
    good = _tar(scene)
    return good[: good.rfind(b"\0ustar") // 512 * 512 + 512 + len(_audio(scene)) // 512 * 512 + 512] + header * 220_000


def _sparse(scene: Scene) -> bytes:
    return _pax(scene, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**15),
                        "GNU.sparse.name": "s.wav"})  # fmt: skip


ARCHIVES: dict[str, Callable[[Scene], bytes]] = {
    "a member above it": partial(_named, name=f"../../outside/{MADE}.wav"),
    "an absolute member": partial(_named, name=f"/tmp/{MADE}-by-a-probe.wav"),
    "a link to the secret": partial(_linked, kind=tarfile.SYMTYPE),
    "a hard link to the secret": partial(_linked, kind=tarfile.LNKTYPE),
    "a file below a link": _through,
    "a device": lambda scene: _tar(scene, (_member("zero.wav", tarfile.CHRTYPE), None)),
    "a pipe": lambda scene: _tar(scene, (_member("pipe.wav", tarfile.FIFOTYPE), None)),
    "a size of 10^15": lambda scene: _tar(scene) + _member("big.wav", size=8**11 - 1).tobuf(tarfile.USTAR_FORMAT),
    "a sparse file of 10^15": _sparse,
    "a negative size": partial(_pax, headers={"size": "-512"}),
    "a path of a megabyte": partial(_pax, headers={"path": "a/" * 500_000 + "x.wav"}),
    "a number of a million digits": partial(_pax, headers={"mtime": "9" * 1_000_000}),
    "very many members": _many,
    "a name that moves the cursor": partial(_named, name="\x1b]0;owned\x07\x1b[2J.wav"),
    "four gigabytes of zeros, packed": lambda scene: gzip.compress(bytes(_BLOCK), 9) * 60,
    "code in a transcript": lambda scene: _tar(scene, (_member("good0.json"), _pickled(scene, 0))),
    "the secret's path as a transcript": lambda scene: _tar(
        scene, (_member("good0.json"), f'{{"text": "{SECRET[:5]}", "speaker": "../../outside/{MADE}"}}'.encode())
    ),
}


def archives() -> Iterator[Probe]:
    """Shards that would write elsewhere, or never end, when unpacked or indexed."""
    for attack, content in ARCHIVES.items():
        make = partial(_written, file="s.tar", content=content)
        yield Probe(attack, "s.tar (prepare)", ("prepare", "s.tar", *PREPARE), make)
        make = partial(_written, file="sharded/s.tar", content=content)
        yield Probe(attack, "a folder of shards (prepare)", ("prepare", "sharded", *PREPARE), make)
