"""Many texts, each into a WAV of its own: whole files alone take their names, and an interrupted list goes on.

Beside the files, `spoken.jsonl` keeps what each was made from and what it holds; `manifest.jsonl`, at the end, lists
them as a corpus that `prepare` reads.
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from mlx_voxclone.audio.io import SAMPLE_RATE, wav_data, wav_header
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import whole_file, write_text_atomic
from mlx_voxclone.files.plain import open_own, parse_json
from mlx_voxclone.process.temporaries import try_lock
from mlx_voxclone.speech.narration import Listen, Narration, Spoken
from mlx_voxclone.speech.options import BATCH
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.speech.to_files.lines import Line
from mlx_voxclone.speech.to_files.long_speech import FULL, identity
from mlx_voxclone.speech.to_files.tally import Tally

_RECORD = {"audio": str, "request": str, "header": int, "sha256": str}
JOURNAL, MANIFEST = "spoken.jsonl", "manifest.jsonl"


@dataclass
class ManyFiles(Tally):
    """What was said of a list by this command; doubts are of files.

    Attributes:
        files: how many there are now; earlier: of them, those of an earlier command.
        seconds: of audio that this command has spoken.
        changed: files of an earlier command that are spoken again, as their line or an option is not what it was.
        again: files with a chunk that was spoken more than once.
    """

    files: int = 0
    earlier: int = 0
    changed: int = 0
    seconds: float = 0.0
    again: int = 0


def speak_lines(
    output: str | Path,
    speaker: Speaker,
    lines: Sequence[Line],
    rows: Mapping[str | None, mx.array],
    *,
    resume: bool = False,
    float32: bool = False,
    batch: int = BATCH,
    listen: Callable[[str | None], Listen] | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
    on_changed: Callable[[int], None] = lambda changed: None,
    asked: Mapping[str, Any] | None = None,
    **options: Any,
) -> ManyFiles:
    """Speak lines into WAVs below a directory; a line says what it says alone, but for rounding in a batch.

    Args:
        rows: of the voices, `[N, dim]`, by the `voice` of a line.
        resume: go on; files of lines that have changed since are spoken again.
        batch: chunks at once, of one line or of several.
        listen: gives a `Narration`'s for a language.
        on_chunk: called with the number of chunks that are done, first with those of an earlier command.
        on_changed: called before anything is spoken, with `ManyFiles.changed` where there are any.
        asked: what else decides what is said; options: see `Narration`.

    Raises:
        DataError: files that are of something else or have been changed, another command at work.
        KeyboardInterrupt: with the words that say how to go on.
    """
    output, said = Path(output), ManyFiles()
    voices = {
        name: identity(speaker, (), one, float32=float32, **(asked or {}), **options) for name, one in rows.items()
    }
    mx.eval(list(rows.values()))
    with _journal(output, resume) as (journal, records):
        requests = [_request(line, voices[line.voice]) for line in lines]
        _check_places(output, lines, records)
        done = {line.file for line, request in zip(lines, requests) if _is_done(output, line, request, records)}
        said.files = said.earlier = len(done)
        said.changed = sum(line.file in records and line.file not in done and _there(output, line) for line in lines)
        if said.changed:
            on_changed(said.changed)
        chunks = sum(len(line.chunks) for line in lines if line.file in done)
        on_chunk(chunks)
        waiting = [(line, request) for line, request in zip(lines, requests) if line.file not in done]
        try:
            for group in _groups(waiting, batch):
                hear = listen(group[0][0].language) if listen is not None else None
                spoken = _spoken(speaker, [line for line, _ in group], rows, batch, hear, options)
                for line, request in group:
                    with _file(output, line, request, float32, journal, records) as add:
                        tries = 0
                        for one in itertools.islice(spoken, len(line.chunks)):
                            add(one)
                            tries = max(tries, one.tries)
                            said.seconds += len(one.samples) / SAMPLE_RATE
                            on_chunk(chunks := chunks + 1)
                            said.count(line.file, one)
                    said.files, said.again = said.files + 1, said.again + (tries > 1)
        except KeyboardInterrupt:
            words = f"{said.files} of {len(lines)} files are in {output}; go on with --resume"
            raise KeyboardInterrupt(words if said.files else "") from None
        except OSError as e:
            if e.errno not in FULL:
                raise
            words = f"{said.files} of {len(lines)} files are in it; go on with --resume"
            raise DataError(f"{output}: no space left on its disk; {words}") from e
        manifest = "".join(json.dumps(_entry(line), ensure_ascii=False) + "\n" for line in lines)
        write_text_atomic(output / MANIFEST, manifest)
    return said


def _groups(waiting: Sequence[tuple[Line, dict[str, str]]], batch: int) -> Iterator[list[tuple[Line, dict[str, str]]]]:
    """Lines that are spoken at once: neighbours of one chunk each in one language, or one of several chunks."""
    group: list[tuple[Line, dict[str, str]]] = []
    for one in waiting:
        fits = group and len(one[0].chunks) == len(group[0][0].chunks) == 1 and one[0].language == group[0][0].language
        if group and (not fits or len(group) == batch):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _spoken(
    speaker: Speaker,
    lines: Sequence[Line],
    rows: Mapping[str | None, mx.array],
    batch: int,
    listen: Listen | None,
    options: Mapping[str, Any],
) -> Iterator[Spoken]:
    options = {**options, "batch": batch, "listen": listen}
    if len(lines) == 1:
        (line,) = lines
        return iter(Narration(speaker, line.chunks, rows[line.voice], seed=line.seed, **options))
    chunks, voices = [line.chunks[0] for line in lines], [rows[line.voice] for line in lines]
    return iter(Narration(speaker, chunks, voices, seeds=[line.seed for line in lines], alone=True, **options))


def _request(line: Line, identified: Mapping[str, str]) -> dict[str, str]:
    """What decides what is in a line's file."""
    content = json.dumps(
        [[(chunk.text, chunk.pause) for chunk in line.chunks], line.seed, line.language, dict(identified)]
    )
    return {"audio": line.file, "request": hashlib.sha256(content.encode()).hexdigest()}


