"""Utterances and codes of the speaker task."""

import numpy as np

from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.speaker.task import Utterance

SECTION = SpeakerSection(reference_seconds=[0.4, 0.8], max_seconds=2.0, losses={"flow": 1.0}, train={"batch_size": 2})


def codes(frames: int, seed: int) -> np.ndarray:
    high = np.array([128, *[21] * 36])[:, None]
    return np.random.default_rng(seed).integers(0, high, (37, frames)).astype(np.int32)


def utterance(n: int, frames: int = 6) -> Utterance:
    return Utterance(f"u{n}", f"words number {n}", codes(frames, n), (codes(12, 100 + n), codes(7, 200 + n)))


def losses(task, *items):
    return {name: float(value) for name, value in task.losses(to_device(task.collate(list(items)))).items()}
