"""The report of a run: one HTML file. First what was delivered, and the original, before and after to hear, sentence by
sentence; folded below it all that was measured, curves, and last the summary and the configuration as files hold them.

It reads what is there and says what is missing, so that it also serves a run that was stopped half way:

- `log.jsonl` and `samples/step-N/` (sounds, and of an encoder `code_usage.safetensors`) of the run directory, or of its
  `encoder/`, `encoder-2/`, ... and `speaker/`;
- `summary.json` (optional), written by `train/run.py: RunSummary`: what was done, with how much data, and `speech`, a
  list of `{"text": text, "original": {"file": wav, "same_text": bool}, "before": {"file": wav, "ended": bool}, "after":
  {...}}`, files relative to the run directory; of task `clone` also `delivered` and `rounds` (`report/delivery.py`);
- `abx.json` (optional): blind listening tests (`report/blind.py`);
- `config.yaml`, shown as it is but for the ends of addresses, which may be secrets.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.evaluate.code_usage import CODE_USAGE_FILE, read_code_usage
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import is_number, read_json
from mlx_voxclone.files.run_log import LOG_NAME, RESERVED, read_log
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.report.blind import blind_parts
from mlx_voxclone.report.delivery import measured_parts, rounds_parts, verdict_parts
from mlx_voxclone.report.page import (
    ORIGINAL,
    escaped,
    facts,
    folded,
    html_page,
    missing,
    players,
    table,
)
from mlx_voxclone.report.plots import Series, curves_figure, usage_figure
from mlx_voxclone.report.vector import drawing

_ENCODER, _SPEAKER, _REPORT = "encoder", "speaker", "report"
_ADDRESS = re.compile(r"(https?://[^/\s]+)/\S+")
_SAMPLE_CLIPS = 2  # samples of a stage that are shown
_CLIPS = {"train_clips": "clips to train on", "heldout_clips": "held out"}
_ROLES = {ORIGINAL: "original", "reconstructed": "through the codec"}


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
    stages = _stages(run_dir)
    parts = verdict_parts(summary.get("delivered"))
    speech = _speech(summary.get("speech"), run_dir)
    parts += speech
    if not speech:  # of one training: what its samples sound like
        for name in stages:
            parts += _samples(run_dir / name / "samples", run_dir)
    parts += blind_parts(run_dir)
    parts += _in_short(summary)
    if not stages:
        parts.append(missing("No training log here: nothing was trained in this directory."))
    parts += measured_parts(summary.get("delivered"))
    parts += rounds_parts(summary.get("rounds"))
    for name in stages:
        parts += _stage(run_dir / name, name or str(summary.get("task") or "training"), run_dir, samples=bool(speech))
    parts += _details(summary)
    parts += _configuration(run_dir / "config.yaml")
    target = run_dir / _REPORT / "index.html"
    target.parent.mkdir(exist_ok=True)
    write_text_atomic(target, html_page(title, parts))
    return target


# ---- speech ----------------------------------------------------------------------------------------------------------


def _speech(entries: Any, run_dir: Path) -> list[str]:
    """Original, before and after beside each other, sentence by sentence; first those that the original says too."""
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if not entries:
        return []
    parts = ["<h2>Original, before and after</h2>"]
    for entry in sorted(entries, key=lambda entry: not _same_text(entry)):
        parts.append(f'<section class="card"><blockquote>{escaped(entry.get("text", ""))}</blockquote>')
        sounds: list[tuple[str, Path | None]] = []
        if isinstance(entry.get("original"), dict):
            label = "original recording" if _same_text(entry) else "original voice (saying something else)"
            sounds.append((label, run_dir / str(entry["original"].get("file") or "originals/voice.wav")))
        for when in ("before", "after"):
            if isinstance(sound := entry.get(when), dict):
                label = when if sound.get("ended", True) else f"{when} (did not end, cut off)"
                sounds.append((label, run_dir / str(sound["file"]) if sound.get("file") else None))
        parts.append(players(sounds, run_dir / _REPORT, plots_folded=True) + "</section>")
    return parts


def _same_text(entry: Mapping[str, Any]) -> bool:
    original = entry.get("original")
    return isinstance(original, Mapping) and original.get("same_text") is True


# ---- a stage of training ---------------------------------------------------------------------------------------------


def _stages(run_dir: Path) -> list[str]:
    """Directories of a run that hold a log, in the order of the trainings; "" is the run directory itself."""
    rounds = _numbered(run_dir, f"{_ENCODER}-")
    names = ["", _ENCODER, *(path.name for path in rounds), _SPEAKER]
    return [name for name in names if (run_dir / name / LOG_NAME).is_file()]


def _stage(directory: Path, name: str, run_dir: Path, *, samples: bool) -> list[str]:
    """Folded; `samples`: with what the training spoke meanwhile."""
    records = read_log(directory / LOG_NAME)
    steps = [record for record in records if "event" not in record]
    evaluations = [record for record in records if record.get("event") == "eval"]
    parts = []
    if not steps:
        parts.append(missing("The log holds no training step yet."))
    best = max((record["step"] for record in evaluations if record.get("best")), default=None)
    parts.append(f"<p>{escaped(_progress(records, steps, best))}</p>")
    panels = _panels(steps, evaluations)
    if panels:
        parts.append(drawing(curves_figure(panels, best), f"curves of stage {name}"))
    parts += _heldout_table(evaluations, best)
    started = [record.get("task") for record in records if record.get("event") == "start"]
    if name.partition("-")[0] == _ENCODER or _ENCODER in started:
        parts += _code_usage(directory / "samples")
    if samples:
        parts += _samples(directory / "samples", run_dir)
    return folded(f"Stage: {name}", parts)


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
    good = [(step, value) for step, value in points if is_number(value)]
    return Series(label, [step for step, _ in good], [value for _, value in good], heldout)


def _heldout_table(evaluations: list[dict], best: int | None) -> list[str]:
    if not evaluations:
        return [missing("No held-out measurement yet.")]
    by_step = {record["step"]: record.get("metrics", {}) for record in evaluations}
    first, last = evaluations[0]["step"], evaluations[-1]["step"]
    columns = dict.fromkeys([first, best if best is not None else last, last])
    titles = {first: f"start (step {first})", last: f"last (step {last})"} | (
        {best: f"best (step {best})"} if best else {}
    )
    rows = [[name.replace("_", " "), *(by_step[step].get(name) for step in columns)] for name in by_step[last]]
    head = ["metric", *(titles[step] for step in columns)]
    return ["<h3>Held-out metrics</h3>", table(head, rows, "Held-out metrics")]


def _code_usage(directory: Path) -> list[str]:
    """Histograms of the codes of the held-out clips, of the newest samples that have them."""
    head = "<h3>Use of the codes</h3>"
    steps = [step for step in _sample_steps(directory) if (step / CODE_USAGE_FILE).exists()]
    if not steps:
        return [head, missing(f"No {CODE_USAGE_FILE} among the samples: the codes of this encoder were not counted.")]
    try:
        usage = read_code_usage(steps[-1] / CODE_USAGE_FILE)
    except CheckpointError as e:
        return [head, missing(f"The counts of codes cannot be read: {e}")]
    frames = f"{usage.encoder.frames:,} frames of held-out clips, step {steps[-1].name[5:]}"
    figure = drawing(usage_figure(usage), f"use of the codes: {frames}")
    return [head, f"<p>{escaped(frames)}.</p>", figure]


def _sample_steps(directory: Path) -> list[Path]:
    """The directories `step-N`, in the order of N."""
    return _numbered(directory, "step-")


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
            if role == ORIGINAL and step != steps[0]:
                continue  # it has not changed
            label = role if role == ORIGINAL else f"{_ROLES.get(role, 'spoken')}, step {step.name[5:]}"
            clips.setdefault(clip, []).append((label, path))
    parts = ["<h3>Samples</h3>"]
    for clip, sounds in list(clips.items())[:_SAMPLE_CLIPS]:
        parts += [f"<p>{escaped(clip)}</p>", players(sounds, run_dir / _REPORT)]
    return parts


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _title(summary: Mapping[str, Any], run_dir: Path) -> str:
    baked = summary.get("baked")
    voice = baked.get("voice") if isinstance(baked, Mapping) else None
    return f"Voice {voice}" if voice else f"Run {run_dir.resolve().name}"


def _in_short(summary: Mapping[str, Any]) -> list[str]:
    """How much speech, time and memory there was, in words."""
    data = summary.get("data") if isinstance(summary.get("data"), Mapping) else {}
    shown = []
    if is_number(hours := data.get("hours")):
        clips = [(data.get(key), said) for key, said in _CLIPS.items()]
        shown.append(
            ("Speech", format_seconds(3600 * hours), ", ".join(f"{n:,} {s}" for n, s in clips if is_number(n)))
        )
    if is_number(seconds := summary.get("seconds")):
        shown.append(("Time taken", format_seconds(seconds), ""))
    if is_number(memory := summary.get("peak_memory_gb")) and memory > 0:
        shown.append(("Memory at most", f"{memory:.3g} GB", ""))
    return ["<h2>The run</h2>", facts(shown)] if shown else []


def _details(summary: Mapping[str, Any]) -> list[str]:
    """One table of all the single values of the summary, sections one level deep."""
    rows = []
    for key, value in summary.items():
        if isinstance(value, Mapping) and key in ("data", "baked"):
            rows += [_row(f"{key}: {name.replace('_', ' ')}", entry) for name, entry in value.items()]
        elif isinstance(value, str | int | float):
            rows.append(_row(key.replace("_", " "), value))
    return folded("Details", [table(["", ""], rows, "Details")], raw=True) if rows else []


def _row(name: str, value: Any) -> list[Any]:
    """Lengths in units that fit."""
    unit = {"data: hours": 3600.0, "seconds": 1.0}.get(name)
    if unit is None or not is_number(value):
        return [name, value]
    return [{"data: hours": "data: speech", "seconds": "time taken"}[name], format_seconds(unit * value)]


def _configuration(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    # An address in `notify` is a secret: whoever has it may write to the user's channel.
    content = escaped(_ADDRESS.sub(r"\1/...", text))
    return folded("Configuration", [f'<pre tabindex="0">{content}</pre>'], raw=True)


def _numbered(directory: Path, prefix: str) -> list[Path]:
    """Entries named by the prefix and a number, in the order of the numbers."""
    found = (path for path in directory.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdecimal())
    return sorted(found, key=lambda path: int(path.name.removeprefix(prefix)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
