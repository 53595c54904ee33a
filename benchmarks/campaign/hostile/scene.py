"""Where a probe takes place: a copy of the good inputs, and outside of it what must be neither read nor touched."""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign.place import copy_of

SECRET = "xyzzy-private-9d41c7"  # stands outside, and nowhere else
MADE = "executed"  # the file outside that hostile code would make
DECODE = ("decode", "codes.safetensors", "--model", "model", "--output", "new.wav")
SAY = ("say", "--text", "papa", "--max-seconds", "1", "--output", "said.wav", "--model", "model")
BY_REFERENCE = ("--ref-audio", "reference.wav")
TRAIN = ("train", "--config", "train.yaml", "--quiet", "--set", "task=encoder", "--set", "output=out",
         "--set", "encoder.train.steps=2", "--set", "encoder.train.eval_every=2",
         "--set", "encoder.train.sample_every=0")  # fmt: skip
RESUME = ("train", "--resume", "run", "--quiet", "--max-steps", "4")  # of a run of two steps
PREPARE = ("--output", "fresh", "--min-seconds", "1")


@dataclass(frozen=True)
class Scene:
    """Directories of one probe.

    Attributes:
        place: the copy; commands run in it.
        outside: holds `secret.txt`, `recording.wav` and `folder/kept.txt`.
        server: address of the hostile server.
    """

    place: Path
    outside: Path
    server: str = ""

    @classmethod
    def fresh(cls, good: Path, home: Path, server: str = "") -> "Scene":
        """A new one in `home`."""
        shutil.rmtree(home, ignore_errors=True)
        scene = cls(home / "place", home / "outside", server)
        (scene.outside / "folder").mkdir(parents=True)
        copy_of(good, scene.place)
        (scene.outside / "secret.txt").write_text(f"{SECRET} and more words\n", encoding="utf-8")
        (scene.outside / "folder" / "kept.txt").write_text("kept\n", encoding="utf-8")
        shutil.copy(good / "reference.wav", scene.outside / "recording.wav")
        return scene

    @property
    def secret(self) -> Path:
        return self.outside / "secret.txt"

    @property
    def folder(self) -> Path:
        return self.outside / "folder"


@dataclass(frozen=True)
class Probe:
    """A hostile input and the command that meets it.

    Attributes:
        attack: what is tried.
        target: on what.
        argv: of the command; `{outside}` and `{server}` in it are replaced.
        make: puts the input into a scene.
        seconds: within which it must end.
        unnamed: what its results (stdout, and files that it made) must not name.
    """

    attack: str
    target: str
    argv: tuple[str, ...]
    make: Callable[[Scene], None] = lambda scene: None
    seconds: float = 30.0
    unnamed: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        return f"{self.attack}: {self.target}"


def state_of(place: Path, *, whole: bool = True) -> dict[str, tuple]:
    """Of everything below a directory: its type, mode, and its content, as a link's target or a file's SHA-256.

    Args:
        whole: files are read; else size and times stand for what is in them.
    """
    found = {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            seen = (status.st_size, status.st_mtime_ns, status.st_ino)
            content = hashlib.sha256(path.read_bytes()).hexdigest() if whole else seen
        found[str(path.relative_to(place))] = (status.st_mode, content)
    return found
