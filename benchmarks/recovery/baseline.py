"""The baseline without an encoder: codes found by optimisation through the frozen decoder, on a few held-out clips."""

from collections.abc import Sequence

import numpy as np

from benchmarks.recovery.corpus import CorpusClip
from benchmarks.recovery.score import CodeTally, UnitClassifier, distances
from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.train.encoder.optimise import optimise_codes


def optimised(hidden: Codec, units: UnitClassifier, clips: Sequence[CorpusClip], *, seed: int = 0) -> dict:
    """How near optimised codes come to those of the hidden encoder.

    Args:
        hidden: the codec with the hidden encoder, which is asked for its codes and not used to find others.
        units: classifier on its semantic codes.
        clips: of held-out speakers.
        seed: of the start.

    Returns:
        `clips`, `frames`, `cost` (seconds per second of audio), `real` and `chance` as in `Reference.score` (without
        `unit_error`), and the hidden encoder's `mel` and `stft` as `hidden`.
    """
    tally = CodeTally(hidden.config, units.units(hidden))
    ours, theirs, spent, heard = np.zeros(3), np.zeros(3), 0.0, 0
    for clip in clips:
        audio = clip.read()
        codes, found = hidden.audio_codes(audio), optimise_codes(hidden, audio, seed=seed)
        tally.add(codes, found.codes)
        ours, theirs = ours + distances(hidden, found.codes, audio), theirs + distances(hidden, codes, audio)
        spent, heard = spent + found.seconds, heard + len(audio)
    mean, own = ours[:2] / ours[2], theirs[:2] / theirs[2]
    figures = dict(zip(("mel", "stft", "mel_ratio", "stft_ratio"), [*mean.tolist(), *(mean / own).tolist()]))
    return {
        "clips": len(clips),
        "frames": tally.frames,
        "cost": spent * SAMPLE_RATE / heard,
        "real": {**tally.agreement(), **figures, **tally.usage(1)},
        "hidden": dict(zip(("mel", "stft"), own.tolist())),
        "chance": tally.chance(),
    }


def one_of_each(clips: Sequence[CorpusClip], count: int) -> list[CorpusClip]:
    """`count` clips: the first of each kind, then the second of each, and so on."""
    by_kind: dict[str, list[CorpusClip]] = {}
    for clip in clips:
        by_kind.setdefault(clip.kind, []).append(clip)
    turns = max(map(len, by_kind.values()), default=0)
    return [own[turn] for turn in range(turns) for own in by_kind.values() if turn < len(own)][:count]
