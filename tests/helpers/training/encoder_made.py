"""Encoder tasks with every term, and their pairs and prior, of a miniature."""

import numpy as np
import pytest
from pairs_on_disk import load_some
from tasks_data import MemoryData, clip, scratch_codec

from mlx_voxclone.pairs.statistics import CodeStatistics
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.task import EncoderTask, Teacher
from mlx_voxclone.train.loop.loader import to_device

DATA = MemoryData([clip(0), clip(1), clip(3, 1921)], [clip(4, 15000)])


JUDGES = {"enabled": True, "sizes": [126, 76], "channels": 2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def pairs(miniature, tmp_path_factory):
    return load_some(miniature, tmp_path_factory.mktemp("pairs") / "p")


@pytest.fixture(scope="module")
def prior(miniature, pairs):
    return CodeStatistics.from_codes((p.codes for p in pairs.train), scratch_codec(miniature).config)


def states(source, start, frames):
    if source.id == "clip1":
        return None
    return np.random.default_rng([len(source.id), start]).standard_normal((frames, 5)).astype(np.float32)


TEACHER = Teacher(states, 5, "random")


ALL = {"semantic_code": 1.0, "acoustic_code": 1.0}


def make(miniature, pairs=None, teacher=None, prior=None, drawing=None, **section):
    section = EncoderSection(crop_seconds=0.48, stft_sizes=[512, 128], pairs=drawing or {"share": 0.5}, **section)
    task = EncoderTask(scratch_codec(miniature), DATA, section, seed=1, pairs=pairs, teacher=teacher, prior=prior)
    task.items.dispersed = 0.0
    return task


def batch_of(task, *indices, epoch=0, step=0):
    return to_device(task.collate([task.item(epoch, i, step) for i in indices]))


def mixed(task, step=0):
    """A batch with pairs and recordings, understood and not where there is a teacher."""
    for epoch in range(50):
        batch = batch_of(task, 0, 1, 2, 3, epoch=epoch, step=step)
        if 0 < len(batch.get("coded", [])) < 4 and (batch.get("taught") or "distillation" not in task.weights):
            return batch
    raise AssertionError("no such batch")
