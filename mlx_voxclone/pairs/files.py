"""Pairs of codes and audio on the disk: how a directory of them is written, and how its shards are read.

DIR/settings.json            what the pairs depend on; another run with other settings is refused
DIR/pairs-00000.safetensors  codes int16 [37, T] (0-based) per pair, and in its metadata a line per pair
DIR/audio/000000.flac        24-bit, 24 kHz; a float WAV where a peak exceeds full scale
DIR/audio/000000-augmented.flac  if asked for: the same as if recorded in a room, with noise, ...; the codes stay
DIR/manifest.jsonl           the lines of all shards: id, audio, codes, frames, text, language, voice, ...

A shard appears when all of its audio is written. `voxclone pairs` (`mlx_voxclone/pairs/make.py`) writes what the model
says, `write_pairs` any other pairs; `pairs/data.py` loads both.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import write_flac, write_wav
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.entries import lies_inside
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.files.atomic import atomic_directory, write_text_atomic
from mlx_voxclone.files.locks import LOCK
from mlx_voxclone.files.plain import parse_json, read_json
from mlx_voxclone.process.temporaries import clear_dead

SETTINGS, MANIFEST, AUDIO = "settings.json", "manifest.jsonl", "audio"
SHARDS = "pairs-*.safetensors"
SHARD_SENTENCES = 64
LINES = "pairs"  # a shard's metadata: {"kept": lines, "rejected": {reason: sentences}}
FORMAT = "pairs 1"  # of what is written; another one is neither read nor gone on with
MOVED = "moved/"  # begins the name of a voice that is moved in code space: no voice of a model is called so
STORED = np.int16  # of codes, in the shards and in memory: 74 bytes a frame
_CONSEQUENCES = ("voice rows", "texts")  # settings that change with others, then not named beside them
_ID = re.compile(r"(?!.*-augmented$)[A-Za-z0-9_][A-Za-z0-9_.-]*")  # it becomes a file's name


@dataclass(frozen=True, eq=False)
class SpokenPair:
    """One pair to be written.

    Attributes:
        id: unique in its directory; letters, digits, `_`, `.` and `-`: files are named after it.
        codes: integers `[37, T]`, 0-based, at least one frame.
        samples: `[T * 1920]` at 24 kHz, what the codec makes of the codes.
        augmented: `[T * 1920]`: the same as if recorded.
        seed: of what was said, where there is one.
    """

    id: str
    codes: np.ndarray
    samples: np.ndarray
    text: str
    voice: str
    language: str | None = None
    augmented: np.ndarray | None = None
    seed: int | None = None


class ShardWriter:
    """Writes one shard of a directory of pairs: the audio at once, and the shard, which makes it count, at the end.

    Args:
        path: the shard, `pairs-NNNNN.safetensors`; its directory is made.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._codes: dict[str, np.ndarray] = {}
        self._lines: list[dict[str, Any]] = []
        self._rejected: Counter = Counter()
        (self.path.parent / AUDIO).mkdir(parents=True, exist_ok=True)

    def add(self, pair: SpokenPair) -> None:
        """Write a pair's audio and keep its codes for `finish`.

        Raises:
            ValueError: an id that is taken or no file's name, codes that are no integers `[codebooks, T]` of 16 bits,
                audio that is no whole number of samples per frame.
        """
        codes = np.asarray(pair.codes)
        if not _ID.fullmatch(pair.id) or pair.id in self._codes:
            raise ValueError(f"pair id {pair.id!r} is taken or cannot be a file's name")
        if codes.ndim != 2 or codes.dtype.kind not in "iu" or not codes.size or not _fits(codes):
            raise ValueError(f"pair {pair.id}: codes {codes.dtype} {list(codes.shape)}, 0..32767 [codebooks, T] wanted")
        audio = [pair.samples] if pair.augmented is None else [pair.samples, pair.augmented]
        if any(len(samples) != len(pair.samples) or len(samples) % codes.shape[1] for samples in audio):
            raise ValueError(f"pair {pair.id}: {[len(a) for a in audio]} samples for {codes.shape[1]} frames")
        line = {"id": pair.id, "audio": _write_audio(self.path.parent, pair.id, pair.samples)}
        if pair.augmented is not None:
            line["augmented"] = _write_audio(self.path.parent, f"{pair.id}-augmented", pair.augmented)
        line |= {"codes": self.path.name, "frames": codes.shape[1]}
        line |= {"text": pair.text, "language": pair.language, "voice": pair.voice}
        self._lines.append(line if pair.seed is None else line | {"seed": pair.seed})
        self._codes[pair.id] = codes.astype(STORED)

    def reject(self, reason: str) -> None:
        """Count a sentence that gave no pair."""
        self._rejected[reason] += 1

    def finish(self) -> list[dict[str, Any]]:
        """Write the shard; the lines of its pairs, for the manifest.

        Raises:
            CheckpointError: the shard exists, or cannot be written.
        """
        document = {"kept": self._lines, "rejected": dict(sorted(self._rejected.items()))}
        save_tensors(self.path, self._codes, {LINES: json.dumps(document, ensure_ascii=False)})
        return self._lines


