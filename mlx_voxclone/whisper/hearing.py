"""What a Whisper hears in a clip, word by word with times; kept in the user's cache, so that it hears each once."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.segment import FRAME_SECONDS, frame_levels, speech_mask
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.cache import cache_root
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.whisper.alignment import ENCODER_FRAME, encoder_frames
from mlx_voxclone.whisper.model import WhisperFiles
from mlx_voxclone.whisper.reader import Reader, Reading, check_english, known_language
from mlx_voxclone.whisper.words import Word, timed_words, token_frames

_FORMAT = 3  # changes with what is heard or how it is kept
_DIGITS = 16  # of digests, in names


@dataclass(frozen=True)
class Heard:
    """What was heard in a clip.

    Attributes:
        text: as Whisper writes it; empty: nothing was understood.
        language: that it was heard in, a code; None: nothing was understood.
        words: of the text, in order, with seconds into the clip.
    """

    text: str
    language: str | None
    words: tuple[Word, ...]


class Listener:
    """A Whisper that hears clips of up to 30 s; a context manager that frees it.

    Args:
        model: directory in mlx-whisper's format, or a hub id.
        keep: keep what was heard in the user's cache, and take it from there.
        loaded: what `WhisperFiles.load` gave, if it is loaded already.
    Raises:
        DataError: mlx-whisper is not installed, or the model cannot be used.
    """

    def __init__(self, model: str, *, keep: bool = True, loaded: tuple[Any, bool] | None = None) -> None:
        self.model = model
        self._reader, self._keep = Reader(model, loaded=loaded), keep
        self._heads: list[tuple[int, int]] | None = None
        self.files.check()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.unload()

    @property
    def files(self) -> WhisperFiles:
        return self._reader.files

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows more than English, by its files."""
        return self.files.is_multilingual

    def check_language(self, language: str | None) -> None:
        """Refuse a language that it cannot hear, before anything is heard; None: not known yet.

        Raises:
            DataError: no Whisper knows it, or this one knows English alone.
        """
        if language is not None:
            known_language(language)
        if not self.is_multilingual:
            check_english(self.model, language)

    def hear(self, samples: np.ndarray, language: str | None = None) -> Heard:
        """What is said in a clip, float32 [samples] at 24 kHz, at most 30 s.

        Args:
            language: code or English name; None lets the model find out.
        Raises:
            DataError: more than 30 s, a language that the model does not know, a model that cannot be loaded.
        """
        path = self._path(samples, language)
        if self._keep and (known := _kept(path)) is not None:
            return known
        reading = self._reader.read(samples, None, language)
        heard = Heard("", None, ()) if reading is None else self._timed(reading, samples)
        if self._keep:
            with contextlib.suppress(VoxcloneError, OSError):  # a cache that cannot be written costs time alone
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomic(path, json.dumps(asdict(heard), ensure_ascii=False) + "\n")
        return heard

    def words(self, samples: np.ndarray, text: str, language: str | None = None) -> list[Word]:
        """When the words of a given text are said in a clip of up to 30 s; empty where there is nothing to read.

        Raises:
            DataError: see `hear`; a text too long for Whisper.
        """
        reading = self._reader.read(samples, text, language)
        return [] if reading is None else list(self._timed(reading, samples).words)

    def _timed(self, reading: Reading, samples: np.ndarray) -> Heard:
        if self._heads is None:
            self._heads = self._reader.published_heads()
        scores = np.stack([reading.attention(layer)[head] for layer, head in self._heads])
        starts = token_frames(scores, reading.predicting, encoder_frames(len(samples)), speech_frames(samples))
        text, ends = spelled(reading.tokens, reading.tokenizer)
        language = reading.tokenizer.language or "en"
        return Heard(text.strip(), language, tuple(timed_words(text, ends, starts)))

    def _path(self, samples: np.ndarray, language: str | None) -> Path:
        digest = hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes())
        digest.update(f"{_FORMAT} {language}".encode())
        return cache_root() / "heard" / self.files.digest[:_DIGITS] / f"{digest.hexdigest()[: 2 * _DIGITS]}.json"


def speech_frames(samples: np.ndarray) -> np.ndarray:
    """Which encoder frames of a clip hold speech: bool [ceil(samples / 480)]."""
    mask = speech_mask(frame_levels([samples], SAMPLE_RATE))
    centres = np.arange(encoder_frames(len(samples))) * ENCODER_FRAME / SAMPLE_RATE / FRAME_SECONDS
    return mask[np.minimum(centres.astype(int), len(mask) - 1)]


def spelled(tokens: list[int], tokenizer: Any) -> tuple[str, list[int]]:
    """What tokens say, and how many of its characters the tokens up to each one say.

    A character of several tokens counts once it is complete.
    """
    text, ends = tokenizer.decode(tokens), []
    for k in range(1, len(tokens) + 1):
        so_far = tokenizer.decode(tokens[:k]).rstrip("�")
        ends.append(min(len(so_far), len(text)))
    ends[-1] = len(text)
    return text, ends


def _kept(path: Path) -> Heard | None:
    """What was heard before; None where it is not there or damaged."""
    try:
        content = read_json(path)
        words = tuple(Word(str(w["text"]), float(w["start"]), float(w["end"])) for w in content["words"])
        text, language = content["text"], content["language"]
        if not isinstance(text, str) or not isinstance(language, str | None):
            return None
        return Heard(text, language, words)
    except (OSError, ValueError, KeyError, TypeError):
        return None
