"""A loaded Whisper that hears a clip and reads a text beside it: encoder, greedy decoding, cross-attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, resample
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.texts import base_language
from mlx_voxclone.whisper.alignment import CONTEXT_FRAMES, ENCODER_FRAME
from mlx_voxclone.whisper.model import WhisperFiles, whisper_module

WHISPER_RATE = 16_000
LONGEST = CONTEXT_FRAMES * ENCODER_FRAME  # samples
LONGEST_SECONDS = 30.0  # that a Whisper hears at once
MIN_SAMPLES = 400  # one window of Whisper's spectrogram
# Whisper's own limits (Radford et al. 2022, section 4.5) beyond which a decoding counts as failed.
MAX_COMPRESSION_RATIO = 2.4
MIN_LOG_PROBABILITY = -1.0
# Beyond both, Whisper detects no speech and is unsure of its words: the text is invented (docs/LOG.md).
MAX_NO_SPEECH, MIN_SURE = 0.6, -0.6


@dataclass(frozen=True)
class Reading:
    """What Whisper does with a clip and a text.

    Attributes:
        tokens: of the text, N - 1 of them; the end of text is the last of N.
        states: float32 [N, dim], see `decoder_states`: each predicts its token.
        attention: layer -> raw cross-attention scores of all positions, float32 [heads, P, 1500]: those before the text
            and that behind its end are among them, as Whisper compares a token with them too.
        predicting: of these positions, those that predict the N tokens.
        tokenizer: mlx-whisper's, for the language.
    """

    tokens: list[int]
    states: np.ndarray
    attention: Callable[[int], np.ndarray]
    predicting: slice
    tokenizer: Any


class Reader:
    """A Whisper; loaded when it first has to run. Runs on the main thread only.

    Args:
        model: directory in mlx-whisper's format, or a hub id.
        language: of clips that state none (code or English name); None lets the model find out.
        loaded: what `WhisperFiles.load` gave, if it is loaded already.
    """

    def __init__(self, model: str, language: str | None = None, loaded: tuple[Any, bool] | None = None) -> None:
        self.files = WhisperFiles(model)
        self.language = language
        self._loaded = loaded

    @property
    def model(self) -> Any:
        """The loaded mlx_whisper Whisper. Raises DataError where it cannot be loaded."""
        if self._loaded is None:
            self._loaded = self.files.load()
        return self._loaded[0]

    @property
    def half(self) -> bool:
        """Whether it computes in float16 (on a GPU) or float32."""
        return self.model is not None and self._loaded[1]

    def unload(self) -> None:
        """Free the model's memory; it is loaded again if need be."""
        import mlx.core as mx

        self._loaded = None
        mx.clear_cache()

    def read(self, samples: np.ndarray, text: str | None = None, language: str | None = None) -> Reading | None:
        """Read a text while hearing a clip; None where there is nothing to read.

        Args:
            samples: float32 [samples] at 24 kHz, at most 30 s.
            text: what is said; None or blank: what greedy decoding hears.
            language: code or English name; None: the reader's own, else the model finds out.
        Raises:
            DataError: more than 30 s, a text too long for Whisper or a language it does not know.
        """
        import mlx.core as mx

        if samples.ndim != 1 or not 0 < len(samples) <= LONGEST:
            raise DataError(
                f"{len(samples) / SAMPLE_RATE:.1f} s of audio: Whisper takes clips of up to 30 s; prepare shorter ones"
            )
        features = self._hear(samples)
        if features is None:
            return None
        tokenizer = self._tokenizer(features, language or self.language)
        text = " ".join((text or "").split())
        # As Whisper writes it, a text begins with a blank. Names of special tokens in it are ordinary text.
        tokens = tokenizer.encode(" " + text, disallowed_special=()) if text else self._decode(features, tokenizer)
        if not tokens:
            return None
        prefix = list(tokenizer.sot_sequence_including_notimestamps)
        longest = self.files.sizes["n_text_ctx"] - len(prefix) - 1  # the end of text
        if len(tokens) > longest:
            raise DataError(
                f"a text of {len(tokens)} tokens, but Whisper takes at most {longest}; is it the text"
                " of another recording?"
            )
        hidden, scores = decoder_states(self.model, mx.array([[*prefix, *tokens, tokenizer.eot]]), features)
        mx.eval(hidden, scores)
        first = len(prefix) - 1  # the position that predicts the first token
        predicting = slice(first, first + len(tokens) + 1)

        def attention(layer: int) -> np.ndarray:
            return np.array(scores[layer][0].astype(mx.float32))

        states = np.array(hidden[0, predicting].astype(mx.float32))
        return Reading(list(tokens), states, attention, predicting, tokenizer)

    def published_heads(self) -> list[tuple[int, int]]:
        """The alignment heads that come with the model, (layer, head); an old conversion has all of its upper layers.

        Raises:
            DataError: it names one that it does not have, or none.
        """
        sizes = self.files.sizes
        heads = [(int(layer), int(head)) for layer, head in np.array(self.model.alignment_heads).tolist()]
        for layer, head in heads:
            if not (0 <= layer < sizes["n_text_layer"] and 0 <= head < sizes["n_text_head"]):
                raise DataError(self.no_head(layer, head))
        if not heads:
            raise DataError(f"{self.files.name}: names no alignment heads; give some, or have them chosen (dtw)")
        return heads

    def no_head(self, layer: int, head: int) -> str:
        """The message for an alignment head that the model does not have."""
        sizes = self.files.sizes
        return (
            f"{self.files.name}: no alignment head {head} in layer {layer}: "
            f"its decoder has {sizes['n_text_layer']} layers of {sizes['n_text_head']} heads, counted from 0"
        )

    def _hear(self, samples: np.ndarray):
        """The encoder's output [1, 1500, D], or None for less than one window of its spectrogram.

        What follows the clip is zeros of the spectrogram, as where Whisper transcribes, and not the spectrogram of
        silence: with the latter one word in sixty gets another time.
        """
        import mlx.core as mx

        audio = whisper_module("audio")
        heard = resample(np.ascontiguousarray(samples, np.float32), SAMPLE_RATE, WHISPER_RATE)[: audio.N_SAMPLES]
        if len(heard) < MIN_SAMPLES:
            return None
        model = self.model
        mel = audio.log_mel_spectrogram(heard, model.dims.n_mels, padding=audio.N_SAMPLES)  # [frames, mels]
        mel = audio.pad_or_trim(mel[: -audio.N_FRAMES], audio.N_FRAMES, axis=-2)  # [3000, mels]
        return model.encoder(mel[None].astype(mx.float16 if self.half else mx.float32))

    def _tokenizer(self, features, language: str | None):
        model = self.model
        language = known_language(language) if language else None
        if not model.is_multilingual:
            check_english(self.files.name, language)
        elif language is None:
            _, probabilities = model.detect_language(features)
            language = max(probabilities[0], key=probabilities[0].get)
        return whisper_module("tokenizer").get_tokenizer(
            model.is_multilingual, num_languages=model.num_languages, language=language, task="transcribe"
        )

    def _decode(self, features, tokenizer) -> list[int]:
        """Tokens of what greedy decoding hears; none where it fails by Whisper's own measure."""
        options = whisper_module("decoding").DecodingOptions(
            language=tokenizer.language or "en", temperature=0.0, without_timestamps=True, fp16=self.half
        )
        result = self.model.decode(features[0], options)
        if not understood(result.compression_ratio, result.avg_logprob, result.no_speech_prob):
            return []
        return [token for token in result.tokens if token < tokenizer.eot] if result.text.strip() else []


