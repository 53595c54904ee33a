"""What is generated for one request, and the samples that come of it: the same as `say` makes of the same text.

A job is the engine's alone once it is submitted: all of it runs in the engine's thread, between two frames.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from mlx_voxclone.errors import DataError, NotFiniteError
from mlx_voxclone.model.generation import GeneratedCodes
from mlx_voxclone.speech.chunks import Chunk, split_text
from mlx_voxclone.speech.narration import Narration, Spoken
from mlx_voxclone.speech.options import MAX_SECONDS, NOTHING_SAID, TRIES
from mlx_voxclone.speech.pieces import Pieces
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.speech.to_files.long_speech import is_long
from mlx_voxclone.text.forms import as_said, form_of


class Listener(Protocol):
    """Who gets a job's samples. Called in the engine's thread."""

    @property
    def gone(self) -> bool:
        """Nobody wants any more of it."""

    @property
    def behind(self) -> bool:
        """So much has not been taken yet that no more is to be begun."""

    def put(self, samples: np.ndarray) -> None:
        """The next samples `[S]`, float32, not clipped."""

    def finish(self) -> None:
        """All of them have been put."""

    def fail(self, error: Exception) -> None:
        """There will be no more."""


@dataclass(eq=False)
class Utterance:
    """One sequence that is generated for a job.

    Attributes:
        prompt: embeddings `[T, dim]`.
        limit: frames, at which it is cut off.
        seed: of the sampling noise.
        may_be_empty: it may end at its first frame.
        books: codebooks, 37.
        frames: 0-based codes `[37]` of each frame so far.
    """

    job: "Job"
    prompt: mx.array
    limit: int
    seed: int
    may_be_empty: bool
    books: int
    frames: list[np.ndarray] = field(default_factory=list)

    @property
    def codes(self) -> np.ndarray:
        """`[37, T]`, int32."""
        return np.stack(self.frames, axis=1) if self.frames else np.zeros((self.books, 0), np.int32)


class Job:
    """A text to be spoken.

    Args:
        text: of any length; a long one is spoken in chunks.
        rows: gives the voice's rows `[N, dim]`; called when the job begins.
        listener: gets the samples.
        seed: of the sampling noise.
        language: decides where the sentences of a long text end.
        adapters: those the voice is spoken with, see `AdapterSwitch`.

    Attributes:
        codes: of all that was said, `[37, T]` each: one utterance, or one per chunk and try.
        tokens: of the text, once it is prepared.
        over: all of it has been said.
    """

    def __init__(
        self,
        text: str,
        rows: Callable[[], mx.array],
        listener: Listener,
        *,
        seed: int = 0,
        language: str = "en",
        adapters: Hashable = None,
    ) -> None:
        self.listener, self.adapters = listener, adapters
        self._text, self._rows, self._seed, self._language = text, rows, seed, language
        self._chunks: list[Chunk] = []
        self._is_long = False
        self._speech: _Short | _Long | None = None
        self.codes: list[np.ndarray] = []
        self.tokens = 0
        self.over = False

    def prepare(self, speaker: Speaker) -> None:
        """Split the text and count its tokens: what needs no model, so any thread may do it beforehand.

        Raises:
            DataError: nothing to say.
        """
        self._is_long = is_long(self._text)
        if self._is_long:
            self._chunks = split_text(self._text, self._language, form=form_of(self._language))
        else:
            self._chunks = [Chunk(as_said(self._text, self._language), 0.0)]
        self.tokens = sum(len(speaker.tokenizer.encode(one.text)) for one in self._chunks)

    def begin(self, speaker: Speaker) -> Sequence[Utterance]:
        """What is to be generated first.

        Raises:
            DataError: nothing to say, or no room for it beside the voice. Whatever `rows` raises.
        """
        if not self._chunks:
            self.prepare(speaker)
        rows = self._rows()
        if self._is_long:
            narration = Narration(speaker, self._chunks, rows, seed=self._seed, tries=TRIES)
            self._speech = _Long(self, narration, speaker.model.config.codec.n_codebooks)
        else:
            self._speech = _Short(self, speaker, self._chunks[0].text, rows, self._seed)
        return self._speech.begin()

    def frame(self, utterance: Utterance, codes: np.ndarray) -> None:
        """Take a frame `[37]` of an utterance."""
        utterance.frames.append(codes)
        self._speech.frame(codes)

    def end(self, utterance: Utterance, ended: bool) -> Sequence[Utterance]:
        """An utterance is over, by itself (`ended`) or cut off; what is to be generated next.

        Raises:
            DataError: nothing was said.
        """
        self.codes.append(utterance.codes)
        return self._speech.end(utterance, ended)

    def finish(self) -> None:
        """All has been said."""
        self.over = True
        self.listener.finish()

    def drop(self) -> None:
        """Nothing more will be asked of it. Its speech and this refer to each other: Python would find that out after
        hundreds of requests, whose prompts lie in the device's memory until then."""
        self._speech = None


class _Short:
    """One utterance, heard piece by piece while it is spoken."""

    def __init__(self, job: Job, speaker: Speaker, text: str, rows: mx.array, seed: int) -> None:
        self._job, self._pieces = job, Pieces(speaker.model.audio_tokenizer)
        limit = max(1, round(MAX_SECONDS * speaker.model.config.codec.frame_rate))
        prompt = speaker.model.embed_prompt(speaker.prompt(text, rows, MAX_SECONDS), rows)[0]
        self._utterance = Utterance(job, prompt, limit, seed, True, speaker.model.config.codec.n_codebooks)

    def begin(self) -> list[Utterance]:
        return [self._utterance]

    def frame(self, codes: np.ndarray) -> None:
        self._put(self._pieces.add(codes))

    def end(self, utterance: Utterance, ended: bool) -> list[Utterance]:
        if not utterance.frames:
            raise DataError(NOTHING_SAID)
        self._put(self._pieces.rest())
        self._job.finish()
        return []

    def _put(self, samples: np.ndarray | None) -> None:
        if samples is not None:
            self._job.listener.put(samples)


class _Long:
    """Chunks, several at once."""

    def __init__(self, job: Job, narration: Narration, books: int) -> None:
        self._job, self._steps, self._books = job, narration.steps(), books
        self._together: list[Utterance] = []
        self._said: dict[Utterance, GeneratedCodes] = {}

    def begin(self) -> list[Utterance]:
        return self._next(None)

    def frame(self, codes: np.ndarray) -> None:
        pass  # a chunk is heard when all of it is there

    def end(self, utterance: Utterance, ended: bool) -> list[Utterance]:
        self._said[utterance] = GeneratedCodes(utterance.codes, ended)
        if len(self._said) < len(self._together):
            return []
        return self._next([self._said[one] for one in self._together])

    def _next(self, answer: list[GeneratedCodes] | None) -> list[Utterance]:
        try:
            step = self._steps.send(answer)
            while isinstance(step, Spoken):
                self._job.listener.put(step.samples)
                step = next(self._steps)
        except StopIteration:
            self._job.finish()
            return []
        self._said = {}
        self._together = [Utterance(self._job, one.prompt, one.limit, one.seed, False, self._books) for one in step]
        return self._together


def damaged() -> NotFiniteError:
    """Of a model whose numbers are not finite."""
    return NotFiniteError("the model's numbers are not finite: its weights are damaged")
