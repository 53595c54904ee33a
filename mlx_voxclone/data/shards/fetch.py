"""Files from a server, whole: over HTTP, or of a dataset on the hub (`hf://datasets/OWNER/NAME[@REVISION]/FILE`).

What may pass (a server that is down, a connection that breaks, a file that arrives damaged) is tried again a few times;
what will not (no such file, no access) is not.
"""

import hashlib
import http.client
import itertools
import math
import re
import shutil
import ssl
import threading
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from mlx_voxclone.data.shards.connection import blocks, opened
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.hub import hub_errors
from mlx_voxclone.process.temporaries import made

WAITS = (1.0, 3.0, 10.0, 30.0)  # seconds before each new attempt
_BLOCK = 1 << 20
_PASSING = frozenset({408, 425, 429})
_HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_NAMES = 100_000


@dataclass(frozen=True)
class Most:
    """Bytes that are taken of a file whose size only the server knows, by whether it states a length.

    A server of files states it. Whatever states none may go on for ever: of that, little is taken.
    """

    stated: int
    unstated: int

    def limit(self, address: str, length: int | None, file: BinaryIO) -> int:
        """Of a file that comes from `address` into `file`.

        Raises:
            DataError: the length is more than is taken, or than there is room for.
        """
        if length is None:
            return self.unstated
        if length > self.stated:
            most = self.stated / 1e9
            raise DataError(f"{address}: the server states {length / 1e9:.3g} GB; up to {most:.3g} GB are taken")
        free = shutil.disk_usage(Path(file.name).parent).free
        if length > free:
            folder = Path(file.name).parent
            raise DataError(
                f"{folder}: no space left for {length / 1e9:.3g} GB of {address}; {free / 1e9:.3g} are free"
            )
        return length


MOST_OF_INDEX = Most(4 << 30, 64 << 20)  # ten million clips; without a length, two hundred thousand
MOST_OF_SHARD = Most(256 << 30, 512 << 20)


class Abandoned(Exception):
    """Nobody waits for the file any more."""


class _Passing(Exception):
    """A failure that another attempt may not meet."""


def is_remote(place: str | Path) -> bool:
    """Whether a place is an address and no path.

    Raises:
        DataError: an address of another kind than http, https and hf.
    """
    scheme, separator, _ = str(place).partition("://")
    if not separator or not scheme.isalnum():
        return False
    if scheme not in ("http", "https", "hf"):
        raise DataError(f"{place}: unknown kind of address; use http://, https:// or hf://")
    if scheme == "hf" and (not _HUB.fullmatch(str(place)) or ".." in str(place).split("/")):
        raise DataError(f"{place}: not a dataset on the Hub; expected hf://datasets/OWNER/NAME")
    return True


def joined(base: str, name: str) -> str:
    """The address of a file below another address.

    Raises:
        DataError: a name that leads out of it.
    """
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name:
        raise DataError(f"{base}: lists {name!r}, which does not lie below it")
    return f"{base.rstrip('/')}/{name if base.startswith('hf://') else quote(name)}"


def resolved(place: str, base: Path | str) -> Path | str:
    """A shard as the index names it, as a path or an address.

    Raises:
        DataError: it leads out of where the index lies.
    """
    if is_remote(place):
        return place
    if isinstance(base, str):
        return joined(base, place)
    if ".." in Path(place).parts:
        raise DataError(f"{base}: its index lists {place!r}, which does not lie below it")
    return base / place


def expanded(pattern: str) -> list[str]:
    """`x-{000..012}.tar` as the names it stands for, as they are usual for sharded data; else the name itself."""
    texts = _RANGE.split(pattern)  # text, first, last, text, first, last, ..., text
    ranges = list(zip(texts[1::3], texts[2::3]))
    count = math.prod(max(0, int(last) - int(first) + 1) for first, last in ranges)
    if not 0 < count <= _MOST_NAMES:
        named = ", ".join(f"from {first} to {last}" for first, last in ranges[:3])
        raise DataError(f"{pattern[:200]}: a range {named} names no files, or too many (at most {_MOST_NAMES})")
    parts = ([str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)] for first, last in ranges)
    return [
        texts[0] + "".join(number + text for number, text in zip(numbers, texts[3::3]))
        for numbers in itertools.product(*parts)
    ]


def hub_shards(address: str) -> list[str]:
    """Addresses of the tar files of a dataset on the hub, or of a folder of it, sorted.

    Raises:
        DataError: no such dataset, no access, or none in it.
    """
    repository, revision, folder = _HUB.fullmatch(address).groups()
    from huggingface_hub import list_repo_files

    with hub_errors(f"{address}: not read from the hub", DataError):
        names = list_repo_files(repository, repo_type="dataset", revision=revision)
    below = f"{folder.strip('/')}/" if folder else ""
    found = sorted(name for name in names if name.startswith(below) and name.endswith(".tar"))
    base = f"hf://datasets/{repository}" + (f"@{revision}" if revision else "")
    return [f"{base}/{name}" for name in found]


