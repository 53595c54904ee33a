"""Teachers of semantic latents: what is said, where the corpus knows it; or what a real Whisper hears.

The hidden codec's semantic codes were distilled from the spoken units, as those of the release were from a recogniser's
states. A user has the recogniser, too. So here the trainer gets, in the place of a Whisper's states, the units of the
recordings and pairs that are labelled, one dimension per unit; of the others it is told nothing.

With a Whisper it gets the states of real recordings, from which the hidden codec's semantic codes were distilled, too.
A pair made of such a recording says the same at the same time, so it has that recording's states.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from benchmarks.recovery.corpus import TRACK_HOP, UNITS, Corpus, units_of
from benchmarks.recovery.heard import HeardStates, crop_of
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


def heard_teacher(corpus: Corpus, heard: HeardStates) -> Teacher:
    """A Whisper's states `[frames, heard.dim]` of the recordings it has heard, and of the pairs made of them."""
    known = {clip.id: states for clip in corpus.split("train") if (states := heard.of(clip)) is not None}

    def states(source: Clip | Pair, start: int, frames: int) -> np.ndarray | None:
        whole = known.get(source.text if isinstance(source, Pair) else source.id)  # a pair's text is its clip's id
        return None if whole is None else crop_of(whole, start, frames)

    return Teacher(states, heard.dim, heard.identity)


@contextmanager
def taught(teacher: Teacher) -> Iterator[None]:
    """Trainings within have this teacher, whatever their configuration says of a recogniser."""
    with patch.object(encoder_inputs, "whisper_teacher", lambda *_: teacher):
        yield
