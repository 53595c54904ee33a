"""Voices that a server speaks with: the checkpoint's, and those of a folder, to which uploads come.

Only files of the folder itself are read: no links, no other names. See `voice_folder` for what lies in it.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.source import AudioBytes
from mlx_voxclone.checkpoint.voices import is_voice_name
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.serve.errors import ApiError
from mlx_voxclone.serve.voice_folder import RECORD, ROWS, TakenError, VoiceFolder
from mlx_voxclone.speech.speaker import Speaker, read_reference, reference_warnings

MOST_VOICES = 10_000  # of a folder
MOST_CONSENT = 2_000  # characters


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
        self._folder = None if folder is None else _opened(folder)
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
                return self._speaker.release.voice_of_file(self._own_folder().file(name, ROWS))
            except CheckpointError as e:
                if name not in self._names and not self._is_there(name):
                    raise ApiError(400, f"the voice {name} was removed", "voice", "voice_not_found") from None
                reason = str(e).replace(str(self._speaker.release.path), "the model")
                if self._folder is not None:
                    reason = reason.replace(f"{self._folder.path}{os.sep}", "")
                raise ApiError(500, f"the voice {name} cannot be used: {reason}", "voice", "voice_damaged") from None

        return rows

    # ---- uploads -----------------------------------------------------------------------------------------------------

    def check_possible(self) -> None:
        """Refuse uploads where none can become a voice. Raises ApiError."""
        if self._folder is None:
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
        if name in self._names or self._own_folder().is_taken(name):
            raise _taken(name)
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
        rows, folder = self._speaker.voice_rows(reference=samples), self._own_folder()
        try:
            folder.keep(name, record, samples, rows)
        except TakenError:
            raise _taken(name) from None
        except (OSError, CheckpointError, DataError) as e:
            raise ApiError(507, f"the voice cannot be kept: {_without(e, folder.path)}", None, "storage") from None
        return self._own(name)

    def warnings_of(self, samples: np.ndarray) -> list[str]:
        """What should be known of a clip."""
        return reference_warnings([samples])

    def remove(self, name: str) -> None:
        """Remove a voice of the folder; who speaks with it goes on. Raises ApiError."""
        if name in self._names:
            raise ApiError(403, f"{name} is a voice of the checkpoint, which stays as it is", "voice", "not_removable")
        self.find(name)
        folder = self._own_folder()
        try:
            if not folder.has_record(name):
                raise ApiError(
                    403, f"{name} did not come by an upload; its file is the operator's", "voice", "not_removable"
                )
            folder.remove(name)
        except TakenError:
            raise ApiError(409, f"{name} is just being made or removed", "voice", "voice_busy") from None
        except FileNotFoundError:
            raise ApiError(404, f"the voice {name} was removed", "voice", "voice_not_found") from None
        except OSError as e:
            raise ApiError(500, f"{name} cannot be removed ({e.strerror})", "voice", "storage") from None

    # ---- files -------------------------------------------------------------------------------------------------------

    def _own_folder(self) -> VoiceFolder:
        if self._folder is None:
            raise ValueError("a server without a folder has no voices of its own")
        return self._folder

    def _is_there(self, name: str) -> bool:
        return self._folder is not None and self._folder.has(name)

    def _own_names(self) -> set[str]:
        if self._folder is None:
            return set()
        try:
            return self._folder.names()
        except OSError as e:
            raise ApiError(500, f"the voices' folder cannot be read ({e.strerror})", None, "storage") from None

    def _own(self, name: str) -> VoiceInfo:
        try:
            created = int(os.lstat(self._own_folder().file(name, ROWS)).st_mtime)
        except OSError:
            created = 0
        return VoiceInfo(name, created, True)

    def _check_model(self, name: str) -> None:
        """Refuse rows that were made with another model's tables. Raises CheckpointError."""
        path = self._own_folder().file(name, RECORD)
        try:
            record = self._own_folder().record(name)
        except (OSError, ValueError):
            raise CheckpointError(f"{path}: is damaged; upload the voice again") from None
        if record is not None and record.get("model") != self._speaker.release.fingerprint():
            raise CheckpointError(f"{path}: the voice was made with another model; upload it again")


def _opened(folder: Path) -> VoiceFolder:
    try:
        return VoiceFolder(folder)
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise ConfigError(f"--voices {folder}: cannot be used ({reason}); name a folder") from None


def _taken(name: str) -> ApiError:
    return ApiError(409, f"the name {name} is taken; choose another one", "name", "voice_exists")


def _without(error: Exception, folder: Path | None) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return re.sub(rf"{re.escape(str(folder))}/?", "", reason)
