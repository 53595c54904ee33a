"""The report of a run: one HTML file with curves, held-out figures and what was spoken before and after.

It reads what is there and says what is missing, so that it also serves a run that was stopped half way:

- `log.jsonl` and `samples/step-N/` (sounds, and of an encoder `code_usage.safetensors`) of the run directory, or of its
  `encoder/` and `speaker/`;
- `summary.json` (optional), written by `train/run.py: RunSummary`: what was done, with how much data, and `speech`, a
  list of `{"text": text, "before": {"file": wav, "ended": bool}, "after": {...}}`, files relative to the run directory;
- `config.yaml`, shown as it is.
"""

import base64
import html
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.io import audio_info, read_audio
from mlx_voxclone.checkpoint.writer import write_text_atomic
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.evaluate.code_usage import CODE_USAGE_FILE, read_code_usage
from mlx_voxclone.evaluate.plots import Series, curves_figure, png, sound_figure, usage_figure
from mlx_voxclone.train.log import LOG_NAME, RESERVED, read_log

_ENCODER = "encoder"
STAGES = ("", _ENCODER, "speaker")  # directories of a run that may hold a log
NOTICE = (
    "Synthetic speech. Clone a voice only with the consent of the person it belongs to. Weights derived from Voxtral, "
    "the voices made with them and what they speak are licensed CC BY-NC 4.0: name the source, no commercial use."
)
_EMBED_LIMIT = 4_000_000  # bytes of audio put into the page (80 s of 16-bit PCM); a longer file is linked
_EMBEDDED = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".ogg": "audio/ogg"}
_REFERENCE_LIMIT = 60.0  # seconds
_SAMPLE_CLIPS = 2  # samples of a stage that are shown
_ORIGINAL = "original"
_ROLES = {_ORIGINAL: "original", "reconstructed": "through the codec"}

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
"""


def write_report(run_dir: str | Path) -> Path:
    """Write `report/index.html` into a run directory, replacing an older one; returns its path.

    Raises:
        DataError: the run directory does not exist.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run directory, nothing to report")
    summary = _read_json(run_dir / "summary.json")
    title = _title(summary, run_dir)
    parts = [f"<h1>{_text(title)}</h1>", f'<p class="notice">{_text(NOTICE)}</p>']
    parts += _figures(summary)
    parts += _reference(summary.get("baked"), run_dir)
    parts += _speech(summary.get("speech"), run_dir)
    stages = [name for name in STAGES if (run_dir / name / LOG_NAME).is_file()]
    if not stages:
        parts.append(_missing("No training log here: nothing was trained in this directory."))
    for name in stages:
        parts += _stage(run_dir / name, name or str(summary.get("task") or "training"), run_dir)
    parts += _configuration(run_dir / "config.yaml")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    target = run_dir / "report" / "index.html"
    target.parent.mkdir(exist_ok=True)
    write_text_atomic(target, page)
    return target


# ---- speech ----------------------------------------------------------------------------------------------------------


def _reference(baked: Any, run_dir: Path) -> list[str]:
    """The recording the voice was taken from, to compare with, unless it is a long one."""
    path = baked.get("reference") if isinstance(baked, Mapping) else None
    try:
        if not path or audio_info(path).seconds > _REFERENCE_LIMIT:
            return []
    except (DataError, OSError):
        return []
    return ["<h2>The voice</h2>", _sounds([("reference recording", Path(path))], run_dir)]


def _speech(entries: Any, run_dir: Path) -> list[str]:
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not entries:
        return []
    parts = ["<h2>Before and after</h2>"]
    for entry in entries:
        parts.append(f"<blockquote>{_text(entry.get('text', ''))}</blockquote>")
        said = [(when, entry[when]) for when in ("before", "after") if isinstance(entry.get(when), dict)]
        sounds = [
            (
                when if sound.get("ended", True) else f"{when} (did not end, cut off)",
                run_dir / str(sound["file"]) if sound.get("file") else None,
            )
            for when, sound in said
        ]
        parts.append(_sounds(sounds, run_dir))
    return parts


