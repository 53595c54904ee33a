"""Many chunks of text behind one voice: spoken in batches, doubtful ones again, joined without a seam.

A chunk is doubtful if it stays silent, does not end, or is far from the length that its text and the chunks before it
let expect. It is spoken again with other seeds; of all tries the likeliest length is kept.
"""

import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.segment import FRAME_SECONDS, frame_levels, speech_level, speech_mask
from mlx_voxclone.errors import NotFiniteError
from mlx_voxclone.model.config import CFG_ALPHA
from mlx_voxclone.model.generation import GeneratedCodes, generate_batch
from mlx_voxclone.speech.chunks import Chunk
from mlx_voxclone.speech.options import BATCH, MAX_SECONDS
from mlx_voxclone.speech.speaker import Speaker

TRIES = 3
PACE = 0.065  # seconds a character, until the voice's own pace is known
FEW = 4  # chunks, after which a voice's pace is known
TOLERANCE = 2.5  # how many times too long or too short
SURE = 20  # characters of a text whose length can be expected
SPARE = 3.0  # seconds beyond the longest expected speech, where a chunk is cut off
MARGIN = 0.06  # seconds kept before and after speech
FADE = 0.01  # seconds
MOST_GAIN = 4.0  # dB, by which levels are evened
_KEPT = 64  # chunks, of which pace and level are remembered
_SEEDS = 1_000_003  # between the seeds of tries


@dataclass(frozen=True)
class Spoken:
    """A chunk as it was spoken.

    Attributes:
        number: of the chunk.
        samples: float32 `[S]` at the model's rate: speech with its margins, levels evened, and the pause behind it.
        tries: how often it was spoken.
        doubt: why it may not be right; None: nothing is known against it.
    """

    number: int
    samples: np.ndarray
    tries: int
    doubt: str | None


@dataclass(frozen=True)
class Wanted:
    """An utterance to be generated, which must not end at its first frame.

    Attributes:
        prompt: embeddings `[T, dim]`.
        limit: frames, more of which are not needed.
        seed: of the sampling noise.
    """

    prompt: mx.array
    limit: int
    seed: int


