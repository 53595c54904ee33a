"""Collated batches in few shapes, for functions that are compiled once per shape."""

import numpy as np

from mlx_voxclone.train.speaker.batch import SpeakerBatch

POSITIONS, FRAMES = 64, 32  # what sequences, and all that concerns frames, are rounded up to


def bucket(count: int, step: int) -> int:
    """The least multiple of `step` that is not below `count`."""
    return -(-count // step) * step


def longer(values: np.ndarray, count: int) -> np.ndarray:
    """`values`, the last one repeated until there are `count`; none stay none."""
    if not len(values):
        return values
    return np.concatenate([values, np.repeat(values[-1:], count - len(values), axis=0)])


def weights(count: int, of: int) -> np.ndarray:
    """Float32 `[of]`: 1 for the first `count`, then 0."""
    return (np.arange(of) < count).astype(np.float32)


def padded_speech(batch: SpeakerBatch) -> SpeakerBatch:
    """A batch of `SpeakerTask.collate` with the same losses, wider and with more frames: those that were added repeat
    the last and weigh nothing."""
    sequences, width = batch["ids"].shape
    wide = bucket(width, POSITIONS)
    start = wide - min(wide, bucket(wide - (width - len(batch["asked"])), POSITIONS))
    found = dict(batch)
    for name in ("places", "row_places", "predict", "flow", "kept_predict", "released_predict", "released_flow"):
        if name in found:
            found[name] = found[name] // width * wide + found[name] % width
    found["ids"] = np.pad(batch["ids"], ((0, 0), (0, wide - width)))
    found["asked"] = np.arange(start, wide, dtype=np.int32)
    # As many places as positions: one shape less to be different in.
    sizes = dict.fromkeys(("places", "codes"), sequences * wide)
    sizes |= dict.fromkeys(("row_places", "rows"), bucket(len(batch["rows"]), POSITIONS))
    frames = bucket(len(batch["flow"]) + sequences, FRAMES)  # END is predicted too
    sizes |= dict.fromkeys(("predict", "semantic", "flow", "acoustic", "noise", "time", "drop"), frames)
    if "kept_rows" in batch:
        kept = bucket(len(batch["kept_predict"]), FRAMES)
        for name in ("kept_predict", "kept_flow"):
            count = len(batch["kept_predict" if name == "kept_predict" else "kept_frames"])
            found[f"{name}_weight"] = weights(count, kept)
        sizes |= dict.fromkeys(("kept_predict", "released_predict", "kept_frames", "released_flow"), kept)
    for name, count in sizes.items():
        if name in found:
            found[name] = longer(found[name], count)
    for name in ("semantic_weight", "flow_weight"):
        found[name] = np.pad(batch[name], (0, frames - len(batch[name])))
    return found
