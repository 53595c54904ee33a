"""Speaking: the sentences of a speech one after the other, each kept as soon as it is spoken."""

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.api.shared import computing
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.audio.segment import frame_levels, speech_level, speech_mask
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.speech.chunks import Chunk, size
from mlx_voxclone.speech.narration import Narration
from mlx_voxclone.speech.options import STREAM_BATCH
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.studio.mistakes import Cancelled, Mistake
from mlx_voxclone.studio.models import Models
from mlx_voxclone.studio.speak.history import Asked, Sentence, Speech
from mlx_voxclone.studio.speak.voices import Source, source_of

LOADING, SPEAKING = "loading", "speaking"
NO_END, SILENT, LENGTH = "no_end", "silent", "length"
_AT_ONCE = (1, 2)  # sentences at first, so that the first sound comes early; then as many as `STREAM_BATCH`
_REMEMBERED = 12  # sentences whose pace and level those that are spoken later follow
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Progress = Callable[[int, int | None, str], object]


def speak(speech: Speech, models: Models, progress: Progress) -> None:
    """Speak the sentences that have not been spoken yet.

    Args:
        progress: called with the sentences so far, those in all, and `speaking`, at every frame; before that with bytes
            and `loading`. What it raises ends the speaking; what was spoken until then is kept.

    Raises:
        Mistake: the voice, its model or its checkpoint is gone; the disk is full.
        Cancelled: the speech was deleted meanwhile.
        CheckpointError: weights or a voice that cannot be used.
    """
    asked, sentences = speech.asked(), speech.sentences()
    numbers = [one.number for one in sentences if one.take is None]
    if not numbers:
        return
    seeds = [(asked.seed + number) % 2**63 for number in numbers]
    _spoken(speech, asked, sentences, numbers, seeds, models, progress)


def again(speech: Speech, number: int, models: Models, progress: Progress) -> None:
    """Speak one sentence again, with the next seed; the new take replaces the old one when it is there.

    Arguments and errors are those of `speak`.
    """
    sentences = speech.sentences()
    one = sentences[number]
    if one.take is None:
        raise Mistake("", "speak.not_yet")
    _spoken(speech, speech.asked(), sentences, [number], [one.next_seed], models, progress)


def _spoken(
    speech: Speech,
    asked: Asked,
    sentences: Sequence[Sentence],
    numbers: Sequence[int],
    seeds: Sequence[int],
    models: Models,
    progress: Progress,
) -> None:
    done, total = len(sentences) - len(numbers) if len(numbers) > 1 else 0, len(sentences)
    if len(numbers) == 1:
        total = 1
    source = source_of(speech.person, asked.voice, Path(asked.model) if asked.model else None)
    speaker = models.core(source.model, adapters=list(source.adapters), progress=progress)
    progress(done, total, SPEAKING)
    rows = _rows(speaker, source)
    memory = _memory(speech, [one for one in sentences if one.number not in numbers], numbers)

    def on_frame(count: int) -> None:
        progress(done, total, SPEAKING)

    for batch in _batches(len(numbers)):
        chosen = [sentences[numbers[k]] for k in batch]
        narration = Narration(
            speaker,
            [Chunk(one.text, one.pause) for one in chosen],
            rows,
            memory=memory,
            seeds=[seeds[k] for k in batch],
            batch=len(batch),
            n_steps=asked.steps,
            cfg_alpha=asked.guidance,
            on_frame=on_frame,
        )
        spoken = iter(narration)
        for one, k in zip(chosen, batch):
            with computing():
                said = next(spoken)
            _keep(speech, one.number, said.samples, seeds[k], _kind(said.doubt), done)
            done += 1
            progress(done, total, SPEAKING)
        memory = narration.memory


def _batches(count: int) -> list[range]:
    """Which of so many are spoken at once."""
    found, start = [], 0
    while start < count:
        most = _AT_ONCE[len(found)] if len(found) < len(_AT_ONCE) else STREAM_BATCH
        found.append(range(start, min(start + most, count)))
        start = found[-1].stop
    return found


def _rows(speaker: Speaker, source: Source) -> mx.array:
    with computing():
        if isinstance(source.voice, str):
            return speaker.voice_rows(source.voice)
        return speaker.release.voice_of_file(source.voice)


def _keep(speech: Speech, number: int, samples: np.ndarray, seed: int, doubt: str | None, done: int) -> None:
    try:
        speech.add(number, samples, seed, doubt)
    except (OSError, DataError, CheckpointError) as e:
        if not speech.there:
            raise Cancelled("deleted") from None
        cause = e if isinstance(e, OSError) else e.__cause__
        if getattr(cause, "errno", None) in _FULL:
            raise Mistake("", "speak.disk_full", count=done) from e
        raise


def _kind(doubt: str | None) -> str | None:
    """Which of the doubts of a narration it is."""
    if doubt is None:
        return None
    return NO_END if doubt.startswith("it did not end") else SILENT if doubt.startswith("nothing") else LENGTH


def _memory(speech: Speech, others: Sequence[Sentence], numbers: Sequence[int]) -> dict[str, list[float]]:
    """Pace and level of the nearest sentences that were spoken, as `Narration` remembers them."""
    paces: list[float] = []
    levels: list[float] = []
    nearest = sorted((one for one in others if one.take), key=lambda one: abs(one.number - numbers[0]))[:_REMEMBERED]
    for one in nearest:
        if one.take is None or one.take.doubt is not None:
            continue
        try:
            samples = read_audio(speech.takes / one.take.file)
        except DataError:  # gone: others tell as much
            continue
        found = frame_levels([samples], SAMPLE_RATE)
        mask = speech_mask(found)
        if mask.any():
            levels.append(float(speech_level(found, mask)))
            paces.append(max(0.1, one.take.seconds - one.pause) / size(one.text))
    return {"paces": paces, "levels": levels}