class Narration:
    """Speaks chunks in order; an iterator over `Spoken`.

    Args:
        speaker: a loaded checkpoint.
        chunks: from `split_text`.
        rows: of the voice, `[N, dim]`.
        first: number of the first chunk to give; those before it are done.
        memory: `memory` as it was when the chunk before `first` was given; then the rest is what it would have been.
        seed: the same seed, the same speech.
        batch: chunks at once; more are faster and take more memory.
        on_frame: called after every frame of a batch with the number of chunks that are still speaking.

    Attributes:
        memory: what is known of the voice where the present batch began.

    Raises:
        NotFiniteError: while iterating, numbers that are not finite.
    """

    def __init__(
        self,
        speaker: Speaker,
        chunks: Sequence[Chunk],
        rows: mx.array,
        *,
        first: int = 0,
        memory: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
        batch: int = BATCH,
        n_steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        on_frame: Callable[[int], None] | None = None,
    ) -> None:
        self._speaker, self._chunks, self._rows, self._first = speaker, chunks, rows, first
        self._seed, self._batch, self._on_frame = seed, batch, on_frame
        self._flow = {"n_steps": n_steps, "cfg_alpha": cfg_alpha}
        self._rate = speaker.model.config.codec.frame_rate
        self.memory = {name: tuple((memory or {}).get(name, ())) for name in ("paces", "levels")}
        self._paces = list(self.memory["paces"])  # seconds a character of chunks that are not doubtful
        self._levels = list(self.memory["levels"])  # dB of full scale
        self._codec = speaker.model.audio_tokenizer

    def __iter__(self) -> Iterator[Spoken]:
        steps, answer = self.steps(), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration:
                return
            if isinstance(step, Spoken):
                answer = None
                yield step
            else:
                answer = self._generated(step)

    def steps(self) -> Generator[Spoken | list[Wanted], list[GeneratedCodes] | None, None]:
        """What is to be generated, for those who generate it themselves, and the chunks that come of it, in order.

        Each list of utterances is to be answered (`send`) with what was said to them, in the same order.
        """
        for start in range(self._first - self._first % self._batch, len(self._chunks), self._batch):
            numbers = range(start, min(start + self._batch, len(self._chunks)))
            best = yield from self._best(numbers)
            for number, (said, doubt, tries) in best.items():
                if doubt is None and len(self._chunks[number].text) >= SURE:
                    self._paces.append(said.codes.shape[1] / self._rate / len(self._chunks[number].text))
                samples = self._finished(number, said.codes)
                if number == numbers[-1]:  # until then the batch would be spoken again
                    self.memory = {"paces": tuple(self._paces[-_KEPT:]), "levels": tuple(self._levels[-_KEPT:])}
                if number >= self._first:
                    yield Spoken(number, samples, tries, doubt)

    def _best(
        self, numbers: Sequence[int]
    ) -> Generator[list[Wanted], list[GeneratedCodes], dict[int, tuple[GeneratedCodes, str | None, int]]]:
        """By number: the best of the tries, what is doubtful about it, and how many there were."""
        best: dict[int, tuple[GeneratedCodes, str | None, int]] = {}
        for attempt in range(TRIES):
            again = [n for n in numbers if n not in best or best[n][1] is not None]
            if not again:
                break
            limits = {number: self._limit(number) for number in again}
            longest = max(limits.values())
            # One frame more tells a chunk that was cut off from one that ended there.
            wanted = [self._wanted(n, attempt, min(limits[n] + 1, longest)) for n in again]
            for number, said in zip(again, (yield wanted), strict=True):
                said = _cut_off(said, limits[number])
                doubt = self._doubt(number, said)
                kept = best.get(number)
                if kept is not None and doubt and self._distance(number, kept[0]) <= self._distance(number, said):
                    said, doubt = kept[:2]
                best[number] = said, doubt, attempt + 1
        return {number: best[number] for number in numbers}

    def _wanted(self, number: int, attempt: int, limit: int) -> Wanted:
        ids = self._speaker.tokenizer.prompt(self._chunks[number].text, self._rows.shape[0], limit)
        prompt = self._speaker.model.embed_prompt(ids, self._rows)[0]
        return Wanted(prompt, limit, (self._seed + number + attempt * _SEEDS) % 2**63)

    def _generated(self, wanted: Sequence[Wanted]) -> list[GeneratedCodes]:
        try:
            return generate_batch(
                self._speaker.model,
                [one.prompt for one in wanted],
                max_frames=max(one.limit for one in wanted),
                seeds=[one.seed for one in wanted],
                on_frame=self._on_frame,
                may_be_empty=False,
                **self._flow,
            )
        except FloatingPointError as e:
            raise NotFiniteError(f"{e}: the weights are damaged, or the guidance is far too strong") from None

    def _expected(self, number: int) -> float:
        """Seconds of speech."""
        pace = statistics.median(self._paces[-_KEPT:]) if len(self._paces) >= FEW else PACE
        return pace * len(self._chunks[number].text)

    def _limit(self, number: int) -> int:
        """Frames at which a chunk is cut off."""
        return round(min(TOLERANCE * self._expected(number) + SPARE, MAX_SECONDS) * self._rate)

    def _distance(self, number: int, said: GeneratedCodes) -> float:
        """How far from the expected length; infinite for silence."""
        seconds = said.codes.shape[1] / self._rate
        return abs(np.log(seconds / self._expected(number))) + (0 if said.ended else 1) if seconds else np.inf

    def _doubt(self, number: int, said: GeneratedCodes) -> str | None:
        seconds, expected = said.codes.shape[1] / self._rate, self._expected(number)
        if not seconds:
            return "nothing was said"
        if not said.ended:
            return f"it did not end within {seconds:.1f} s"
        known = len(self._paces) >= FEW and len(self._chunks[number].text) >= SURE
        if known and not 1 / TOLERANCE < seconds / expected < TOLERANCE:
            return f"it is {seconds:.1f} s long where about {expected:.1f} s were expected"
        return None

    def _finished(self, number: int, codes: np.ndarray) -> np.ndarray:
        """Codes `[37, T]` -> samples `[S]`: at the level of the others, faded at both ends, with its pause."""
        rate = self._speaker.sampling_rate
        pause = np.zeros(round(self._chunks[number].pause * rate), np.float32)
        if not codes.shape[1]:
            return pause
        samples = self._codec.decode_audio(codes)
        levels = frame_levels([samples], rate)
        mask = speech_mask(levels)
        spoken = np.flatnonzero(mask)
        if not len(spoken):
            return np.concatenate([_faded(samples, rate), pause])
        edge = [int(k * FRAME_SECONDS * rate) for k in (spoken[0], spoken[-1] + 1)]
        start = max(0, edge[0] - round(MARGIN * rate))
        # The model's own silence is as much of the pause as there is of it.
        stop = min(len(samples), edge[1] + max(round(MARGIN * rate), len(pause)))
        self._levels.append(speech_level(levels, mask))
        gain = np.clip(statistics.median(self._levels[-_KEPT:]) - self._levels[-1], -MOST_GAIN, MOST_GAIN)
        body = _faded(samples[start:stop] * np.float32(10 ** (gain / 20)), rate)
        return np.concatenate([body, pause[max(0, stop - edge[1]) :]])


def _cut_off(said: GeneratedCodes, limit: int) -> GeneratedCodes:
    return said if said.codes.shape[1] <= limit else GeneratedCodes(said.codes[:, :limit], False)


def _faded(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples that begin and end at zero."""
    n = min(round(FADE * rate), len(samples) // 2)
    ramp = np.ones(len(samples), np.float32)
    ramp[:n] = np.linspace(0, 1, n, endpoint=False)
    ramp[len(samples) - n :] = np.linspace(1, 0, n)
    return (samples * ramp).astype(np.float32)
