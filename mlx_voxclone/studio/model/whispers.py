"""Fetching a Whisper from the hub, as the model is: in a process of its own, with its bytes as progress.

`python -m mlx_voxclone.studio.model.whispers OWNER/NAME` fetches it into huggingface-hub's cache and checks its files.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import DataError, VoxcloneError
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.studio.model.fetch import bring, ended, sizes_on_hub
from mlx_voxclone.studio.tasks import Task, beside
from mlx_voxclone.whisper.model import CONFIG, WEIGHTS, WhisperFiles

KIND = "recogniser"  # of the task


def fetch(task: Task, whisper: str) -> dict[str, Any]:
    """The work of a task: fetch a Whisper. Progress counts bytes.

    Raises:
        Cancelled: what has arrived stays in the hub's cache. CheckpointError: it is not to be had, or is none.
    """
    task.progress(0, None, whisper)
    sizes = beside(task, lambda: sizes_on_hub(whisper))
    total = sum(size for name, size in sizes.items() if name in (CONFIG, *WEIGHTS))
    bring(task, whisper, total, [sys.executable, "-m", __name__, whisper])
    return {"model": whisper, "bytes": total}


def at_hand(whisper: str) -> bool:
    """Whether a Whisper's files are on this machine, so that nothing need be fetched."""
    try:
        return Path(expanded(whisper)).exists() or _cached(whisper) is not None
    except ValueError:  # no name that the hub could have
        return True  # loading reports it


def place_of(whisper: str) -> str:
    """The local path of a Whisper: loading by it needs no network, which could not be cancelled.

    Raises:
        DataError: it is neither a folder nor in the cache. An impossible name is left for loading to report.
    """
    if not at_hand(whisper):
        raise DataError(f"{whisper}: is not on this machine any more; ask for the texts again to fetch it")
    with contextlib.suppress(ValueError):
        if not Path(expanded(whisper)).exists() and (folder := _cached(whisper)) is not None:
            return str(folder)
    return whisper


def _cached(whisper: str) -> Path | None:
    """The folder of the cache that has a Whisper's files; None: they were not fetched. Raises ValueError: no name."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(whisper, name) for name in (CONFIG, *WEIGHTS)]
    config, *weights = (Path(one).parent if isinstance(one, str) else None for one in found)
    return config if config is not None and config in weights else None


def main(whisper: str) -> int:
    try:
        WhisperFiles(whisper).check()
    except (VoxcloneError, OSError) as e:
        return ended(e)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
