"""A finished run as the studio listens to it, made by hand, and a bench that speaks tones."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_flac
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.speech.speaker import SpeechResult

TEXTS = [f"Sentence number {k}." for k in range(12)]
PITCH = {"zero-shot": 300, "tuned": 400, "adapted": 500, "original": 200}


def tone(hertz: float, seconds: float = 0.5, level: float = 0.3) -> np.ndarray:
    """A tone between two short silences, float32 [S]."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    quiet = np.zeros(SAMPLE_RATE // 5)
    return np.concatenate([quiet, level * np.sin(2 * np.pi * hertz * times), quiet]).astype(np.float32)


def make_run(directory: Path, *, delivered: str = "adapted", heldout: int = 12, model: Path | None = None) -> Path:
    """Write a run of task `clone` that has ended, without any weights; its directory."""
    model = model or directory.parent / "released"
    for place in (model, directory / "data" / "clips", directory / "speaker" / "best", directory / "samples"):
        place.mkdir(parents=True, exist_ok=True)
    (directory / "encoder.safetensors").write_bytes(b"")
    (directory / "speaker" / "best" / "adapters.safetensors").write_bytes(b"")
    rows = mx.zeros((4, 8), mx.bfloat16)
    save_tensors(directory / "baked" / "voice_embedding" / "ann.safetensors", {"embedding": rows})
    lines = []
    for k in range(heldout + 4):
        samples = tone(PITCH["original"], 0.4 + 0.05 * (k % 5), 0.1 + 0.05 * (k % 3))
        write_flac(directory / "data" / "clips" / f"{k:04}.flac", samples)
        split = "heldout" if k < heldout else "train"
        text = TEXTS[k % len(TEXTS)] if k < heldout else f"Training {k}."
        clip = {"id": f"{k:04}", "audio": f"clips/{k:04}.flac", "samples": len(samples), "text": text}
        rest = {"speaker": "ann", "language": "en", "split": split, "reference": None, "source": "a.wav", "start": 0.0}
        lines.append(json.dumps({**clip, **rest}))
    (directory / "data" / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "data" / "summary.json").write_text("{}")
    config = RunConfig(task="clone", model=str(model), output=directory, voice="ann", data={"path": directory / "data"})
    (directory / "config.yaml").write_text(config.dump())
    summary = {"task": "clone", "run_dir": str(directory), "delivered": {"name": delivered, "why": "it measured best"}}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


class Tones:
    """A bench whose variants are tones of their own pitch, length and level; it keeps what it said."""

    def __init__(self, models=None, loading=None):
        self.said = []

    def say(self, variant, text, seed, on_frame):
        on_frame(0)
        self.said.append((variant.name, text, seed))
        seconds = 0.3 + 0.1 * (len(self.said) % 4)
        samples = tone(PITCH[variant.name], seconds, 0.05 * (1 + PITCH[variant.name] / 100))
        on_frame(len(samples) // 1920)
        return SpeechResult(samples, np.zeros((37, 1), np.int32), True)


def pitch_of(samples: np.ndarray) -> str:
    """Which variant a tone is of."""
    spectrum = np.abs(np.fft.rfft(samples))
    hertz = float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)
    return min(PITCH, key=lambda name: abs(PITCH[name] - hertz))


def forget(directory: Path) -> None:
    """Delete a run's file or folder."""
    shutil.rmtree(directory) if directory.is_dir() else directory.unlink()
