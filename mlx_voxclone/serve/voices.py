"""Voices that a server speaks with: the checkpoint's, and those of a folder, to which uploads come.

    DIR/NAME.safetensors  rows of the voice, as `bake` and trainings write them
    DIR/NAME.wav          the clip that it was made of, 24 kHz mono
    DIR/NAME.json         when, of which clip, for which model, and who agreed

A voice is there once its rows are. Only files of the folder itself are read: no links, no other names.
"""

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.audio.source import AudioBytes
from mlx_voxclone.checkpoint.voices import EMBEDDING, is_voice_name
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.serve.errors import ApiError
from mlx_voxclone.speech.speaker import Speaker, read_reference, reference_warnings

ROWS, CLIP, RECORD = ".safetensors", ".wav", ".json"
MOST_VOICES = 10_000  # of a folder
MOST_CONSENT = 2_000  # characters
_MOST_RECORD = 1 << 16  # bytes


@dataclass(frozen=True)
class VoiceInfo:
    """A voice that is there.

    Attributes:
        created: seconds since 1970.
        own: it is of the folder, so it can be removed.
    """

    name: str
    created: int
    own: bool

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        return {
            "id": self.name,
            "name": self.name,
            "object": "audio.voice",
            "created_at": self.created,
            "type": "audio_sample",
        }


