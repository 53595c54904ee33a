"""From listed recordings to clips in a directory: rejecting, writing, transcribing, splitting."""

import dataclasses
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.fingerprint import part
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.clips import REFERENCE
from mlx_voxclone.data.duplicates import groups
from mlx_voxclone.data.entries import CLIPS, HELDOUT, TRAIN, Entry, is_utf8, same_file, unique_names
from mlx_voxclone.data.hearing.chapters import cut_chapter
from mlx_voxclone.data.hearing.check import Compared, compare_texts
from mlx_voxclone.data.hearing.check import notes as text_notes
from mlx_voxclone.data.ingest import TOO_LONG, Plan, Written, examine, write_pieces
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.recognise.mlx_audio import MlxAudioRecogniser
from mlx_voxclone.data.recording.heard import Heard, as_json
from mlx_voxclone.data.recording.remarks import Remarks
from mlx_voxclone.data.split import Piece, divided
from mlx_voxclone.data.text_checks import may_be_same
from mlx_voxclone.data.transcribe import Transcriber
from mlx_voxclone.errors import DataError
from mlx_voxclone.text.forms import as_learnt
from mlx_voxclone.whisper.hearing import Listener

Progress = Callable[[Iterable, int, str], Iterable]
_MAX_THREADS = 8
_NAMED = 3  # clips, in a note
_DAMAGED = ("unreadable", "truncated", "zero-length")  # what another file of the same recording may not be


