"""What the pages of this step have in common: sounds, players, bodies of any size, sentences for what was found."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import free_bytes
from mlx_voxclone.process import temporaries
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.record.checks import Check
from mlx_voxclone.studio.record.listing import Recorded, progress, recorded
from mlx_voxclone.studio.record.shelf import Shelf, gone, in_voice
from mlx_voxclone.studio.record.uploads import playable
from mlx_voxclone.studio.troubles import refusals
from mlx_voxclone.studio.web.languages import Words
from mlx_voxclone.studio.web.pages import player_in, words_of
from mlx_voxclone.studio.web.sounds import sound_response

FULL = "record.wrong.disk"  # said of a full disk
SHELVES = ("takes", "uploads", "clips")
_SPARE = 64 << 20  # bytes of the disk that stay free


def shelf_of(project: Project, name: str) -> Shelf:
    """One of the three folders. Raises Missing."""
    if name not in SHELVES:
        raise Missing("there is no such folder")
    return Shelf(getattr(project, name))


def values(request: Request, project: Project, there: Recorded | None = None) -> dict[str, Any]:
    """What every template of this step is given.

    Args:
        there: what was read of the voice already.
    """
    t, there = words_of(request), there or recorded(project)
    return {
        "project": project,
        "info": project.info(),
        "progress": progress(project, there),
        "damaged": there.damaged,
        "findings": lambda check: findings(t, check),
        "sound": lambda *one: sound(t, project, *one),
    }


def findings(t: Words, check: Check | dict[str, Any] | None) -> list[str]:
    """A sentence for each thing that was found, the worst first; two at most, more are not read."""
    found = check if isinstance(check, Check) else Check.of(check)
    if found is None:
        return []
    return [
        t(f"record.check.{one.key}", **({} if one.value is None else {"value": float(one.value)}))
        for one in found.findings[:2]
    ]


def sound(
    t: Words, project: Project, shelf: str, id: str, label: str, seconds: float, drawn: Sequence[float]
) -> Markup:
    """A player of one sound, with its waveform `drawn`."""
    return player_in(t)(f"/voices/{project.id}/record/sounds/{shelf}/{id}", label, drawn, seconds)


def serve_sound(project: Project, shelf: str, id: str) -> Response:
    """The sound itself, or what of it a browser can play: see `uploads.playable`.

    Raises:
        Missing: there is none. Mistake: the copy that a browser can play does not fit the disk.
    """
    try:
        with refusals("", FULL):
            path = playable(shelf_of(project, shelf), id)
    except DataError:  # it cannot be read: the check has found it
        raise gone(id) from None
    return sound_response(path, project.folder)


async def body(request: Request, file: IO[bytes], most: int) -> int:
    """Write the body of a request into a file, as it comes.

    Returns:
        Bytes.
    Raises:
        HTTPException: 413, more than `most` bytes.
        Mistake: the disk is full, or lets nothing be written.
    """
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > most:
            raise HTTPException(413, f"more than {most // 1_000_000} MB")
        with refusals("files", FULL):
            file.write(chunk)
    return count


@contextlib.contextmanager
def arriving(folder: Path, size: int) -> Iterator[Path]:
    """A place for a file of `size` bytes that comes in; it is gone at the end.

    Raises:
        Mistake: there is no space for it, or nothing can be written.
    """
    if free_bytes(folder) < size + _SPARE:
        raise Mistake("files", FULL)
    with in_voice(folder), refusals("files", FULL), temporaries.made(folder / "arriving") as place:
        yield place
