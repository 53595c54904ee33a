"""What the miniature's language model learns from: the codes of readings by many speakers (`miniature.readings`)."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import atomic_directory, atomic_file
from mlx_voxclone.miniature.readings import Reading, write_readings
from mlx_voxclone.model.codec import Codec

WORKERS = 2


@dataclass(frozen=True, eq=False)
class Spoken:
    """One utterance as codes."""

    speaker: int  # number of `SyntheticSpeaker.varied`
    text: str
    codes: np.ndarray  # 0-based [37, T], int32


def waves(wanted: Sequence[Reading], workers: int = WORKERS) -> Iterator[np.ndarray]:
    """The samples of readings, in their order, synthesised by several processes."""
    if workers < 2:
        yield from map(Reading.wave, wanted)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes alone, which would fight over the cores;
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # this one's BLAS has read its own already
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(Reading.wave, wanted, chunksize=16)


def spoken(
    codec: Codec, wanted: Sequence[Reading], *, workers: int = WORKERS, tell: Callable[[int], None] | None = None
) -> list[Spoken]:
    """Synthesise and encode with the codec's own encoder; `tell` hears how many are done."""
    found = []
    for reading, wave in zip(wanted, waves(wanted, workers)):
        number = int(reading.speaker.name.rsplit("-", 1)[1])
        found.append(Spoken(number, reading.text, codec.audio_codes(wave).astype(np.int32)))
        if tell is not None and len(found) % 1000 == 0:
            tell(len(found))
    return found


def write_recordings(directory: Path, wanted: Sequence[Reading], written: Callable[[str], str] = str) -> None:
    """Recordings as a user brings them, with a manifest; nothing is done where they are.

    Args:
        directory: to make.
        wanted: what is heard.
        written: spells what is said, for the manifest.
    """
    if directory.exists():
        return
    with atomic_directory(directory) as place:
        write_readings(place, wanted, written)


def save(path: Path, utterances: Iterable[Spoken]) -> None:
    """Write an `.npz`: all codes end to end, lengths, speakers, texts."""
    utterances = list(utterances)
    with atomic_file(path, overwrite=True) as file:
        np.savez_compressed(
            file,
            codes=np.concatenate([u.codes for u in utterances], axis=1).astype(np.uint16),
            lengths=np.array([u.codes.shape[1] for u in utterances]),
            speakers=np.array([u.speaker for u in utterances]),
            texts=np.array([u.text for u in utterances]),
        )


def load(path: Path) -> list[Spoken]:
    """What `save` wrote. Raises DataError where nothing is."""
    if not path.is_file():
        raise DataError(f"{path}: no utterances there")
    with np.load(path, allow_pickle=False) as file:
        ends = np.cumsum(file["lengths"])[:-1]
        pieces = np.split(file["codes"].astype(np.int32), ends, axis=1)
        return [Spoken(int(s), str(t), c) for s, t, c in zip(file["speakers"], file["texts"], pieces, strict=True)]
