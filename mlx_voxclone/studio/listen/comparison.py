"""One sentence, heard side by side: spoken with the variants, drawn, and kept until there is a newer one.

    LISTENING/compared/ID/comparison.json, NAME.wav, NAME.svg

A comparison appears whole or not at all, so the last one stays until the new one is complete.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.report.look import peaks
from mlx_voxclone.report.plots import common_axes, sound_figure
from mlx_voxclone.report.vector import svg
from mlx_voxclone.speech.side_by_side import MAX_CHARACTERS, is_sayable
from mlx_voxclone.studio.home import ID, new_id, private, read_json, write_json
from mlx_voxclone.studio.listen.speaking import Bench
from mlx_voxclone.studio.listen.voices import NAMES, Sentence, Variant
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.results import made_now, number
from mlx_voxclone.text.forms import as_said

_FOLDER, _FILE = "compared", "comparison.json"
_KEPT = 12  # comparisons of a training
DRAWN = ".svg"
FRAME_SECONDS = 0.08
MOST_SEED = 2**53 - 1  # the largest number that a browser keeps exact


class Progress(Protocol):
    """As `tasks.Task.progress`, with the seconds spoken of what is being said: what it raises ends the work."""

    def __call__(self, done: int, total: int | None, what: str = "", seconds: float = 0.0) -> None: ...


def text_to_say(text: object, language: str | None) -> str:
    """A text of the user's as it is said. Raises Mistake."""
    if not isinstance(text, str) or not is_sayable(text):
        raise Mistake("text", "listen.mistake.empty")
    if len(text) > MAX_CHARACTERS:
        raise Mistake("text", "listen.mistake.long", most=MAX_CHARACTERS)
    try:
        return as_said(text, language)
    except VoxcloneError:
        raise Mistake("text", "listen.mistake.empty") from None


def seed_of(value: object) -> int:
    """A seed as a form brings it; 0 for none. Raises Mistake."""
    text = str(value or "0").strip()
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or int(text) > MOST_SEED:
        raise Mistake("seed", "listen.mistake.seed")
    return int(text)


def compare(
    bench: Bench,
    variants: Sequence[Variant],
    sentence: Sentence | str,
    seed: int,
    listening: Path,
    progress: Progress,
    language: str | None = None,
    training: int = 1,
    run: Path | None = None,
) -> str:
    """Speak a sentence with each variant, draw all to one scale, and keep it; returns its id.

    Args:
        sentence: a held-out one, or another text (then there is no original).
        listening: the project's folder.
        progress: called with the variants done, how many there are, the name of the one being spoken, and its seconds
            so far.
        training: number of the training that is compared, see `Heard`. run: its directory.

    Raises:
        VoxcloneError: see `Bench.say`; nothing is kept then.
    """
    own = isinstance(sentence, str)
    chosen = [one for one in variants if one.is_spoken or not own]
    text = sentence if isinstance(sentence, str) else as_said(sentence.text, language)
    takes: list[tuple[Variant, np.ndarray, bool]] = []
    for count, variant in enumerate(chosen):
        if isinstance(sentence, str) or variant.is_spoken:
            said = bench.say(variant, text, seed, _told(progress, count, len(chosen), variant.name))
            takes.append((variant, said.samples, said.ended))
        else:
            takes.append((variant, sentence.recording(), True))
    progress(len(chosen), len(chosen), "plots")
    axes = common_axes([samples for _, samples, _ in takes])
    id = new_id()
    private(listening)
    with atomic_directory(listening / _FOLDER / id) as folder:
        listed = [_take(folder, *take, axes) for take in takes]
        shown = text if own else sentence.text
        created = made_now(run, (one["created"] for one in comparisons(listening)))
        content = {"id": id, "created": created, "training": training, "text": shown, "own": own}
        write_json(folder / _FILE, {**content, "seed": seed, "takes": listed})
        progress(len(chosen), len(chosen), "plots")
    _forget(listening, training)
    return id


def _told(progress: Progress, done: int, total: int, name: str) -> Callable[[int], object]:
    return lambda frames: progress(done, total, name, frames * FRAME_SECONDS)


def _take(folder: Path, variant: Variant, samples: np.ndarray, ended: bool, axes: dict[str, float]) -> dict[str, Any]:
    write_wav(folder / f"{variant.name}.wav", samples)
    drawn = {key: axes[key] for key in ("scale", "seconds")}
    (folder / f"{variant.name}{DRAWN}").write_text(svg(sound_figure(samples, **drawn)), encoding="utf-8")
    peak = float(np.abs(samples).max(initial=0.0))
    return {
        "name": variant.name,
        "delivered": variant.delivered,
        "seconds": len(samples) / SAMPLE_RATE,
        "ended": ended,
        "peak_db": round(20 * np.log10(max(peak, 1e-5)), 1),
        "peaks": peaks(samples, scale=axes["scale"]),
    }


def comparisons(listening: Path) -> list[dict[str, Any]]:
    """What is kept, the newest first; what cannot be read is left out."""
    found = []
    for folder in _folders(listening):
        try:
            content = read_json(folder / _FILE)
        except VoxcloneError:
            continue
        if _is_comparison(content, folder.name):
            found.append(content)
    return sorted(found, key=lambda one: -one["created"])


def folder_of(listening: Path, id: str) -> Path:
    """Of a comparison; it need not exist."""
    return listening / _FOLDER / (id if ID.fullmatch(id) else "none")


def drawn(listening: Path, id: str, name: str) -> str:
    """The drawing of a sound of a comparison, see `report.vector.svg`; empty: there is none."""
    try:
        return (folder_of(listening, id) / f"{name}{DRAWN}").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _folders(listening: Path) -> list[Path]:
    place = listening / _FOLDER
    return [path for path in place.iterdir() if ID.fullmatch(path.name)] if place.is_dir() else []


def _is_comparison(content: dict[str, Any], id: str) -> bool:
    takes = content.get("takes")
    return (
        content.get("id") == id
        and number(content.get("created")) is not None
        and isinstance(content.get("text"), str)
        and isinstance(takes, list)
        and all(isinstance(take, dict) and _is_take(take) for take in takes)
    )


def _is_take(take: dict[str, Any]) -> bool:
    drawn = take.get("peaks")
    figures = (take.get("seconds"), take.get("peak_db"), *(drawn if isinstance(drawn, list) else [None]))
    named = take.get("name") in NAMES and {"delivered", "ended"} <= take.keys()
    return named and all(number(value) is not None for value in figures)


def _forget(listening: Path, training: int) -> None:
    """Delete the oldest comparisons of a training; those of earlier ones stay."""
    for old in [one for one in comparisons(listening) if one.get("training") == training][_KEPT:]:
        shutil.rmtree(folder_of(listening, old["id"]), ignore_errors=True)
