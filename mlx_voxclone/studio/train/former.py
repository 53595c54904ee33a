"""The training before the present one: put aside when a voice is trained again, put back when nothing comes of that.

A run and its log move together, in steps that an end in between leaves in order: the log lies in the run's directory
while that moves.
"""

import contextlib
from pathlib import Path

from mlx_voxclone.publish.run_directory import SUMMARY
from mlx_voxclone.studio.home import Project, private
from mlx_voxclone.studio.results import EARLIER, NUMBER, earlier_runs, own_number

_LOG = "training.log"  # in a run that was put aside: what the command had said


def former(project: Project) -> Path | None:
    """The last training that ended well and was put aside, where there is no run in its place; None: there is none."""
    if project.run.exists():
        return None
    return next((run for _, run in earlier_runs(project.run) if (run / SUMMARY).is_file()), None)


def put_aside(project: Project, log: Path) -> None:
    """Move a run into `earlier/` of its voice's folder, with its log, under its number or the next. Raises OSError."""
    earlier = private(project.folder / EARLIER)
    taken, own = {number for number, _ in earlier_runs(project.run)}, own_number(project.run)
    if log.is_file():
        log.rename(project.run / _LOG)
    try:
        project.run.rename(earlier / str(own if own and own not in taken else 1 + max(taken, default=0)))
    except OSError:
        settle(project, log)
        raise


def put_back(project: Project, log: Path) -> None:
    """Move `former` to where it was, with its log and its number. Raises OSError."""
    if (run := former(project)) is None:
        return
    log.unlink(missing_ok=True)  # of what came to nothing
    if max(number for number, _ in earlier_runs(project.run)) > int(run.name):  # one that came to nothing stays there
        with contextlib.suppress(OSError):  # a full disk: the move needs none
            (run / NUMBER).write_text(run.name)
    run.rename(project.run)
    settle(project, log)


def settle(project: Project, log: Path) -> None:
    """Put a log where it belongs that still lies in the run which has moved with it."""
    with contextlib.suppress(OSError):
        if (project.run / _LOG).is_file() and not log.exists():
            (project.run / _LOG).rename(log)
