"""Sounds of a person's, served to their player."""

from pathlib import Path

from starlette.responses import FileResponse, Response

from mlx_voxclone.studio.mistakes import Missing

TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}


def sound_response(path: Path, inside: Path, download: str | None = None) -> Response:
    """A sound in parts as a player asks for them.

    Args:
        inside: folder that it must lie in, links followed.
        download: name to save it under; None: to be played.

    Raises:
        Missing: no such sound there.
    """
    found = path.resolve()
    if not found.is_file() or not found.is_relative_to(inside.resolve()) or found.suffix.lower() not in TYPES:
        raise Missing("there is no such sound")
    return FileResponse(found, media_type=TYPES[found.suffix.lower()], filename=download)
