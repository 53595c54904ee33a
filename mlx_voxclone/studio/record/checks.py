"""Whether a recording will do, told the moment it ends: level, clipping, noise, bandwidth, room, length for its text.

What `prepare` would leave out is bad; what it would keep and a listener regret is fair. Each finding is a key of the
page's words with one figure, so that the sentence for it stands in the reader's language.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.audio.measure.quality import NARROW, NOISY, ROOMY
from mlx_voxclone.audio.segment import FRAME_SECONDS, speech_level
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.ingest import MAX_TRANSCRIBED_SECONDS, Usable, usable
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.files.plain import is_number
from mlx_voxclone.report.look import peaks

GOOD, FAIR, BAD = "good", "fair", "bad"
_QUIET = -40.0  # dB of full scale, of speech: the voice would be learnt as soft as it was recorded
_DROWNED = 10.0  # dB of speech over noise; below, words are lost in it
_CLIPPED = 0.0005  # share of samples that somebody hears; beyond the options' `max_clipped` it is bad
_EDGE = 0.03  # seconds from the end of a recording in which a word is likely cut
_FASTEST = 30.0  # letters a second: 25 are fast
_SLOWEST, _SLACK = 3.0, 4.0  # letters a second, and seconds besides, for pauses within
_LONGEST_DRAWN = 120.0  # seconds
_LENGTHS = ("too_short", "too_long")  # findings that leave others unsaid
_OF_TEXT = ("not_all_said", "more_than_text", "cut_at_start", "cut_at_end")  # findings that another text may change
_OPTIONS = PrepareOptions(speech_detector="levels")  # as training prepares; nothing is loaded for it
# Reasons of `ingest.usable` that the page has sentences for; all others are a file that cannot be read.
_REASONS = {
    "silent": "silent",
    "clipped": "clipped",
    "low-rate": "low_rate",
    "channels": "channels",
    "opposed": "opposed",
    "two-voices": "two_voices",
    "zero-length": "empty",
    "truncated": "truncated",
}


@dataclass(frozen=True)
class Finding:
    """Something about a recording: `key` below `record.check` in the words, and its one figure, if any."""

    key: str
    state: str  # FAIR or BAD
    value: float | None = None


@dataclass(frozen=True)
class Check:
    """What is found. `seconds` is all of the sound, `speech` from the first to the last word."""

    state: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0
    speech: float = 0.0
    level: float | None = None  # dB of full scale, of speech
    noise: float | None = None  # dB of speech over noise
    bandwidth: float | None = None  # Hz
    reverberation: float | None = None  # seconds
    rate: int = 0  # Hz
    before: float | None = None  # seconds before the first word
    after: float | None = None  # seconds behind the last one

    def content(self) -> dict[str, Any]:
        """For an item's notes."""
        return asdict(self)

    @classmethod
    def of(cls, content: dict[str, Any] | None) -> "Check | None":
        """From an item's notes; None where there is none yet.

        Raises:
            ValueError: it is not what `content` has given.
        """
        if content is None:
            return None
        try:
            findings = tuple(Finding(**one) for one in content.get("findings", ()))
            found = cls(**{**content, "findings": findings})
        except (TypeError, AttributeError):
            raise ValueError("no check of a recording") from None
        figures = [found.seconds, found.speech, found.rate, found.level, found.noise, found.before, found.after]
        figures += [found.bandwidth, found.reverberation, *(one.value for one in findings)]
        states = [found.state, *(one.state for one in findings)]
        if None in figures[:3] or not all(map(_is_figure, figures)) or not {*map(str, states)} <= {GOOD, FAIR, BAD}:
            raise ValueError("no check of a recording")
        if not all(isinstance(one.key, str) for one in findings):
            raise ValueError("no check of a recording")
        return found

    def with_text(self, text: str | None) -> "Check | None":
        """The check of the same sound as one of another text; None: the sound must be checked again."""
        if not self.rate:  # it cannot be read, whatever is said in it
            return self
        if self.before is None or self.after is None or self.noise is None:
            return None
        found = [one for one in self.findings if one.key not in _OF_TEXT]
        found = sorted([*self._fits(text, found), *found], key=lambda one: one.state != BAD)
        state = BAD if any(one.state == BAD for one in found) else FAIR if found else GOOD
        return replace(self, state=state, findings=tuple(found))

    def _fits(self, text: str | None, others: list[Finding]) -> list[Finding]:
        """Not all of the text, more than the text, begun too late or ended too early."""
        before, after, noise = (value or 0.0 for value in (self.before, self.after, self.noise))
        letters, out = sum(character.isalnum() for character in text or ""), []
        bad = any(one.key in _LENGTHS for one in others)
        if letters and letters > _FASTEST * self.speech and not bad:
            out.append(Finding("not_all_said", BAD))
        elif letters and self.speech > letters / _SLOWEST + _SLACK:
            out.append(Finding("more_than_text", FAIR))
        if not text or bad or any(one.state == BAD for one in out) or noise < _DROWNED:
            return out  # nobody wonders about more, and noise hides where words begin
        if before < _EDGE:
            out.append(Finding("cut_at_start", FAIR))
        if after < _EDGE:
            out.append(Finding("cut_at_end", FAIR))
        return out


