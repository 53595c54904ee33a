"""Files of a person's folder as answers: nothing outside of it, by no link, and with types and names that are ours.

A browser shows what it takes for a page, and a page from here may do all that the studio's pages may. So only sounds
and plain texts are shown; all else is a download, whatever its name says.
"""

import os
import re
import stat
import unicodedata
from pathlib import Path

from starlette.responses import FileResponse, Response

from mlx_voxclone.files.names import cut
from mlx_voxclone.studio.mistakes import Missing

SHOWN = {  # what is played or read in the page itself
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".srt": "text/plain; charset=utf-8",
}
DOWNLOAD = "application/octet-stream"
_LONGEST_NAME = 120  # bytes of a download's name, before its ending
_MOST_PARTS, _LONGEST_PATH = 16, 1000
_NO_NAME = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\u202a-\u202e\u2066-\u2069]+')


def found_within(root: Path, name: str) -> Path:
    """The plain file that a relative name stands for in a folder, which itself is taken as it is.

    Raises:
        Missing: no such file, or it is hidden, reached by a link, or no plain file; who asks is not told which.
    """
    parts = name.split("/")
    if len(name) > _LONGEST_PATH or len(parts) > _MOST_PARTS or not all(map(_is_plain, parts)):
        raise Missing("there is no such file")
    place = Path(root)
    for k, part in enumerate(parts, 1):
        place = place / part
        try:
            mode = os.lstat(place).st_mode
        except (OSError, ValueError):
            raise Missing("there is no such file") from None
        if not (stat.S_ISREG(mode) if k == len(parts) else stat.S_ISDIR(mode)):
            raise Missing("there is no such file")
    return place


def _is_plain(part: str) -> bool:
    return bool(part) and not part.startswith(".") and "\\" not in part and part.isprintable()


def safe_name(title: str, ending: str) -> str:
    """The name of a download: a title without what file systems or headers trip over, and an ending such as `.wav`."""
    text = unicodedata.normalize("NFC", title.encode("utf-8", "replace").decode("utf-8"))
    text = " ".join(_NO_NAME.sub(" ", text).split()).strip(". ")
    return (cut(text, _LONGEST_NAME).strip(". ") or "voice") + ending


def file_answer(path: Path, download: str | None = None) -> Response:
    """A file, whole or the ranges that are asked for.

    Args:
        path: see `found_within`.
        download: name to be kept under; None: a sound or a text is shown, all else is kept under its own name.

    Raises:
        Missing: it has gone.
    """
    media_type = SHOWN.get(path.suffix.lower())
    if download is None and media_type is None:
        download = safe_name(path.stem, path.suffix)
    try:
        facts = os.lstat(path)
    except OSError:
        raise Missing("there is no such file") from None
    if not stat.S_ISREG(facts.st_mode):
        raise Missing("there is no such file")
    return FileResponse(path, media_type=media_type or DOWNLOAD, filename=download, stat_result=facts)