def fetch(
    address: str,
    file: BinaryIO,
    size: int | None,
    digest: str | None,
    stop: threading.Event | None = None,
    *,
    most: Most | None = None,
) -> None:
    """Write a file from a server into an open, empty one.

    Args:
        size, digest: bytes and SHA-256 (hex) that it must have; None: not known.
        stop: gives up when it is set.
        most: bytes that are taken where the size is not known.

    Raises:
        DataError: larger than `most`, or than what the disk has room for; not there, no access, not what it should be,
            or not to be had after several attempts; one line.
        Abandoned: `stop` was set.
    """
    stop = stop or threading.Event()
    for wait in (0.0, *WAITS):
        if stop.wait(wait):
            raise Abandoned
        file.seek(0)
        file.truncate()
        try:
            found, count = (_from_hub if address.startswith("hf://") else _from_http)(address, file, size, stop, most)
        except _Passing as failure:
            reason = str(failure)
            continue
        if size is not None and count != size:
            reason = f"{count} bytes where the index states {size}"
        elif digest is not None and not found.startswith(digest):
            reason = "its SHA-256 is not that of the index"
        else:
            return
    raise DataError(f"{address}: cannot be fetched ({reason}; tried {1 + len(WAITS)} times); {_remedy(reason)}")


def _remedy(reason: str) -> str:
    if "index" in reason:
        return "it was changed or damaged where it lies: put back the one that the index was made with"
    return "check network and server, then run again"


def _from_http(
    address: str, file: BinaryIO, size: int | None, stop: threading.Event, most: Most | None
) -> tuple[str, int]:
    """SHA-256 and length of what was written."""
    digest, count = hashlib.sha256(), 0
    try:
        with opened(address) as answer:
            stated = answer.headers.get("Content-Length")
            length = int(stated) if stated is not None and stated.isdigit() else None
            limit = None if most is None else most.limit(address, length, file)
            for block in blocks(answer):
                if stop.is_set():
                    raise Abandoned
                count += len(block)
                if size is not None and count > size:
                    return "", count
                if limit is not None and count > limit:
                    raise DataError(
                        f"{address}: over {limit / 1e6:.0f} MB came without an end, more than is taken of a server that"
                        " does not state a length; fix the server or the address"
                    )
                digest.update(block)
                file.write(block)
    except urllib.error.HTTPError as e:
        if e.code >= 500 or e.code in _PASSING:
            raise _Passing(f"the server says {e.code} {e.reason}") from None
        raise _refused(address, e.code) from None
    except ssl.SSLCertVerificationError as e:
        raise DataError(f"{address}: the server's certificate is not trusted ({e.verify_message})") from None
    except urllib.error.URLError as e:
        if isinstance(e.reason, ssl.SSLCertVerificationError):
            message = e.reason.verify_message
            raise DataError(f"{address}: the server's certificate is not trusted ({message})") from None
        raise _Passing(str(e.reason)) from None
    except (ConnectionError, TimeoutError, http.client.HTTPException) as e:
        raise _Passing(_first_line(e)) from None
    except ValueError as e:
        raise DataError(f"{address}: no address to fetch from ({e})") from None
    if length is not None and length != count:
        raise _Passing(f"the connection broke after {count} of {stated} bytes")
    return digest.hexdigest(), count


def _from_hub(
    address: str, file: BinaryIO, size: int | None, stop: threading.Event, most: Most | None
) -> tuple[str, int]:
    """By the hub's own library, which knows tokens and storage; into a folder of its own beside the file."""
    repository, revision, name = _HUB.fullmatch(address).groups()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    with made(Path(file.name).with_name("hub"), directory=True) as folder:
        try:
            where = {"repo_type": "dataset", "revision": revision, "local_dir": folder}
            path = hf_hub_download(repository, name or "", **where)
        except LocalEntryNotFoundError as e:  # what it raises without a network
            raise _Passing(_first_line(e)) from None
        except EntryNotFoundError:
            raise _refused(address, 404) from None
        except HfHubHTTPError as e:
            code = getattr(getattr(e, "response", None), "status_code", 0) or 0
            if code >= 500 or code in _PASSING:
                raise _Passing(_first_line(e)) from None
            raise DataError(f"{address}: not fetched from the hub ({_first_line(e)})") from None
        except (OSError, ValueError) as e:
            if getattr(e, "errno", None) is not None:
                raise
            raise DataError(f"{address}: not fetched from the hub ({_first_line(e)})") from None
        except Exception as e:  # of the transport below: httpx, requests or xet, by version
            raise _Passing(_first_line(e)) from None
        if stop.is_set():
            raise Abandoned
        if most is not None:
            most.limit(address, Path(path).stat().st_size, file)
        digest, count = hashlib.sha256(), 0
        with open(path, "rb") as source:
            while block := source.read(_BLOCK):
                digest.update(block)
                count += len(block)
            source.seek(0)
            shutil.copyfileobj(source, file, _BLOCK)
    return digest.hexdigest(), count


def _refused(address: str, code: int) -> DataError:
    if code in (404, 410):
        return DataError(f"{address}: missing on the server ({code}); put it there, or correct the address")
    if code in (401, 403):
        return DataError(f"{address}: the server gives no access ({code}); make it readable, or log in (hf auth login)")
    return DataError(f"{address}: the server refused the request ({code}); correct the address")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160] or type(error).__name__
