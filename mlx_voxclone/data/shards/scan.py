"""An index of tar shards that somebody else has made: audio, beside it `.json` or `.txt` of the same name.

The shards stay as they are and where they are. Each is read once, one after the other, so a corpus may be larger than
the disk. Recordings are examined as `prepare` examines files; what is used of one becomes one or several clips of it.
Held-out recordings, a few, are copied into a shard of their own beside the index, so that measuring fetches nothing.
"""

import hashlib
import heapq
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mlx_voxclone.audio.fingerprint import part
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.source import AudioBytes, AudioError
from mlx_voxclone.data.clips import REFERENCE
from mlx_voxclone.data.collect import Progress
from mlx_voxclone.data.duplicates import Sounds
from mlx_voxclone.data.entries import HELDOUT, INDEX, MANIFEST, METADATA, TRAIN, unknown_name, walk_folders
from mlx_voxclone.data.ingest import Plan, examine
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.recording.heard import Heard
from mlx_voxclone.data.recording.remarks import Remarks
from mlx_voxclone.data.shards.data import MOST_HELDOUT
from mlx_voxclone.data.shards.fetch import MOST_OF_SHARD, expanded, fetch, hub_shards, is_remote
from mlx_voxclone.data.shards.index import LARGEST_MEMBER, Shard, row_line, shard_line
from mlx_voxclone.data.shards.recordings import Recording, recordings, speaker_of, unique_name
from mlx_voxclone.data.shards.store import default_cache
from mlx_voxclone.data.shards.write import ShardWriter
from mlx_voxclone.data.split import draw
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.process.temporaries import clear_dead, made
from mlx_voxclone.text.forms import as_learnt


def is_tar_source(source: str | Path) -> bool:
    """Whether a source of `prepare` names tar shards: addresses, `.tar` files (also `x-{000..012}.tar`), a folder with
    them and no audio."""
    if is_remote(source) or str(source).endswith(".tar"):
        return True
    source = Path(source)
    if not source.is_dir() or any(os.path.exists(source / name) for name in (INDEX, MANIFEST, METADATA)):
        return False
    return any(source.glob("*.tar")) and not any(audio for _, audio, _ in walk_folders(source))


def shards_of(source: str | Path) -> list[str]:
    """Paths or addresses of the shards that a source names, in order.

    Raises:
        DataError: none, or none that could be listed.
    """
    text = str(source)
    if text.endswith(".tar"):
        found = expanded(text)
        return found if is_remote(text) else [str(Path(path).absolute()) for path in found]
    if not is_remote(text):
        return sorted(str(path.absolute()) for path in Path(source).glob("*.tar") if not path.name.startswith("."))
    if not text.startswith("hf://"):
        raise DataError(f"{text}: a server does not list its files; name the shards, as in {text}/x-{{000..012}}.tar")
    if not (found := hub_shards(text)):
        raise DataError(f"{text}: has no .tar file; shards of audio are expected")
    return found


def stamp(places: Sequence[str]) -> str:
    """A hash of what shards are there: of those on this disk also size and time of change."""
    digest = hashlib.sha256()
    for place in places:
        stat = None
        with suppress(OSError):
            stat = None if is_remote(place) else os.stat(place)
        digest.update(repr((place, stat and (stat.st_size, stat.st_mtime_ns))).encode())
    return digest.hexdigest()


