"""What a run is at a step, and how it survives: checkpoints that are complete or absent, and `best/`.

`checkpoints/step-N/` holds `model.safetensors` (the trainable parameters, float32), `optimizer.safetensors` and
`state.json` (everything else, with size and CRC-32 of the other two, and a checksum; see `train/saved/schema.py`). A
directory gets its name only when all of it is on the disk, so whatever stops the run leaves the previous checkpoint
whole. `best/` is replaced the same way; a stop in the short moment between the two renames of a replacement is repaired
by `recover` at the next start.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory, write_text_atomic
from mlx_voxclone.files.plain import read_json, reason_of
from mlx_voxclone.files.yaml_files import shown
from mlx_voxclone.process.signals import held_back as uninterrupted
from mlx_voxclone.process.temporaries import clear_below
from mlx_voxclone.settings.removed import removed_settings
from mlx_voxclone.train.saved.schema import CHECKSUM, Best, check_document, checksum

FORMAT = 1
CHECKPOINTS, BEST, SAMPLES = "checkpoints", "best", "samples"
_STEP = re.compile(r"step-(\d+)")


@dataclass
class RunState:
    """Everything of a run at the end of `step` complete steps that is neither parameter nor optimiser state."""

    step: int = 0
    position: tuple[int, int] = (0, 0)  # epoch, items of it already used
    rng: tuple[int, int] = (0, 0)  # MLX's random key, as two 32-bit words
    seconds: float = 0.0  # spent so far, over all sittings
    peak_memory_gb: float = 0.0
    first: dict | None = None  # {"loss", "terms"} of the first step
    last: dict | None = None  # and of the newest
    recent: list[float] = field(default_factory=list)  # losses of the last few steps
    skipped: int = 0  # steps that were not finite, in all
    skipped_in_row: int = 0
    window: dict = field(default_factory=dict)  # sums since the last logged step
    silent: list[str] | None = None  # parameters that have had no gradient yet; None once that has been judged
    best: dict | None = None  # {"step", "value", "metrics"} of the best evaluation
    stale: int = 0  # evaluations since then
    evaluations: list[dict] = field(default_factory=list)  # {"step", "metrics"}, in order
    evaluated: int = -1  # last step evaluated
    sampled: int = -1  # last step with samples
    decided: dict[str, bool] = field(default_factory=dict)  # between ways to compute, see `task.Decides`

    @classmethod
    def of(cls, fields: dict) -> "RunState":
        """The state whose `asdict` went through JSON."""
        return cls(**fields | {key: tuple(fields[key]) for key in ("position", "rng")})


@dataclass
class Checkpoint:
    """A checkpoint read back and verified; `document` is its `state.json`."""

    path: Path
    state: RunState
    document: dict
    parameters: dict[str, mx.array]
    optimizer: dict[str, mx.array]


def save_checkpoint(
    run_dir: Path, state: RunState, parameters: dict[str, mx.array], optimizer: dict[str, mx.array], identity: dict
) -> Path:
    """Writes `checkpoints/step-N/` (N = state.step) and returns its path; nothing is there until all of it is.

    `identity` is added to state.json: task, metric, settings, schedule, fingerprint. A checkpoint of the same step,
    left over from before a resume, is replaced.
    """
    path = Path(run_dir) / CHECKPOINTS / f"step-{state.step}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_directory(path) as directory:
        files = {}
        for name, tensors in (("model.safetensors", parameters), ("optimizer.safetensors", optimizer)):
            save_tensors(directory / name, tensors, {"step": str(state.step)})
            files[name] = {"bytes": (directory / name).stat().st_size, "crc32": _crc32(directory / name)}
        document = {"format": FORMAT, **identity, "state": asdict(state), "files": files}
        document[CHECKSUM] = checksum(document)
        write_text_atomic(directory / "state.json", json.dumps(document, indent=1))
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads and verifies a checkpoint directory. Raises CheckpointError that names what is wrong with it."""
    path = Path(path)
    try:
        document = read_json(path / "state.json")
        version = document.get("format") if isinstance(document, dict) else None
        if type(version) is int and version != FORMAT:
            raise CheckpointError(f"checkpoint {path} has format {shown(version)}, this version reads {FORMAT}")
        settings = document.get("settings") if isinstance(document, dict) else None
        if isinstance(settings, dict) and (gone := removed_settings(settings)):
            names = ", ".join(gone)
            raise CheckpointError(f"checkpoint {path} is of an earlier version, which had {names}; start a new run")
        check_document(document)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise CheckpointError(f"checkpoint {path} is damaged: state.json cannot be used ({reason})") from error
    state = RunState.of(document["state"])
    tensors = {name: _verified(path / name, facts, state.step) for name, facts in document["files"].items()}
    return Checkpoint(path, state, document, tensors["model.safetensors"], tensors["optimizer.safetensors"])


