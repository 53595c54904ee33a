"""The smoke test: the whole of task `clone` on a miniature checkpoint and two synthetic speakers, in about a minute.

Nothing is downloaded, and the user's cache is left alone. What it shows is that the machine and the installation can do
every step of the real thing, pairs and base encoder too, and that each step does what it must; what it says is not a
voice: the miniature's language model is random.
"""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import TrainingError
from mlx_voxclone.files.cache import cache_in
from mlx_voxclone.files.run_log import LOG_NAME, read_log
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus
from mlx_voxclone.process.progress import BARS, Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.run import RunSummary, disk_usage, run

SPEAKERS, CLIPS_PER_SPEAKER = 2, 12  # a voice is that of one of them
VOICE = "clone"
MAX_FOLD_ERROR = 0.01  # of the hidden states' RMS: BF16 rounding of the weights costs about 0.3 %
# What a miniature needs to show in a minute on two slow cores; everything else is the configuration's.
OVERRIDES: dict[str, Any] = {
    "task": "clone",
    "precision": "float32",
    "say": ["papa mino lesu."],
    "data": {"language": None, "min_seconds": 1.0, "heldout": 0.15, "heldout_speakers": [],
             "transcribe": False},
    # The miniature's decoder says what it says by hand-made filters; its transformers are noise, not worth mirroring.
    "encoder": {"weights": None, "start": "random", "crop_seconds": 1.04, "stft_sizes": [1024, 256],
                "sound_teaches": "all"},
    # Its language model says codes by chance, which no encoder learns in a minute: the sound is what it learns here.
    "encoder.losses": {"semantic_code": 1e-4, "acoustic_code": 1e-4},
    "encoder.pairs": {"path": "auto", "per_voice": 8, "moves": 1, "texts": None, "max_seconds": 10.0, "share": 0.1},
    "encoder.train": {"steps": 10, "epochs": 0, "batch_size": 4, "accumulate": 1, "learning_rate": 1e-3,
                      "warmup_steps": 2, "eval_every": 5, "save_every": 5, "log_every": 1, "sample_every": 10,
                      "patience": 0},
    "encoder.refine": {"steps": 24, "epochs": 0, "batch_size": 4, "accumulate": 2, "learning_rate": 1e-3,
                       "warmup_steps": 4},
    "speaker": {"encoder": "auto", "reference_seconds": [1.0, 2.0]},
    "speaker.losses": {"kept": 0.1},  # the same numbers drawn by chance, to be kept
    "speaker.train": {"steps": 24, "epochs": 0, "batch_size": 2, "accumulate": 2, "learning_rate": 5e-3,
                      "warmup_steps": 1, "eval_every": 12, "save_every": 12, "log_every": 1, "sample_every": 24,
                      "patience": 0},
    # Its language model is random: to it no text fits, its judged codes teach nothing, no voice is better than another.
    "judge": {"enabled": True, "rounds": 0, "check_texts": False},
    "bake": {"output": None, "reference": None, "target": "vllm", "deliver": "adapted"},
}  # fmt: skip


def smoke_test(config: RunConfig, reporter: Reporter = BARS) -> int:
    """Run it in a new directory `runs/smoke-test-N` and print a table; 0 if everything holds, else 1.

    Args:
        config: what it does not override (seed, LoRA, quantisation, loss weights) is taken from here.
        reporter: shows a line per stage, warnings and progress; by default the progress alone.
    """
    base = _free(config.output or Path("runs/smoke-test"))
    make_micro(base / "model", "tiny", config.seed)
    speakers = [SyntheticSpeaker.sample(i) for i in range(SPEAKERS)]
    write_corpus(base / "recordings", speakers, CLIPS_PER_SPEAKER, config.seed, seconds=2.0)
    mx.reset_peak_memory()
    small = _overridden(config, base)
    try:
        with cache_in(base / "cache"):
            summary = run(small, reporter=reporter)
    except TrainingError as e:
        print(f"FAILED: {e}")
        return 1
    faults = check(summary)
    print("\n".join(table(summary, base)))
    for fault in faults:
        print(f"FAILED: {fault}")
    print(f"smoke test {'failed' if faults else 'passed'}: listen in {base / 'run' / 'samples'}")
    return 1 if faults else 0


