"""What the speaking miniature's language model learns from: texts, and the codes of readings by many speakers.

Speakers are `SyntheticSpeaker.varied(n)`; those for training, for measuring and for the presets have numbers far apart.
From number `UNLIKE` on there are others, whose voices are breathier than any of these.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.writer import atomic_directory, atomic_file, write_text_atomic
from mlx_voxclone.data.synth import MANIFEST, SyntheticSpeaker, random_text, synthesise
from mlx_voxclone.errors import DataError
from mlx_voxclone.model.codec import Codec

TRAINING, HELDOUT, PRESETS = 100_000, 200_000, 300_000  # number of the first speaker of each kind
UNLIKE, UNLIKE_BREATH = 500_000, (0.3, 0.4)  # and of those whom no training has anyone like: they have 0.03 to 0.25
SYLLABLES = (2, 6)  # of a clip, fewest and most
WORKERS = 2


class Reading(NamedTuple):
    """What a speaker says, before it is heard."""

    speaker: SyntheticSpeaker
    text: str
    seed: int

    def wave(self) -> np.ndarray:
        return synthesise(self.text, self.speaker, self.seed)


@dataclass(frozen=True, eq=False)
class Spoken:
    """One utterance as codes."""

    speaker: int  # number of `SyntheticSpeaker.varied`
    text: str
    codes: np.ndarray  # 0-based [37, T], int32


def speaker_of(number: int) -> SyntheticSpeaker:
    """The speaker of a number."""
    speaker = SyntheticSpeaker.varied(number)
    if number < UNLIKE:
        return speaker
    rng = np.random.default_rng([number, 0x0DD])
    return replace(speaker, breathiness=round(rng.uniform(*UNLIKE_BREATH), 3))


def readings(first: int, speakers: int, each: int, seed: int, syllables: tuple[int, int] = SYLLABLES) -> list[Reading]:
    """`each` readings by every one of `speakers` speakers from number `first` on; equal arguments give equal ones."""
    found = []
    for number in range(first, first + speakers):
        speaker = speaker_of(number)
        rng = np.random.default_rng([seed, number])
        for _ in range(each):
            text = random_text(rng, int(rng.integers(syllables[0], syllables[1] + 1)))
            found.append(Reading(speaker, text, int(rng.integers(2**31))))
    return found


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
    lines = []
    with atomic_directory(directory) as place:
        for reading in wanted:
            audio = f"{len(lines):05d}.wav"
            write_wav(place / audio, reading.wave())
            lines.append(json.dumps({"audio": audio, "text": written(reading.text), "speaker": reading.speaker.name}))
        (place / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_texts(path: Path, count: int, seed: int) -> None:
    """`count` sentences in the miniature's language, one a line: what its own voices are to say in pairs."""
    rng = np.random.default_rng([seed, 0xBA12])
    texts = [random_text(rng, int(rng.integers(4, 9))) for _ in range(count)]
    write_text_atomic(path, "\n".join(texts) + "\n")


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
