"""What a preserved voice has said, made up."""

import numpy as np
from speaker_made import codes

from mlx_voxclone.train.speaker.preservation import Kept


def kept(n, frames=5):
    rows = np.random.default_rng(500 + n).standard_normal((7, 64)).astype(np.float32)
    return Kept(f"pair {n}", f"preset {n}", codes(frames, 300 + n), rows)


def kept_item(task, n=1, seed=0):
    return task._item(kept(n, 5 if n == 1 else 3), np.random.default_rng(seed))