def _entry(line: Line) -> dict[str, str]:
    voice = "voice" if line.voice is None else Path(line.voice).stem
    said = " ".join(chunk.text for chunk in line.chunks)  # the form in which it was spoken, without markup
    entry = {"audio": line.file, "text": said, "speaker": voice}
    return entry | ({"language": line.language} if line.language else {})


@contextlib.contextmanager
def _journal(output: Path, resume: bool) -> Iterator[tuple[BinaryIO, dict[str, dict[str, Any]]]]:
    """The journal, opened and locked, and its records by file; half a line at its end is cut off."""
    path, records, existed = output / JOURNAL, {}, output.exists()
    output.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", opener=open_own) as file:
        if try_lock(file.fileno()) is False:
            raise DataError(f"{output}: another command is writing into it; wait for it, or name another directory")
        file.seek(0)
        content = file.read()
        for line in content.splitlines():
            try:
                record = parse_json(line)
                record = {key: kind(record[key]) for key, kind in _RECORD.items()}
                records[record["audio"]] = record
            except (ValueError, KeyError, TypeError):
                continue
        if records and not resume:
            raise DataError(
                f"{output}: holds {len(records)} files of an earlier command; go on with --resume, or name another"
                " directory"
            )
        if content and not records and content.strip():
            raise DataError(f"{path}: is damaged, or of something else; move it away")
        os.ftruncate(file.fileno(), content.rfind(b"\n") + 1)
        try:
            yield file, records
        finally:
            if not os.fstat(file.fileno()).st_size:  # nothing was written: leave the directory as it was
                path.unlink(missing_ok=True)
                if not existed:
                    with contextlib.suppress(OSError):
                        output.rmdir()


def _check_places(output: Path, lines: Sequence[Line], records: Mapping[str, Any]) -> None:
    """Refuse files that no command of this kind has made, and links that lead out of the directory."""
    manifest = output / MANIFEST
    if os.path.lexists(manifest) and not records:
        raise DataError(f"{manifest}: exists already and is not of this command; name another directory")
    for line in lines:
        path = output / line.file
        _refuse_outside(output, line)
        if os.path.lexists(path) and (line.file not in records or not path.is_file() or path.is_symlink()):
            raise DataError(f"{line.where}: {path} exists already and is not of this command; move it away")


def _refuse_outside(output: Path, line: Line) -> None:
    path = (output / line.file).parent
    if not path.resolve().is_relative_to(output.resolve()):
        raise DataError(f"{line.where}: {path} is a link out of the output directory; remove it")
    while path != output:
        if os.path.lexists(path) and not path.is_dir():
            raise DataError(f"{line.where}: {path} is no directory; rename it, or the line's file")
        path = path.parent


def _there(output: Path, line: Line) -> bool:
    return (output / line.file).exists()


def _is_done(output: Path, line: Line, request: Mapping[str, str], records: Mapping[str, Any]) -> bool:
    """Whether a line's file is there as it was written, from just this line.

    Raises:
        DataError: somebody has changed it since.
    """
    path, record = output / line.file, records.get(line.file)
    if record is None or not _there(output, line):
        return False
    with path.open("rb") as file:
        file.seek(record["header"])
        if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
            raise DataError(
                f"{line.where}: {path} was changed after it was spoken; move it away to have it spoken again"
            )
    return record["request"] == request["request"]


@contextlib.contextmanager
def _file(
    output: Path,
    line: Line,
    request: dict[str, str],
    float32: bool,
    journal: BinaryIO,
    records: dict[str, dict[str, Any]],
) -> Iterator[Callable[[Spoken], None]]:
    """A line's WAV to add chunks to. The journal knows it just before it takes its name, so that nothing is unknown."""
    path, count, digest = output / line.file, 0, hashlib.sha256()
    header = wav_header(path, 0, float32)

    def add(one: Spoken) -> None:
        nonlocal count
        data = wav_data(path, one.samples, float32)
        count += len(data)
        digest.update(data.data)
        file.write(data.data)

    def keep() -> None:
        record = request | {"header": len(header), "sha256": digest.hexdigest()}
        journal.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        journal.flush()
        os.fsync(journal.fileno())
        records[line.file] = record

    _refuse_outside(output, line)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, keep) as file:
        file.write(header)
        yield add
        file.seek(0)
        file.write(wav_header(path, count, float32))
