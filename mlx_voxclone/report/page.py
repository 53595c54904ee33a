"""Pieces of the HTML pages: one file, nothing fetched, small sounds and all plots inside."""

import base64
import html
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.errors import DataError
from mlx_voxclone.report.plots import png, sound_figure

ORIGINAL = "original"
NOTICE = (
    "Synthetic speech. Clone a voice only with the consent of the person it belongs to. Weights derived from Voxtral, "
    "the voices made with them and what they speak are licensed CC BY-NC 4.0: name the source, no commercial use."
)
_EMBED_LIMIT = 4_000_000  # bytes of audio put into the page (80 s of 16-bit PCM); a longer file is linked
_EMBEDDED = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2328;background:#fff;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;border-bottom:1px solid #d0d7de;margin-top:2.2rem}h3{font-size:1rem}
.notice{background:#fff4e5;border-left:4px solid #d1602b;padding:.6rem .9rem}
.missing{color:#656d76;font-style:italic}
table{border-collapse:collapse;margin:.6rem 0}
th,td{padding:.25rem .8rem;border-bottom:1px solid #d0d7de;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.row{display:flex;flex-wrap:wrap;gap:1rem}.sound{flex:1 1 300px;max-width:500px}
img{max-width:100%;height:auto}audio{width:100%}pre{background:#f6f8fa;padding:.8rem;overflow:auto}
blockquote{margin:.8rem 0 .3rem;font-style:italic}
details{margin:.5rem 0}summary{cursor:pointer;color:#57606a}
details.part{border-top:1px solid #d0d7de;margin:0;padding:.7rem 0}details.part>summary{color:#1f2328;font-weight:600}
"""


def html_page(title: str, parts: Iterable[str]) -> str:
    """A whole page: the title, the notice on consent and licence, the parts. What UTF-8 cannot hold becomes `?`."""
    head = [f"<h1>{escaped(title)}</h1>", f'<p class="notice">{escaped(NOTICE)}</p>']
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join([*head, *parts])
        + "\n</body>\n</html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def folded(title: str, parts: Iterable[str]) -> list[str]:
    """A part of the page of which only the title is shown until it is opened."""
    return [f'<details class="part"><summary>{escaped(title)}</summary>', *parts, "</details>"]


def players(named: Iterable[tuple[str, Path | None]], place: Path, *, plots_folded: bool = False) -> str:
    """Players and plots beside each other, waveforms and colours at the same scale; no path: the model said nothing.

    Where one is called `ORIGINAL`, the others show how they differ from it. `place`: directory of the page.
    `plots_folded`: shown only when asked for.
    """
    loaded = [(label, path, _read_sound(path) if path else None) for label, path in named]
    scale = max((float(np.abs(s).max()) for _, _, s in loaded if s is not None and len(s)), default=0.0) or 1.0
    original = next((samples for label, _, samples in loaded if label == ORIGINAL), None)
    pieces = [
        _sound(label, path, samples, place, plots_folded, scale=scale, original=None if label == ORIGINAL else original)
        for label, path, samples in loaded
    ]
    return '<div class="row">' + "".join(pieces) + "</div>"


def _sound(
    label: str, path: Path | None, samples: np.ndarray | None, place: Path, plot_folded: bool, **drawing: Any
) -> str:
    head = f'<div class="sound"><h3>{escaped(label)}</h3>'
    if path is None:
        return f"{head}{missing('Nothing was said: the model ended at the first frame.')}</div>"
    if samples is None:
        return f"{head}{missing(f'{path.name} is missing or cannot be read.')}</div>"
    kind = _EMBEDDED.get(path.suffix.lower())
    if kind and path.stat().st_size <= _EMBED_LIMIT:
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    else:
        source = quote(os.fsencode(Path(os.path.relpath(path, place)).as_posix()))
    plot = image(png(sound_figure(samples, **drawing)), f"waveform and spectrogram: {label}")
    if plot_folded:
        plot = f"<details><summary>waveform and spectrogram</summary>{plot}</details>"
    return f'{head}<audio controls preload="none" src="{escaped(source)}"></audio>{plot}</div>'


def _read_sound(path: Path) -> np.ndarray | None:
    try:
        return read_audio(path)
    except (DataError, OSError, ValueError):  # ValueError: a name with a zero byte
        return None


def table(head: list[str], rows: list[list[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escaped(cell)}</th>" for cell in head) + "</tr>"] if any(head) else []
    for row in rows:
        cells = (f'<td class="n">{_number(c)}</td>' if is_number(c) else f"<td>{escaped(_plain(c))}</td>" for c in row)
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def image(content: bytes, alternative: str) -> str:
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{escaped(alternative)}" src="data:image/png;base64,{encoded}">'


def missing(sentence: str) -> str:
    return f'<p class="missing">{escaped(sentence)}</p>'


def escaped(value: Any) -> str:
    return html.escape(str(value))
