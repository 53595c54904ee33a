"""The bytes of shards: local ones are read where they lie, remote ones out of a cache of bounded size.

    CACHE/KEY.tar        a shard, verified when it was fetched; the one not used for longest goes first
    CACHE/KEY.partial    one on its way, locked by the process that fetches it
    CACHE/kept/KEY       audio of clips that are needed again and again (held-out ones), copied out of their shards

Several processes may share a cache. A shard that one of them removes while another reads it stays readable there.
A thread fetches ahead what the order of the epoch needs next; it ends when there is nothing to do.
"""

import errno
import hashlib
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mlx_voxclone.data.shards.fetch import Abandoned, fetch, resolved
from mlx_voxclone.data.shards.index import Shard
from mlx_voxclone.data.shards.partial import clear_stale, locked
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.files.atomic import atomic_file, free_bytes
from mlx_voxclone.files.cache import cache_root

CACHE_GB = 50.0
_OPEN_FILES = 32
_IDLE = 2.0  # seconds
_SPARE = 1 << 28  # bytes of the cache's disk left to others
_TOLD_AFTER = 2.0  # seconds of waiting


def default_cache() -> Path:
    """`shards` in the user's cache directory."""
    return cache_root() / "shards"


class ShardStore:
    """Reads stretches of shards; any thread may.

    Args:
        shards: of the index.
        base: where the index lies: a directory or an address.
        cache: directory for what is fetched; made when it is needed.
        budget: bytes of fetched shards in it.
        say: receives a line when there is something to wait for.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        base: Path | str,
        cache: Path | None = None,
        budget: float = CACHE_GB * 1e9,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.shards, self._cache, self.budget, self._say = list(shards), cache or default_cache(), budget, say
        self._places = [resolved(shard.place, base) for shard in self.shards]
        self._files: OrderedDict[int, int] = OrderedDict()
        self._reading, self._changed = threading.Lock(), threading.Condition()
        self._urgent: deque[int] = deque()
        self._failed: dict[int, BaseException] = {}
        self._groups: list[Sequence[int]] = []
        self._group_of: dict[int, int] = {}
        self._at: int | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    # ---- checks -----------------------------------------------------------------------------------------------------

    @property
    def remote(self) -> list[int]:
        """Numbers of the shards that are fetched."""
        return [k for k, place in enumerate(self._places) if isinstance(place, str)]

    def check_local(self) -> None:
        """Raises DataError, naming it, if a shard on this disk is missing or of another size than it had."""
        for shard, place in zip(self.shards, self._places, strict=True):
            if isinstance(place, str):
                continue
            try:
                size = place.stat().st_size
            except OSError:
                raise _missing(place) from None
            if size != shard.size:
                raise _of_other_size(place, size, shard.size)

    def check_room(self, mix: int) -> list[str]:
        """Warnings if the disk has less room than the cache may take, or the cache none to fetch ahead.

        Raises:
            ConfigError: it does not even hold the shards that are mixed at a time.
        """
        sizes = sorted((self.shards[k].size for k in self.remote), reverse=True)
        needed, better = (sum(sizes[:count]) / 1e9 for count in (mix, mix + 1))
        warnings = self._fit_disk(sum(sizes))
        if needed * 1e9 > self.budget:
            raise ConfigError(
                f"data.cache_gb: {self.budget / 1e9:.3g} holds less than the {mix} shards that are mixed at a time "
                f"({needed:.3g} GB); raise it"
            )
        if better * 1e9 > self.budget:
            warnings.append(
                f"data.cache_gb: {self.budget / 1e9:.3g} leaves no room to fetch ahead: training will wait for shards; "
                f"{2 * needed:.3g} would be enough"
            )
        return warnings

    def _fit_disk(self, total: int) -> list[str]:
        """Lower the budget to what the cache's disk has room for, if that is less than would be used."""
        here = sum(path.stat().st_size for path in self._cache.glob("*.tar")) if total else 0
        room = max(0, free_bytes(self._cache) + here - _SPARE) if total else 0
        if min(self.budget, total) <= room:
            return []
        self.budget = room
        return [f"data.cache: the disk of {self._cache} has room for {room / 1e9:.3g} GB of shards, and not for more"]

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(self, number: int, offset: int, size: int, digest: str, *, keep: bool = False) -> bytes:
        """Bytes of a shard, waiting for it if it has to be fetched.

        Args:
            digest: SHA-256 of these bytes, or the first digits of it.
            keep: whether a copy of them is kept in the cache.

        Raises:
            DataError: the shard is missing, cut off, changed or cannot be fetched; one line.
        """
        if not isinstance(self._places[number], str):
            return self._whole(number, self._read(number, offset, size), digest)
        kept = self._cache / "kept" / f"{digest}-{size}"
        with suppress(OSError):
            if keep and _sha256(content := kept.read_bytes()).startswith(digest):
                return content
        content = self._read(number, offset, size)
        if not _sha256(content).startswith(digest):  # it was whole when it was fetched: a disk that loses data
            self._discard(number)
            content = self._whole(number, self._read(number, offset, size), digest)
        if keep:
            with atomic_file(kept, overwrite=True) as file:
                file.write(content)
        return content

    def _whole(self, number: int, content: bytes, digest: str) -> bytes:
        if not _sha256(content).startswith(digest):
            raise DataError(
                f"{self._places[number]}: the shard is not what the index was made from (SHA-256 of a clip differs); "
                "copy it again, or make shards and index again"
            )
        return content

    def _discard(self, number: int) -> None:
        path = self._cached(number)
        path.unlink(missing_ok=True)
        self._forget(path.name)

    def _read(self, number: int, offset: int, size: int) -> bytes:
        if self._at is not None or self._groups:
            with self._changed:
                group = self._group_of.get(number)
                if group is not None and group != self._at:
                    self._at = group
                    self._wake()
        with self._reading:
            if (file := self._opened(number)) is not None:
                return self._taken(number, file, offset, size)
        self._await(number)
        with self._reading:
            if (file := self._opened(number)) is None:
                raise _missing(self._places[number])
            return self._taken(number, file, offset, size)

    def _opened(self, number: int) -> int | None:
        """A descriptor; None for a remote shard that is not here. Under the lock `_reading`."""
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        place = self._places[number]
        path = self._cached(number) if isinstance(place, str) else place
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if isinstance(place, str):
                return None
            raise _missing(place) from None
        except OSError as e:
            raise DataError(f"{path}: cannot be read ({e.strerror})") from None
        if (size := os.fstat(file).st_size) != self.shards[number].size:
            os.close(file)
            if isinstance(place, str):
                path.unlink(missing_ok=True)
                return None
            raise _of_other_size(place, size, self.shards[number].size)
        if isinstance(place, str):
            with suppress(OSError):
                os.utime(path)
        self._files[number] = file
        while len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return file

    def _taken(self, number: int, file: int, offset: int, size: int) -> bytes:
        try:
            content = os.pread(file, size, offset)
        except OSError as e:
            raise DataError(f"{self._places[number]}: cannot be read ({e.strerror})") from None
        if len(content) != size:
            raise _of_other_size(self._places[number], os.fstat(file).st_size, self.shards[number].size)
        return content

    def _cached(self, number: int) -> Path:
        shard = self.shards[number]
        key = f"{self._places[number]}\n{shard.size}\n{shard.sha256}"
        return self._cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.tar"

    # ---- fetching ---------------------------------------------------------------------------------------------------

    def follow(self, groups: Sequence[Sequence[int]], after: Sequence[Sequence[int]] = ()) -> None:
        """Say which shards will be needed together, in order; `after`: what comes when these are through.

        Fetching ahead begins with the first of them that is read.
        """
        with self._changed:
            self._groups, self._at = [*groups, *after], None
            self._group_of = {int(shard): k for k, group in enumerate(groups) for shard in group}

    def abandon(self) -> None:
        """Whoever waits for a shard is woken by `Abandoned`; until the next `follow` nothing is fetched ahead."""
        with self._changed:
            self._stop.set()
            self._stop = threading.Event()
            self._groups, self._group_of, self._at = [], {}, None
            self._urgent.clear()
            self._changed.notify_all()

    def _await(self, number: int) -> None:
        """Until a remote shard is here. Raises what fetching it raised."""
        began, told = time.monotonic(), False
        with self._changed:
            stop = self._stop
            self._failed.pop(number, None)
            self._urgent.append(number)
            self._wake()
            while not self._cached(number).exists():
                if number in self._failed:
                    raise self._failed.pop(number)
                if stop.is_set():
                    raise Abandoned
                self._changed.wait(0.2)
                if not told and time.monotonic() - began > _TOLD_AFTER:
                    told = True
                    self._say(f"data: waiting for {self._places[number]} ({self.shards[number].size / 1e9:.2g} GB)")

    def _wake(self) -> None:
        """Under the condition's lock."""
        if self._thread is None and (self._urgent or self._at is not None) and self.remote:
            self._thread = threading.Thread(target=self._fetching, name="shards", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _fetching(self) -> None:
        while True:
            with self._changed:
                found = self._next()
                if found is None:
                    self._changed.wait(_IDLE)
                    found = self._next()
                if found is None:
                    self._thread = None
                    return
                number, needed = found
            failure: BaseException | None = None
            try:
                self._fetch(number, needed)
            except Abandoned:  # who waited for it knows, and whoever has asked since is still in the queue
                continue
            except BaseException as error:  # belongs to whoever reads the shard
                failure = error
            with self._changed:
                with suppress(ValueError):
                    self._urgent.remove(number)
                if failure is not None:
                    self._failed[number] = failure
                self._changed.notify_all()

    def _next(self) -> tuple[int, list[int]] | None:
        """The shard to fetch now, and those that must stay for it; under the condition's lock."""
        groups = [] if self._at is None else self._groups[self._at : self._at + 2]  # those in use, and the next
        if self._urgent:
            return self._urgent[0], [int(one) for group in groups[:1] for one in group]
        needed: list[int] = []
        missing = None
        for number in (int(one) for group in groups for one in group):
            if not isinstance(self._places[number], str) or number in needed:
                continue
            if sum(self.shards[k].size for k in (*needed, number)) > self.budget:
                break
            needed.append(number)
            if missing is None and number not in self._failed and not self._cached(number).exists():
                missing = number
        return None if missing is None else (missing, needed)

    def _fetch(self, number: int, needed: Sequence[int]) -> None:
        shard, target, stop = self.shards[number], self._cached(number), self._stop
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            clear_stale(self._cache)
        except OSError as e:
            raise DataError(f"{self._cache}: cannot be written ({e.strerror}); set data.cache to a directory") from None
        with locked(target.with_suffix(".partial"), stop) as file:
            if target.exists():  # another process was faster
                return
            self._make_room(shard.size, {self._cached(k).name for k in needed})
            try:
                fetch(self._places[number], file, shard.size, shard.sha256, stop)
            except OSError as e:
                file.truncate(0)
                if e.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DataError(
                        f"{self._cache}: no space left for {shard.size / 1e9:.2g} GB; lower data.cache_gb, or put "
                        "data.cache on another disk"
                    ) from None
                raise
            except BaseException:
                file.truncate(0)
                raise
            file.flush()
            os.replace(file.name, target)

    def _make_room(self, size: int, needed: set[str]) -> None:
        """Remove what was not used for longest, but not what is needed."""
        found = []
        for path in self._cache.glob("*.tar"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(one[1] for one in found)
        for _, length, path in sorted(found):
            if total + size <= self.budget:
                return
            if path.name not in needed:
                path.unlink(missing_ok=True)
                self._forget(path.name)
                total -= length

    def _forget(self, name: str) -> None:
        """Close a removed shard: only then is its space free."""
        with self._reading:
            for number in [k for k in self._files if isinstance(self._places[k], str)]:
                if self._cached(number).name == name:
                    os.close(self._files.pop(number))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _missing(place: Path | str) -> DataError:
    return DataError(
        f"{place}: the shard is missing, and the index lists clips in it; put it back, or make shards and index again"
    )


def _of_other_size(place: Path | str, size: int, stated: int) -> DataError:
    kind = "cut off" if size < stated else "changed"
    return DataError(
        f"{place}: the shard is {kind}: {size} bytes where the index states {stated}; copy it again, or make shards "
        "and index again"
    )
