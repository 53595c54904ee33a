"""One check in a process of its own: `python -m mlx_voxclone.selfcheck.child NAME DEVICE FOLDER [full]`."""

import sys
from pathlib import Path

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.process.device import set_device
from mlx_voxclone.process.limits import describe_memory_error
from mlx_voxclone.selfcheck.outcome import SHORT, Outcome, without_private
from mlx_voxclone.selfcheck.place import Place
from mlx_voxclone.selfcheck.series import CHECKS, Check, write_outcome


def carry_out(check: Check, place: Place) -> Outcome:
    """What a check says; an error of its own counts as falling short, in one line."""
    try:
        return check.function(place)
    except Exception as error:
        line = describe_memory_error(error) or str(error)
        kind = "" if isinstance(error, VoxcloneError) else f"{type(error).__name__}: "
        return Outcome(SHORT, without_private(f"{kind}{line}"))


def main(name: str, device: str, folder: str, *sizes: str) -> None:
    """Carry out a check and leave its outcome in the folder."""
    check = next(check for check in CHECKS if check.name == name)
    set_device(device)
    place = Place(Path(folder), full=bool(sizes))
    outcome = carry_out(check, place)
    write_outcome(place.folder, Outcome(outcome.verdict, without_private(outcome.told), outcome.figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
