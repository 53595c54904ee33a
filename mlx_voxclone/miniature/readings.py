"""Synthetic speakers who read what the speaking miniature can say: what it was trained on, and recordings for it.

Speakers are `SyntheticSpeaker.varied(n)`; those for training, for measuring and for the presets have numbers far apart.
From number `UNLIKE` on there are others, whose voices are breathier than any of these.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.files.atomic import atomic_directory, write_text_atomic
from mlx_voxclone.miniature.synth import MANIFEST, SyntheticSpeaker, random_text, synthesise

TRAINING, HELDOUT, PRESETS = 100_000, 200_000, 300_000  # number of the first speaker of each kind
UNLIKE, UNLIKE_BREATH = 500_000, (0.3, 0.4)  # and of those whom no training has anyone like: they have 0.03 to 0.25
SYLLABLES = (2, 6)  # of a clip, fewest and most
CLIPS, SENTENCES = 120, 2000  # of `write_speaker`: 3.6 minutes; for the model's own voices to say
SENTENCES_FILE = "sentences.txt"


class Reading(NamedTuple):
    """What a speaker says, before it is heard."""

    speaker: SyntheticSpeaker
    text: str
    seed: int

    def wave(self) -> np.ndarray:
        return synthesise(self.text, self.speaker, self.seed)


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


def write_readings(directory: Path, wanted: Iterable[Reading], written: Callable[[str], str] = str) -> None:
    """Fill a directory with recordings as a user brings them: `00000.wav`, ... and a manifest.

    Args:
        wanted: what is heard.
        written: spells what is said, for the manifest.
    """
    lines: list[str] = []
    for reading in wanted:
        audio = f"{len(lines):05d}.wav"
        write_wav(directory / audio, reading.wave())
        lines.append(json.dumps({"audio": audio, "text": written(reading.text), "speaker": reading.speaker.name}))
    (directory / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sentences(path: Path, count: int, seed: int) -> None:
    """`count` sentences in the miniature's language, one a line: what its own voices are to say in pairs."""
    rng = np.random.default_rng([seed, 0xBA12])
    texts = [random_text(rng, int(rng.integers(4, 9))) for _ in range(count)]
    write_text_atomic(path, "\n".join(texts) + "\n")


def write_speaker(
    directory: str | Path,
    seed: int = 0,
    progress: Callable[[Sequence[Reading], int, str], Iterable[Reading]] = lambda items, total, what: items,
) -> Path:
    """Write transcribed recordings of a speaker that the speaking miniature has never heard, and beside them sentences
    for its own voices (`encoder.pairs.texts`).

    Args:
        directory: to make.
        seed: which speaker; there are 100,000.
        progress: wraps the readings, given their number and a word for what is done.

    Returns:
        The directory.

    Raises:
        CheckpointError: it exists and is not empty, or cannot be written.
    """
    number = HELDOUT + seed % (PRESETS - HELDOUT)
    wanted = readings(number, 1, CLIPS, 1)
    with atomic_directory(directory) as place:
        write_readings(place, progress(wanted, len(wanted), "recordings"))
        write_sentences(place / SENTENCES_FILE, SENTENCES, 0)
    return Path(directory)
