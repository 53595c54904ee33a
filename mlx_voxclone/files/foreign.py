"""What stands in the place of a file that has not come: a pointer, a page of a server, a placeholder.

Each of them has the file's name and another content, which every format calls damaged. Said by name, it is fixed in
a minute.
"""

import os
from pathlib import Path

from mlx_voxclone.files.names import LONGEST

_HEAD = 1024  # bytes that are looked at
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<head")
_MESSAGES = (  # of servers, in the place of what is no text
    *(b'{"error"', b"<?xml version", b"entry not found", b"repository not found", b"unauthorized"),
    *(b"access to model", b"access to dataset", b"invalid username or password", b"invalid credentials"),
)


def stand_in(path: str | Path) -> str | None:
    """What a file is, and what to do, if it stands in another one's place; None for any other file, or none."""
    path = Path(path)
    try:
        if os.path.lexists(path) and not path.exists():
            return _broken_link(path)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return stand_in_bytes(file.read(_HEAD), text=False)
    except (OSError, ValueError):
        return None


def stand_in_bytes(head: bytes, *, text: bool = True) -> str | None:
    """`stand_in` by a file's first bytes.

    Args:
        text: a text is expected, which may read like a server's message.
    """
    head = head[:_HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = head.lower()
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the file itself: run `git lfs pull` where it was cloned"
    if head.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return "a git-annex pointer, not the file itself: run `git annex get`"
    if lower.startswith(_PAGES):
        return "a web page (a login or an error, saved under this name), not the file itself: download it again"
    if not text and lower.startswith(_MESSAGES):
        return "a server's message (saved under this name), not the file itself: download it again"
    if head.startswith(b"bplist00"):
        return "a property list of macOS, such as iCloud leaves, not the file itself: download it first"
    return None


def absent(path: str | Path) -> str | None:
    """Why a file that is missing is, if its name or its folder tells."""
    path = Path(path)
    if (size := len(os.fsencode(path.name))) > LONGEST:
        return f"no file has a name of {size} bytes ({LONGEST} at the most); shorten it"
    try:
        if os.path.lexists(path.with_name(f".{path.name}.icloud")):
            return "still in iCloud: download it first (in Finder, or with `brctl download`)"
        if os.path.lexists(path) and not path.exists():
            return _broken_link(path)
    except (OSError, ValueError):
        return None
    return None


def refuse_stand_in(path: str | Path, error: type[Exception]) -> None:
    """Raise `error`, in one line, for a file that stands in another one's place."""
    if what := stand_in(path) or absent(path):
        raise error(f"{path}: {what}")


def in_icloud(names: list[str]) -> list[str]:
    """The files of a folder that are still in iCloud, by the placeholders `.NAME.icloud` among its names."""
    return [name[1 : -len(".icloud")] for name in names if name.startswith(".") and name.endswith(".icloud")]


def _broken_link(path: Path) -> str:
    target = os.readlink(path)
    if ".git/annex/" in target:
        return "a git-annex link whose file is not here: run `git annex get`"
    return f"a link to {target[:80]}, which does not exist"
