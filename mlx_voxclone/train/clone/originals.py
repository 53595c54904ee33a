"""The recordings that a clone's report shows beside the generated speech: the voice's own, and the held-out sentence's.

They are copied into the run directory, so that the report has them wherever the data lies (in shards, on a server, in
a folder that is gone) and wherever the run is moved to.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.speaker import read_reference
from mlx_voxclone.train.stages.running import Run

ORIGINALS = "originals"  # in the run directory
VOICE, SENTENCE = f"{ORIGINALS}/voice.wav", f"{ORIGINALS}/sentence.wav"
SECONDS = 10.0  # of the voice, enough to know it again


def write_originals(
    data: PreparedData,
    clips: Sequence[str],
    reference: Path | None,
    heldout: Clip,
    run: Run,
) -> None:
    """Write `originals/voice.wav`, the beginning of what the voice was taken from, and `originals/sentence.wav`.

    Args:
        clips: ids of the clips that the voice was taken from, in their order; none where `reference` is given.
        reference: the recording that the configuration names.
        heldout: the clip whose text is spoken.
        run: receives a line on a recording that cannot be read any more; the report then says that it is missing.
    """

    def voice() -> np.ndarray:
        if reference is not None:
            return read_reference(reference)
        by_id = {clip.id: clip for clip in (*data.train, *data.heldout) if clip.id in clips}
        parts, length = [], 0
        for name in clips:
            if name in by_id and length < SECONDS * SAMPLE_RATE:
                parts.append(by_id[name].read())
                length += len(parts[-1])
        if not parts:
            raise DataError("the recordings of the voice are no longer in the data")
        return np.concatenate(parts)

    run_dir = run.directory
    (run_dir / ORIGINALS).mkdir(exist_ok=True)
    for name, read in ((VOICE, lambda: voice()[: round(SECONDS * SAMPLE_RATE)]), (SENTENCE, heldout.read)):
        (run_dir / name).unlink(missing_ok=True)
        try:
            write_wav(run_dir / name, read())
        except DataError as e:
            run.say(f"warning: the report lacks {name}: {e}")