def write_pairs(output: str | Path, pairs: Iterable[SpokenPair], settings: Mapping[str, Any]) -> int:
    """Write given pairs as `voxclone pairs` writes those it makes; `PairData` reads both.

    Args:
        output: a new directory; it appears when all of them are written.
        pairs: taken one after the other; the audio of one is in memory at a time.
        settings: where the pairs come from, for `settings.json`; `codec` is the `decoder_digest` of the model.

    Returns:
        The number of pairs.

    Raises:
        CheckpointError: `output` is there already, or cannot be written. ValueError: see `ShardWriter.add`; also an id
            that an earlier shard has.
    """
    lines: list[dict[str, Any]] = []
    ids: set[str] = set()
    writer = None
    with atomic_directory(output) as directory:
        document = {**settings, "format": FORMAT}
        write_text_atomic(directory / SETTINGS, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        for pair in pairs:
            if pair.id in ids:
                raise ValueError(f"pair id {pair.id!r} is taken")
            if writer is None:
                writer = ShardWriter(shard_path(directory, len(ids) // SHARD_SENTENCES))
            writer.add(pair)
            ids.add(pair.id)
            if len(ids) % SHARD_SENTENCES == 0:
                lines += writer.finish()
                writer = None
        lines += writer.finish() if writer is not None else []
        write_manifest(directory, lines)
    return len(lines)


def settle(output: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a new directory, or compare them with those of one that is to be gone on with.

    Raises:
        DataError: it was made with other settings. CheckpointError: it holds something else, or cannot be written.
    """
    path = output / SETTINGS
    if not path.exists():
        clear_dead(output, again=True)
        there = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
        if there - {LOCK}:
            raise CheckpointError(f"{output}: exists and holds no pairs; choose another output or move it away")
        write_text_atomic(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = dict(read_json(path))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{path}: not readable; choose another output or move {output} away") from None
    changed = [key for key, value in settings.items() if before.get(key) != value]
    if changed:
        causes = [key for key in changed if key not in _CONSEQUENCES] or changed
        raise DataError(
            f"{output}: holds pairs made otherwise: {', '.join(causes)} changed; choose another output or delete it"
        )


def fill_shards(
    output: Path,
    sizes: Sequence[int],
    fill: Callable[[int, ShardWriter], None],
    progress: Callable[[int], None],
) -> Iterator[tuple[list[dict[str, Any]], dict[str, int]]]:
    """Make the shards of a directory that are not there yet, in order; then its manifest holds their lines.

    Args:
        output: see `settle`.
        sizes: of each shard, of which `progress` is told where the shard is there already.
        fill: `fill(number, writer)` adds a shard's pairs, and tells of its own progress.

    Yields:
        Of every shard, also those that were there: the lines of its pairs, its rejected sentences by reason.

    Raises:
        CheckpointError: a damaged shard, audio that is missing, or what cannot be written.
    """
    lines: list[dict[str, Any]] = []
    for number, size in enumerate(sizes):
        path = shard_path(output, number)
        if there := path.exists():
            progress(size)
        else:
            writer = ShardWriter(path)
            fill(number, writer)
            writer.finish()
        kept, rejected = read_whole_shard(path)
        lines += kept
        if not there or number == len(sizes) - 1:
            write_manifest(output, lines)
        yield kept, rejected


def read_whole_shard(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The lines of a shard's pairs, all of whose audio is there, and its rejected sentences by reason.

    Raises:
        CheckpointError: as `read_shard`, or audio is missing.
    """
    _, kept, rejected = read_shard(path)
    missing = [name for name in audio_of(kept) if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path}: {missing[0]} is missing; delete the shard and run again, which makes it anew")
    return kept, rejected


def audio_of(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the audio files of a shard's lines, seen from their directory."""
    return [line[key] for line in lines for key in ("audio", "augmented") if key in line]


def shard_path(output: Path, number: int) -> Path:
    return output / f"pairs-{number:05d}.safetensors"


def write_manifest(output: Path, lines: Iterable[dict[str, Any]]) -> None:
    """`manifest.jsonl` of a directory of pairs."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text_atomic(output / MANIFEST, text)


def read_shard(path: str | Path) -> tuple[TensorFile, list[dict[str, Any]], dict[str, int]]:
    """A shard: its codes by id, the lines of its pairs, its rejected sentences by reason.

    Raises:
        CheckpointError: damaged, no shard of pairs, or with other codes than its lines list.
    """
    file = TensorFile(path)
    try:
        document = parse_json(file.metadata[LINES])
        kept, rejected = list(document["kept"]), dict(document["rejected"])
        ids = [line["id"] for line in kept]
        plain = all(isinstance(name, str) and lies_inside(name) for name in audio_of(kept))
        plain &= all("audio" in line and isinstance(line["id"], str) for line in kept)
        complete = len(ids) == len(set(ids)) and set(ids) == set(file.names())
    except (KeyError, TypeError, ValueError):
        plain = complete = False
    if not plain:
        raise CheckpointError(f"{path}: not a shard of pairs; move it away and run again")
    if not complete:
        raise CheckpointError(f"{path}: its codes are not those it lists; delete the shard and make the pairs again")
    return file, kept, rejected


def digest_of(parts: Iterable[Any]) -> str:
    """SHA-256 (hex) of bytes-likes, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _fits(codes: np.ndarray) -> bool:
    return codes.min() >= 0 and codes.max() <= np.iinfo(STORED).max


def _write_audio(directory: Path, name: str, samples: np.ndarray) -> str:
    fits = np.abs(samples).max() <= 1
    audio = f"{AUDIO}/{name}.{'flac' if fits else 'wav'}"
    if fits:
        write_flac(directory / audio, samples)
    else:
        write_wav(directory / audio, samples, float32=True)
    return audio
