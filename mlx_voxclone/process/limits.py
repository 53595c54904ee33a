"""What the machine or the caller does not allow this process, each as a line for the user."""

import contextlib
import errno
import os
import resource

LEAST_ADDRESS_SPACE = 1_000_000_000  # bytes: of the libraries and their threads, before any model
_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# What the machine refuses, whatever the file: never a mistake of ours, so a line even where no name is known.
_MACHINE = {
    *(errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
_LOOP = "Symlink loop from "
# How MLX, the loader of libraries and Python say that they got no memory.
_NO_MEMORY = ("alloc", "can't start new thread", "failed to map segment", "out of memory", "insufficient memory")


def too_little_address_space(needed: float = 0) -> str | None:
    """A line that refuses a limit (`ulimit -v`) under which nothing can be computed; None: there is enough.

    Args:
        needed: bytes of a model.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit >= (least := LEAST_ADDRESS_SPACE + needed):
        return None
    return (
        f"this process may use {limit / 1e9:.2g} GB of address space (ulimit -v), and needs at least {least / 1e9:.2g};"
        " raise the limit, or choose a smaller model"
    )


def allow_open_files(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted` if it is lower, as a Mac's 256; returns the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    if soft == endless or soft >= wanted:
        return wanted
    most = wanted if hard == endless else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def describe_os_error(error: OSError) -> str | None:
    """One line for an operating system error that the user can mend, None for any other."""
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
    if error.errno in _NO_SPACE:
        reason = error.strerror or ""
        if reason and reason != os.strerror(error.errno):  # raised by our own check: it says how much is needed
            return reason
        return (
            f"no space left on the disk of {place or 'the output'}; free some (it needs more than was left), run again"
        )
    if isinstance(error, FileNotFoundError) and not _has_working_directory():
        return "the working directory was deleted meanwhile; go to another one and run again"
    if error.errno == errno.EFBIG:
        return f"{place or 'a file'}: larger than files may be here (ulimit -f, or the file system's limit)"
    if place is None and error.errno not in _MACHINE:
        return None
    if isinstance(error, FileNotFoundError):
        return f"{place}: no such file or directory"
    reason = error.strerror or type(error).__name__
    return f"{place or 'a file'}: {reason[0].lower()}{reason[1:]}"


def describe_link_loop(error: BaseException) -> str | None:
    """One line for a link that leads to itself, None for any other error. Python before 3.13 makes no OSError of it."""
    text = str(error)
    if not (isinstance(error, RuntimeError) and text.startswith(_LOOP)):
        return None
    return f"{text.removeprefix(_LOOP).strip(chr(39))}: a link that leads to itself; replace it by the file"


def describe_memory_error(error: BaseException) -> str | None:
    """One line for memory that was not to be had, None for any other error."""
    lacking = isinstance(error, MemoryError)
    if isinstance(error, RuntimeError | ImportError):
        lacking = any(words in str(error).lower() for words in _NO_MEMORY)
    if not lacking:
        return None
    said = " ".join(str(error).split())
    return (
        f"not enough memory{f' ({said})' if said else ''}; close other programs, or see what `voxclone doctor` advises"
    )


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True
