"""What codes usually look like: those of the pairs and those behind the model's own voices.

The codes of voices are recovered from their rows, which takes a minute for the release's twenty. They depend on the
model alone, so they are kept in the cache (`files/cache.py`) for every run after. A run also keeps its own copy: from
that it goes on when the cache is deleted, and the processes of a shared training find it.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.bake.record import own_voices
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.cache import Entry
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import digest_of
from mlx_voxclone.pairs.statistics import CodeStatistics, PresetStatistics, preset_statistics
from mlx_voxclone.process.progress import Reporter

ENTRY, FILE = "voices", "statistics.safetensors"  # kind of the cache's entry, and its file
_RECOVERY = 1  # to be counted up when `preset_statistics` finds other codes behind the same rows


def code_prior(
    release: Release, pairs: PairData | None, directory: Path, reporter: Reporter, *, presets: bool = True
) -> CodeStatistics | None:
    """Codes of the pairs to learn from, without the moved ones, which the model did not say, and of its own voices.

    Args:
        directory: of the run, for its copy of what the voices hold.
        presets: whether the model's own voices count (`encoder.prior.presets`).

    Raises:
        CheckpointError: an audio table that cannot be used; the run's copy is damaged, or cannot be written.
    """
    found = None
    if pairs is not None:
        said = (pair.codes for pair in pairs.train if not pair.is_moved)
        found = CodeStatistics.from_codes(said, release.config.codec)
    otherwise = "the pairs alone tell which codes are usual" if pairs is not None else "nothing tells which are usual"
    of_voices = _of_voices(release, directory, reporter, otherwise) if presets else None
    if of_voices is None or not of_voices.frames:
        return found
    return of_voices if found is None else found + of_voices


def prior_entry(release: Release) -> Entry:
    """The cache's entry of what a model's own voices hold, made or not."""
    voices = own_voices(release)
    rows = digest_of(_rows(release, name) for name in voices)
    return Entry(release.fingerprint(), ENTRY, {"recovery": _RECOVERY, "voices": voices, "voice rows": rows})


def _rows(release: Release, name: str) -> np.ndarray | bytes:
    try:
        return np.array(release.voice(name).astype(mx.float32))
    except CheckpointError:  # nothing is recovered from it, until it can be read
        return b""


def _of_voices(release: Release, directory: Path, reporter: Reporter, otherwise: str) -> CodeStatistics | None:
    """From the run's copy, else from the cache, else recovered now; None without own voices. `otherwise`: what holds
    where they tell nothing."""
    voices = own_voices(release)  # others were spoken into some other encoder: nothing to learn what is usual from
    if not voices:
        return None
    entry = prior_entry(release)
    copy = directory / f"{entry.path.name}.safetensors"
    if copy.is_file():
        return CodeStatistics.load(copy, release.config.codec)

    def recover() -> PresetStatistics:
        with reporter.bar(total=len(voices), unit="voice", desc="prior") as bar:
            found = preset_statistics(release, voices, progress=bar.update)
        reason = next(iter(found.skipped.values()), "")
        reporter.say(_told(found.statistics.frames, len(found.explained), len(voices), otherwise, reason))
        return found

    def cached() -> CodeStatistics | None:
        return _cached(
            entry,
            release,
            lambda frames, of: reporter.say(
                f"{_told(frames, of, len(voices), otherwise)}; from the cache {entry.path}"
            ),
        )

    statistics = cached() or _made(entry, cached, recover, reporter.say)
    statistics.save(copy)
    return statistics


def _told(frames: int, explained: int, voices: int, otherwise: str, reason: str = "") -> str:
    """A line on what was recovered of the model's own voices."""
    if explained:
        return f"prior: {frames} frames of codes from {explained} of the model's {voices} own voices"
    why = f" ({reason})" if reason else ""
    return f"prior: none of the model's {voices} own voices could be traced back to codes{why}, so {otherwise}"


def _cached(entry: Entry, release: Release, tell: Callable[[int, int], None]) -> CodeStatistics | None:
    """What a complete entry holds; None if there is none, or a damaged one.

    `tell` is called with the numbers of frames and voices.
    """
    facts = entry.facts()
    try:
        found = None if facts is None else CodeStatistics.load(entry.path / FILE, release.config.codec)
    except CheckpointError:
        return None
    if found is not None:
        tell(found.frames, facts["voices"])
    return found


def _made(
    entry: Entry,
    cached: Callable[[], CodeStatistics | None],
    recover: Callable[[], PresetStatistics],
    say: Callable[[str], None],
) -> CodeStatistics:
    """Recovered, and kept in the cache where that can be written: a run does not end for what the next one lacks."""
    with ExitStack() as stack:
        try:
            stack.enter_context(entry.locked(say))
        except CheckpointError as e:
            _not_kept(e, say)
            return recover().statistics
        if (found := cached()) is not None:  # another process has made it meanwhile
            return found
        recovered = recover()
        try:
            entry.reopen()
            recovered.statistics.save(entry.path / FILE)
            entry.complete({"voices": len(recovered.explained), "frames": recovered.statistics.frames})
        except (CheckpointError, OSError) as e:
            _not_kept(e, say)
    return recovered.statistics


def _not_kept(error: Exception, say: Callable[[str], None]) -> None:
    say(f"warning: prior: kept for this run alone, the next one recovers the voices again ({error})")
