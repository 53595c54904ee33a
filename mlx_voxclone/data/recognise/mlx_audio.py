"""Texts by any speech recogniser of mlx-audio (extra `mlx-audio`): `mlx-audio:DIR_OR_ID`.

Voxtral's own is one of them (Voxtral Mini Realtime). A model hears windows of up to 30 s, cut where it is quietest;
what it cannot do (a language, a sampling) is left at its default. The older Voxtral Mini needs torch in transformers'
processor, which one line says.
"""

import importlib
import inspect
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample
from mlx_voxclone.audio.segment import FRAME_SECONDS, frame_levels, smoothed
from mlx_voxclone.data.transcribe import LONGEST_SECONDS, MAX_COMPRESSION_RATIO, MIN_SAMPLES
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import base_language, damage, words

PREFIX = "mlx-audio:"
PACKAGE = "mlx_audio"
NOT_INSTALLED = "this recogniser needs mlx-audio ({}); install it with: pip install 'mlx-voxclone[mlx-audio]'"
NAMED = PACKAGE, NOT_INSTALLED
_RATE = 16_000
_SHORTEST_SHARE = 0.6  # of the longest window, from which on a cut is looked for
_MOST_TOKENS = 448  # of a window; some models stop at 128, which is half of what a fast speaker says
_LANGUAGE_KEYS = ("language", "source_lang")
_ANY_LANGUAGE = ("voxtral", "whisper")  # kinds of models that find the language out when told None


class MlxAudioRecogniser:
    """A loaded recogniser; a context manager that frees it.

    Args:
        model: directory or hub id that `mlx_audio.stt.load` opens.
    Raises:
        DataError: mlx-audio is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str) -> None:
        try:
            module = importlib.import_module(f"{PACKAGE}.stt")
        except ImportError as e:
            raise DataError(NOT_INSTALLED.format(e)) from None
        self.model = model
        try:
            self._model: Any = module.load(Path(model) if Path(model).is_dir() else model)
            self._parameters = inspect.signature(self._model.generate).parameters
        except Exception as e:  # other people's code (hub, JSON, tensors, processors): any failure ends here
            raise DataError(
                f"{PREFIX}{model}: cannot be loaded as a speech recogniser ({_told(e)}); name a directory or a hub id"
                " that mlx-audio transcribes with"
            ) from None

    def __enter__(self) -> "MlxAudioRecogniser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import mlx.core as mx

        self._model = None
        mx.clear_cache()

    def transcribe(self, path: str | Path, language: str | None = None) -> tuple[str | None, str | None]:
        """The text of a clip of any length, and its language as far as it is known.

        Args:
            language: code; None lets a model find out that can.
        Returns:
            (text, language code); the text is None where nothing was understood.
        Raises:
            DataError: the audio cannot be read, or the model fails on it.
        """
        samples = resample(read_audio(path), SAMPLE_RATE, _RATE)
        if len(samples) < MIN_SAMPLES:
            return None, language
        texts = []
        for window in windows(samples, _RATE):
            text, told = self._heard(path, window, language)
            language = language or told
            if text is not None and len(raw := text.encode()) / len(zlib.compress(raw)) > MAX_COMPRESSION_RATIO:
                return None, language  # it went round in circles
            texts.append(text)
        return words(" ".join(filter(None, texts))), language

    def _heard(self, path: str | Path, samples: np.ndarray, language: str | None) -> tuple[str | None, str | None]:
        import mlx.core as mx

        options: dict[str, Any] = {"max_tokens": _MOST_TOKENS, "temperature": 0.0, "verbose": False, "stream": False}
        code = None if language is None else base_language(language)
        kind = str(getattr(getattr(self._model, "config", None), "model_type", "")).lower()
        if code is not None or kind.startswith(_ANY_LANGUAGE):
            options |= dict.fromkeys(_LANGUAGE_KEYS, code)
        given = {key: value for key, value in options.items() if key in self._parameters}
        try:
            found = self._model.generate(mx.array(samples), **given)
            text, told = found.text, getattr(found, "language", None)
        except Exception as e:
            raise DataError(f"{path}: {PREFIX}{self.model} fails on it ({_told(e)})") from None
        if not isinstance(text, str) or damage(text):
            return None, None
        return words(text), told if isinstance(told, str) and told.isascii() else None


def windows(samples: np.ndarray, rate: int, longest: float = LONGEST_SECONDS) -> Iterator[np.ndarray]:
    """Parts of samples [S] of up to `longest` seconds, cut where they are quietest; joined they are the samples."""
    level = smoothed(frame_levels([samples], rate))
    frame, most = rate * FRAME_SECONDS, round(longest / FRAME_SECONDS)
    first = 0
    while len(level) - first > most:
        part = level[first + round(_SHORTEST_SHARE * most) : first + most]
        end = first + round(_SHORTEST_SHARE * most) + int(part.argmin())
        yield samples[round(first * frame) : round(end * frame)]
        first = end
    yield samples[round(first * frame) :]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