def _sounds(named: Iterable[tuple[str, Path | None]], run_dir: Path) -> str:
    """Players and plots beside each other, waveforms and colours at the same scale; no path: the model said nothing.

    Where one is the original, the others show how they differ from it.
    """
    loaded = [(label, path, _read_sound(path) if path else None) for label, path in named]
    scale = max((float(np.abs(s).max()) for _, _, s in loaded if s is not None and len(s)), default=0.0) or 1.0
    original = next((samples for label, _, samples in loaded if label == _ORIGINAL), None)
    pieces = [
        _sound(label, path, samples, run_dir, scale=scale, original=None if label == _ORIGINAL else original)
        for label, path, samples in loaded
    ]
    return '<div class="row">' + "".join(pieces) + "</div>"


def _sound(label: str, path: Path | None, samples: np.ndarray | None, run_dir: Path, **drawing: Any) -> str:
    head = f'<div class="sound"><h3>{_text(label)}</h3>'
    if path is None:
        return f"{head}{_missing('Nothing was said: the model ended at the first frame.')}</div>"
    if samples is None:
        return f"{head}{_missing(f'{path.name} is missing or cannot be read.')}</div>"
    kind = _EMBEDDED.get(path.suffix.lower())
    if kind and path.stat().st_size <= _EMBED_LIMIT:
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    else:
        source = Path(os.path.relpath(path, run_dir / "report")).as_posix()
    plot = _image(png(sound_figure(samples, **drawing)), f"waveform and spectrogram: {label}")
    return f'{head}<audio controls preload="none" src="{_text(source)}"></audio>{plot}</div>'


def _read_sound(path: Path) -> np.ndarray | None:
    try:
        return read_audio(path)
    except (DataError, OSError):
        return None


# ---- a stage of training ---------------------------------------------------------------------------------------------


def _stage(directory: Path, name: str, run_dir: Path) -> list[str]:
    records = read_log(directory / LOG_NAME)
    steps = [record for record in records if "event" not in record]
    evaluations = [record for record in records if record.get("event") == "eval"]
    parts = [f"<h2>Stage: {_text(name)}</h2>"]
    if not steps:
        parts.append(_missing("The log holds no training step yet."))
    best = max((record["step"] for record in evaluations if record.get("best")), default=None)
    parts.append(f"<p>{_text(_progress(records, steps, best))}</p>")
    panels = _panels(steps, evaluations)
    if panels:
        parts.append(_image(png(curves_figure(panels, best)), f"curves of stage {name}"))
    parts += _heldout_table(evaluations, best)
    started = [record.get("task") for record in records if record.get("event") == "start"]
    if name == _ENCODER or _ENCODER in started:
        parts += _code_usage(directory / "samples")
    parts += _samples(directory / "samples", run_dir)
    return parts


def _progress(records: list[dict], steps: list[dict], best: int | None) -> str:
    """One sentence: how far, how long, how much memory."""
    last = steps[-1] if steps else {}
    ended = [record for record in records if record.get("event") == "end"]
    text = f"{last.get('step', 0)} steps"
    text += (", stopped early" if ended[-1].get("stopped_early") else ", complete") if ended else ", not finished"
    if best is not None:
        text += f"; the best model is that of step {best}"
    if "seconds" in last:
        text += f"; {last['seconds']:.0f} s, peak memory {last.get('peak_memory_gb', 0):.2f} GB"
    if last.get("skipped"):
        text += f"; {last['skipped']} steps skipped because they were not finite"
    return text + "."


def _panels(steps: list[dict], evaluations: list[dict]) -> list[tuple[str, list[Series]]]:
    """Loss first, then its terms and the other held-out metrics, last how the training itself went."""
    terms = [key for record in steps for key in record if key not in RESERVED]
    metrics = [key for record in evaluations for key in record.get("metrics", {})]
    panels = []
    for key in dict.fromkeys(["loss", *terms, *metrics]):
        lines = [
            _series("training", [(r["step"], r[key]) for r in steps if key in r]),
            _series("held out", [(r["step"], r["metrics"][key]) for r in evaluations if key in r["metrics"]], True),
        ]
        panels.append((key.replace("_", " "), [line for line in lines if line.values]))
    for key, title in (("lr", "learning rate"), ("grad_norm", "gradient norm"), ("items_per_s", "items per second")):
        line = _series("training", [(r["step"], r[key]) for r in steps if key in r])
        panels.append((title, [line] if line.values else []))
    return [(title, lines) for title, lines in panels if lines]


def _series(label: str, points: list[tuple[int, Any]], heldout: bool = False) -> Series:
    """Numbers only: what was not finite stands as text in the log."""
    good = [(step, value) for step, value in points if _is_number(value)]
    return Series(label, [step for step, _ in good], [value for _, value in good], heldout)


