"""A stand-in for the speech recogniser that teaches semantic latents: what is said, where the corpus knows it.

The hidden codec's semantic codes were distilled from the spoken units, as those of the release were from a recogniser's
states. A user has the recogniser, too. So here the trainer gets, in the place of a Whisper's states, the units of the
recordings and pairs that are labelled, one dimension per unit; of the others it is told nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from benchmarks.recovery.corpus import TRACK_HOP, UNITS, Corpus, units_of
from mlx_voxclone.data.clips import Clip
from mlx_voxclone.pairs.data import Pair
from mlx_voxclone.train.encoder import inputs as encoder_inputs
from mlx_voxclone.train.encoder.task import Teacher


def unit_teacher(corpus: Corpus) -> Teacher:
    """States `[frames, units]` are 1 for the unit that is spoken and 0 for the others."""
    tracks = {clip.id: clip.track for clip in corpus.split("train")}
    rows = np.eye(len(UNITS), dtype=np.float32)

    def states(source: Clip | Pair, start: int, frames: int) -> np.ndarray | None:
        track = tracks[source.text if isinstance(source, Pair) else source.id]  # a pair's text is its clip's id
        return None if track is None else rows[units_of(track, round(start / TRACK_HOP), frames)]

    return Teacher(states, len(UNITS), "spoken units")


@contextmanager
def taught_units(corpus: Corpus) -> Iterator[None]:
    """Trainings within have this teacher, whatever their configuration says of a recogniser."""
    teacher = unit_teacher(corpus)
    with patch.object(encoder_inputs, "whisper_teacher", lambda *_: teacher):
        yield