def check(summary: RunSummary) -> list[str]:
    """What does not hold: losses not finite or not falling, a baked checkpoint that is not the adapter model."""
    faults = []
    for name, result in summary.results.items():
        records = read_log(Path(summary.run_dir) / name / LOG_NAME)
        losses = [record["loss"] for record in records if "event" not in record]
        if result.skipped or not losses or not all(_finite(loss) for loss in losses):
            faults.append(f"{name}: a loss is not finite")
        before, after = (e["metrics"][result.metric] for e in (result.evaluations[0], result.evaluations[-1]))
        if not (_finite(after) and after < before):
            faults.append(f"{name}: the held-out {result.metric} did not fall ({before:.4g} -> {after:.4g})")
    if summary.baked is None:
        return [*faults, "baked: nothing was"]
    error, effect = summary.baked["fold_error"], summary.baked["adapter_effect"]
    if not (error < MAX_FOLD_ERROR and error < effect / 2):
        faults.append(
            f"baked: differs from base + adapter by {error:.2%} of the RMS (the adapter's effect: {effect:.2%})"
        )
    if not Release(summary.baked["path"]).has_encoder:
        faults.append("baked: the checkpoint has no encoder")
    if not summary.speech:
        faults.append("say: nothing was spoken")
    return faults


def table(summary: RunSummary, base: Path) -> list[str]:
    """The figures of a run, a line each."""
    rows = [("data", f"{60 * summary.data['hours']:.2f} min, {summary.data['train_clips']} clips to learn from,"
             f" {summary.data['heldout_clips']} held out")]  # fmt: skip
    for name, result in summary.results.items():
        first, last = result.evaluations[0]["metrics"], result.evaluations[-1]["metrics"]
        rows.append((f"{name} loss", f"{result.first_loss:.4f} -> {result.last_loss:.4f} in {result.steps} steps"))
        held = ", ".join(f"{k} {first[k]:.4g} -> {last[k]:.4g}" for k in first)
        rows.append((f"{name} held out", held))
    if summary.baked:
        rows.append(("folded vs adapter", f"{summary.baked['fold_error']:.3%} of the RMS (the adapter's effect:"
                     f" {summary.baked['adapter_effect']:.2%})"))  # fmt: skip
    for entry in summary.speech:
        rows.append(("said", ", ".join(f"{when} {entry[when]['frames']} frames" for when in ("before", "after"))))
    files, size = disk_usage(base)
    rows += [
        ("files written", f"{files}, {size / 1e6:.1f} MB in {base}"),
        ("time", f"{summary.seconds:.1f} s"),
        ("peak memory", f"{_resident_gb():.2f} GB resident, {summary.peak_memory_gb:.2f} GB in MLX's arrays"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _overridden(config: RunConfig, base: Path) -> RunConfig:
    content = config.model_dump()
    for section, values in OVERRIDES.items():
        if not isinstance(values, dict):
            content[section] = values
            continue
        place = content
        for part in section.split("."):
            place = place[part]
        place.update(values)
    content |= {"model": str(base / "model"), "output": base / "run", "voice": config.voice or VOICE}
    content["data"] |= {"path": base / "recordings", "speaker": SyntheticSpeaker.sample(0).name}
    return RunConfig.model_validate(content)


def _free(base: Path) -> Path:
    """`base-1`, `base-2`, ...: the first that does not exist."""
    n = 1
    while (candidate := base.with_name(f"{base.name}-{n}")).exists():
        n += 1
    return candidate


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _resident_gb() -> float:
    """Largest resident memory of this process so far."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # bytes there, kilobytes here