class Voices:
    """The voices of a server.

    Args:
        speaker: a loaded checkpoint.
        folder: of voices that come and go; made if it is missing. None: the checkpoint's alone.
        adapters: by name of a voice: its adapters in the engine's `AdapterSwitch`; others have those of None.

    Raises:
        ConfigError: a folder that cannot be made or is none; adapters of a voice that there is not.
    """

    def __init__(self, speaker: Speaker, folder: Path | None, adapters: Mapping[str, Hashable]) -> None:
        self._speaker, self._adapters = speaker, adapters
        self.folder = None if folder is None else _opened(folder)
        self._names = [name for name in speaker.voices if is_voice_name(name)]
        self._began = int(time.time())
        known = {voice.name for voice in self.all()}
        if missing := sorted(set(adapters) - known):
            raise ConfigError(f"adapters for {missing[0]}: no such voice; there are {', '.join(sorted(known))}")

    def all(self) -> list[VoiceInfo]:
        """The checkpoint's voices, then those of the folder by name. Raises ApiError where the folder is gone."""
        found = [VoiceInfo(name, self._began, False) for name in self._names]
        return [*found, *(self._own(name) for name in sorted(self._own_names() - set(self._names)))]

    def find(self, name: str) -> VoiceInfo:
        """Raises ApiError: no such voice."""
        if name in self._names:
            return VoiceInfo(name, self._began, False)
        if is_voice_name(name) and self._is_there(name):
            return self._own(name)
        known = ", ".join(voice.name for voice in self.all()[:50]) or "none"
        raise ApiError(400, f"there is no voice {name!r:.80}; there are: {known}", "voice", "voice_not_found")

    def adapters_of(self, name: str) -> Hashable:
        """The key of the adapters that a voice is spoken with."""
        return name if name in self._adapters else None

    def rows_of(self, name: str) -> Callable[[], mx.array]:
        """Reads the rows `[N, dim]` of a voice when it is called: in the engine's thread. It raises ApiError."""

        def rows() -> mx.array:
            try:
                if name in self._names:
                    return self._speaker.release.voice(name)
                self._check_model(name)
                return self._speaker.release.voice_of_file(self._file(name, ROWS))
            except CheckpointError as e:
                if name not in self._names and not self._is_there(name):
                    raise ApiError(400, f"the voice {name} was removed", "voice", "voice_not_found") from None
                reason = str(e).replace(str(self._speaker.release.path), "the model")
                if self.folder is not None:
                    reason = reason.replace(f"{self.folder}{os.sep}", "")
                raise ApiError(500, f"the voice {name} cannot be used: {reason}", "voice", "voice_damaged") from None

        return rows

    # ---- uploads -----------------------------------------------------------------------------------------------------

    def check_possible(self) -> None:
        """Refuse uploads where none can become a voice. Raises ApiError."""
        if self.folder is None:
            raise ApiError(403, "this server keeps no voices; start it with --voices DIR", None, "voices_disabled")
        if not self._speaker.has_encoder:
            raise ApiError(
                400,
                "the model has no codec encoder, so it cannot take a voice from a clip; serve a checkpoint with one"
                " baked in, or give one with --encoder",
                "audio_sample",
                "no_encoder",
            )

    def check_new(self, name: str, consent: str) -> None:
        """Refuse what cannot become a voice, before its clip is looked at. Raises ApiError."""
        self.check_possible()
        if not is_voice_name(name):
            raise ApiError(400, "name: only a-z, 0-9, _ and -, at most 64 of them", "name", "invalid_value")
        if not consent.strip() or len(consent) > MOST_CONSENT:
            raise ApiError(
                400, "consent: say who agreed to the use of this voice, and when, in up to"
                f" {MOST_CONSENT:,} characters", "consent", "consent_required",
            )  # fmt: skip
        if name in self._names or any(os.path.lexists(self._file(name, suffix)) for suffix in (ROWS, CLIP, RECORD)):
            raise ApiError(409, f"the name {name} is taken; choose another one", "name", "voice_exists")
        if len(self._own_names()) >= MOST_VOICES:
            raise ApiError(507, f"{MOST_VOICES:,} voices are here already; remove some", None, "too_many_voices")

    def read_clip(self, content: bytes) -> np.ndarray:
        """The samples of a clip that was uploaded; any thread. Raises ApiError: no audio, or none that can serve."""
        try:
            return read_reference(AudioBytes("the clip", content))
        except DataError as e:
            raise ApiError(400, str(e).removeprefix("the clip: "), "audio_sample", "invalid_audio") from None

    def add(self, name: str, consent: str, content: bytes, samples: np.ndarray) -> VoiceInfo:
        """Make and keep a voice; in the engine's thread.

        Args:
            content: the file as it was uploaded.
            samples: of `read_clip`.

        Raises:
            ApiError: the name was taken meanwhile; the disk is full.
        """
        self.check_new(name, consent)
        record = {
            "name": name,
            "created_at": int(time.time()),
            "consent": consent.strip(),
            "sha256": hashlib.sha256(content).hexdigest(),
            "model": self._speaker.release.fingerprint(),
        }
        rows = self._speaker.voice_rows(reference=samples)
        self._claim(name)
        try:
            write_wav(self._file(name, CLIP), samples)
            write_text_atomic(self._file(name, RECORD), json.dumps(record, ensure_ascii=False) + "\n")
            save_tensors(self._file(name, ROWS), {EMBEDDING: rows.astype(mx.bfloat16)})
        except BaseException as e:
            self._remove_files(name)
            if not isinstance(e, OSError | CheckpointError | DataError):
                raise
            raise ApiError(507, f"the voice cannot be kept: {_without(e, self.folder)}", None, "storage") from None
        return self._own(name)

    def warnings_of(self, samples: np.ndarray) -> list[str]:
        """What should be known of a clip."""
        return reference_warnings([samples])

    def remove(self, name: str) -> None:
        """Remove a voice of the folder; who speaks with it goes on. Raises ApiError."""
        if name in self._names:
            raise ApiError(403, f"{name} is a voice of the checkpoint, which stays as it is", "voice", "not_removable")
        self.find(name)
        if not _is_plain(self._file(name, RECORD)):
            raise ApiError(
                403, f"{name} did not come by an upload; its file is the operator's", "voice", "not_removable"
            )
        try:
            self._remove_files(name)
        except OSError as e:
            raise ApiError(500, f"{name} cannot be removed ({e.strerror})", "voice", "storage") from None

    # ---- files -------------------------------------------------------------------------------------------------------

    def _file(self, name: str, suffix: str) -> Path:
        if self.folder is None or not is_voice_name(name):
            raise ValueError(name)
        return self.folder / f"{name}{suffix}"

    def _is_there(self, name: str) -> bool:
        return self.folder is not None and _is_plain(self._file(name, ROWS))

    def _own_names(self) -> set[str]:
        if self.folder is None:
            return set()
        try:
            with os.scandir(self.folder) as entries:
                found = [e.name for e in entries if e.name.endswith(ROWS) and e.is_file(follow_symlinks=False)]
        except OSError as e:
            raise ApiError(500, f"the voices' folder cannot be read ({e.strerror})", None, "storage") from None
        return {name for file in found if is_voice_name(name := file.removesuffix(ROWS))}

    def _own(self, name: str) -> VoiceInfo:
        try:
            created = int(os.lstat(self._file(name, ROWS)).st_mtime)
        except OSError:
            created = 0
        return VoiceInfo(name, created, True)

    def _check_model(self, name: str) -> None:
        """Refuse rows that were made with another model's tables. Raises CheckpointError."""
        path = self._file(name, RECORD)
        if not _is_plain(path):
            return
        try:
            made_with = read_json(path, _MOST_RECORD).get("model")
        except (OSError, ValueError, AttributeError):
            raise CheckpointError(f"{path}: is damaged; upload the voice again") from None
        if made_with != self._speaker.release.fingerprint():
            raise CheckpointError(f"{path}: the voice was made with another model; upload it again")

    def _claim(self, name: str) -> None:
        """Take a name, of which another server on the same folder may think at the same time. Raises ApiError."""
        try:
            os.close(os.open(self._file(name, RECORD), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            raise ApiError(409, f"the name {name} is taken; choose another one", "name", "voice_exists") from None
        except OSError as e:
            raise ApiError(507, f"the voice cannot be kept ({e.strerror})", None, "storage") from None

    def _remove_files(self, name: str) -> None:
        """The rows first, with which the voice is gone; the record last, with which its name is free."""
        for suffix in (ROWS, CLIP, RECORD):
            self._file(name, suffix).unlink(missing_ok=True)


def _opened(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.scandir(folder):
            pass
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise ConfigError(f"--voices {folder}: cannot be used ({reason}); name a folder") from None
    return folder.resolve()


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _without(error: Exception, folder: Path | None) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return re.sub(rf"{re.escape(str(folder))}/?", "", reason)
