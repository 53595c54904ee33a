"""What the adapted model sounds like while it trains: it speaks held-out sentences, and these are judged.

The held-out loss is a bad guide to a clone: in others' runs the loss fell while similarity was lost, and adapters have
spoilt the model's own voices. So `best/` can be chosen by the measured similarity to recordings of the speaker, among
the states whose speech is intelligible and whose own voices have not drifted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.evaluate.intelligibility import check_installed, errors
from mlx_voxclone.evaluate.speakers import SpeakerModel, speaker_model
from mlx_voxclone.model import generation
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.schema import ListenSection

METRIC = "clone_distance"
DRIFT = "kept_semantic"
BROKEN = 2.0  # added where a limit is broken: more than the cosine can make up for
MORE_FRAMES, FEWEST = 2, 25  # a runaway is cut off at twice the recording's length and two seconds


class Understands(Protocol):
    """Transcribes samples at 24 kHz; None: nothing is understood."""

    def understand(self, samples: np.ndarray) -> str | None: ...


@dataclass(frozen=True)
class Sentence:
    """What is spoken at each measurement.

    Attributes:
        id, text: of the held-out clip.
        voice: 0-based codes `[37, N]` of the reference.
        recording: float32 `[samples]`, 24 kHz: the reference as recorded, which the voice is compared with.
        frames: of the recorded clip.
    """

    id: str
    text: str
    voice: np.ndarray
    recording: np.ndarray
    frames: int


MAX_ERROR_RATE = 0.3  # share of characters misheard; a choice, not a finding
MAX_DRIFT = 0.1  # nats, of the model's own voices; a choice, not a finding


@dataclass(frozen=True)
class Limits:
    """What a state must not exceed to be chosen.

    Attributes:
        error_rate: share of characters that are not understood.
        drift: nats, of the model's own voices.
    """

    error_rate: float = math.inf
    drift: float = math.inf


class Listening:
    """Speaks and judges.

    Args:
        sentences: at least one.
        speaker: judges the voice.
        recogniser: transcribes; None: error rates are not measured.
        limits: see `Limits`.
        prompt: text and number of voice rows -> ids.
        seed: of the sampling noise, the same at every measurement.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        speaker: SpeakerModel,
        recogniser: Understands | None,
        limits: Limits,
        prompt: Callable[[str, int], list[int]],
        seed: int = 0,
    ):
        if not sentences:
            raise DataError("no held-out sentence to speak")
        self.sentences, self.limits, self._prompt, self.seed = list(sentences), limits, prompt, seed
        self._speaker, self._recogniser = speaker, recogniser
        self._voices = [speaker.embed(sentence.recording) for sentence in self.sentences]

    @property
    def identity(self) -> dict[str, str | int]:
        """What judges, for resuming."""
        return {"speaker": self._speaker.name, "sentences": len(self.sentences)}

    def speak(self, model: Voxtral) -> list[tuple[np.ndarray, bool]]:
        """Every sentence: (samples `[T * 1920]`, whether the model ended it)."""
        prompts = []
        for sentence in self.sentences:
            rows = model.voice_embedding(sentence.voice)
            prompts.append(model.embed_prompt(self._prompt(sentence.text, rows.shape[0]), rows)[0])
        most = [MORE_FRAMES * sentence.frames + FEWEST for sentence in self.sentences]
        seeds = [self.seed + k for k in range(len(prompts))]
        spoken = []
        for one, limit in zip(generation.generate_batch(model, prompts, max_frames=max(most), seeds=seeds), most):
            codes = one.codes[:, :limit]
            samples = model.audio_tokenizer.decode_audio(codes) if codes.shape[1] else np.zeros(0, np.float32)
            spoken.append((samples, one.ended and one.codes.shape[1] <= limit))
        return spoken

    def metrics(self, model: Voxtral) -> dict[str, float]:
        """Means over the sentences: the similarity by the speaker model's own name, `ended`; `cer` with a recogniser.

        A sentence without sound has similarity 0, and all of it counts as errors.
        """
        spoken = self.speak(model)
        likeness, edits, letters = [], 0, 0
        for sentence, voice, (samples, _) in zip(self.sentences, self._voices, spoken):
            try:
                likeness.append(float(np.dot(self._speaker.embed(samples), voice)))
            except DataError:
                likeness.append(0.0)
            if self._recogniser is not None:
                text = self._recogniser.understand(samples) if len(samples) else None
                counted = errors(sentence.text, text)
                edits, letters = edits + counted.letter_edits, letters + counted.letters
        metrics = {self._speaker.metric: float(np.mean(likeness)), "ended": float(np.mean([e for _, e in spoken]))}
        return metrics | ({"cer": edits / letters} if self._recogniser is not None else {})

    def choice(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """`clone_distance`, lower is better: 1 - similarity, and 2 and the excess more where a limit is broken."""
        excess = 0.0
        for name, limit in (("cer", self.limits.error_rate), (DRIFT, self.limits.drift)):
            if name in metrics and metrics[name] > limit:
                excess += metrics[name] - limit
        distance = 1.0 - metrics[self._speaker.metric]
        return {METRIC: distance + (BROKEN + excess if excess else 0.0)}

    def write(self, model: Voxtral, directory: Path) -> None:
        """Speak every sentence into a WAV file of its own."""
        for sentence, (samples, _) in zip(self.sentences, self.speak(model)):
            write_wav(directory / f"{sentence.id}.wav", samples)


def judges(section: ListenSection) -> "tuple[SpeakerModel, WhisperRecogniser | None] | None":
    """The models that `speaker.listen` names; None without one for the voice.

    Raises:
        ConfigError: one that is not installed or cannot be had.
    """
    if section.speaker_model is None:
        return None
    key = "speaker_model"
    try:
        speaker = speaker_model(section.speaker_model)
        if section.whisper_model is None:
            return speaker, None
        key = "whisper_model"
        check_installed()  # what compares texts; a speaker model may do without
        return speaker, WhisperRecogniser(section.whisper_model)
    except DataError as e:
        raise ConfigError(f"speaker.listen.{key}: {e}; or set it to null to choose by the held-out loss") from None


def check_judges(section: ListenSection) -> None:
    """Refuse what `judges` refuses, and keep no model in memory: a training may come before they are needed."""
    _, recogniser = judges(section) or (None, None)
    if recogniser is not None:
        recogniser.close()


class WhisperRecogniser:
    """A `data.transcribe.Transcriber` of samples."""

    def __init__(self, model: str):
        from mlx_voxclone.data.transcribe import Transcriber

        self._whisper = Transcriber(model)

    def close(self) -> None:
        """Free the model."""
        self._whisper.__exit__(None, None, None)

    def understand(self, samples: np.ndarray) -> str | None:
        import tempfile

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "spoken.wav"
            write_wav(path, samples)
            return self._whisper.transcribe(path)[0]
