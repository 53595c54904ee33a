"""What a real Whisper hears in the corpus: states of its text decoder, for the codec's semantic latents to predict.

As in arXiv 2603.25551 for the release's own codec: post-VQ latents, a linear map, cosine distance. Synthetic voices and
flite have known units instead (`units` of a clip).
"""

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from benchmarks.recovery.corpus import FRAME, Corpus, CorpusClip
from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.data.clips import Clip
from mlx_voxclone.process.progress import progress_over
from mlx_voxclone.train.whisper.cache import TeacherCache
from mlx_voxclone.train.whisper.teacher import AsrTeacher
from mlx_voxclone.whisper.alignment import crop_states
from mlx_voxclone.whisper.reader import LONGEST

HEARD_KIND = "real"  # of clips that are heard


class HeardStates:
    """States of the real speakers' training clips, kept in `directory` and made where they are missing.

    Args:
        whisper: directory in mlx-whisper's format.
        unheard: speakers to leave out, because this Whisper does not know their language.
    """

    def __init__(self, corpus: Corpus, whisper: str | Path, directory: Path, unheard: Collection[str] = ()):
        teacher = AsrTeacher(str(whisper))
        self._cache = TeacherCache(directory, teacher)
        clips = [clip for clip in corpus.split("train", HEARD_KIND) if clip.speaker not in unheard]
        # Without texts and languages: Whisper finds them out.
        spoken = [Clip(clip.id, clip.path, audio_info(clip.path).frames, clip.speaker) for clip in clips]
        spoken = [clip for clip in spoken if clip.samples <= LONGEST]
        self._known = {clip.id for clip in spoken}
        self.report = self._cache.fill(spoken, progress_over)
        self.dim, self.identity = teacher.dim, self._cache.identity
        teacher.unload()

    def of(self, clip: CorpusClip) -> np.ndarray | None:
        """float16 `[ceil(samples / 1920), dim]` at the centres of the clip's frames; None: nothing known of it."""
        states = self._cache.read(clip.id) if clip.id in self._known else None
        return None if states is None else states.astype(np.float16)


def crop_of(states: np.ndarray, start: int, frames: int) -> np.ndarray:
    """States float32 `[frames, dim]` of a crop from sample `start` on; 0 behind the clip's end."""
    there = min(frames, math.ceil(len(states) - start / FRAME))
    rows = crop_states(states, start, there)  # [there, dim]
    return np.pad(rows.astype(np.float32), ((0, frames - there), (0, 0)))
