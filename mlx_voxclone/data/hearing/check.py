"""Texts compared with what a Whisper hears: the worst are listed, and those beyond a bar are left out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.whisper.compare import script
from mlx_voxclone.whisper.hearing import Listener
from mlx_voxclone.whisper.matching import difference
from mlx_voxclone.whisper.reader import LONGEST_SECONDS

Progress = Callable[[Iterable, int, str], Iterable]
DIFFERS = "text-differs"
MOST_WRONG = 0.35  # share of letters that may differ: measured on real clips, see docs/LOG.md
WORST = 5  # clips that are listed of those that are kept
_SHOWN = 60  # characters of a text in a message


@dataclass(frozen=True)
class Compared:
    """A clip's text beside what is heard in it."""

    clip: str  # its id
    audio: str  # the recording
    seconds: float
    text: str
    heard: str
    wrong: float  # share of letters, see `whisper.matching.difference`

    @property
    def fits(self) -> bool:
        return self.wrong <= MOST_WRONG

    def line(self) -> str:
        """For the user: what is written, what is heard, how much differs."""
        why = f"{100 * self.wrong:.0f} % of its letters"
        scripts = script(self.text), script(self.heard)
        if None not in scripts and scripts[0] != scripts[1]:
            why = f"written in {scripts[0]} letters, heard in {scripts[1]}"
        heard = repr(_short(self.heard)) if self.heard else "nothing"
        return f"{self.clip}: text {_short(self.text)!r}, heard {heard} ({why})"

    def left_out(self) -> dict[str, Any]:
        """A line of `rejected.jsonl`."""
        return {
            "audio": self.audio,
            "where": self.audio,
            "seconds": round(self.seconds, 2),
            "reason": DIFFERS,
            "detail": self.line(),
        }

    def content(self) -> dict[str, Any]:
        """A line of `texts.jsonl`."""
        return {
            "clip": self.clip,
            "source": self.audio,
            "text": self.text,
            "heard": self.heard,
            "error": round(self.wrong, 3),
            "kept": self.fits,
        }


def compare_texts(
    clips: list[dict[str, Any]], directory: Path, listener: Listener, progress: Progress
) -> list[Compared]:
    """What is heard in clips beside what is written, the worst first.

    Args:
        clips: lines of a manifest, with texts and at most 30 s each.
        directory: of their files.
    Raises:
        DataError: a language that the Whisper does not know, a file that cannot be read.
    """
    found = []
    for clip in progress(clips, len(clips), "texts checked"):
        if (seconds := clip["samples"] / SAMPLE_RATE) > LONGEST_SECONDS:
            continue
        heard = listener.hear(read_audio(directory / Path(clip["audio"]).name), clip["language"])
        wrong = difference(clip["text"], heard.text)
        found.append(Compared(clip["id"], clip["source"], seconds, clip["text"], heard.text, wrong))
    return sorted(found, key=lambda one: -one.wrong)


def notes(compared: list[Compared], listener: Listener) -> list[str]:
    """What the user should know of them."""
    if not compared:
        return []
    bad = [one for one in compared if not one.fits]
    lines = []
    if bad:
        what = "1 clip is" if len(bad) == 1 else f"{len(bad)} clips are"
        lines.append(
            f"texts: {what} left out of {len(compared)}, as more than {100 * MOST_WRONG:.0f} % of the letters differ"
            f" from what is heard; the worst: {bad[0].line()}"
        )
    if 2 * len(bad) > len(compared) and not listener.is_multilingual:
        lines.append(f"texts: {listener.model} understands English alone; take a multilingual Whisper if this is not")
    kept = [one for one in compared if one.fits and one.wrong > 0][:WORST]
    lines += [f"texts: listen to {one.line()}" for one in kept]
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
