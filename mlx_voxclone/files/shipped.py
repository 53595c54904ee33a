"""The configurations that come with the package, by name: `voxtral_speaker`, `profiles/mac-32gb` or `mac-32gb`.

A wheel holds them inside the package; the repository has them in `configs/`, the only copy.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

MAIN = "voxtral_speaker"
SUFFIX = ".yaml"


def directory() -> Path:
    """Where they are: in the installed package, else beside the package in the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """`voxtral_speaker`, ..., `profiles/mac-32gb`, ...: what `--config` takes, main ones first."""
    folder = directory()
    found = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{SUFFIX}")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def shipped(name: str) -> Path | None:
    """The shipped configuration of a name, with or without `.yaml`, a profile also without its folder; None: none."""
    name = os.path.normpath(name).replace(os.sep, "/").removesuffix(SUFFIX)
    for known in names():
        if name in (known, known.rpartition("/")[2]):
            return directory() / f"{known}{SUFFIX}"
    return None


def meant(name: str) -> str | None:
    """What the name of a shipped configuration, or a path or a name that ends in `.yaml`, stands for; None: neither."""
    if shipped(name) is not None:
        return name
    last = os.path.basename(name)
    if "/" not in name and not last.endswith(SUFFIX):
        return None
    return name if os.path.isfile(name) or shipped(last) is None else last.removesuffix(SUFFIX)


def find(given: str | Path, base: Path = Path()) -> Path:
    """The file that `given` means: one of that name in the directory `base` wins, then a shipped one.

    Without either it is the path as given, which does not exist.
    """
    path, found = base / given, shipped(str(given))
    if found is None or (os.path.lexists(path) and not path.is_dir()):
        return path
    named = path.with_name(f"{path.name.removesuffix(SUFFIX)}{SUFFIX}")
    return named if named.is_file() else found


def hint(given: str | Path) -> str:
    """The end of a message on a configuration that does not exist; empty for a path that means no shipped one."""
    path = Path(given)
    if shipped(path.name) is not None:
        return f"; the one that comes with voxclone is called {path.name.removesuffix(SUFFIX)}, without a folder"
    here = {file.name: str(file) for file in path.parent.glob(f"*{SUFFIX}")}
    if near := _nearest(path.name, here):
        return f"; did you mean {here[near]}?"
    near = nearest(path.name)
    if path.parent != Path() and path.parent != Path("profiles"):
        return f"; did you mean {near}, which comes with voxclone?" if near else ""
    meant = f"did you mean {near}? " if near else ""
    return f"; {meant}by name there are {', '.join(names())}"


def nearest(name: str) -> str | None:
    """The shipped configuration that a misspelt name may mean, without its folder; None: none is near."""
    return _nearest(os.path.basename(name), {known.rpartition("/")[2]: known for known in names()})


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The nearest of some names, whatever their case and with or without `.yaml`."""
    by_plain = {each.lower().removesuffix(SUFFIX): each for each in known}
    near = difflib.get_close_matches(name.lower().removesuffix(SUFFIX), by_plain, n=1)
    return by_plain[near[0]] if near else None


def label(path: str) -> str:
    """A file's name for messages: a shipped one's inside its folder, any other as it is."""
    folder = str(directory())
    return os.path.relpath(path, folder) if path.startswith(folder + os.sep) else path
