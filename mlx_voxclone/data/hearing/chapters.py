"""A long recording with its text -> clips with theirs: a chapter of an audiobook, an interview with a transcript.

A Whisper hears the recording window by window, with times of words (`whisper/hearing.py`). What it hears is matched
with the text (`whisper/matching.py`), which tells where each word of the text is said, what was left out and what was
added; then both are cut at pauses (`cuts.py`). The text of a clip is always the given one, never what was heard.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import AudioError, read_audio
from mlx_voxclone.audio.segment import FRAME_SECONDS, Span
from mlx_voxclone.data.hearing.check import DIFFERS
from mlx_voxclone.data.hearing.cuts import Cut, Left, Stretches, comparable, cut, left_out, pauses
from mlx_voxclone.data.hearing.windows import windows
from mlx_voxclone.data.ingest import Plan, Usable, usable
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.whisper.compare import letters, script, units
from mlx_voxclone.whisper.hearing import Heard, Listener
from mlx_voxclone.whisper.matching import match
from mlx_voxclone.whisper.words import Word

Progress = Callable[[Iterable, int, str], Iterable]
UNHEARD = "no-speech"
_SHOWN = 60  # characters of a text in a message
_FITS = 0.3  # share of the heard words that are in the text, below which the text is another one's


@dataclass(frozen=True)
class Chapter:
    """What becomes of a long recording.

    Attributes:
        plan: its clips, in seconds.
        texts: of the clips.
        language: that was heard, a code.
        left: parts that come into no clip, with their reasons.
        unused: words of the text that are in no clip.
    """

    plan: Plan
    texts: list[str]
    language: str | None
    left: list[Left] = field(default_factory=list)
    unused: int = 0

    def left_out(self, path: Path) -> Iterator[dict[str, Any]]:
        """Lines of `rejected.jsonl`, but for what they have in common."""
        for part in self.left:
            written = f", the text has {part.written!r}" if part.written else ", which is not in its text"
            between = f"{_clock(part.start)} to {_clock(part.end)}"
            detail = f"{path}: from {between}: heard {part.heard!r}{written}"
            yield {"seconds": round(part.end - part.start, 2), "reason": part.reason, "detail": detail}

    def note(self) -> str:
        """What the user should know."""
        kept, lost = sum(end - start for start, end in self.plan.pieces), sum(one.end - one.start for one in self.left)
        parts = "1 part" if len(self.left) == 1 else f"{len(self.left)} parts"
        left = f"; {format_seconds(lost)} in {parts} do not fit its text" if self.left else ""
        unused = f"; {self.unused} words of the text are in no clip" if self.unused else ""
        return (
            f"cut with its text into {len(self.texts)} clips, {format_seconds(kept)} of"
            f" {format_seconds(self.plan.seconds)}{left}{unused}"
        )


def cut_chapter(
    path: Path, text: str, language: str | None, listener: Listener, options: PrepareOptions, progress: Progress
) -> Chapter:
    """Cut a long recording and its text at pauses.

    Args:
        text: all that is said, and perhaps more or less.
        language: a code; None: what most of the recording is heard in.
        progress: see `prepare`; a step is a window of up to 28 s.
    Raises:
        AudioError: it cannot be used; beside the reasons of `ingest.usable`, `no-speech` and `text-differs`.
        DataError: the language is unknown to the Whisper.
    """
    found = usable(path, True, options)
    words, language = _hear(path, found, language, listener, progress)
    places = units(text)
    written, spoken = comparable(text, places), [letters(word.text) for word in words]
    pairs = match(written, spoken)
    if not words or len(pairs) < _FITS * min(len(words), len(written)):
        raise _misfit(path, text, words, len(pairs), listener)
    stretches = Stretches(written, spoken, pairs)
    after = [text[last:first] for (_, last), (first, _) in zip(places, [*places[1:], (len(text), 0)])]
    bounds = (max(options.min_seconds, 2 * FRAME_SECONDS), options.max_seconds)
    cuts = cut(pauses(found.mask, words), stretches, after, bounds)
    if not cuts:
        raise AudioError(
            DIFFERS,
            f"{path}: no part of its text fits what is heard closely enough: heard {_short(_said(words))}, the text"
            f" has {_short(text)}",
        )
    last = found.info.seconds
    return Chapter(
        found.plan([(max(0.0, c.start), min(last, c.end)) for c in cuts]),
        [_text_of(text, places, c) for c in cuts],
        language,
        left_out(cuts, words, [text[a:b] for a, b in places]),
        len(written) - sum(c.last - c.first for c in cuts),
    )


def _hear(
    path: Path, found: Usable, language: str | None, listener: Listener, progress: Progress
) -> tuple[list[Word], str | None]:
    """What is said in a recording, with seconds into it, and the language."""
    spans = windows(found.scan.levels, found.mask)

    def one(span: Span, language: str | None) -> Heard:
        return listener.hear(_samples(found, span), language)

    heard = [one(span, language) for span in progress(spans, len(spans), f"windows of {path.name}")]
    counted = Counter(h.language for h in heard for _ in h.words if h.language)
    spoken = counted.most_common(1)[0][0] if counted else None
    if language is None and spoken is not None:  # a window or two may have been taken for another language
        heard = [h if h.language in (spoken, None) else one(span, spoken) for span, h in zip(spans, heard)]
    words = [
        Word(word.text, word.start + span.start * FRAME_SECONDS, word.end + span.start * FRAME_SECONDS)
        for span, h in zip(spans, heard)
        for word in h.words
    ]
    return words, language or spoken


def _samples(found: Usable, span: Span) -> np.ndarray:
    start, end = span.start * FRAME_SECONDS, min(found.info.seconds, span.end * FRAME_SECONDS)
    return read_audio(found.info, start=start, end=end, channel=found.scan.channel.number)


def _text_of(text: str, places: list[tuple[int, int]], clip: Cut) -> str:
    """The text of a clip with the punctuation around its words."""
    first = places[clip.first][0]
    while first and not text[first - 1].isspace() and (clip.first == 0 or first > places[clip.first - 1][1]):
        first -= 1  # a quotation mark before the word
    end = places[clip.last][0] if clip.last < len(places) else len(text)
    behind = text[places[clip.last - 1][1] : end]
    # What stands before the next word without a blank is its own, such as a quotation mark.
    blank = max((k for k, c in enumerate(behind) if c.isspace()), default=None)
    if clip.last < len(places) and blank is not None:
        behind = behind[:blank]
    return (text[first : places[clip.last - 1][1]] + behind).strip()


def _misfit(path: Path, text: str, words: list[Word], pairs: int, listener: Listener) -> AudioError:
    if not words:
        return AudioError(UNHEARD, f"{path}: no speech is recognised in it, so its text cannot be cut")
    heard = _said(words)
    scripts = script(text), script(heard)
    if None not in scripts and scripts[0] != scripts[1]:
        why = f"its text is written in {scripts[0]} letters, but {scripts[1]} ones are heard"
    else:
        why = f"its text does not fit what is heard ({100 * pairs / len(words):.0f} % of the words are in it)"
    if not listener.is_multilingual:
        why += f"; {listener.model} understands English alone, take a multilingual Whisper for other languages"
    return AudioError(DIFFERS, f"{path}: {why}: heard {_short(heard)}, the text has {_short(text)}")


def _clock(seconds: float) -> str:
    """Where in a recording: `1:02:03.4`, or `2:03.4`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _said(words: list[Word]) -> str:
    return " ".join(word.text for word in words)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")
