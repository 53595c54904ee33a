"""Addresses on the hub: `hf://OWNER/NAME[/FILE][@REVISION]` wherever an encoder, adapters or a voice is given.

Files are fetched by huggingface-hub into its own cache; without a network, the cache alone is used. Within a process
an address stands for the same file throughout, even where its repository changes meanwhile.
"""

import errno
import functools
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlx_voxclone.errors import CheckpointError, VoxcloneError

SCHEME = "hf://"
ENCODER, ADAPTERS, VOICE = "encoder", "adapters", "voice"  # kinds of what an address stands for
ENCODER_FILE, ADAPTER_FILES = "encoder.safetensors", ("adapters.safetensors", "adapter_config.json")
VOICE_SUFFIXES = (".safetensors", ".pt")
PRESETS = "voice_embedding"  # where a whole checkpoint keeps its voices
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+")
FORM = "hf://OWNER/NAME[/FILE][@REVISION]"
_ADDRESS = re.compile(
    rf"hf://(?P<repository>{REPOSITORY.pattern})(?:@(?P<early>[\w.-]+))?(?:/(?P<file>[^@]*))?(?:@(?P<late>[\w./-]+))?"
)
_OTHER_KINDS = ("datasets", "spaces", "models")  # what the hub's own addresses may begin with, none of them an owner
_NO_VOICES = {ENCODER_FILE, ADAPTER_FILES[0], "consolidated.safetensors"}
_LISTED = 8  # names in a message
_OF_THE_DISK = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class HubAddress:
    """A model repository on the hub, or a file in it.

    Args:
        repository: `OWNER/NAME`.
        file: path inside it; empty: chosen by what is needed.
        revision: branch, tag or commit; None: the default branch.
    """

    repository: str
    file: str = ""
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """Read `hf://OWNER/NAME[/FILE][@REVISION]`; the revision may stand behind NAME, too, as the hub writes it.

        Raises:
            CheckpointError: another form.
        """
        match = _ADDRESS.fullmatch(text)
        file = (match["file"] or "").strip("/") if match else ""
        if (
            not match
            or (match["early"] and match["late"])
            or match["repository"].split("/")[0] in _OTHER_KINDS
            or {"..", "."} & set(file.split("/"))
        ):
            raise CheckpointError(f"{text}: not an address of a model repository; expected {FORM}")
        return cls(match["repository"], file, match["early"] or match["late"])

    def __str__(self) -> str:
        file, revision = f"/{self.file}" if self.file else "", f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{file}{revision}"


def is_address(place: str | Path) -> bool:
    """Whether a place is meant as an address on the hub."""
    return isinstance(place, str) and place.startswith(SCHEME)


def local(place: str | Path, kind: str) -> Path:
    """The path of an encoder, adapters or a voice: as given, or fetched from the hub.

    Args:
        place: a path, or an address (`HubAddress.parse`). Without FILE, an encoder is `encoder.safetensors`, adapters
            the directory with `adapters.safetensors`, a voice the one voice file of the repository.
        kind: `encoder`, `adapters` or `voice`.

    Returns:
        a path; of adapters, the directory. A path that was given is not looked at.

    Raises:
        CheckpointError: not to be had from the hub, nothing of the kind there, or several.
    """
    return _fetched(place, kind) if is_address(place) else Path(place)


@functools.cache
def _fetched(text: str, kind: str) -> Path:
    address = HubAddress.parse(text)
    names = _names(address)
    chosen = _chosen(names, address, kind)
    wanted = [str(chosen.parent / name) for name in ADAPTER_FILES] if kind == ADAPTERS else [str(chosen)]
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(f"{address}: {missing[0]} is missing beside {chosen}")
    folder = download(address, [_literal(name) for name in wanted])
    for name in wanted:
        if not (folder / name).is_file():
            raise CheckpointError(f"{address}: {name} did not arrive from the hub; run again")
    return folder / (chosen.parent if kind == ADAPTERS else chosen)


def download(address: HubAddress, patterns: Sequence[str], failed: str = "") -> Path:
    """Fetch the files of a repository that match `patterns`; returns the directory that holds them.

    Raises:
        CheckpointError: not to be had, and not in the cache; `failed` and the reason.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(failed or f"{address}: not fetched from the hub"), library_output():
        place = {} if address.revision is None else {"revision": address.revision}
        return Path(snapshot_download(address.repository, allow_patterns=list(patterns), **place))


def _names(address: HubAddress) -> list[str]:
    """Names of the files of a repository; of those in the cache where the hub cannot be reached."""
    from huggingface_hub import HfApi

    with hub_errors(f"{address}: not fetched from the hub"):
        try:
            info = HfApi().model_info(address.repository, revision=address.revision)  # does not try for half a minute
            return [sibling.rfilename for sibling in info.siblings or ()]
        except Exception as failure:
            folder = _cached(address) if _out_of_reach(failure) else None
            if folder is None:
                raise
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _cached(address: HubAddress) -> Path | None:
    """The directory in the cache that holds what was fetched of a repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(address.repository, revision=address.revision, local_files_only=True))
    except LocalEntryNotFoundError as e:  # newer versions say so where the repository is known to hold more
        folder = getattr(e, "snapshot_path", None)
        return None if folder is None else Path(folder)


