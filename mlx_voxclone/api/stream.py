"""Speech as it comes, and what of a request for it is refused before."""

import contextlib
import numbers
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlx_voxclone.api.shared import Place, computing, text_of
from mlx_voxclone.errors import ConfigError, DataError, VoxcloneWarning
from mlx_voxclone.process.progress import Progress
from mlx_voxclone.speech.chunks import Chunk
from mlx_voxclone.speech.narration import Listen, Spoken
from mlx_voxclone.speech.options import MAX_BATCH, MAX_PAUSE, MAX_TRIES, NOTHING_SAID, fault
from mlx_voxclone.speech.speaker import SpeechStream
from mlx_voxclone.speech.to_files.tally import Tally

_MOST_SEED = 2**63


class Stream(Iterator[np.ndarray]):
    """Speech chunk by chunk: iterate, each is float32 `[n * 1920]` at 24 kHz, not clipped. Stop whenever you like."""

    def __init__(self, spoken: SpeechStream, max_seconds: float):
        self._spoken, self._max_seconds = spoken, max_seconds
        self._done = False

    @property
    def ended(self) -> bool | None:
        """None while it speaks; then whether the model came to its end by itself (False: cut off, and warned of)."""
        return self._spoken.ended

    @property
    def codes(self) -> np.ndarray:
        """What was said so far: int32 `[37, T]`, 0-based, 12.5 frames per second."""
        return self._spoken.codes

    def __next__(self) -> np.ndarray:
        try:
            with computing():
                return next(self._spoken)
        except StopIteration:
            if not self._done:
                self._done = True
                self._check_end()
            raise

    def _check_end(self) -> None:
        if not self._spoken.frames and self._spoken.ended is not None:
            raise DataError(NOTHING_SAID) from None
        if self._spoken.ended is False:
            line = f"the model did not end within {self._max_seconds:g} s and was cut off"
            warnings.warn(line, VoxcloneWarning, stacklevel=3)


def narrated(
    spoken: Iterator[Spoken], chunks: Sequence[Chunk], progress: Progress | None, until: contextlib.ExitStack
) -> Iterator[np.ndarray]:
    """The samples of each chunk; doubts are warnings.

    Args:
        until: closed when no more is spoken.
    """
    tally = Tally()
    with until:
        while True:
            with computing():
                one = next(spoken, None)
            if one is None:
                break
            tally.count(chunks[one.number].text, one)
            if one.doubt is not None:
                warnings.warn(f"{chunks[one.number].text[:60]!r}: {one.doubt}", VoxcloneWarning, stacklevel=2)
            if progress is not None:
                progress(one.number + 1, len(chunks), "speaking")
            yield one.samples
    if warning := tally.warning():
        warnings.warn(warning, VoxcloneWarning, stacklevel=2)


@contextlib.contextmanager
def listener(whisper_model: Place | None) -> Iterator[Callable[[str | None], Listen]]:
    """`evaluate.listening.listener` with a Whisper as a user names it; None: the one that the commands take."""
    from mlx_voxclone.data.options import WHISPER_MODEL
    from mlx_voxclone.evaluate import listening

    with listening.listener(WHISPER_MODEL if whisper_model is None else text_of(whisper_model, "whisper_model")) as of:
        yield of


def check_text(text: object) -> None:
    """Raises DataError."""
    if not isinstance(text, str):
        raise DataError(f"the text must be a str, got {text!r:.80}")


def check_options(seed: int, max_seconds: float, steps: int | None, cfg_alpha: float) -> None:
    """Raises ConfigError: the first that is of another kind or out of its bounds."""
    for name, value, kind in (
        ("seed", seed, numbers.Integral),
        ("max_seconds", max_seconds, numbers.Real),
        ("steps", 1 if steps is None else steps, numbers.Integral),
        ("cfg_alpha", cfg_alpha, numbers.Real),
    ):
        if isinstance(value, bool) or not isinstance(value, kind):
            whole = "whole " if kind is numbers.Integral else ""
            raise ConfigError(f"{name}: a {whole}number is expected, got {value!r:.80}")
    if not 0 <= seed < _MOST_SEED:
        raise ConfigError(f"seed: must be from 0 to 2^63 - 1, got {seed}")
    if found := fault(max_seconds, steps, cfg_alpha):
        raise ConfigError(f"{found[0]}: {found[1]}")


def check_narration(pause: float, batch: int, tries: int, verify: bool, whisper_model: Place | None) -> None:
    """Raises ConfigError, as `check_options`."""
    for name, value, kind, least, most in (
        ("pause", pause, numbers.Real, 0, MAX_PAUSE),
        ("batch", batch, numbers.Integral, 1, MAX_BATCH),
        ("tries", tries, numbers.Integral, 1, MAX_TRIES),
    ):
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
            whole = "whole " if kind is numbers.Integral else ""
            raise ConfigError(f"{name}: a {whole}number from {least} is expected, up to {most}; got {value!r:.80}")
    if not isinstance(verify, bool):
        raise ConfigError(f"verify: True or False is expected, got {verify!r:.80}")
    if whisper_model is not None:
        text_of(whisper_model, "whisper_model")
        if not verify:
            raise ConfigError("whisper_model: is the one that listens; give verify=True as well")
