"""Subtitles of what was spoken, as SubRip (.srt): a cue per chunk, whose times are known, or per word by a Whisper."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.audio.output import check_output
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.texts import tidy
from mlx_voxclone.whisper.compare import units
from mlx_voxclone.whisper.hearing import Listener
from mlx_voxclone.whisper.reader import LONGEST_SECONDS

SUFFIX = ".srt"
_SHORTEST = 0.04  # seconds that a cue is shown; many players drop one without any


@dataclass(frozen=True)
class Cue:
    """A line of subtitles, from `start` to `end` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Subtitles:
    """Where subtitles go, and the Whisper that times their words; None: a cue per chunk."""

    path: Path
    listener: Listener | None
    language: str | None

    @classmethod
    def checked(
        cls, path: str | None, whisper: str | None, language: str | None, *others: str | Path
    ) -> "Subtitles | None":
        """Before anything is computed; None where no subtitles are asked for.

        Raises:
            DataError: see `check_srt`; a Whisper that cannot be used or does not know the language.
        """
        if path is None:
            return None
        listener = None if whisper is None else Listener(whisper)
        if listener is not None:
            listener.check_language(language)
        return cls(check_srt(path, *others), listener, language)

    def write(self, audio: str | Path, cues: Sequence[Cue]) -> None:
        """Write the cues of `audio`, or those of its words. Raises what `word_cues` and `write_text_atomic` raise."""
        if self.listener is not None:
            with self.listener:
                cues = word_cues(audio, cues, self.listener, self.language)
        write_text_atomic(self.path, srt(cues))


def check_srt(path: str | Path, *others: str | Path) -> Path:
    """The file to write subtitles to, checked before anything is computed.

    Raises:
        DataError: another suffix, one of `others`, no such directory, or no plain file.
    """
    path = Path(path)
    if path.suffix.lower() != SUFFIX:
        raise DataError(f"{path}: subtitles are written as SubRip; name a file that ends in {SUFFIX}")
    check_output(path)
    if any(path.resolve() == Path(other).resolve() for other in others):
        raise DataError(f"{path}: is read or written already; choose another name for the subtitles")
    return path


def chunk_cues(texts: Sequence[str], ends: Sequence[float], pauses: Sequence[float]) -> list[Cue]:
    """A cue per chunk.

    Args:
        texts: of the chunks.
        ends: seconds at which each one ends, the pause behind it included.
        pauses: seconds of silence behind each one.
    """
    cues, start = [], 0.0
    for text, end, pause in zip(texts, ends, pauses):
        cues.append(Cue(start, max(end - pause, min(end, start + _SHORTEST)), tidy(text) or ""))
        start = end
    return cues


def word_cues(audio: str | Path, cues: Sequence[Cue], listener: Listener, language: str | None) -> list[Cue]:
    """A cue per word, with the punctuation around it; of what is longer than Whisper hears at once, the cue as it is.

    Args:
        audio: the file that `cues` are of.
    Raises:
        DataError: the language or the text does not suit the Whisper; the file cannot be read.
    """
    found: list[Cue] = []
    for cue in cues:
        if not units(cue.text) or not 0 < cue.end - cue.start <= LONGEST_SECONDS:
            found.append(cue)
            continue
        words = listener.words(read_audio(audio, start=cue.start, end=cue.end), cue.text, language)
        texts = _with_marks(cue.text)
        if len(words) != len(texts):
            found.append(cue)
            continue
        for word, text in zip(words, texts):
            start = min(cue.start + word.start, cue.end - _SHORTEST)
            found.append(Cue(start, max(min(cue.start + word.end, cue.end), start + _SHORTEST), text))
    return found


def _with_marks(text: str) -> list[str]:
    """The words of a text, each with the punctuation that stands beside it."""
    places = units(text)
    edges = [0]
    for (_, end), (start, _) in pairwise(places):
        blank = next((k for k in range(end, start) if text[k].isspace()), start)
        edges.append(blank)
    return [text[a:b].strip() for a, b in zip(edges, [*edges[1:], len(text)])]


def srt(cues: Sequence[Cue]) -> str:
    """Cues as SubRip: numbered from 1, times to the millisecond, an empty line between them."""
    return "".join(
        f"{number}\n{_time(cue.start)} --> {_time(cue.end)}\n{cue.text}\n\n" for number, cue in enumerate(cues, 1)
    )


def _time(seconds: float) -> str:
    whole = round(1000 * seconds)
    minutes, milliseconds = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"
