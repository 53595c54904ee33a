"""Fetching a model from the hub: in a process of its own, so that it ends at once when it is cancelled.

`python -m mlx_voxclone.studio.model.fetch OWNER/NAME` fetches it into huggingface-hub's cache, as the commands would,
and prints its folder. What has come so far stays there: fetched again, it goes on.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mlx_voxclone.checkpoint.release import PARAMS, TEKKEN, WEIGHTS, resolve
from mlx_voxclone.errors import CheckpointError, VoxcloneError
from mlx_voxclone.files.atomic import free_space_check
from mlx_voxclone.files.hub import hub_errors
from mlx_voxclone.studio.child import run
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.model.choice import HUB, Chosen, check, choose
from mlx_voxclone.studio.tasks import Task, beside

KIND = "download"  # of the task
_NEEDED = (WEIGHTS, PARAMS, TEKKEN)


def fetch(task: Task, model: str) -> dict:
    """The work of a task: fetch, check, and choose it for the task's person. Progress counts bytes.

    Raises:
        Cancelled: it was cancelled. CheckpointError: it is not to be had, or cannot be trained.
    """
    task.progress(0, None, model)
    total = beside(task, lambda: size_on_hub(model))
    bring(task, model, total, [sys.executable, "-m", __name__, model])
    try:
        check(model, "hub")
    except Mistake as e:
        raise CheckpointError(str(e.values.get("why") or e)) from None
    choose(task.person, Chosen(HUB, model))
    return {"model": model, "bytes": total}


def bring(task: Task, model: str, total: int, program: Sequence[str]) -> None:
    """Run a program that fetches a repository into the hub's cache. Progress counts the bytes there.

    Args:
        total: bytes that are wanted.

    Raises:
        Cancelled: it was cancelled. CheckpointError: there is no room, or the program has failed.
    """
    folder = _cache(model)
    before = min(total, _bytes(folder))
    task.progress(before, total, model)
    if total > before:
        free_space_check(folder, total - before)
    run(task, program, watch=lambda: task.progress(min(total, _bytes(folder)), total, model))
    task.progress(total, total, model)


def is_fetched(model: str) -> bool:
    """Whether all of a model is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(model, name), str) for name in _NEEDED)


def size_on_hub(model: str) -> int:
    """Bytes of those files of a model that are fetched. Raises CheckpointError."""
    names = sizes_on_hub(model)
    if missing := [name for name in _NEEDED if name not in names]:
        raise CheckpointError(f"{model}: is no Voxtral speech model (it has no {missing[0]}); choose another one")
    return sum(size for name, size in names.items() if name in _NEEDED or name.startswith("voice_embedding/"))


def sizes_on_hub(model: str) -> dict[str, int]:
    """Bytes of each of a repository's files. Raises CheckpointError."""
    from huggingface_hub import HfApi

    with hub_errors(f"{model}: not fetched from the hub"):
        files = HfApi().model_info(model, files_metadata=True).siblings or []
    return {file.rfilename: file.size or 0 for file in files}


def _cache(model: str) -> Path:
    """Where the library puts what it fetches of a model."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")


def _bytes(folder: Path) -> int:
    """What lies there so far, half files too."""
    total = 0
    for root, _, names in os.walk(folder / "blobs"):
        for name in names:
            try:
                status = os.stat(os.path.join(root, name))
            except OSError:
                continue  # renamed meanwhile
            total += min(status.st_size, 512 * status.st_blocks)  # of a file that is written in pieces, what is there
    return total


def ended(error: Exception) -> int:
    """Say what is wrong, as the commands do; the code that a program ends with."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def main(model: str) -> int:
    try:
        print(resolve(model))
    except (VoxcloneError, OSError) as e:
        return ended(e)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
