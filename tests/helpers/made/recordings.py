"""Recordings for the tests of preparation."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.miniature.synth import SyntheticSpeaker, random_text, synthesise

SPEECH = ROOT.parent / "shared" / "speech"
needs_speech = pytest.mark.skipif(not SPEECH.is_dir(), reason="no real speech at hand")
VOICE = SyntheticSpeaker.sample(0)


@functools.cache
def talk(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Exactly so many seconds of synthetic speech."""
    text = random_text(np.random.default_rng(seed), int(seconds * 6) + 2)
    samples = synthesise(text, VOICE, seed)[1200 : 1200 + int(seconds * SAMPLE_RATE)]
    samples.setflags(write=False)  # shared by the tests
    return samples


def silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32) * 1e-4


def folder_of(directory: Path, **recordings: np.ndarray) -> Path:
    directory.mkdir()
    for name, samples in recordings.items():
        write_wav(directory / f"{name}.wav", samples)
    return directory


def rejections(output: Path) -> dict[str, dict]:
    return {line["audio"]: line for line in map(json.loads, (output / "rejected.jsonl").read_text().splitlines())}


def files(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())
