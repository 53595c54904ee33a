"""What the tests of the commands share: a miniature with an encoder, recordings, and how a refusal looks (a plugin)."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import Release, expected_shapes
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise, write_corpus

# A training of seconds: two short crops or clips per step.
TINY_RUN = {
    "say": ["papa mino.", "tara koni lesu."],
    "data": {"heldout": 0.2, "min_seconds": 0.5},
    "encoder": {
        "crop_seconds": 0.4,
        "pairs": {"path": None},
        "stft_sizes": [256],
        "train": {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 0, "eval_every": 2,
                  "save_every": 2, "log_every": 1, "sample_every": 0},
        "refine": {"steps": 2, "batch_size": 1, "accumulate": 2, "warmup_steps": 0},
    },
    # The miniature's language model is random: to it no text fits, and adapting helps or not by chance.
    "judge": {"rounds": 1, "check_texts": False},
    "bake": {"deliver": "adapted"},
    "speaker": {
        "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.1},
        "preserve": {"path": None},
        "max_seconds": 0.8,
        "reference_seconds": [0.4, 0.8],
        "losses": {"flow": 1.0},
        "train": {"steps": 4, "accumulate": 2, "learning_rate": 2e-2, "warmup_steps": 0, "eval_every": 2,
                  "save_every": 2, "sample_every": 0},
    },
}  # fmt: skip


def tree(directory: Path) -> dict[str, str]:
    """Every path under a directory (hidden ones too) with the SHA-256 of its content, or its kind."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(directory))] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if plain else os.readlink(path) if path.is_symlink() else "/"
        )
    return found


@pytest.fixture(scope="session")
def encoder_file(miniature, tmp_path_factory) -> Path:
    """An encoder with random weights, loud enough at its end to use most of the codes."""
    rng, tensors = np.random.default_rng(1), {}
    for name, shape in expected_shapes(Release(miniature).config, ["encoder"]).items():
        if name.endswith("_norm.weight"):
            tensors[name] = np.ones(shape, np.float32)
        elif name.endswith("original0"):
            tensors[name] = np.full(shape, 3.0, np.float32)
        elif name.endswith("_scale"):
            tensors[name] = np.full(shape, 0.1, np.float32)
        else:
            tensors[name] = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_tensors(path, tensors)
    return path


@pytest.fixture(scope="session")
def whole(miniature, encoder_file, tmp_path_factory) -> Path:
    """The miniature with that encoder baked in. Read it only."""
    directory = tmp_path_factory.mktemp("whole") / "tiny"
    bake(miniature, directory, encoder=encoder_file)
    return directory


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """float32 [samples], 24 kHz: some 2 s of a synthetic voice."""
    return synthesise("papa mino lesu, tara koni.", SyntheticSpeaker.sample(0), 0)


@pytest.fixture(scope="session")
def voice_file(speech, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "voice.wav"
    write_wav(path, speech)
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Five transcribed recordings of one synthetic speaker. Read it only."""
    directory = tmp_path_factory.mktemp("corpus") / "recordings"
    write_corpus(directory, [SyntheticSpeaker.sample(0)], 5, seconds=1.0)
    return directory


@pytest.fixture
def config_file(tmp_path, miniature, corpus):
    """`config_file(task, **top-level keys)` writes the configuration of a training of seconds; its path."""

    def write(task: str, **keys) -> Path:
        path = tmp_path / f"{task}.yaml"
        content = {"task": task, "model": str(miniature), "voice": "clone", **TINY_RUN} | keys
        content["data"] = {"path": str(corpus), **TINY_RUN["data"]} | keys.get("data", {})
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def refused(capsys, tmp_path):
    """`refused(arguments, text, ...)`: exit code 2, one line that holds the texts, nothing changed on the disk."""

    def check(arguments: list, *texts: str, code: int = 2, unchanged: tuple[Path, ...] = ()) -> str:
        before = {place: tree(place) for place in (tmp_path, *unchanged)}
        capsys.readouterr()
        assert voxclone([str(a) for a in arguments]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1, captured.err
        for text in texts:
            assert text in captured.err
        assert {place: tree(place) for place in before} == before
        return captured.err

    return check
