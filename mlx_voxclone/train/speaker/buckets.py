"""Collated batches in few shapes, for functions that are compiled once per shape."""

from dataclasses import replace
from typing import Any

import numpy as np

from mlx_voxclone.train.speaker.batch import KeptBatch, SpeakerBatch

POSITIONS, FRAMES = 64, 32  # what sequences, and all that concerns frames, are rounded up to


def bucket(count: int, step: int) -> int:
    """The least multiple of `step` that is not below `count`."""
    return -(-count // step) * step


def longer(values: np.ndarray, count: int) -> np.ndarray:
    """`values`, the last one repeated until there are `count`; none stay none."""
    if not len(values):
        return values
    return np.concatenate([values, np.repeat(values[-1:], count - len(values), axis=0)])


def padded_speech(batch: SpeakerBatch) -> SpeakerBatch:
    """A batch of `SpeakerTask.collate` with the same losses, wider and with more frames: those that were added repeat
    the last and weigh nothing."""
    sequences, width = batch.ids.shape
    wide = bucket(width, POSITIONS)
    batch = replace(batch.widened(wide), start=wide - min(wide, bucket(wide - batch.start, POSITIONS)))
    # As many positions of codes as positions: one shape less to be different in.
    batch = _lengthened(batch, ("code_positions", "codes"), sequences * wide)
    batch = _lengthened(batch, ("row_positions", "rows"), bucket(len(batch.rows), POSITIONS))
    frames = bucket(len(batch.flow_positions) + sequences, FRAMES)  # END is predicted too
    batch = _lengthened(batch, ("semantic_positions", "semantic", "flow_positions"), frames)
    batch = _lengthened(batch, ("acoustic", "noise", "time", "drop"), frames)
    return replace(_weightless(batch, frames), kept=None if batch.kept is None else _padded_kept(batch.kept))


def _padded_kept(kept: KeptBatch) -> KeptBatch:
    count = bucket(len(kept.semantic_positions), FRAMES)
    kept = _lengthened(kept, ("semantic_positions", "released_semantic_positions"), count)
    return _weightless(_lengthened(kept, ("frames", "released_flow_positions"), count), count)


def _lengthened(batch: Any, names: tuple[str, ...], count: int) -> Any:
    """With these entries `longer`."""
    return replace(batch, **{name: longer(getattr(batch, name), count) for name in names})


def _weightless(batch: Any, count: int) -> Any:
    """With weights for `count` targets: 0 for those that were added."""
    weights = {name: getattr(batch, name) for name in ("semantic_weight", "flow_weight")}
    return replace(batch, **{name: np.pad(values, (0, count - len(values))) for name, values in weights.items()})