@dataclass
class Collector:
    """Takes recordings in; `clips` and `rejected` become the lines of `manifest.jsonl` and `rejected.jsonl`.

    Args:
        source: what the user named; paths are recorded relative to it.
        directory: where the clips' files go.
        listener: hears long recordings with a text, which are cut by it; None: they are left out.
    """

    source: Path
    directory: Path
    options: PrepareOptions
    clips: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    listener: Listener | None = None
    compared: list[Compared] = field(default_factory=list)  # texts of clips, the worst first
    seconds_read: float = 0.0
    _prints: list[np.ndarray] = field(default_factory=list)  # of the clips, see `audio.fingerprint`
    _near_copies: int = 0  # clips that sound like another, and are not the same bytes
    _instead: list[tuple[str, str]] = field(default_factory=list)  # damaged recordings, and the copies of them used
    _chapters: set[str] = field(default_factory=set)  # long recordings that were cut with their text, by name
    qualities: list[dict[str, Any]] = field(default_factory=list)  # lines of `quality.jsonl`
    _heard: Heard = field(default_factory=Heard)
    _remarks: Remarks = field(default_factory=Remarks)

    def ingest(self, entries: list[Entry], progress: Progress) -> None:
        """Examine and write every recording on threads; the outcome is in the order of the entries."""
        names = unique_names(entries)
        references = self._ingest_references(entries, names, progress)

        def one(job: tuple[Entry, str]) -> tuple[Entry, tuple[Plan, list[Written]] | AudioError]:
            """What became of an entry, and of which file: a damaged one gives way to its copy in another format."""
            entry, name = job
            if not all(is_utf8(used) for used in (self._relative(entry.audio), entry.speaker)):
                name_error = f"{entry.audio}: a name that is not UTF-8; rename the file or its folder"
                return entry, AudioError("name", name_error)
            failed = references.get(entry.ref_audio)
            if isinstance(failed, AudioError):
                return entry, AudioError("reference", f"its ref_audio cannot be used: {failed}")
            outcome = self._try(entry.audio, entry.text is not None, name)
            for other in entry.others if _is_damaged(outcome) else ():
                if not _is_damaged(found := self._try(Path(other), entry.text is not None, name)):
                    return dataclasses.replace(entry, file=other), found
            return entry, outcome

        long: list[tuple[Entry, str]] = []
        with closing(_on_threads(one, list(zip(entries, names)), progress, "recordings")) as outcomes:
            for (listed, name), (entry, outcome) in outcomes:
                if isinstance(outcome, AudioError):
                    if outcome.reason == TOO_LONG and self.listener is not None:
                        long.append((entry, name))
                    else:
                        self._reject(entry, outcome)
                    continue
                if entry is not listed:
                    self._instead.append((self._relative(listed.audio), entry.audio.name))
                plan, pieces = outcome
                self._read(entry.audio, plan, pieces)
                self.rejected += [self._about(entry) | one for one in plan.left_out(entry.audio, self.options)]
                for piece in pieces:
                    self._add(entry, name, piece, TRAIN, references.get(entry.ref_audio), plan.words)
        for entry, name in long:
            self._ingest_chapter(entry, name, references.get(entry.ref_audio), progress)
        self._share_digests()
        self._name_references_alike(entries, references)

    def _ingest_chapter(self, entry: Entry, name: str, reference: str | None, progress: Progress) -> None:
        """Cut a long recording with its text; a Whisper runs on this thread alone."""
        language = entry.language or self.options.language
        try:
            chapter = cut_chapter(entry.audio, entry.text, language, self.listener, self.options, progress)
            pieces = write_pieces(entry.audio, chapter.plan, self.directory, name)
        except AudioError as e:
            self._drop_half_done(name)
            self._reject(entry, e)
            return
        self._chapters.add(name)
        self._read(entry.audio, chapter.plan, pieces)
        for piece, text in zip(pieces, chapter.texts):
            own = dataclasses.replace(entry, text=text, language=entry.language or chapter.language)
            self._add(own, name, piece, TRAIN, reference, chapter.plan.words)
        self.rejected += [self._about(entry) | one for one in chapter.left_out(entry.audio)]
        self.notes.append(f"{self._relative(entry.audio)}: {chapter.note()}")

    def check_texts(self, progress: Progress) -> None:
        """Leave out clips whose text is not what is heard; texts of long recordings have been compared already."""
        clips = [
            c for c in self.clips if c["text"] and c["split"] != REFERENCE and c["recording"] not in self._chapters
        ]
        self.compared = compare_texts(clips, self.directory, self.listener, progress)
        self.notes += text_notes(self.compared, self.listener)
        bad = {one.clip: one for one in self.compared if not one.fits}
        for clip in [clip for clip in self.clips if clip["id"] in bad]:
            (self.directory / Path(clip["audio"]).name).unlink()
            self.rejected.append({**bad[clip["id"]].left_out(), "speaker": clip["speaker"]})
        self.clips = [clip for clip in self.clips if clip["id"] not in bad]

    def _ingest_references(self, entries: list[Entry], names: list[str], progress: Progress) -> dict[Path | None, Any]:
        """Write each distinct `ref_audio` once; its clip's id, or why it cannot be used, by path."""
        owners = {entry.ref_audio: entry for entry in reversed(entries) if entry.ref_audio is not None}
        paths = sorted(owners)
        taken = [Entry(str(path), owners[path].speaker) for path in paths]
        jobs = list(zip(paths, unique_names(taken, "ref-", names)))
        found: dict[Path | None, Any] = {}

        def one(job: tuple[Path, str]) -> tuple[Plan, list[Written]] | AudioError:
            if not is_utf8(self._relative(job[0])):
                return AudioError("name", f"{job[0]}: a name that is not UTF-8; rename the file or its folder")
            return self._try(job[0], False, job[1], only_first=True)

        with closing(_on_threads(one, jobs, progress, "references")) as outcomes:
            for (path, name), outcome in outcomes:
                if isinstance(outcome, AudioError):
                    found[path] = outcome
                    continue
                plan, pieces = outcome
                self._remarks.add(self._relative(path), plan)
                if plan.seconds > self.options.max_seconds:
                    used = pieces[0].samples / SAMPLE_RATE
                    self.notes.append(f"{path}: of {plan.seconds:.0f} s of reference the first {used:.1f} s are used")
                entry = dataclasses.replace(owners[path], file=str(path), folder=Path(), text=None, ref_file=None)
                found[path] = self._add(entry, name, pieces[0], REFERENCE, None, plan.words)
        return found

    def _name_references_alike(self, entries: list[Entry], references: dict[Path | None, Any]) -> None:
        """Give a reference that is a listed recording (the same file, or the same audio) the `source` of that one."""
        files = {id_: same_file(path) for path, id_ in references.items() if path is not None and isinstance(id_, str)}
        if not files:
            return
        wanted = set(files.values())
        listed = {key: self._relative(e.audio) for e in entries if (key := same_file(e.audio)) in wanted}
        by_digest = {clip["digest"]: clip["source"] for clip in self.clips if clip["split"] != REFERENCE}
        for clip in self.clips:
            if clip["split"] == REFERENCE:
                alike = by_digest.get(clip["digest"], clip["source"])
                clip["source"] = listed.get(files[clip["id"]], alike)

    def _read(self, path: Path, plan: Plan, pieces: list[Written]) -> None:
        """Count a recording that clips come from: its length, how good it is, and what is odd about it."""
        self.seconds_read += plan.seconds
        self._remarks.add(self._relative(path), plan, [piece.name for piece in pieces])
        if plan.quality is not None:
            self._heard.add(self._relative(path), plan.quality)
            self.qualities.append(as_json(self._relative(path), plan.quality))

    def _try(
        self, path: Path, transcribed: bool, name: str, only_first: bool = False
    ) -> tuple[Plan, list[Written]] | AudioError:
        try:
            plan = examine(path, transcribed, self.options)
            if only_first:
                first = tuple(part for part in plan.together if part == 0)
                plan = dataclasses.replace(plan, pieces=plan.pieces[:1], together=first, short=())
            return plan, write_pieces(path, plan, self.directory, name)
        except AudioError as e:
            self._drop_half_done(name)
            return e

    def _drop_half_done(self, name: str) -> None:
        for half_done in self.directory.glob(f"{glob.escape(name)}~*"):
            half_done.unlink()

    def _add(
        self, entry: Entry, name: str, piece: Written, split: str, reference: str | None, words: np.ndarray
    ) -> str:
        language = entry.language or self.options.language
        clip = {
            "id": Path(piece.name).stem,
            "audio": f"{CLIPS}/{piece.name}",
            "samples": piece.samples,
            "text": as_learnt(entry.text, language, self.options.numbers_in_words),
            "speaker": entry.speaker,
            "language": language,
            "split": split,
            "reference": reference,
            "source": self._relative(entry.audio),
            "start": piece.start,
            "digest": piece.digest,
            "recording": name,
            "marked": entry.split,
        }
        self.clips.append(clip)
        self._prints.append(part(words, piece.start, piece.start + piece.samples / SAMPLE_RATE).copy())
        return clip["id"]

    def _share_digests(self) -> None:
        """Give clips that sound the same one digest: that of the first; for what counts as a copy, they are equal."""
        first: dict[str, int] = {}
        equal = [first.setdefault(clip["digest"], k) for k, clip in enumerate(self.clips)]
        alike = groups(self._prints, equal)
        self._prints.clear()
        copies = [k for k, group in enumerate(alike) if group != equal[k] and self.clips[k]["split"] != REFERENCE]
        self._near_copies = len(copies)
        # Synthetic voices say a word alike every time. Such clips share a side of the split, and nobody need know.
        told = [k for k in copies if may_be_same(self.clips[k]["text"], self.clips[alike[k]]["text"])]
        if told:
            copy, original = (self.clips[k]["source"] for k in (told[0], alike[told[0]]))
            what = "1 clip seems to be a copy" if len(told) == 1 else f"{len(told)} clips seem to be copies"
            self.notes.append(
                f"{what} of others: another format, level or cut of the same recording, such as {copy} of {original};"
                " each stays on the side of the split that its original is on"
            )
        for k, group in enumerate(alike):
            self.clips[k]["digest"] = self.clips[group]["digest"]

    def _reject(self, entry: Entry, error: AudioError) -> None:
        seconds = None
        try:
            seconds = round(audio_info(entry.audio).seconds, 2)
            self.seconds_read += seconds
        except AudioError:
            pass  # not even its length can be told
        line = {"seconds": seconds, "reason": error.reason, "detail": str(error)}
        self.rejected.append(self._about(entry) | line)

    def _about(self, entry: Entry) -> dict[str, Any]:
        """How a line of `rejected.jsonl` begins."""
        return {"audio": self._relative(entry.audio), "where": entry.where, "speaker": entry.speaker}

    def transcribe(self, transcriber: Transcriber | MlxAudioRecogniser, progress: Progress) -> None:
        """Fill in missing texts; a clip in which nothing is understood stays without."""
        missing = [clip for clip in self.clips if clip["text"] is None and clip["split"] != REFERENCE]
        figures: set[str] = set()  # languages whose numbers have no words
        for clip in progress(missing, len(missing), "transcripts"):
            path = self.directory / Path(clip["audio"]).name
            text, language = transcriber.transcribe(path, clip["language"])
            clip["language"] = clip["language"] or language
            try:
                clip["text"] = as_learnt(text, clip["language"], self.options.numbers_in_words)
            except DataError:  # a language that was found out only now
                clip["text"] = as_learnt(text, clip["language"])
                figures.add(clip["language"] or "unknown")
        if figures:
            self.notes.append(
                f"numbers stay in figures where there are no words for them (languages: {', '.join(sorted(figures))});"
                " give --language if that is wrong"
            )
        if isinstance(transcriber, Transcriber):
            self.notes += transcriber.notes()
        silent = [Path(clip["audio"]).stem for clip in missing if clip["text"] is None]
        if silent:
            which = ", ".join(silent[:_NAMED]) + (", ..." if len(silent) > _NAMED else "")
            what = f"{len(silent)} of {len(missing)} clips: no speech recognised, left without text"
            self.notes.append(f"{what} ({which})")

    def split(self) -> None:
        """Mark the held-out clips; the same audio is never on both sides, and no training clip has a held-out prompt.

        A voice prompt that is the recording of a clip is known by that one's `source`.
        """
        options = self.options
        clips = [clip for clip in self.clips if clip["split"] != REFERENCE]
        pieces = [
            Piece(c["id"], c["recording"], c["speaker"], c["samples"] / SAMPLE_RATE, c["digest"], c["marked"])
            for c in clips
        ]
        held, notes = divided(pieces, options.heldout, options.heldout_speakers, options.seed, self._near_copies)
        self.notes += notes
        for clip in self.clips:
            del clip["recording"]
            if clip["marked"] is None or clip["split"] == REFERENCE:
                del clip["marked"]
            if clip["split"] != REFERENCE and clip["id"] in held:
                clip["split"] = HELDOUT
        if not any(clip["split"] == TRAIN for clip in self.clips):
            raise DataError("every clip that is left is held out; there is nothing to train on")
        self._part_references()

    def _part_references(self) -> None:
        """Take the prompts of held-out recordings from training clips; drop those that nobody else names."""
        heard = {clip["source"] for clip in self.clips if clip["split"] == HELDOUT}
        tainted = {clip["id"] for clip in self.clips if clip["split"] == REFERENCE and clip["source"] in heard}
        parted = [clip for clip in self.clips if clip["split"] == TRAIN and clip["reference"] in tainted]
        for clip in parted:
            clip["reference"] = None
        if parted:
            self.notes.append(
                f"{len(parted)} training clips name a held-out recording as ref_audio; other clips of their speaker are"
                " their voice prompts"
            )
        named = {clip["reference"] for clip in self.clips}
        dropped = tainted - named
        for clip in self.clips:
            if clip["id"] in dropped:
                (self.directory / Path(clip["audio"]).name).unlink()
        self.clips = [clip for clip in self.clips if clip["id"] not in dropped]

    def summary(self) -> dict[str, Any]:
        """The counts of `PrepareReport`."""
        hours = {split: 0.0 for split in (TRAIN, HELDOUT, REFERENCE)}
        speakers: dict[str, dict[str, Any]] = {}
        for clip in self.clips:
            length = clip["samples"] / SAMPLE_RATE / 3600
            hours[clip["split"]] += length
            if clip["split"] != REFERENCE:
                own = speakers.setdefault(clip["speaker"], {"clips": 0, "heldout_clips": 0, "hours": 0.0})
                own["clips"] += 1
                own["heldout_clips"] += clip["split"] == HELDOUT
                own["hours"] += length
        with_text = sum(clip["text"] is not None for clip in self.clips if clip["split"] != REFERENCE)
        return {
            "clips": {split: sum(clip["split"] == split for clip in self.clips) for split in hours},
            "hours": {**hours, "read": self.seconds_read / 3600},
            "speakers": dict(sorted(speakers.items())),
            "with_text": with_text,
            "rejected": dict(sorted(Counter(line["reason"] for line in self.rejected).items())),
            "quality": self._heard.lines(),
            "notes": [
                *self.notes,
                *self._about_copies(),
                *self._remarks.lines(),
                *_about_texts(with_text, sum(own["clips"] for own in speakers.values())),
            ],
        }

    def _about_copies(self) -> list[str]:
        if not self._instead:
            return []
        (damaged, copy), count = self._instead[0], len(self._instead)
        what = "1 recording is damaged" if count == 1 else f"{count} recordings are damaged"
        return [f"{what}, and its copy in another format is used: such as {copy} for {damaged}"]

    def _relative(self, path: Path) -> str:
        base = self.source if self.source.is_dir() else self.source.parent
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _is_damaged(outcome: Any) -> bool:
    return isinstance(outcome, AudioError) and outcome.reason in _DAMAGED


def _about_texts(with_text: int, clips: int) -> list[str]:
    if with_text == clips:
        return []
    which = "no clip has a" if with_text == 0 else f"{clips - with_text} of {clips} clips have no"
    return [
        f"{which} text, which the speaker task needs: name it in a manifest, metadata.csv or a .txt beside the audio, "
        "or let --transcribe make it"
    ]


def _on_threads(
    function: Callable[[Any], Any], jobs: list[Any], progress: Progress, what: str
) -> Iterator[tuple[Any, Any]]:
    """(job, result) in the order of the jobs; decoding and resampling release the interpreter lock."""
    pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
    try:
        yield from progress(zip(jobs, pool.map(function, jobs)), len(jobs), what) if jobs else ()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # after Ctrl-C nobody may write any more
