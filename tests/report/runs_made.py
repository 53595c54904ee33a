"""Logs and summaries of trainings that were never run."""

import json

from report_pages import Page

from mlx_voxclone.report.run_report import write_report


def log_lines(terms, steps=6, end=True):
    yield {"event": "start", "step": 0, "task": "t"}
    for step in range(steps + 1):
        value = 2.0 - step / 10
        if step:
            head = {"step": step, "epoch": 0, "lr": 1e-4, "loss": value, "grad_norm": 1.0, "items_per_s": 3.0}
            yield {**head, **dict.fromkeys(terms, value), "seconds": 1.5 * step, "peak_memory_gb": 0.5, "skipped": 1}
        if step % 3 == 0:
            metrics = {"loss": value + 1, **dict.fromkeys(terms, value + 1), "semantic_accuracy": step / 10}
            yield {"event": "eval", "step": step, "metrics": metrics, "best": step < 6}
    yield {"event": "skip", "step": steps, "items": ["a"], "sums": {}, "grad_norm": "nan"}
    if end:
        yield {"event": "end", "step": steps, "stopped_early": True, "best": 3}


def write_log(directory, *args, **keywords):
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) for line in log_lines(*args, **keywords)]
    (directory / "log.jsonl").write_text("\n".join(lines) + "\n")


MEASURED = [
    {"name": "zero-shot", "voice": "a.wav", "code_loss": 3.5, "not_ended": 0.25, "unexplained": 0.125}
    | {"voice_distance": 0.5, "dissimilarity": 0.125, "error_rate": 0.0625},
    {"name": "adapted", "voice": "b.wav + c.wav", "code_loss": 3.25, "not_ended": 0.0, "unexplained": float("nan")}
    | {"voice_distance": 0.75, "dissimilarity": 0.25},
]


def summarised(directory, **entries):
    (directory / "summary.json").write_text(json.dumps(entries))
    return Page(write_report(directory))
