"""Sounds of a person's, served to their player."""

from pathlib import Path

from starlette.responses import Response

from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.web.files import file_answer, found_within

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


def sound_response(path: Path, inside: Path, download: str | None = None) -> Response:
    """A sound in parts as a player asks for them.

    Args:
        inside: folder that it must lie in, itself and not by a link.
        download: name to save it under; None: to be played.

    Raises:
        Missing: no such sound there.
    """
    if path.suffix.lower() not in SUFFIXES or not path.is_relative_to(inside):
        raise Missing("there is no such sound")
    return file_answer(found_within(inside, path.relative_to(inside).as_posix()), download)
