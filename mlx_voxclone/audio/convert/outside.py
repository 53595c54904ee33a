"""Formats that libsndfile cannot decode (m4a, mp4, aac, webm, wma, some CAF), by afconvert or ffmpeg where they are.

The program writes a float file at the recording's own rate into a temporary folder, which goes with the process. It is
called without a shell, reads local files of the one format that the first bytes tell, and is bounded in time and size.
"""

import atexit
import shutil
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlx_voxclone.audio.source import AudioError

_LARGEST = 8 << 30  # bytes of what is written: six hours at 48 kHz in stereo
_KEPT, _KEPT_BYTES = 16, 16 << 30  # files that stay, as each is read twice
_SECONDS, _BYTES_PER_SECOND = 60.0, 100_000  # a program is stopped after the first, and a second per so many bytes read
_SHOWN = 160  # characters of what a program says


@dataclass(frozen=True)
class Kind:
    """A format: ffmpeg's name of its reader, and whether afconvert reads it."""

    name: str
    apple: bool


_KINDS: list[tuple[Callable[[bytes], bool], Kind]] = [
    (lambda head: head[4:8] == b"ftyp", Kind("mov", True)),
    (lambda head: head.startswith(b"\x1aE\xdf\xa3"), Kind("matroska", False)),
    (lambda head: head.startswith(b"caff"), Kind("caf", True)),
    (lambda head: head[:1] == b"\xff" and head[1:2] in (b"\xf0", b"\xf1", b"\xf8", b"\xf9"), Kind("aac", True)),
    (lambda head: head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), Kind("asf", False)),
]


def kind_of(path: Path) -> Kind | None:
    """The format of a file, if it is one of those that another program decodes."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return None
    return next((kind for fits, kind in _KINDS if fits(head)), None)


def converted(path: Path) -> Path | None:
    """A file with the same audio that libsndfile reads; None where no program is installed that could make it.

    Raises:
        AudioError: `unreadable` (the program refuses it), `too-long` (it takes too long, or becomes too large).
    """
    kind = kind_of(path)
    program = None if kind is None else _program(kind)
    if kind is None or program is None:
        return None
    return _store.get(path.absolute(), program, kind)


def _program(kind: Kind) -> str | None:
    return (shutil.which("afconvert") if kind.apple else None) or shutil.which("ffmpeg")


def _command(program: str, kind: Kind, source: Path, target: Path) -> list[str]:
    if Path(program).name == "afconvert":
        return [program, "-f", "WAVE", "-d", "LEF32", str(source), str(target)]
    quiet = [program, "-nostdin", "-hide_banner", "-v", "error", "-xerror", "-err_detect", "explode"]
    reads = ["-protocol_whitelist", "file", "-f", kind.name, "-i", f"file:{source}", "-map", "0:a:0"]
    return [
        *quiet,
        *reads,
        "-c:a",
        "pcm_f32le",
        "-fs",
        str(_LARGEST),
        "-f",
        "wav",
        "-rf64",
        "auto",
        "-y",
        f"file:{target}",
    ]


class _Store:
    """Files that were made, the latest ones; each is made once, also if several threads ask for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}
        self._made: OrderedDict[tuple[Path, int, int], Path] = OrderedDict()
        self._folder: Path | None = None
        self._number = 0

    def get(self, source: Path, program: str, kind: Kind) -> Path:
        with self._lock:
            own = self._locks.setdefault(source, threading.Lock())
        with own:
            try:
                status = source.stat()
            except OSError as e:
                why = (e.strerror or str(e)).lower()
                raise AudioError("unreadable", f"{source}: cannot be read ({why})") from None
            key = (source, status.st_size, status.st_mtime_ns)
            with self._lock:
                if key in self._made and self._made[key].exists():
                    self._made.move_to_end(key)
                    return self._made[key]
                target = self._place()
            try:
                _run(program, kind, source, target, status.st_size)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            with self._lock:
                self._made[key] = target
                self._clear()
            return target

    def _place(self) -> Path:
        if self._folder is None or not self._folder.is_dir():
            self._folder = Path(tempfile.mkdtemp(prefix="voxclone-audio-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        self._number += 1
        return self._folder / f"{self._number}.wav"

    def _clear(self) -> None:
        """Files beyond what is kept go, the oldest first; whoever reads one goes on reading it."""
        sizes = [path.stat().st_size if path.exists() else 0 for path in self._made.values()]
        while len(sizes) > 1 and (len(sizes) > _KEPT or sum(sizes) > _KEPT_BYTES):
            self._made.popitem(last=False)[1].unlink(missing_ok=True)
            sizes.pop(0)


_store = _Store()


def _run(program: str, kind: Kind, source: Path, target: Path, size: int) -> None:
    name = Path(program).name
    limit = _SECONDS + size / _BYTES_PER_SECOND
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(  # no shell; names are whole paths, so none is taken for an option
                _command(program, kind, source, target),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AudioError("too-long", f"{source}: {name} did not decode it within {limit:.0f} s") from None
        except OSError as e:
            raise AudioError(
                "unreadable", f"{source}: {name} cannot be run ({(e.strerror or str(e)).lower()})"
            ) from None
        said.seek(max(0, said.tell() - 4096))
        lines = said.read().decode(errors="replace").split("\n")
    if done.returncode or not target.is_file():
        if any("matches no streams" in line for line in lines):
            raise AudioError(
                "unreadable", f"{source}: {name} cannot decode it (it holds no sound); export it again, or as WAV"
            )
        words = " ".join(next((line for line in reversed(lines) if line.strip()), "it does not say why").split())
        reason = words.replace(str(source), source.name)[:_SHOWN]
        raise AudioError("unreadable", f"{source}: {name} cannot decode it ({reason}); export it again, or as WAV")
    if target.stat().st_size >= _LARGEST - (1 << 20):
        raise AudioError("too-long", f"{source}: more than {_LARGEST >> 30} GB when decoded; split it")
