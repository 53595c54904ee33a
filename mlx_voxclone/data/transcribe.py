"""Texts for clips that have none, with mlx-whisper (optional extra `transcribe`).

The audio is handed over as samples, so that no ffmpeg is needed. Greedy decoding without fallback to sampling: the same
clip gives the same text, and where greedy decoding fails (loops, guesses) a clip without a text is better than a
wrong one.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import tidy
from mlx_voxclone.whisper.model import CheckedDecoder, Progress, WhisperFiles, whisper_module
from mlx_voxclone.whisper.reader import (
    LONGEST_SECONDS,
    MAX_COMPRESSION_RATIO,
    MIN_SAMPLES,
    WHISPER_RATE,
    check_english,
    known_language,
    language_code,
    understood,
)

__all__ = ["LONGEST_SECONDS", "NOT_INSTALLED", "PACKAGE", "Transcriber"]

PACKAGE = "mlx_whisper"
UNSURE = -0.6  # mean log-probability of a token that an English-only Whisper stays below in German (docs/LOG.md)
_FEWEST = 3  # clips, to tell by
NOT_INSTALLED = "transcribing needs mlx-whisper ({}); install it with: pip install 'mlx-voxclone[transcribe]'"


class Transcriber:
    """A loaded Whisper model; a context manager that frees it.

    Args:
        model: directory in mlx-whisper's format (config.json and weights.safetensors or .npz), or a hub id.
        progress: called while it is loaded, see `WhisperFiles.load`; what it raises ends that.
        check: called before each token of a text; what it raises ends the hearing of the clip.
    Raises:
        DataError: mlx-whisper is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str, progress: Progress | None = None, check: Callable[[], object] | None = None) -> None:
        try:
            # Not `mlx_whisper.transcribe`: the package replaces that name by the function.
            self._module = importlib.import_module(f"{PACKAGE}.transcribe")
        except ImportError as e:
            raise DataError(NOT_INSTALLED.format(e)) from None
        self.model = model
        self.loaded = WhisperFiles(model).load(progress)
        if check is not None:
            self.loaded[0].decoder = CheckedDecoder(self.loaded[0].decoder, check)
        self._likely: list[float] = []  # mean log-probability of a token, of each clip whose language nobody stated

    def __enter__(self) -> "Transcriber":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import mlx.core as mx

        self.loaded = None
        self._module.ModelHolder.model = self._module.ModelHolder.model_path = None
        mx.clear_cache()

    def check_language(self, language: str) -> None:
        """Refuse a language that the model cannot hear; that it can hear one does not say how well.

        Args:
            language: code, such as `en` or `fr-CA`, or English name.
        Raises:
            DataError: it was trained on English alone, or no Whisper knows the language.
        """
        code = language_code(language)
        if code is None:
            raise DataError(f"language {language!r}: no Whisper knows it; Whisper takes codes like en, de, fr")
        if code != "en" and not self.loaded[0].is_multilingual:
            name = whisper_module("tokenizer").LANGUAGES[code]
            raise DataError(f"{self.model}: was trained on English only, not {name}; name another Whisper")

    def notes(self) -> list[str]:
        """What the user should know of all texts so far."""
        if self.loaded[0].is_multilingual or len(self._likely) < _FEWEST or np.median(self._likely) > UNSURE:
            return []
        return [
            f"{self.model} understands English alone and is unsure of most texts; if another language is spoken they"
            " are wrong: take a multilingual Whisper (its name has no .en), or say --language en"
        ]

    def transcribe(self, path: str | Path, language: str | None = None) -> tuple[str | None, str | None]:
        """The text of a clip of up to 30 s, and its language.

        Args:
            language: code or English name; None lets the model find out.
        Returns:
            (text, language code); the text is None where nothing was understood.
        Raises:
            DataError: the audio cannot be read, or Whisper does not know the language (an English-only one: any other).
        """
        return self.transcribe_samples(read_audio(path), SAMPLE_RATE, language)

    def transcribe_samples(
        self, samples: np.ndarray, rate: int, language: str | None = None
    ) -> tuple[str | None, str | None]:
        """`transcribe` for mono samples `[S]` of `rate` Hz."""
        if not self.loaded[0].is_multilingual:
            check_english(self.model, language)
        samples = resample(samples, rate, WHISPER_RATE)
        if len(samples) < MIN_SAMPLES:
            return None, language
        holder = self._module.ModelHolder  # as the package loads it, float16 weights would stay so on a CPU: slow
        holder.model, holder.model_path = self.loaded[0], self.model  # another Transcriber may have put its own there
        try:
            result = self._module.transcribe(
                samples,
                path_or_hf_repo=self.model,
                language=known_language(language) if language else None,
                temperature=0.0,
                condition_on_previous_text=False,
                without_timestamps=True,
                fp16=self.loaded[1],
            )
        except ValueError as e:
            if "language" not in str(e).lower():
                raise
            raise DataError(f"language {language!r}: {e}; Whisper takes codes like en, de, fr") from None
        segments = result["segments"]
        if language is None and segments:
            loops = any(s["compression_ratio"] > MAX_COMPRESSION_RATIO for s in segments)  # probable by its own figures
            self._likely.append(-np.inf if loops else float(np.mean([s["avg_logprob"] for s in segments])))
        failed = not all(
            understood(s["compression_ratio"], s["avg_logprob"], s.get("no_speech_prob", np.nan)) for s in segments
        )
        text = tidy(result["text"])
        return (None if failed else text), result["language"]
