"""What the page is given, checked before anything else sees it.

Anybody who reaches the page can send any JSON to its endpoints, so a value is taken only where the page's own fields
could have sent it.
"""

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.side_by_side import MAX_CHARACTERS, is_sayable
from mlx_voxclone.text.forms import as_said

LIMIT_MB = 25  # of a reference clip: two minutes of CD quality, of which at most one is taken
UPLOAD_LIMIT = LIMIT_MB * 1_000_000  # bytes
MAX_SEED = 2**53 - 1  # the largest number that a browser keeps exact
_SHOWN = 40  # characters of a wrong value that are shown


@dataclass(frozen=True)
class Wanted:
    """A request that can be carried out. Either `clip`, an audio file, or `voice`, a name, is not None."""

    text: str
    voice: str | None
    clip: Path | None
    seed: int


def wanted(
    text: Any, voice: Any, clip: Any, consent: Any, seed: Any, *, voices: Sequence[str], folder: Path | None = None
) -> Wanted:
    """Check the values of the page's fields, of any type.

    Args:
        clip: None, a path, or an object whose `path` is one, as a browser sends it.
        voices: the names that there are.
        folder: of the uploads; None: the clip may lie anywhere.

    Raises:
        DataError: one line on what is wrong with which field.
    """
    file = _clip(clip, folder)
    if file is not None and not _flag("consent", consent):
        raise DataError("a reference clip needs the consent of the voice's owner: tick the box if you have it")
    _flag("consent", consent)
    return Wanted(_text(text), _voice(voice, voices, needed=file is None), file, _seed(seed))


def shown(value: Any) -> str:
    """A value for a message: short, in one line."""
    try:
        text = repr(value[: 2 * _SHOWN] if isinstance(value, str) else value)
    except Exception:  # a number of too many digits, an object nested too deeply
        text = type(value).__name__
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _text(value: Any) -> str:
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise DataError(f"text: a sentence is expected, got {shown(value)}")
    if len(value) > MAX_CHARACTERS:
        raise DataError(f"the text is too long: {len(value):,} characters; split it into parts of a few sentences")
    if not is_sayable(value):
        raise DataError("there is nothing to say: type a sentence")
    return as_said(value)


def _voice(value: Any, voices: Sequence[str], *, needed: bool) -> str | None:
    if value is None:
        if needed:
            raise DataError("choose a voice, or give a reference clip")
        return None
    if not isinstance(value, str) or value not in voices:
        raise DataError(f"voice: there is none called {shown(value)}; choose one of the list")
    return value


def _flag(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise DataError(f"{name}: yes or no (true or false) is expected, got {shown(value)}")
    return bool(value)


def _seed(value: Any) -> int:
    if value is None:
        return 0
    whole = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value <= MAX_SEED:
        raise DataError(f"seed: a whole number from 0 to {MAX_SEED} is expected, got {shown(value)}")
    return int(value)


def _clip(value: Any, folder: Path | None) -> Path | None:
    if value is None:
        return None
    path = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(path, str | Path) or not str(path):
        raise DataError(f"reference clip: an uploaded file is expected, got {shown(value)}")
    try:
        file = Path(os.path.realpath(path))
        status = file.stat()
    except (OSError, ValueError):  # a name with a zero byte, or of too many characters
        file = None
    inside = file is not None and (folder is None or file.is_relative_to(folder.resolve()))
    if not inside or not stat.S_ISREG(status.st_mode):
        raise DataError("reference clip: the uploaded file is not there any more; upload it again")
    if status.st_size > UPLOAD_LIMIT:
        raise DataError(f"the reference clip is larger than {LIMIT_MB} MB; cut it to 3 to 25 s")
    return file