def _heldout_table(evaluations: list[dict], best: int | None) -> list[str]:
    if not evaluations:
        return [_missing("No held-out measurement yet.")]
    by_step = {record["step"]: record.get("metrics", {}) for record in evaluations}
    first, last = evaluations[0]["step"], evaluations[-1]["step"]
    columns = dict.fromkeys([first, best if best is not None else last, last])
    titles = {first: f"start (step {first})", last: f"last (step {last})"} | (
        {best: f"best (step {best})"} if best else {}
    )
    rows = [[name, *(by_step[step].get(name) for step in columns)] for name in by_step[last]]
    return ["<h3>Held-out metrics</h3>", _table(["metric", *(titles[step] for step in columns)], rows)]


def _code_usage(directory: Path) -> list[str]:
    """Histograms of the codes of the held-out clips, of the newest samples that have them."""
    head = "<h3>Use of the codes</h3>"
    steps = [step for step in _sample_steps(directory) if (step / CODE_USAGE_FILE).exists()]
    if not steps:
        return [head, _missing(f"No {CODE_USAGE_FILE} among the samples: the codes of this encoder were not counted.")]
    try:
        usage = read_code_usage(steps[-1] / CODE_USAGE_FILE)
    except CheckpointError as e:
        return [head, _missing(f"The counts of codes cannot be read: {e}")]
    frames = f"{usage.encoder.frames:,} frames of held-out clips, step {steps[-1].name[5:]}"
    figure = _image(png(usage_figure(usage)), f"use of the codes: {frames}")
    return [head, f"<p>{_text(frames)}.</p>", figure]


def _sample_steps(directory: Path) -> list[Path]:
    """The directories `step-N`, in the order of N."""
    found = (path for path in directory.glob("step-*") if path.name[5:].isdecimal())
    return sorted(found, key=lambda path: int(path.name[5:]))


def _samples(directory: Path, run_dir: Path) -> list[str]:
    """The first and the last samples of the same clips."""
    steps = _sample_steps(directory)
    if not steps:
        return []
    clips: dict[str, list[tuple[str, Path]]] = {}
    for step in dict.fromkeys([steps[0], steps[-1]]):
        for path in sorted(step.glob("*.wav")):
            clip, _, role = path.stem.rpartition("-")
            if role not in _ROLES:
                clip, role = path.stem, ""
            if role == _ORIGINAL and step != steps[0]:
                continue  # it has not changed
            label = role if role == _ORIGINAL else f"{_ROLES.get(role, 'spoken')}, step {step.name[5:]}"
            clips.setdefault(clip, []).append((label, path))
    parts = ["<h3>Samples</h3>"]
    for clip, sounds in list(clips.items())[:_SAMPLE_CLIPS]:
        parts += [f"<p>{_text(clip)}</p>", _sounds(sounds, run_dir)]
    return parts


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _title(summary: Mapping[str, Any], run_dir: Path) -> str:
    baked = summary.get("baked")
    voice = baked.get("voice") if isinstance(baked, Mapping) else None
    return f"Voice {voice}" if voice else f"Run {run_dir.resolve().name}"


def _figures(summary: Mapping[str, Any]) -> list[str]:
    """One table of all the single values of the summary, sections one level deep."""
    rows = []
    for key, value in summary.items():
        if isinstance(value, Mapping) and key in ("data", "baked"):
            rows += [[f"{key}: {name.replace('_', ' ')}", entry] for name, entry in value.items()]
        elif isinstance(value, str | int | float):
            rows.append([key.replace("_", " "), value])
    return ["<h2>Figures</h2>", _table(["", ""], rows)] if rows else []


def _configuration(path: Path) -> list[str]:
    if not path.is_file():
        return []
    content = _text(path.read_text(encoding="utf-8", errors="replace"))
    return [f"<h2>Configuration</h2><details><summary>{path.name}</summary><pre>{content}</pre></details>"]


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"] if any(head) else []
    for row in rows:
        cells = (f'<td class="n">{_number(c)}</td>' if _is_number(c) else f"<td>{_text(_plain(c))}</td>" for c in row)
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _image(content: bytes, alternative: str) -> str:
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{_text(alternative)}" src="data:image/png;base64,{encoded}">'


def _missing(sentence: str) -> str:
    return f'<p class="missing">{_text(sentence)}</p>'


def _text(value: Any) -> str:
    return html.escape(str(value))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