def _chosen(names: Sequence[str], address: HubAddress, kind: str) -> PurePosixPath:
    """The file that an address means; of adapters, that of their tensors."""
    file, tensors = address.file, ADAPTER_FILES[0]
    if file:
        if kind == ADAPTERS and PurePosixPath(file).name != tensors:
            file = f"{file}/{tensors}"
        if kind == VOICE and PurePosixPath(file).suffix not in VOICE_SUFFIXES:
            raise CheckpointError(f"{address}: a voice on the hub is a .safetensors or .pt file; download recordings")
        if file not in names:
            raise CheckpointError(f"{address}: there is no {file}; there are {_listed(names)}")
        return PurePosixPath(file)
    if kind == VOICE:
        found = _voices(names)
    else:
        found = [name for name in names if PurePosixPath(name).name == (ENCODER_FILE if kind == ENCODER else tensors)]
    if len(found) > 1:
        listed = _listed(sorted(str(PurePosixPath(name).parent) if kind == ADAPTERS else name for name in found))
        what = {ENCODER: "encoders", ADAPTERS: "directories of adapters", VOICE: "voices"}[kind]
        raise CheckpointError(f"{address}: holds several {what} ({listed}); add the name of one, as in {FORM}")
    if not found:
        what = {ENCODER: f"encoder ({ENCODER_FILE})", ADAPTERS: f"adapters ({tensors})", VOICE: "voice"}[kind]
        raise CheckpointError(f"{address}: holds no {what}; there are {_listed(names)}")
    return PurePosixPath(found[0])


def _voices(names: Sequence[str]) -> list[str]:
    """Files that can be voices, one of each name; those of a whole checkpoint only where there are no others."""
    paths = [PurePosixPath(name) for name in names]
    found = [path for path in paths if path.suffix in VOICE_SUFFIXES and path.name not in _NO_VOICES]
    found = [path for path in found if path.parts[0] != PRESETS] or found
    twice = {path.with_suffix("") for path in found if path.suffix == VOICE_SUFFIXES[0]}
    return [str(path) for path in found if path.suffix == VOICE_SUFFIXES[0] or path.with_suffix("") not in twice]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(sorted(names)[:_LISTED]) or "no files") + more


def _literal(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


@contextmanager
def library_output(quiet: bool = False) -> Iterator[None]:
    """The hub's library shows progress bars only on a terminal and not if `quiet`; of its messages, errors alone."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger, silenced = logging.getLogger("huggingface_hub"), quiet or not sys.stderr.isatty()
    level, silenced = logger.level, silenced and not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if silenced:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if silenced:
            enable_progress_bars()


# ---- failures ------------------------------------------------------------------------------------------------------


@contextmanager
def hub_errors(what: str, kind: type[VoxcloneError] = CheckpointError, advice: str = "") -> Iterator[None]:
    """Whatever the hub's library raises as one line: `what`, the reason in brackets, and `advice`.

    Raises:
        VoxcloneError: of this kind, for any of the dozen classes of several libraries that can come out of it. Our own
            errors pass, and what the disk refuses stays an OSError.
    """
    try:
        yield
    except VoxcloneError:
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.errno in _OF_THE_DISK:
            raise
        raise kind(f"{what} ({reason(e)}){advice}") from e


def reason(error: BaseException) -> str:
    """Why the hub's library failed and what to do about it, as part of a line."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return f"not in the cache, and {reason(error.__cause__)}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "the network is switched off by HF_HUB_OFFLINE"
    if isinstance(error, errors.GatedRepoError):
        return "access has to be asked for on its page, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one: then log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision"
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error)
    if isinstance(error, json.JSONDecodeError):
        return "the answer is none of the hub's: check the network, and HF_ENDPOINT if it is set"
    first = (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__
    return f"the hub cannot be reached: {first}" if _of_the_transport(error) else first


def _refusal(error) -> str:
    """A status that the hub answered with."""
    code = getattr(getattr(error, "response", None), "status_code", 0) or 0
    said = " ".join((getattr(error, "server_message", None) or "").split())[:160]
    said = f": {said}" if said else ""
    if code == 401:
        return "no access (401): log in with `hf auth login`, or correct HF_TOKEN"
    if code == 403:
        return f"the token gives no right to do this (403){said}; take one that may, and may write to publish"
    if code == 404:
        return f"not there (404){said}"
    if code in (409, 412):
        return f"it was changed by somebody else meanwhile ({code}){said}; run again"
    if code == 429 or code >= 500:
        return f"the hub has a problem ({code}){said}; try again later"
    return f"the hub refuses ({code}){said}"


def _of_the_transport(error: BaseException) -> bool:
    """Of the library below (requests, httpx or httpx2, by version), or of the system's network."""
    library = type(error).__module__.partition(".")[0]
    return library in ("requests", "urllib3", "httpx", "httpx2", "httpcore") or isinstance(
        error, ConnectionError | TimeoutError
    )


def _out_of_reach(error: BaseException) -> bool:
    """Whether the cache is worth a look: no network, or a hub that has a problem."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return (getattr(getattr(error, "response", None), "status_code", 0) or 0) >= 500
    return isinstance(error, errors.OfflineModeIsEnabled) or _of_the_transport(error)