def _verified(path: Path, facts: dict, step: int) -> dict[str, mx.array]:
    """The tensors of a file whose size, CRC-32 and step are as recorded when it was written."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path.parent} is damaged: {path.name} is missing")
    if (size := path.stat().st_size) != facts["bytes"]:
        raise CheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} has {size} bytes instead of {facts['bytes']}"
        )
    if _crc32(path) != facts["crc32"]:
        raise CheckpointError(f"checkpoint {path.parent} is damaged: the checksum of {path.name} does not match")
    file = TensorFile(path)
    if (own := file.metadata.get("step", str(step))) != str(step):
        raise CheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} is of step {own}, state.json of {step}"
        )
    tensors = {name: file.array(name) for name in file.names()}
    if (name := not_finite(tensors)) is not None:
        raise CheckpointError(f"checkpoint {path.parent} is of a training that diverged: {name} is not finite")
    return tensors


def not_finite(tensors: Mapping[str, mx.array]) -> str | None:
    """The first of some tensors that holds infinite or undefined numbers; None if all are finite."""
    finite = mx.stack([mx.isfinite(array).all() for array in tensors.values()]) if tensors else mx.array([])
    return next((name for name, fine in zip(tensors, finite.tolist()) if not fine), None)


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def list_checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, path) of the complete checkpoints of a run, oldest first."""
    found = []
    for entry in sorted((Path(run_dir) / CHECKPOINTS).glob("step-*")):
        if entry.is_dir() and (match := _STEP.fullmatch(entry.name)):
            found.append((int(match[1]), entry))
    return sorted(found)


def prune(run_dir: Path, keep: int, newest: int) -> None:
    """Removes all but the `keep` newest checkpoints up to step `newest`, which has just been completed."""
    older = [path for step, path in list_checkpoints(run_dir) if step <= newest]
    for path in older[: max(0, len(older) - keep)]:
        # Renamed first: an interrupted removal must not leave half a checkpoint under a valid name.
        doomed = path.with_name(f".{path.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def find_resume(path: Path) -> tuple[Path, list[Path]]:
    """(run directory, checkpoints to try, newest first) for `--resume PATH`: a run directory or one of its checkpoints.

    Raises CheckpointError if the path does not exist, is neither, or holds no complete checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"cannot resume: {path} does not exist")
    if not (path / CHECKPOINTS).is_dir():
        resolved = path.resolve()
        if not _STEP.fullmatch(resolved.name) or resolved.parent.name != CHECKPOINTS:
            raise CheckpointError(f"cannot resume: {path} is not a run directory (it has no {CHECKPOINTS} folder)")
        recover_all(resolved.parent.parent)
        return resolved.parent.parent, [resolved]
    recover_all(path)
    candidates = [checkpoint for _, checkpoint in reversed(list_checkpoints(path))]
    if not candidates:
        raise CheckpointError(
            f"cannot resume: {path} holds no complete checkpoint (it stopped before the first one): start it again "
            "in a new directory"
        )
    return path, candidates


def read_best(run_dir: Path) -> dict | None:
    """`best/info.json` ({"step", "metric", "value", "metrics"}), or None if there is no usable `best/`."""
    try:
        return Best.model_validate(read_json(Path(run_dir) / BEST / "info.json")).model_dump()
    except (OSError, ValueError):
        return None


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Builds a directory that takes the place of `path`, if there is one: that stays until the new is on disk."""
    fresh, old = _beside(path)
    shutil.rmtree(fresh, ignore_errors=True)
    with atomic_directory(fresh) as building:
        yield building
    with uninterrupted():
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.rename(path, old)
        os.rename(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def recover(path: Path) -> None:
    """Mends `path` after a stop between the renames of `replaced_directory`, and clears what it left behind."""
    fresh, old = _beside(path)
    if not path.exists():
        for candidate in (fresh, old):  # `fresh` got its name when it was complete, so it is the better one
            if candidate.exists():
                os.rename(candidate, path)
                break
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)


def recover_all(run_dir: Path) -> None:
    """`recover` for `best/`, every checkpoint and all samples of a run directory, which this process has locked;
    half-written leftovers are cleared too."""
    run_dir = Path(run_dir)
    recover(run_dir / BEST)
    for home in (run_dir / CHECKPOINTS, run_dir / SAMPLES):
        for entry in list(home.glob(".step-*.new")):
            recover(entry.with_name(entry.name[1 : -len(".new")]))
        # An `.old` without its `.new` was pruned: it is not brought back.
        for entry in home.glob(".step-*.old"):
            shutil.rmtree(entry, ignore_errors=True)
    clear_below(run_dir)


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
