"""The teacher's states on disk, so that a Whisper hears each clip once.

DIRECTORY/IDENTITY/CLIP.safetensors  float16 [ceil(samples / 1920), dim] at the clip's latent frames; [0, dim] where
                                     nothing was understood
DIRECTORY/heads-KEY.json             alignment heads chosen on the data

IDENTITY and CLIP are hashes: of what the states depend on (`AsrTeacher.identity`) and of the clip's id. Another model,
other heads or another filter so have a directory of their own; other audio, text or language under the same id are
noticed and heard again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.collect import Progress
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.files.atomic import free_space_check, write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.train.whisper.teacher import MEDIAN, N_HEADS, AsrTeacher, Head, choose_heads_by_dtw
from mlx_voxclone.whisper.alignment import latent_frames

HEAD_CLIPS = 32  # alignment heads are chosen on at most so many
_FORMAT = "asr teacher 2"  # changes with what is stored or how it is computed
_STATES = "states"


@dataclass
class CacheReport:
    """What `TeacherCache.fill` did, in clips."""

    heard: int = 0  # by the model, now
    found: int = 0  # on disk already
    without_states: int = 0  # of all: nothing was understood
    damaged: list[str] = field(default_factory=list)  # files that were not whole, and heard again

    @property
    def notes(self) -> list[str]:
        """Lines that the user should see."""
        notes = []
        if self.damaged:
            notes.append(f"{len(self.damaged)} cached teacher states were damaged and made again ({self.damaged[0]})")
        if self.without_states:
            total = self.heard + self.found
            notes.append(f"{self.without_states} of {total} clips: no speech recognised, so they have no teacher")
        return notes


class TeacherCache:
    """States of one teacher for many clips.

    `fill` runs the model and belongs on the main thread; `read` is numpy only and may run on any.

    Args:
        directory: may hold states of other teachers too; made if need be.
        teacher: asked for its identity, and run where states are missing.
    """

    def __init__(self, directory: str | Path, teacher: AsrTeacher) -> None:
        self.directory = Path(directory)
        self.teacher = teacher
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        """What the states depend on beside the clips.

        Raises:
            DataError: the model's files cannot be read. ValueError: heads are to be chosen, which `fill` does.
        """
        if self._identity is None:
            self._identity = f"{_FORMAT} {self.teacher.identity}"
        return self._identity

    def fill(self, clips: Sequence[Any], progress: Progress = lambda clips, total, what: clips) -> CacheReport:
        """Make what is missing, after choosing the heads if they are to be chosen on the data.

        Args:
            clips: with `id`, `samples`, `text`, `language` and `read()`, at most 30 s each; no id twice.
            progress: wraps the iteration, as `mlx_voxclone.process.progress.progress_over`.
        Returns:
            Counts, and notes for the user.
        Raises:
            DataError: a clip or the model cannot be used, no words understood to choose heads on. CheckpointError: the
                directory cannot be written, or too little space. ConfigError: a head that the model does not have.
        """
        clips, report = list(clips), CacheReport()
        if self.teacher.needs_heads:
            self.teacher.use_heads(self._chosen_heads(clips))
            self._identity = None
        missing = sum(latent_frames(clip.samples) for clip in clips if not self._path(clip.id).exists())
        free_space_check(self.directory, 2 * missing * self.teacher.dim)
        for clip in progress(clips, len(clips), "teacher"):
            samples = clip.read()
            key = _content_key(clip, samples)
            states = self._verified(clip.id, key, report)
            if states is None:
                states = self._hear(clip, samples, key)
                report.heard += 1
            else:
                report.found += 1
            report.without_states += len(states) == 0
        return report

    def get(self, clip: Any) -> np.ndarray | None:
        """A clip's states as float32 [T, dim]; None where they are not there for this audio and text, or are none."""
        states = self._verified(clip.id, _content_key(clip, clip.read()), CacheReport())
        return None if states is None or not len(states) else states.astype(np.float32)

    def read(self, clip_id: str) -> np.ndarray | None:
        """The states of a clip that `fill` has seen, float32 [T, dim]; None where nothing was understood.

        Raises:
            DataError: there are none of this teacher, or they are damaged.
        """
        path = self._path(clip_id)
        try:
            file = TensorFile(path)
            if file.metadata.get("identity") != self.identity:
                raise CheckpointError(f"{path}: of another teacher")
            states = file.numpy(_STATES)
        except CheckpointError as e:
            raise DataError(f"clip {clip_id}: no teacher states ({e}); start again to have them made") from None
        return states if len(states) else None

    def _path(self, clip_id: str) -> Path:
        return self.directory / _hash(self.identity)[:16] / f"{_hash(clip_id)[:32]}.safetensors"

    def _verified(self, clip_id: str, key: str, report: CacheReport) -> np.ndarray | None:
        """What is stored, float16, if it is whole and of this very clip."""
        path = self._path(clip_id)
        if not path.exists():
            return None
        try:
            file = TensorFile(path)
            states = file.stored(_STATES)
            stated = file.metadata.get("sha256")
        except CheckpointError:
            stated, states = None, np.zeros(0)
        if stated != hashlib.sha256(states.tobytes()).hexdigest():
            report.damaged.append(str(path))
            return None
        if file.metadata.get("identity") != self.identity or file.metadata.get("clip") != key:
            return None
        return states

    def _hear(self, clip: Any, samples: np.ndarray, key: str) -> np.ndarray:
        try:
            states = self.teacher.states(samples, clip.text, clip.language)
        except DataError as e:
            raise DataError(f"clip {clip.id}: {e}") from None
        stored = (np.zeros((0, self.teacher.dim)) if states is None else states).astype(np.float16)
        digest = hashlib.sha256(stored.tobytes()).hexdigest()
        metadata = {"identity": self.identity, "clip": key, "sha256": digest}
        save_tensors(self._path(clip.id), {_STATES: stored}, metadata, overwrite=True)
        return stored

    def _chosen_heads(self, clips: list[Any]) -> list[Head]:
        """The heads chosen on up to 32 of the clips, spread over all of them; kept for the next time."""
        ordered = sorted(clips, key=lambda clip: clip.id)
        places = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), HEAD_CLIPS)).astype(int))
        chosen = [ordered[k] for k in places]
        contents = [_content_key(clip, clip.read()) for clip in chosen]
        teacher = self.teacher
        fields = [_FORMAT, teacher.files.digest, MEDIAN, teacher.language, N_HEADS, contents]
        path = self.directory / f"heads-{_hash(json.dumps(fields))[:16]}.json"
        try:
            heads = read_json(path)
            teacher.use_heads(heads)
            return teacher.heads
        except (OSError, ValueError, ConfigError):
            heads = choose_heads_by_dtw(teacher, chosen, N_HEADS)
        write_text_atomic(path, json.dumps(heads) + "\n")
        return heads


def _content_key(clip: Any, samples: np.ndarray) -> str:
    """Hash of all of a clip that the states depend on: its samples as they are read, text, language."""
    audio = hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes()).hexdigest()
    return _hash(json.dumps([audio, clip.text, clip.language]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
