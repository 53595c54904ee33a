"""Many chunks of text behind one voice: spoken in batches, doubtful ones again, joined without a seam.

A chunk is doubtful if it stays silent, does not end, or is far from the length that its text and the chunks before it
let expect. It is spoken again with other seeds; of all tries the likeliest length is kept. With somebody who listens
the try with the fewest wrong words is kept, and a chunk is spoken until none is wrong.

Which chunks are doubtful does not depend on how many are spoken at once: what a chunk lets expect of later ones is
learnt in the order of the text, from the first try of each.
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
from mlx_voxclone.speech.chunks import Chunk, size
from mlx_voxclone.speech.options import BATCH, MAX_SECONDS, TRIES
from mlx_voxclone.speech.speaker import Speaker

PACE = 0.065  # seconds a letter, until the voice's own pace is known
SLOW = 1.5  # times as long as that, for a slow voice
FEW = 4  # chunks, after which a voice's pace is known
TOLERANCE = 2.5  # how many times too long or too short
HASTY = 4.0  # how many times too short for anybody
SURE = 20  # letters of a text whose length can be expected
MISHEARD = 0.5  # share of words, from which a chunk that was listened to is doubtful
SPARE = 3.0  # seconds beyond the longest expected speech, where a chunk is cut off
MARGIN = 0.06  # seconds kept before and after speech: of the pause, or in its place
FADE = 0.01  # seconds
MOST_GAIN = 4.0  # dB, by which levels are evened
_KEPT = 64  # chunks, of which pace and level are remembered
_SEEDS = 1_000_003  # between the seeds of tries


@dataclass(frozen=True)
class Heard:
    """What a listener understood of a chunk.

    Attributes:
        text: what was heard; None: nothing.
        wrong: words of the text that are missing, others, or too many; letters where words are not divided by blanks.
        words: of the text, or its letters.
    """

    text: str | None
    wrong: int
    words: int

    @property
    def share(self) -> float:
        return self.wrong / max(1, self.words)


Listen = Callable[[str, np.ndarray], Heard]  # text, samples [S] at the model's rate


@dataclass(frozen=True)
class Spoken:
    """A chunk as it was spoken.

    Attributes:
        number: of the chunk.
        samples: float32 `[S]` at the model's rate: speech with its margins, levels evened, and the pause behind it.
        tries: how often it was spoken.
        doubt: why it may not be right; None: nothing is known against it.
        heard: by the listener, where there is one.
    """

    number: int
    samples: np.ndarray
    tries: int
    doubt: str | None
    heard: Heard | None = None


@dataclass(frozen=True)
class _Try:
    codes: GeneratedCodes
    samples: np.ndarray  # not yet evened
    doubt: str | None
    heard: Heard | None
    rank: tuple[float, ...]  # the least is the best

    @property
    def perfect(self) -> bool:
        return self.doubt is None and (self.heard is None or not self.heard.wrong)


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
        rows: of the voice, `[N, dim]`; or a list with those of each chunk.
        first: number of the first chunk to give; those before it are done.
        memory: `memory` as it was when the chunk before `first` was given; then the rest is what it would have been.
        seed: the same seed, the same speech.
        seeds: of each chunk; None: its number is added to `seed`.
        alone: nothing that is spoken before a chunk says anything about it: its length, its level.
        batch: chunks at once; more are faster and take more memory.
        tries: how often a chunk is spoken at most.
        listen: says what is heard of a chunk; the try with the fewest wrong words is taken.
        on_frame: called after every frame of a batch with the number of chunks that are still speaking.

    Attributes:
        memory: what is known of the voice where the present batch began; JSON.

    Raises:
        NotFiniteError: while iterating, numbers that are not finite.
    """

    def __init__(
        self,
        speaker: Speaker,
        chunks: Sequence[Chunk],
        rows: mx.array | Sequence[mx.array],
        *,
        first: int = 0,
        memory: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        alone: bool = False,
        batch: int = BATCH,
        tries: int = TRIES,
        listen: Listen | None = None,
        n_steps: int | None = None,
        cfg_alpha: float = CFG_ALPHA,
        on_frame: Callable[[int], None] | None = None,
    ) -> None:
        self._speaker, self._chunks, self._first, self._alone = speaker, chunks, first, alone
        self._rows = [rows] * len(chunks) if isinstance(rows, mx.array) else list(rows)
        self._seeds = list(seeds) if seeds is not None else [seed + number for number in range(len(chunks))]
        self._batch, self._on_frame = batch, on_frame
        self._tries, self._listen = tries, listen
        self._flow = {"n_steps": n_steps, "cfg_alpha": cfg_alpha}
        self._rate = speaker.model.config.codec.frame_rate
        self.memory = {name: tuple((memory or {}).get(name, ())) for name in ("paces", "levels")}
        self._paces = list(self.memory["paces"])  # seconds a letter of first tries that are not doubtful
        self._levels = list(self.memory["levels"])  # dB of full scale
        self._codec = speaker.model.audio_tokenizer
        mx.eval(self._rows)  # the voice may be removed while it speaks

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
        if self._first >= len(self._chunks):
            return
        for start in range(self._first - self._first % self._batch, len(self._chunks), self._batch):
            numbers = range(start, min(start + self._batch, len(self._chunks)))
            found = yield from self._best(numbers)
            for number, (best, tries) in found.items():
                samples = self._finished(number, best.samples)
                if number == numbers[-1]:  # until then the batch would be spoken again
                    self.memory = {"paces": tuple(self._paces[-_KEPT:]), "levels": tuple(self._levels[-_KEPT:])}
                if number >= self._first:
                    yield Spoken(number, samples, tries, best.doubt, best.heard)

    def _best(
        self, numbers: Sequence[int]
    ) -> Generator[list[Wanted], list[GeneratedCodes], dict[int, tuple[_Try, int]]]:
        """By number: the best of the tries, and how many there were."""
        best: dict[int, tuple[_Try, int]] = {}
        paces: dict[int, float | None] = {}  # that was known of the voice when the chunk's turn came
        for attempt in range(self._tries):
            again = [n for n in numbers if n not in best or not best[n][0].perfect]
            if not again:
                break
            limits = {n: self._limit(n, paces[n]) if attempt else self._limit(n, None) for n in again}
            # One frame more tells a chunk that was cut off from one that ended there.
            wanted = [self._wanted(n, attempt, limits[n] + 1) for n in again]
            for number, said in zip(again, (yield wanted), strict=True):
                if not attempt:
                    paces[number] = self._pace()
                limit = min(limits[number], self._limit(number, paces[number]))
                tried = self._judged(number, _cut_off(said, limit), paces[number])
                if not attempt:
                    self._learn(number, tried)
                if number in best:
                    tried = min(best[number][0], tried, key=lambda one: one.rank)
                best[number] = tried, attempt + 1
        return {number: best[number] for number in numbers}

    def _learn(self, number: int, tried: _Try) -> None:
        """Take the pace of a first try that seems right."""
        letters = size(self._chunks[number].text)
        if not self._alone and tried.doubt is None and letters >= SURE:
            self._paces.append(tried.codes.codes.shape[1] / self._rate / letters)

    def _judged(self, number: int, said: GeneratedCodes, pace: float | None) -> _Try:
        samples = self._codec.decode_audio(said.codes) if said.codes.shape[1] else np.zeros(0, np.float32)
        silent = not speech_mask(frame_levels([samples], self._speaker.sampling_rate)).any()
        doubt, heard = "nothing was said" if silent else self._doubt(number, said, pace), None
        if self._listen is not None:
            heard = self._listen(self._chunks[number].text, samples)
            if doubt is None and heard.share >= MISHEARD:
                doubt = f"what is heard is {heard.text[:80]!r}" if heard.text else "nothing is understood"
        wrong = 0.0 if heard is None else heard.share
        return _Try(said, samples, doubt, heard, (wrong, silent, doubt is not None, self._distance(number, said, pace)))

    def _wanted(self, number: int, attempt: int, limit: int) -> Wanted:
        rows = self._rows[number]
        ids = self._speaker.tokenizer.prompt(self._chunks[number].text, rows.shape[0], limit)
        prompt = self._speaker.model.embed_prompt(ids, rows)[0]
        return Wanted(prompt, limit, (self._seeds[number] + attempt * _SEEDS) % 2**63)

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

    def _pace(self) -> float | None:
        """Seconds a letter of the voice; None: not known yet."""
        return statistics.median(self._paces[-_KEPT:]) if len(self._paces) >= FEW else None

    def _expected(self, number: int, pace: float | None) -> float:
        """Seconds of speech."""
        return (PACE if pace is None else pace) * size(self._chunks[number].text)

    def _limit(self, number: int, pace: float | None) -> int:
        """Frames at which a chunk is cut off."""
        most = TOLERANCE * self._expected(number, pace) * (SLOW if pace is None else 1)
        return round(min(most + SPARE, MAX_SECONDS) * self._rate)

    def _distance(self, number: int, said: GeneratedCodes, pace: float | None) -> float:
        """How far from the expected length; infinite for silence."""
        seconds, expected = said.codes.shape[1] / self._rate, self._expected(number, pace)
        return abs(np.log(seconds / expected)) + (0 if said.ended else 1) if seconds else np.inf

    def _doubt(self, number: int, said: GeneratedCodes, pace: float | None) -> str | None:
        seconds, expected = said.codes.shape[1] / self._rate, self._expected(number, pace)
        if not said.ended:
            return f"it did not end within {seconds:.1f} s"
        sure = size(self._chunks[number].text) >= SURE
        least, most = (HASTY, np.inf) if pace is None else (TOLERANCE, TOLERANCE)
        if sure and not 1 / least < seconds / expected < most:
            return f"it is {seconds:.1f} s long where about {expected:.1f} s were expected"
        return None

    def _finished(self, number: int, samples: np.ndarray) -> np.ndarray:
        """Samples `[S]` at the level of the others, faded at both ends, with their pause: `MARGIN` of it is before the
        next chunk."""
        rate = self._speaker.sampling_rate
        margin, asked = round(MARGIN * rate), round(self._chunks[number].pause * rate)
        pause = max(asked - margin, 0)
        if not len(samples):
            return np.zeros(asked, np.float32)
        levels = frame_levels([samples], rate)
        mask = speech_mask(levels)
        spoken = np.flatnonzero(mask)
        if not len(spoken):
            return np.concatenate([_faded(samples, rate), np.zeros(pause, np.float32)])
        edge = [int(k * FRAME_SECONDS * rate) for k in (spoken[0], spoken[-1] + 1)]
        start = max(0, edge[0] - margin)
        # The model's own silence is as much of the pause as there is of it.
        stop = min(len(samples), edge[1] + max(margin, pause))
        gain = 0.0
        if not self._alone:
            self._levels.append(speech_level(levels, mask))
            gain = np.clip(statistics.median(self._levels[-_KEPT:]) - self._levels[-1], -MOST_GAIN, MOST_GAIN)
        body = _faded(samples[start:stop] * np.float32(10 ** (gain / 20)), rate)
        return np.concatenate([body, np.zeros(max(0, edge[1] + pause - stop), np.float32)])


def _cut_off(said: GeneratedCodes, limit: int) -> GeneratedCodes:
    return said if said.codes.shape[1] <= limit else GeneratedCodes(said.codes[:, :limit], False)


def _faded(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples that begin and end at zero."""
    n = min(round(FADE * rate), len(samples) // 2)
    ramp = np.ones(len(samples), np.float32)
    ramp[:n] = np.linspace(0, 1, n, endpoint=False)
    ramp[len(samples) - n :] = np.linspace(1, 0, n)
    return (samples * ramp).astype(np.float32)
