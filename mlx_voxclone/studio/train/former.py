"""The training before the present one: put aside when a voice is trained again, put back when nothing comes of that."""

from pathlib import Path

from mlx_voxclone.publish.run_directory import SUMMARY
from mlx_voxclone.studio.home import Project, private
from mlx_voxclone.studio.results import EARLIER, earlier_runs

_LOG = "training.log"  # in a run that was put aside: what the command had said


def former(project: Project) -> Path | None:
    """The last training that ended well and was put aside, where there is no run in its place; None: there is none."""
    if project.run.exists():
        return None
    return next((run for _, run in earlier_runs(project.run) if (run / SUMMARY).is_file()), None)


def put_aside(project: Project, log: Path) -> None:
    """Move a run into `earlier/` of its voice's folder, under the next number, with its log. Raises OSError."""
    earlier = private(project.folder / EARLIER)
    place = earlier / str(1 + max((number for number, _ in earlier_runs(project.run)), default=0))
    project.run.rename(place)
    if log.is_file():
        log.rename(place / _LOG)


def put_back(project: Project, log: Path) -> None:
    """Move `former` to where it was, with its log. Raises OSError."""
    if (run := former(project)) is None:
        return
    log.unlink(missing_ok=True)  # of what came to nothing
    if (run / _LOG).is_file():
        (run / _LOG).rename(log)
    run.rename(project.run)
