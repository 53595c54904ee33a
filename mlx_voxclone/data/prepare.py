"""Recordings -> clips: 24 kHz mono pieces of speech with text, speaker and a held-out split.

Writes `clips/*.flac` (24-bit; float WAV where a peak exceeds full scale) and `manifest.jsonl`, or tar shards with an
`index.jsonl`; and `rejected.jsonl` (what was left out, with its reason), `quality.jsonl` (how good each recording is)
and `summary.json`. The directory appears complete or not at all. The same source and options give the same clips;
prepared data that is still up to date is used again.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.audio.activity import silero
from mlx_voxclone.audio.io import AudioError, audio_info
from mlx_voxclone.data.clips import REFERENCE, PreparedData
from mlx_voxclone.data.collect import Collector, Progress
from mlx_voxclone.data.entries import CLIPS, HELDOUT, MANIFEST, SUMMARY, TRAIN, Entry, unknown_name
from mlx_voxclone.data.ingest import MAX_TRANSCRIBED_SECONDS, SHORT_PART
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.recognise.mlx_audio import PREFIX, MlxAudioRecogniser
from mlx_voxclone.data.shards.data import ShardData, is_sharded
from mlx_voxclone.data.shards.scan import is_tar_source, scan, shards_of, stamp
from mlx_voxclone.data.shards.write import write_shards
from mlx_voxclone.data.transcribe import Transcriber
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.text.numbers import check_installed, numbers_of
from mlx_voxclone.whisper.hearing import Listener

REJECTED, TEXTS, QUALITY = "rejected.jsonl", "texts.jsonl", "quality.jsonl"
Recogniser = Transcriber | MlxAudioRecogniser
_LISTED = 12  # speakers that are shown; of more, those with most clips, and the others together
_DEFAULT = PrepareOptions()
_OF_PARTS = frozenset(("not-in-text", "text-differs", SHORT_PART))  # reasons that may be of a part of a recording alone
_VERSION = 1  # of what is written; another one is prepared anew


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did: the content of `summary.json`, hours of audio throughout."""

    directory: Path
    clips: dict[str, int]  # per split: train, heldout, reference
    hours: dict[str, float]  # per split, and `read`: of all recordings that could be opened
    speakers: dict[str, dict[str, Any]]  # per name: clips, hours, heldout_clips
    with_text: int  # clips of train and heldout
    rejected: dict[str, int]  # per reason
    notes: list[str]
    reused: bool = False
    quality: list[str] = dataclasses.field(default_factory=list)  # how good the recordings are, in lines

    @property
    def hours_kept(self) -> float:
        return self.hours[TRAIN] + self.hours[HELDOUT]

    def lines(self) -> list[str]:
        """The report to read: a table of speakers, hours kept, what was left out, notes."""
        total = self.clips[TRAIN] + self.clips[HELDOUT]
        rows = [("speaker", "clips", "held out", "minutes")]
        shown = list(self.speakers.items())
        if len(shown) > _LISTED:
            shown.sort(key=lambda item: -item[1]["clips"])
            rest = [own for _, own in shown[_LISTED - 1 :]]
            sums = {key: sum(own[key] for own in rest) for key in ("clips", "heldout_clips", "hours")}
            shown[_LISTED - 1 :] = [(f"{len(rest)} others", sums)]
        for name, own in shown:
            rows.append((name, str(own["clips"]), str(own["heldout_clips"]), f"{60 * own['hours']:.1f}"))
        if len(self.speakers) > 1:
            rows.append(("all", str(total), str(self.clips[HELDOUT]), f"{60 * self.hours_kept:.1f}"))
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))])
            for row in rows
        ]
        lines += self.quality
        kept, read = (format_seconds(3600 * hours) for hours in (self.hours_kept, self.hours["read"]))
        lines.append(f"kept {kept} of {read}, {self.with_text} of {total} clips with text")
        if self.rejected:
            count, where = sum(self.rejected.values()), self.directory / REJECTED
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.rejected.items())
            s = "s" * (count > 1)
            what = f"recording{s} or part{s}" if _OF_PARTS & self.rejected.keys() else f"recording{s}"
            lines.append(f"left out {count} {what} ({reasons}); see {where}")
        lines += [f"note: {note}" for note in self.notes]
        return [*lines, f"{self.directory}: {'up to date already' if self.reused else 'written'}"]