def scan(
    places: Sequence[str], directory: Path, options: PrepareOptions, cache: Path | None, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write `index.jsonl` and the held-out shard into a directory.

    Args:
        places: `shards_of` a source.
        cache: directory through which shards are fetched.

    Returns:
        Lines of `rejected.jsonl`, and the counts of `PrepareReport`.

    Raises:
        DataError: a shard that is missing or damaged; nothing usable; one line.
    """
    found = _Scan(directory, options)
    with _fetched_ahead(places, cache or default_cache()) as opened, found.writing():
        for number, place in enumerate(progress(places, len(places), "shards")):
            with opened(number) as path:
                try:
                    found.add(number, place, path)
                except DataError as e:  # the file is the fetched copy's
                    raise DataError(str(e).replace(str(path), place)) from None
    return found.rejected, found.finish()


class _Scan:
    """Rows go to a file first: which of them are held out is known at the end alone."""

    def __init__(self, directory: Path, options: PrepareOptions) -> None:
        self.directory, self.options = directory, options
        self.rejected: list[dict[str, Any]] = []
        self.skipped: Counter = Counter()
        self._heldout = {kind: _Smallest(directory, MOST_HELDOUT) for kind in ("drawn", "chosen")}
        self._speakers: set[str] = set()
        self._recordings, self._marked, self._seconds = 0, False, 0.0
        self._rows, self._prints = directory / "rows.partial", directory / "fingerprints.partial"
        self._remarks = Remarks()
        self._quality = Heard()

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            with self._rows.open("w", encoding="utf-8") as self._file, self._prints.open("wb") as self._heard:
                yield
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, number: int, place: str, path: Path) -> None:
        """Examine all recordings of a shard."""
        shard = Shard(place, path.stat().st_size, _digest_of(path))
        self._file.write(shard_line(shard))
        names: dict[str, int] = {}
        with path.open("rb") as file:
            found = list(recordings(path, file, self.skipped, speaker_of(place)))
            wanted = self.options.speaker
            self._speakers |= {one.speaker for one in found}
            found = [one for one in found if wanted is None or one.speaker == wanted]
            for one, outcome in zip(found, self._pool.map(lambda r: self._examined(file, r), found)):
                line = {"audio": one.member.name, "where": place, "speaker": one.speaker, "seconds": None}
                if isinstance(outcome, AudioError):
                    self.rejected.append({**line, "reason": outcome.reason, "detail": str(outcome)})
                    continue
                self.rejected += [line | part for part in outcome[1].left_out(one.member.name, self.options)]
                self._take(one, f"{number:05d}-{unique_name(one.key, names)}", outcome, file)

    def _examined(self, file: Any, one: Recording) -> AudioError | tuple[str, Plan]:
        """SHA-256 of a recording, and what becomes of it."""
        if one.member.size > LARGEST_MEMBER:
            return AudioError(
                "too-long", f"{one.member.name}: {one.member.size / 1e6:.0f} MB in one recording; split it"
            )
        content = os.pread(file.fileno(), one.member.size, one.member.offset)
        try:
            plan = examine(AudioBytes(one.member.name, content), one.text is not None, self.options)
        except AudioError as e:
            return e
        return hashlib.sha256(content).hexdigest()[:32], plan

    def _take(self, one: Recording, name: str, outcome: tuple[str, Plan], file: Any) -> None:
        digest, plan = outcome
        seconds, gain, pieces = plan.seconds, plan.gain, plan.pieces
        if plan.quality is not None:
            self._quality.add(one.member.name, plan.quality)
        self._remarks.add(one.member.name, plan, [f"{one.member.name} from {a:.0f} s" for a, _ in pieces])
        self._recordings, self._seconds = self._recordings + 1, self._seconds + seconds
        total = round(seconds * SAMPLE_RATE)
        language = one.language or self.options.language
        text = as_learnt(one.text, language, self.options.numbers_in_words)
        rows = []
        for number, (start, end) in enumerate(pieces, 1):
            first, last = round(start * SAMPLE_RATE), min(total, round(end * SAMPLE_RATE))
            rows.append({
                "id": name if len(pieces) == 1 else f"{name}~{number:03d}", "offset": one.member.offset,
                "size": one.member.size, "sha256": digest, "samples": last - first, "first": first,
                "gain": round(float(gain), 6), "text": text, "speaker": one.speaker,
                "language": language, "split": TRAIN, "source": one.member.name,
                "start": round(start, 3), "marked": one.split,
            })  # fmt: skip
        forced = one.split == HELDOUT or one.speaker in self.options.heldout_speakers
        self._marked |= one.split == HELDOUT
        for row, (start, end) in zip(rows, pieces):
            words = part(plan.words, start, end)
            self._heard.write(words.tobytes())
            self._file.write(json.dumps({**row, "recording": name, "forced": forced, "words": len(words)}) + "\n")
        if forced or one.split != TRAIN:
            kind = "chosen" if forced else "drawn"
            place = (one.member.offset, one.member.size)
            self._heldout[kind].offer(draw(self.options.seed, name), name, file, place, rows)

    def finish(self) -> dict[str, Any]:
        """Write the index; the counts."""
        for wanted in filter(None, [self.options.speaker, *self.options.heldout_speakers]):
            if wanted not in self._speakers:
                raise unknown_name("speaker", wanted, self._speakers, " in the shards")
        count = 0 if self._marked else round(self.options.heldout * self._recordings)
        if self.options.heldout and not self._marked and self._recordings > 1:
            count = max(1, count)
        held = [*self._heldout["chosen"].smallest(MOST_HELDOUT), *self._heldout["drawn"].smallest(count)][:MOST_HELDOUT]
        names, digests = {name for name, _, _ in held}, {rows[0]["sha256"] for _, _, rows in held}
        sounds = Sounds(words for line, words in self._lines() if words is not None and line["recording"] in names)
        counts, alike = _Counts(), 0
        # What is no character of a file's name becomes an escape, which JSON reads back.
        with (self.directory / INDEX).open("w", encoding="utf-8", errors="backslashreplace") as index:
            shard = None
            for line, words in self._lines():
                if words is None:
                    shard = line
                elif not (line["forced"] or line["recording"] in names or line["sha256"] in digests):
                    if sounds.hold(words):
                        alike += 1
                        continue
                    if shard is not None:
                        index.write(json.dumps(shard, ensure_ascii=False) + "\n")
                        shard = None
                    index.write(row_line(line))
                    counts.add(line)
            if held:
                index.writelines(self._copied(held, counts))
        self._rows.unlink()
        self._prints.unlink()
        for one in self._heldout.values():
            one.clear()
        if not counts.clips[TRAIN]:
            raise DataError(self._nothing_kept(alike))
        notes = [f"{n} {kind}{'s' if n > 1 else ''} in the shards left alone" for kind, n in self.skipped.items()]
        if alike:
            what = "1 clip seems to be a copy" if alike == 1 else f"{alike} clips seem to be copies"
            notes.append(f"{what} of held-out recordings and left out of training")
        notes += self._remarks.lines()
        if not held:
            notes.append("nothing is held out, so nothing can be measured")
        if self.options.heldout * self._recordings > MOST_HELDOUT:
            notes.append(f"{len(held)} recordings are held out: of shards, no more are copied")
        return {"quality": self._quality.lines(), **counts.summary(self._seconds, self.rejected, notes)}

    def _lines(self) -> Iterator[tuple[dict[str, Any], np.ndarray | None]]:
        """What was written so far: shards, with None, and rows with the words of their fingerprints."""
        with self._rows.open(encoding="utf-8") as rows, self._prints.open("rb") as prints:
            for line in map(parse_json, rows):
                count = line.get("words")
                yield line, None if count is None else np.frombuffer(prints.read(4 * count), np.uint32)

    def _copied(self, held: Sequence[tuple[str, Path, list[dict]]], counts: "_Counts") -> Iterator[str]:
        """The lines of the held-out shard."""
        writer, lines = ShardWriter(self.directory / f"{HELDOUT}-00000.tar"), []
        for name, path, rows in held:
            offset = writer.add(f"{name}{PurePosixPath(rows[0]['source']).suffix}", path.read_bytes())
            for row in rows:
                row |= {"offset": offset, "split": HELDOUT}
                counts.add(row)
                lines.append(row_line(row))
        yield shard_line(writer.close())
        yield from lines

    def _nothing_kept(self, alike: int) -> str:
        if alike:
            return f"every recording of the shards is held out, or sounds the same as one that is ({alike} clips)"
        if not self.rejected:
            return "the shards hold no audio to train on; .wav, .flac, .mp3, ... beside .json or .txt are expected"
        reasons = Counter(line["reason"] for line in self.rejected).most_common()
        counts = ", ".join(f"{n} {reason}" for reason, n in reasons)
        return f"the shards hold no usable recording ({counts}); the first: {self.rejected[0]['detail']}"


class _Smallest:
    """Copies of the recordings that come first in a draw; of a corpus of any size, only a few are on the disk."""

    def __init__(self, directory: Path, most: int) -> None:
        self._folder, self._most, self._heap = Path(tempfile.mkdtemp(dir=directory, prefix="heldout-")), most, []

    def offer(self, drawn: str, name: str, file: Any, place: tuple[int, int], rows: list[dict]) -> None:
        entry = (-int(drawn[:15], 16), name, rows)
        if len(self._heap) == self._most and entry < self._heap[0]:
            return
        (self._folder / name).write_bytes(os.pread(file.fileno(), place[1], place[0]))
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
            return
        (self._folder / heapq.heapreplace(self._heap, entry)[1]).unlink()

    def smallest(self, count: int) -> list[tuple[str, Path, list[dict]]]:
        """Name, copy and rows of the first `count`, in order."""
        return [(name, self._folder / name, rows) for _, name, rows in sorted(self._heap, reverse=True)[:count]]

    def clear(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()


class _Counts:
    """Of `PrepareReport`."""

    def __init__(self) -> None:
        self.clips, self._samples, self._with_text = dict.fromkeys((TRAIN, HELDOUT, REFERENCE), 0), Counter(), 0
        self._speakers: dict[str, dict[str, Any]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        own = self._speakers.setdefault(row["speaker"], {"clips": 0, "heldout_clips": 0, "hours": 0.0})
        own["clips"] += 1
        own["heldout_clips"] += row["split"] == HELDOUT
        own["hours"] += row["samples"] / SAMPLE_RATE / 3600
        self.clips[row["split"]] += 1
        self._samples[row["split"]] += row["samples"]
        self._with_text += row["text"] is not None

    def summary(self, seconds: float, rejected: Sequence[Mapping[str, Any]], notes: list[str]) -> dict[str, Any]:
        hours = {split: self._samples[split] / SAMPLE_RATE / 3600 for split in self.clips}
        return {
            "clips": self.clips,
            "hours": {**hours, "read": seconds / 3600},
            "speakers": dict(sorted(self._speakers.items())),
            "with_text": self._with_text,
            "rejected": dict(sorted(Counter(line["reason"] for line in rejected).items())),
            "notes": notes,
        }


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _fetched_ahead(places: Sequence[str], cache: Path):
    """`opened(number)`: a shard as a file, as long as the block lasts; the next one is fetched meanwhile."""
    pool, coming = ThreadPoolExecutor(1), {}

    def get(number: int, folder: Path) -> Path:
        path = Path(folder) / f"{number}.tar"
        with path.open("wb") as file:
            fetch(places[number], file, None, None, most=MOST_OF_SHARD)
        return path

    @contextmanager
    def opened(number: int) -> Iterator[Path]:
        if not is_remote(places[number]):
            path = Path(places[number])
            if not path.is_file():
                raise DataError(f"{path}: no such shard; put it there, or name those that are")
            yield path
            return
        for one in range(number, min(number + 2, len(places))):
            if is_remote(places[one]) and one not in coming:
                coming[one] = pool.submit(get, one, folder)
        future: Future = coming.pop(number)
        path = future.result()
        try:
            yield path
        finally:
            path.unlink()

    if any(map(is_remote, places)):
        cache.mkdir(parents=True, exist_ok=True)
        clear_dead(cache, again=True)
    home = cache if cache.is_dir() else Path(tempfile.gettempdir())
    with made(home / "scan", directory=True) as folder:
        try:
            yield opened
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
