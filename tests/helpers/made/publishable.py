"""A run of task `clone` as it lies on the disk, made by hand: with every kind of file that must stay there."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import soundfile

from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.settings.config import RunConfig

CONSENT = "Ann Lee agreed on 2 May 2026"
SECRET = "what Ann read out in her kitchen"  # stands in transcripts, never in what is published
SENTENCE = "Papa mino, lesu."


def write_wav(path: Path, level: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(1920, level, np.float32), 24000)


def make_run(directory: Path, base: Path, encoder: Path, adapters: Path) -> Path:
    """Write the run; its directory."""
    for stage, file in (("encoder", encoder), ("speaker", adapters)):
        best = directory / stage / "best"
        best.mkdir(parents=True)
        for path in [file] if file.is_file() else file.iterdir():
            shutil.copyfile(path, best / path.name)
        (directory / stage / "log.jsonl").write_text(json.dumps({"event": "start", "path": str(directory)}) + "\n")
        write_wav(directory / stage / "samples" / "step-2" / "0001-original.wav", 0.1 if stage == "encoder" else 0.15)
    rng = np.random.default_rng(2)
    rows = mx.array(rng.standard_normal((6, Release(base).config.backbone.dim))).astype(mx.bfloat16)
    save_tensors(directory / "codes" / "ann.safetensors", {"embedding": rows})
    save_tensors(directory / "codes" / "codes.safetensors", {"clip": np.zeros((37, 4), np.int32)})
    bake(
        base,
        directory / "baked",
        encoder=encoder,
        adapters=adapters,
        voices={"ann": directory / "codes" / "ann.safetensors"},
    )
    write_wav(directory / "data" / "clips" / "0001.wav", 0.2)
    (directory / "data" / "manifest.jsonl").write_text(json.dumps({"audio": "clips/0001.wav", "text": SECRET}) + "\n")
    for k, name in enumerate(("before-1", "after-1", "before-2", "after-2", "recording")):
        write_wav(directory / "samples" / f"{name}.wav", 0.01 * (k + 1))
    (directory / "originals").mkdir()
    write_wav(directory / "originals" / "voice.wav", 0.06)
    (directory / "report").mkdir()
    (directory / "report" / "index.html").write_text(f"<p>{directory}</p>")
    config = RunConfig(
        task="clone", model=str(base), output=directory, voice="ann", say=[SENTENCE], data={"path": directory / "data"}
    )
    (directory / "config.yaml").write_text(config.dump())
    (directory / "summary.json").write_text(json.dumps(summary(directory), indent=1))
    return directory


def summary(directory: Path) -> dict:
    """What `train` keeps of a run, shortened."""
    result = {
        "steps": 240,
        "best_step": 200,
        "best_metric": 2.25,
        "evaluations": [{"step": 0, "metrics": {"loss": 3.5}}, {"step": 200, "metrics": {"loss": 2.25}}],
    }
    spoken = [
        {
            "text": text,
            "before": {"file": f"samples/before-{k}.wav", "frames": 1, "ended": True},
            "after": {"file": f"samples/after-{k}.wav", "frames": 1, "ended": True},
        }
        for k, text in ((1, SENTENCE), (2, SECRET))
    ]
    spoken[0]["reference"] = {"file": "samples/recording.wav"}
    spoken[0]["original"] = {"file": "originals/voice.wav", "same_text": False}
    return {
        "task": "clone",
        "run_dir": str(directory),
        "data": {"hours": 0.25, "train_clips": 40, "heldout_clips": 4, "speakers": ["Ann Lee"]},
        "results": {"encoder": result, "speaker": result},
        "baked": {"path": str(directory / "baked"), "voice": "ann", "reference": str(directory), "fold_error": 0.0123},
        "speech": spoken,
        "seconds": 12.0,
    }
