"""Good inputs of every command, made once: a miniature, recordings, prepared clips, pairs, adapters, codes, a bake.

A `Job` is a command that writes. Jobs run in copies of the inputs, so that what a killed one leaves is its own.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign.process import run
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus

CLIPS, SECONDS = 6, 2.0
PASSING = (".txt", ".jsonl", ".html", ".png", ".svg", ".lock")  # of a run: times and pictures
TIMED = {"summary.json", "result.json", "state.json", "config.yaml", "complete.json"}  # hold times or the run's place
STEPS = {
    "steps": 6,
    "batch_size": 2,
    "accumulate": 1,
    "eval_every": 3,
    "save_every": 1,
    "sample_every": 3,
    "warmup_steps": 1,
}
TRAIN = {
    "precision": "float32",
    "voice": "clone",
    "say": ["papa mino lesu."],
    "model": "model",
    "data": {"path": "recordings", "min_seconds": 1.0, "heldout": 0.2},
    "encoder": {
        "start": "random",
        "crop_seconds": 1.04,
        "stft_sizes": [1024, 256],
        "pairs": {"path": [], "texts": None},
        "train": STEPS,
    },
    "speaker": {"encoder": None, "reference_seconds": [1.0, 2.0], "train": STEPS},
    "judge": {"rounds": 0, "check_texts": False},
    "bake": {"deliver": "adapted"},
}


@dataclass(frozen=True)
class Job:
    """A command that writes.

    Attributes:
        name: of it.
        argv: its arguments; paths are relative to a copy of the inputs.
        output: file or directory that it writes.
        again: arguments to run after a kill, where they differ.
        begun: file in the output, from which on those are to be used.
    """

    name: str
    argv: tuple[str, ...]
    output: str
    again: tuple[str, ...] | None = None
    begun: str = "config.yaml"

    def repeat(self, place: Path) -> tuple[str, ...]:
        """The arguments of the next try in `place`."""
        if self.again is not None and (place / self.output / self.begun).is_file():
            return self.again
        return self.argv


def _train(task: str, output: str, *more: str) -> Job:
    argv = ("train", "--config", "train.yaml", "--quiet", "--set", f"task={task}", "--set", f"output={output}", *more)
    return Job(f"train {task}", argv, output, ("train", "--resume", output, "--quiet"))


SAY_LINES = ("say", "--model", "model", "--lines", "lines.jsonl", "--voice", "casual_male", "--batch", "2")
SAY_LINES += ("--tries", "1", "--output", "spoken")
LINES = (  # one of several chunks, one in a folder; two short ones go together
    {"text": "papa mino lesu."},
    {"text": "koni sewu.\n\npapa mino.\n\ntara.", "file": "deep/long.wav"},
    {"text": "mino papa.", "voice": "casual_female", "seed": 3},
    {"text": "lesu tara koni.", "seed": 4},
)
JOBS = (
    Job("micro", ("micro", "--output", "other", "--seed", "1"), "other"),
    Job("prepare", ("prepare", "recordings", "--output", "fresh", "--min-seconds", "1"), "fresh"),
    Job(
        "pairs", ("pairs", "--model", "model", "--output", "more", "--texts", "texts.txt", "--max-seconds", "4"), "more"
    ),
    Job("encode", ("encode", "reference.wav", "--model", "model", "--output", "new.safetensors"), "new.safetensors"),
    Job("decode", ("decode", "codes.safetensors", "--model", "model", "--output", "new.wav"), "new.wav"),
    Job(
        "say",
        ("say", "--model", "model", "--text", "papa mino", "--ref-audio", "reference.wav", "--output", "s.wav"),
        "s.wav",
    ),
    Job("say lines", SAY_LINES, "spoken", (*SAY_LINES, "--resume"), begun="spoken.jsonl"),
    Job("voices add", ("voices", "add", "--model", "model", "--output", "voiced", "ann=reference.wav"), "voiced"),
    Job(
        "bake",
        ("bake", "--model", "model", "--adapters", "adapters", "--voice", "ann=reference.wav", "--output", "new"),
        "new",
    ),
    Job("unbake", ("unbake", "--model", "baked", "--base", "model", "--output", "back"), "back"),
    _train("encoder", "run"),
    _train("speaker", "run"),
    _train("clone", "run"),
)


def good(home: Path) -> Path:
    """The directory of good inputs, made where it is missing.

    Raises:
        VoxcloneError: a command that makes them failed.
    """
    target = home / "good"
    if target.exists():
        return target
    with atomic_directory(target) as place:
        make_micro(place / "stock", "tiny", 0)
        write_corpus(place / "recordings", [SyntheticSpeaker.sample(0)], CLIPS, 0, seconds=SECONDS)
        shutil.copy(sorted((place / "recordings").rglob("*.wav"))[0], place / "reference.wav")
        (place / "texts.txt").write_text("papa mino lesu\nlesu mino\nmino papa\n", encoding="utf-8")
        (place / "lines.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LINES), encoding="utf-8")
        (place / "train.yaml").write_text(json.dumps(TRAIN, indent=1), encoding="utf-8")  # JSON is YAML
        encoder = "first/best/encoder.safetensors"
        for argv in (
            (*_train("encoder", "first").argv, "--set", "model=stock"),
            ("bake", "--model", "stock", "--encoder", encoder, "--output", "model"),
            ("prepare", "recordings", "--output", "prepared", "--min-seconds", "1"),
            ("pairs", "--model", "model", "--output", "pairs", "--texts", "texts.txt", "--max-seconds", "4"),
            ("encode", "reference.wav", "--model", "model", "--output", "codes.safetensors"),
            (*_train("speaker", "run").argv,),
            (
                "bake",
                "--model",
                "model",
                "--adapters",
                "run/best",
                "--voice",
                "ann=reference.wav",
                "--output",
                "baked",
            ),
        ):
            if (done := run(argv, place)).code:
                raise VoxcloneError(f"the campaign's inputs: {' '.join(argv)}: {done.errors.strip()[-300:]}")
        shutil.copytree(place / "run" / "best", place / "adapters")
        for name in ("stock", "first", "run"):
            shutil.rmtree(place / name)
        (place / "stderr.txt").unlink()
    return target


def copy_of(source: Path, target: Path) -> Path:
    """A fresh copy of the good inputs."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns("cache"))


def files(place: Path) -> Iterator[Path]:
    """Regular files below a directory, or the file itself."""
    yield from sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def digests(place: Path, lasting: bool = False) -> dict[str, str]:
    """SHA-256 of every file, by its path from `place`.

    Args:
        lasting: only of what must be the same in an undisturbed run: no times, no checkpoints on the way, no pictures.
    """
    found = {}
    for path in files(place):
        name = str(path.relative_to(place)) if place.is_dir() else path.name
        passing = path.suffix in PASSING or path.name in TIMED or "checkpoints" in path.parts
        if not (lasting and passing):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers(place: Path) -> list[str]:
    """Names that only a process at work may have."""
    return sorted(str(p.relative_to(place)) for p in place.rglob("*") if ".partial" in p.name)
