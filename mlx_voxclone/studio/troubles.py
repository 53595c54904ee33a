"""The cause of an error, as a key of the page's texts.

Messages of the library and of commands are English and technical. A page says in its own language what failed and what
to do next (`[trouble]` of its texts, by cause), and shows the message below.
"""

import contextlib
import errno
import signal
from collections.abc import Iterator

from mlx_voxclone.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NotFiniteError,
    TrainingError,
    VoxcloneError,
)
from mlx_voxclone.process.limits import describe_memory_error
from mlx_voxclone.studio.mistakes import Mistake

ENDED = "the studio was closed before this was done"
CLOSED, MEMORY, KILLED, DISK = "closed", "memory", "killed", "disk"
NETWORK, LOGIN, NOWHERE = "network", "login", "nowhere"  # of the hub
PACKAGE, BUSY, GONE, RIGHTS = "package", "busy", "gone", "rights"
NUMBERS, RECORDING, MODEL, SETTING, OTHER, DEFECT = "numbers", "recording", "model", "setting", "other", "defect"
CAUSES = (
    *(CLOSED, MEMORY, KILLED, DISK, NETWORK, LOGIN, NOWHERE, PACKAGE, BUSY, GONE, RIGHTS),
    *(NUMBERS, RECORDING, MODEL, SETTING, OTHER, DEFECT),
)
_SIGNS = (  # part of a message -> its cause; the first match counts
    (ENDED, CLOSED),
    ("no space left", DISK),
    ("larger than files may be", DISK),
    ("quota exceeded", DISK),
    ("not enough memory", MEMORY),
    ("address space", MEMORY),
    ("out of memory", MEMORY),
    (f"ended with code -{signal.SIGKILL:d}", KILLED),
    ("pip install", PACKAGE),
    ("uv sync", PACKAGE),
    ("no module named", PACKAGE),
    ("hf auth login", LOGIN),
    ("(403)", LOGIN),
    ("not there (404)", NOWHERE),
    ("no such revision", NOWHERE),
    ("the hub ", NETWORK),
    ("the hub's", NETWORK),
    ("hf_hub_offline", NETWORK),
    ("not fetched", NETWORK),
    ("is in use by", BUSY),
    ("held by another process", BUSY),
    ("no such file or directory", GONE),
    ("was deleted meanwhile", GONE),
    ("permission denied", RIGHTS),
    ("operation not permitted", RIGHTS),
    ("read-only file system", RIGHTS),
    ("not finite", NUMBERS),
)
_NUMBERS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), DISK),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), RIGHTS),
    errno.ENOENT: GONE,
    errno.ENOMEM: MEMORY,
}
_KINDS = (  # the first class that it is of
    (NotFiniteError, NUMBERS),
    (TrainingError, NUMBERS),
    (DataError, RECORDING),
    (ConfigError, SETTING),
    (CheckpointError, MODEL),
    (VoxcloneError, OTHER),
)


def cause_of_line(line: str) -> str:
    """The cause of a message of a command or of the library: one of CAUSES, `other` if none fits."""
    plain = line.lower()
    return next((cause for sign, cause in _SIGNS if sign in plain), OTHER)


def cause_of(error: BaseException) -> str:
    """The cause of an error: one of CAUSES, by its number, message and class."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return _NUMBERS[error.errno]
    if describe_memory_error(error) is not None:
        return MEMORY
    if (said := cause_of_line(str(error))) != OTHER:
        return said
    if isinstance(error, FromCommand):
        return OTHER
    return next((cause for kind, cause in _KINDS if isinstance(error, kind)), DEFECT)


class FromCommand(CheckpointError):
    """The error line of a command in another process; the class of the error there is unknown."""


@contextlib.contextmanager
def refusals(field: str, full: str = f"trouble.do.{DISK}") -> Iterator[None]:
    """A block in which a disk that is full, or lets nothing be written, is a mistake beside a field.

    Args:
        full: key of the sentence for a full disk.

    Raises:
        Mistake: see above; other errors come as they are.
    """
    try:
        yield
    except (OSError, CheckpointError) as e:
        cause = cause_of(e)
        if cause == DISK:
            raise Mistake(field, full) from e
        if cause == RIGHTS:
            raise Mistake(field, f"trouble.do.{RIGHTS}", line=str(e)) from e
        raise