def understood(compression: float, probability: float, no_speech: float) -> bool:
    """Whether a decoding can be trusted, by Whisper's own figures.

    Args:
        compression: ratio of the text's length to its compressed length.
        probability: mean log-probability of a token.
        no_speech: probability that there is no speech; NaN: unknown.
    """
    if compression > MAX_COMPRESSION_RATIO or not probability >= MIN_LOG_PROBABILITY:
        return False
    return not (no_speech > MAX_NO_SPEECH and probability < MIN_SURE)


def known_language(language: str) -> str:
    """Whisper's code of a language.

    Args:
        language: code, such as `de` or `fr_CA`, or English name.
    Raises:
        DataError: no Whisper knows it.
    """
    code = language_code(language)
    if code is None:
        raise DataError(f"language {language!r}: unknown to Whisper, which takes codes like en, de, fr")
    return code


def language_code(language: str) -> str | None:
    """Whisper's code of a language, by its code or English name; None where no Whisper knows it."""
    names, name = whisper_module("tokenizer"), base_language(language)
    return name if name in names.LANGUAGES else names.TO_LANGUAGE_CODE.get(name)


def check_english(model: str, language: str | None) -> None:
    """Refuse another language than English for a model that knows no other.

    Raises:
        DataError: it is another one.
    """
    if base_language(language or "en") not in ("en", "english"):
        raise DataError(
            f"{model}: is an English-only model, but the language is {language!r}; take a multilingual Whisper"
            " (its name has no .en)"
        )


def decoder_states(model: Any, tokens: Any, features: Any) -> tuple[Any, list[Any]]:
    """mlx_whisper's TextDecoder, stopped before its logits, which are a linear function of what is returned.

    Args:
        model: the Whisper. tokens: [B, L]. features: encoder output [B, 1500, D].
    Returns:
        (states [B, L, D] after the last layer norm, raw cross-attention [B, heads, L, 1500] of every layer).
    """
    decoder = model.decoder
    x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[-1]]
    scores = []
    for block in decoder.blocks:
        x, _, attention = block(x, features, mask=decoder._mask)
        scores.append(attention)
    return decoder.ln(x), scores