def prepare(
    source: str | Path,
    output: str | Path,
    options: PrepareOptions | None = None,
    *,
    shards: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Prepare recordings for training.

    Args:
        source: see `manifest.read_listing`; or tar shards, see `shards.scan`, of which an index is made.
        output: directory to make, or one that holds the same already.
        shards: bytes of a tar shard; None: a file per clip.
        cache: directory for shards that are fetched.
        progress: wraps an iterable, given its length and a word for what is done, for a progress bar.
    Raises:
        DataError: nothing to read, nothing usable, an unknown speaker, an output that holds something else.
        CheckpointError: the output cannot be written.
    """
    output, options = Path(output), options or PrepareOptions()
    progress = progress or (lambda items, total, what: items)
    if is_tar_source(source):
        return _scanned(source, output, options, shards, cache, progress)
    listing = read_listing(source)
    entries = selected_entries(listing.entries, options)
    identity = _identity(source, entries, options) | ({} if shards is None else {"shards": shards})
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        return _reused(output, identity)
    if options.speech_detector == "silero" and not silero.installed():
        raise DataError(silero.NOT_INSTALLED)
    if options.numbers_in_words:
        _check_numbers(entries, options)  # it fails at once
    with ExitStack() as stack:
        transcriber = None
        if options.transcribe and any(entry.text is None for entry in entries):  # loaded first: it fails at once
            transcriber = stack.enter_context(_recogniser(entries, options))
        listener = _listener(entries, options, transcriber, stack)
        directory = stack.enter_context(atomic_directory(output))
        (directory / CLIPS).mkdir()
        run = Collector(Path(source), directory / CLIPS, options, notes=list(listing.notes), listener=listener)
        run.ingest(entries, progress)
        if not any(clip["split"] != REFERENCE for clip in run.clips):
            raise DataError(_nothing_kept(source, run.rejected))
        if options.check_texts and listener is not None:
            run.check_texts(progress)
            if not any(clip["split"] != REFERENCE for clip in run.clips):
                raise DataError(_nothing_kept(source, run.rejected))
        if transcriber is not None:
            run.transcribe(transcriber, progress)
        run.split()
        summary = {"version": _VERSION, "identity": identity, **run.summary()}
        if shards is None:
            _write_lines(directory / MANIFEST, run.clips)
        else:
            write_shards(run.clips, directory, shards, options.seed, progress)
            (directory / CLIPS).rmdir()
        if options.check_texts:
            _write_lines(directory / TEXTS, [one.content() for one in run.compared])
        _write_lines(directory / QUALITY, run.qualities)
        _finish(directory, run.rejected, summary)
    return _report(output, summary)


def _listener(
    entries: list[Entry], options: PrepareOptions, transcriber: Recogniser | None, stack: ExitStack
) -> Listener | None:
    """What hears texts, if a Whisper was named or is needed, and there is something to hear; its files are checked now.

    Raises:
        DataError: it cannot be used, or knows not the language that a recording is said to be in.
    """
    texted = [entry for entry in entries if entry.text is not None]
    if not options.hears or not (texted if options.check_texts else any(map(_is_long, texted))):
        return None
    loaded = getattr(transcriber, "loaded", None)
    listener = stack.enter_context(Listener(options.whisper, loaded=loaded))
    for language in sorted({entry.language or options.language or "en" for entry in texted}):
        listener.check_language(language)
    return listener


def _check_numbers(entries: list[Entry], options: PrepareOptions) -> None:
    """Refuse numbers in words that cannot be, by what is known of languages before anything is heard.

    Raises:
        DataError: the extra is not installed, or a language is unknown to it or of a text and not known.
    """
    check_installed()
    for entry in entries:
        language = entry.language or options.language
        if entry.text is not None or (options.transcribe and language is not None):
            numbers_of(language)


def _is_long(entry: Entry) -> bool:
    """Whether a recording is longer than those that stay whole with their text, by its header."""
    try:
        return audio_info(entry.audio, most=MAX_TRANSCRIBED_SECONDS).seconds > MAX_TRANSCRIBED_SECONDS
    except AudioError:
        return False


def _scanned(
    source: str | Path,
    output: Path,
    options: PrepareOptions,
    shards: int | None,
    cache: Path | None,
    progress: Progress,
) -> PrepareReport:
    """An index of shards that are there already, which stay as they are."""
    given = {
        "--shards": shards,
        "--transcribe": options.transcribe,
        "--check-texts": options.check_texts,
        "--whisper-model": options.whisper_model,
    }
    if refused := [name for name, value in given.items() if value]:
        raise DataError(f"{source}: tar shards are indexed as they are; leave out {' and '.join(refused)}")
    places = shards_of(source)
    identity = {"source": str(source), "options": _settings(options), "recordings": stamp(places)}
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        return _reused(output, identity)
    with atomic_directory(output) as directory:
        rejected, counts = scan(places, directory, options, cache, progress)
        summary = {"version": _VERSION, "identity": identity, **counts}
        _finish(directory, rejected, summary)
    return _report(output, summary)


def _recogniser(entries: list[Entry], options: PrepareOptions) -> Recogniser:
    """The recogniser for texts that are missing.

    Raises:
        DataError: it cannot be loaded, or is a Whisper that does not know the stated language of a recording.
    """
    if options.recogniser is not None:
        return MlxAudioRecogniser(options.recogniser.removeprefix(PREFIX))
    transcriber = Transcriber(options.whisper)
    stated = {entry.language or options.language for entry in entries if entry.text is None} - {None}
    for language in sorted(stated):
        transcriber.check_language(language)
    return transcriber


def _finish(directory: Path, rejected: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    _write_lines(directory / REJECTED, rejected)
    _write_text(directory / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def selected_entries(entries: list[Entry], options: PrepareOptions) -> list[Entry]:
    """The entries of the speaker asked for.

    Raises:
        DataError: an unknown speaker's name among the options, or all are held out.
    """
    names = sorted({entry.speaker for entry in entries})
    for wanted in filter(None, [options.speaker, *options.heldout_speakers]):
        if wanted not in names:
            raise unknown_name("speaker", wanted, names)
    entries = [entry for entry in entries if options.speaker in (None, entry.speaker)]
    if {entry.speaker for entry in entries} <= set(options.heldout_speakers):
        raise DataError("heldout_speakers names every speaker; there is nothing to train on")
    if all(entry.split == HELDOUT for entry in entries):
        raise DataError(f"{entries[0].where}: the source holds out every recording; there is nothing to train on")
    return entries


def _identity(source: str | Path, entries: list[Entry], options: PrepareOptions) -> dict[str, Any]:
    """What the result depends on: the options, and a hash of the recordings (size, time of change) and their texts."""

    def stamp(path: Path | None) -> tuple[int, int] | None:
        try:
            return (path.stat().st_size, path.stat().st_mtime_ns) if path is not None else None
        except OSError:
            return None

    digest = hashlib.sha256()
    for entry in entries:
        facts = (str(entry.audio), stamp(entry.audio), entry.text, entry.speaker, entry.language)
        split = () if entry.split is None else (entry.split,)
        digest.update(repr((*facts, str(entry.ref_audio), stamp(entry.ref_audio), *split)).encode())
    resolved = str(Path(source).resolve())
    return {"source": resolved, "options": _settings(options), "recordings": digest.hexdigest()}


def _settings(options: PrepareOptions) -> dict[str, Any]:
    settings = options.model_dump()
    if options.hears:
        settings["whisper_model"] = options.whisper
    else:
        del settings["whisper_model"]
    if not options.transcribe or options.recogniser is None:
        del settings["recogniser"]
    for key in ("check_texts", "numbers_in_words", "speech_detector"):  # as it was before there were such options
        if settings[key] == getattr(_DEFAULT, key):
            del settings[key]
    return settings


def _reused(output: Path, identity: dict[str, Any]) -> PrepareReport:
    """The report of what is there already, if it is what would be written."""
    try:
        summary = read_json(output / SUMMARY)
        before, version = summary["identity"], summary["version"]
        report = _report(output, summary, reused=True)
        unsaid = _DEFAULT.model_dump()  # an option that is not recorded had its default
        then, now = unsaid | before["options"], unsaid | identity["options"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{output}: exists and holds no prepared data; choose another output or move it away") from None
    changed = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if before["source"] != identity["source"]:
        changed.append(f"source (it was {before['source']})")
    elif before["recordings"] != identity["recordings"]:
        changed.append("the recordings or their texts")
    if before.get("shards") != identity.get("shards"):
        changed.append("--shards")
    if changed or version != _VERSION:
        what = ", ".join(changed) or "this program's version"
        raise DataError(
            f"{output}: holds data prepared with other settings: {what} changed; choose another output or delete it"
        )
    (ShardData if is_sharded(output) else PreparedData.load)(output)  # complete still?
    return report


def _report(directory: Path, summary: dict[str, Any], reused: bool = False) -> PrepareReport:
    names = [f.name for f in dataclasses.fields(PrepareReport) if f.name not in ("directory", "reused", "quality")]
    quality = summary.get("quality", [])  # older ones tell nothing of it
    return PrepareReport(directory, **{name: summary[name] for name in names}, reused=reused, quality=quality)


def _nothing_kept(source: str | Path, rejected: list[dict[str, Any]]) -> str:
    reasons = Counter(line["reason"] for line in rejected).most_common()
    counts = ", ".join(f"{n} {reason}" for reason, n in reasons)
    return f"{source}: no usable recording ({counts}); the first: {rejected[0]['detail']}"


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    _write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write_text(path: Path, text: str) -> None:
    """JSON as UTF-8; what a file name holds beyond that becomes an escape, which JSON reads back as it was."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