def check(path: Path, text: str | None = None, *, whole: bool = True) -> tuple[Check, np.ndarray]:
    """Check a recording.

    Args:
        text: what is said in it, if that is known.
        whole: it becomes a clip as it is; False: it is cut later, so it may be of any length.
    Returns:
        The check, and the fingerprint of the recording, uint32 [words], empty where it cannot be read.
    """
    try:
        found = usable(path, True, _OPTIONS)
    except AudioError as e:
        key = _REASONS.get(e.reason, "unreadable")
        return Check(BAD, (Finding(key, BAD),), _seconds(path)), np.zeros(0, np.uint32)
    quality = found.plan([]).quality
    assert quality is not None
    level = speech_level(found.scan.levels, found.mask)
    findings = [*_lengths(found, whole), *_sound(found)]
    spoken = np.flatnonzero(found.mask)
    made = Check(
        BAD if any(one.state == BAD for one in findings) else FAIR if findings else GOOD,
        tuple(sorted(findings, key=lambda one: one.state != BAD)),
        round(found.info.seconds, 3),
        round(found.whole.seconds, 3),
        round(level, 1) if math.isfinite(level) else None,
        quality.snr,
        quality.bandwidth,
        quality.reverberation,
        quality.sample_rate,
        round(float(spoken[0] * FRAME_SECONDS), 3),
        round(float((len(found.mask) - 1 - spoken[-1]) * FRAME_SECONDS), 3),
    )
    return (made.with_text(text) or made) if whole else made, found.scan.words


def wave(path: Path, seconds: float) -> list[float]:
    """The waveform of a recording as it is drawn; empty for one that cannot be read or is long."""
    try:
        return peaks(read_audio(path)) if seconds <= _LONGEST_DRAWN else []
    except AudioError:
        return []


def _lengths(found: Usable, whole: bool) -> list[Finding]:
    """Too short, too long."""
    out = []
    if found.whole.seconds < _OPTIONS.min_seconds - FRAME_SECONDS / 2:
        out.append(Finding("too_short", BAD, _OPTIONS.min_seconds))
    if whole and found.whole.seconds > MAX_TRANSCRIBED_SECONDS:
        out.append(Finding("too_long", BAD, MAX_TRANSCRIBED_SECONDS))
    return out


def _sound(found: Usable) -> list[Finding]:
    """Noise, clipping, a soft voice, a narrow band, a room."""
    out = []
    quality = found.plan([]).quality
    assert quality is not None
    if quality.snr < NOISY:
        out.append(Finding("noisy", BAD if quality.snr < _DROWNED else FAIR, round(quality.snr)))
    if quality.clipped >= _CLIPPED:
        out.append(Finding("a_little_clipped", FAIR))
    level = speech_level(found.scan.levels, found.mask)
    if level < _QUIET:
        out.append(Finding("quiet", FAIR, round(level)))
    if quality.bandwidth < NARROW:
        out.append(Finding("narrow", FAIR, round(quality.bandwidth / 1000, 1)))
    if quality.reverberation is not None and quality.reverberation > ROOMY:
        out.append(Finding("echo", FAIR, round(quality.reverberation, 1)))
    return out


def _seconds(path: Path) -> float:
    from mlx_voxclone.audio.decode import audio_info

    try:
        return round(audio_info(path).seconds, 3)
    except AudioError:
        return 0.0


def _is_figure(value: Any) -> bool:
    """Whether it is a number, or None."""
    return value is None or is_number(value)
