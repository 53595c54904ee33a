"""Pieces of the HTML pages: one file, nothing fetched, small sounds and all plots inside."""

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.plain import is_number
from mlx_voxclone.report.look import icon, peaks, player, script, style
from mlx_voxclone.report.plots import common_axes, sound_figure
from mlx_voxclone.report.vector import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORIGINAL = "original"
NOTICE = (
    "Synthetic speech. Clone a voice only with the consent of the person it belongs to. Weights derived from Voxtral, "
    "the voices made with them and what they speak are licensed CC BY-NC 4.0: name the source, no commercial use."
)
_EMBED_LIMIT = 4_000_000  # bytes of audio put into the page (80 s of 16-bit PCM); a longer file is linked
_EMBEDDED = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}
_NUMBER = ' class="number"'


def html_page(title: str, parts: Iterable[str]) -> str:
    """A whole page: title, parts, the notice on consent and licence. What UTF-8 cannot hold becomes `?`."""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escaped(title)}</title>\n<link rel="icon" href="{icon()}">\n'
        f"<style>\n{style()}</style>\n</head>\n<body>\n<main>\n<h1>{escaped(title)}</h1>\n"
        '<p class="muted">Synthetic speech. <a href="#notice">Consent and licence</a></p>\n'
        + "\n".join(parts)
        + f'\n</main>\n<footer><p id="notice" class="notice">{escaped(NOTICE)}</p></footer>\n'
        f"<script>\n{script()}</script>\n</body>\n</html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def folded(title: str, parts: Iterable[str], *, raw: bool = False) -> list[str]:
    """A part of the page of which only the title is shown until it is opened.

    `raw`: values as files hold them, left out on paper unless their reader has opened them; other parts are printed.
    """
    kind = "part raw" if raw else "part"
    return [f'<details class="{kind}"><summary>{escaped(title)}</summary>', *parts, "</details>"]


def facts(entries: Iterable[tuple[str, str, str]]) -> str:
    """Large figures beside each other: title, value, and what else there is to say of it."""
    pieces = (
        f"<div><dt>{escaped(title)}</dt><dd>{escaped(value)}</dd>"
        + (f'<dd class="muted">{escaped(more)}</dd>' if more else "")
        + "</div>"
        for title, value, more in entries
    )
    return '<dl class="facts">' + "".join(pieces) + "</dl>"


def players(named: Iterable[tuple[str, Path | None]], place: Path, *, plots_folded: bool = False) -> str:
    """Players beside each other, below them the plots: one time axis, waveforms and colours at the same scale.

    Where one is called `ORIGINAL`, the plots of the others show how they differ from it.

    Args:
        named: label and file of each; no file: the model said nothing.
        place: directory of the page.
        plots_folded: plots are shown only when asked for.
    """
    loaded = [(label, path, _read_sound(path) if path else None) for label, path in named]
    sounds = {label: samples for label, _, samples in loaded if samples is not None}
    axes = common_axes(list(sounds.values()))
    heard = "".join(_sound(label, path, samples, place, axes["scale"]) for label, path, samples in loaded)
    plots = "".join(
        _plot(label, sound_figure(samples, original=None if label == ORIGINAL else sounds.get(ORIGINAL), **axes))
        for label, samples in sounds.items()
    )
    if plots:
        plots = f'<div class="cards">{plots}</div>'
        if plots_folded:
            plots = f"<details><summary>Waveforms and spectrograms</summary>{plots}</details>"
    return f'<div class="cards">{heard}</div>{plots}'


def _sound(label: str, path: Path | None, samples: np.ndarray | None, place: Path, scale: float) -> str:
    if path is None or samples is None:
        said = "Nothing was said: the model ended at the first frame."
        if path is not None:
            said = f"{path.name} is missing or cannot be read."
        return f'<div class="sound"><p class="player-label">{escaped(label)}</p>{missing(said)}</div>'
    address = quote(os.fsencode(Path(os.path.relpath(path, place)).as_posix()))
    kind = _EMBEDDED.get(path.suffix.lower())
    source = address
    if kind and path.stat().st_size <= _EMBED_LIMIT:
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    waveform, seconds = peaks(samples, scale=scale), len(samples) / SAMPLE_RATE
    return f'<div class="sound">{player(source, label, waveform, seconds, file=path.name)}</div>'


def _plot(label: str, figure: "Figure") -> str:
    drawn = drawing(figure, f"waveform and spectrogram: {label}")
    return f"<figure>{drawn}<figcaption>{escaped(label)}</figcaption></figure>"


def _read_sound(path: Path) -> np.ndarray | None:
    try:
        return read_audio(path)
    except (DataError, OSError, ValueError):  # ValueError: a name with a zero byte
        return None


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "Figures") -> str:
    """A table that is scrolled by itself where it is wider than the page; the first cell of a row names it.

    Args:
        head: titles of the columns; all empty: none are shown.
        rows: values, numbers to the right; a list is joined by commas, None is empty.
        name: what screen readers call it.
    """
    numbers = [any(is_number(row[at]) for row in rows if at < len(row)) for at in range(len(head))]
    titles = "".join(
        f'<th scope="col"{_NUMBER if number else ""}>{escaped(title)}</th>' if title else "<td></td>"
        for title, number in zip(head, numbers)
    )
    lines = [f"<thead><tr>{titles}</tr></thead>"] if any(head) else []
    lines += ["<tbody>", *(f"<tr>{_cells(row)}</tr>" for row in rows), "</tbody>"]
    opening = f'<div class="scroll" role="region" aria-label="{escaped(name)}" tabindex="0">'
    kind = "" if any(head) else ' class="pairs"'
    return "\n".join([f"{opening}<table{kind}>", *lines, "</table></div>"])


def _cells(row: Sequence[Any]) -> str:
    pieces = []
    for at, value in enumerate(row):
        if is_number(value):
            pieces.append(f"<td{_NUMBER}>{_number(value)}</td>")
        else:
            text = escaped(_plain(value))
            pieces.append(f'<th scope="row">{text}</th>' if at == 0 and text else f"<td>{text}</td>")
    return "".join(pieces)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def missing(sentence: str) -> str:
    return f'<p class="missing">{escaped(sentence)}</p>'


def escaped(value: Any) -> str:
    return html.escape(str(value))
