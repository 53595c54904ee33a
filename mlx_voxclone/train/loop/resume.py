"""Which checkpoint a resume starts from, and whether it may; what a run that ends early says of how to go on."""

from pathlib import Path

import mlx.core as mx

from mlx_voxclone.errors import CheckpointError, DataError, RankLostError, StoppedError, TranscriptError
from mlx_voxclone.files.locks import LOCK
from mlx_voxclone.files.run_log import BOARDS_FOLDER
from mlx_voxclone.process.limits import describe_os_error
from mlx_voxclone.settings.differences import CONFIG_FILE
from mlx_voxclone.settings.training import TrainSettings, changed
from mlx_voxclone.train.loop.task import Task, fingerprint_changes
from mlx_voxclone.train.saved.state import BEST, Checkpoint, list_checkpoints, load_checkpoint, read_best


def newest_whole(run_dir: Path, candidates: list[Path]) -> tuple[Checkpoint, list[str]]:
    """The first candidate that is not damaged, and a warning for each one passed over.

    Raises CheckpointError, naming the damage, if there is none; a checkpoint that was named by the user is never
    replaced by another one.
    """
    warnings: list[str] = []
    for path in candidates:
        try:
            return load_checkpoint(path), warnings
        except CheckpointError as error:
            warnings.append(f"{error}; trying the one before")
            reason = error
    others = [other.name for _, other in list_checkpoints(run_dir) if other not in candidates]
    hint = f"; resume from {run_dir} or another of its checkpoints: {', '.join(others)}" if others else ""
    raise CheckpointError(f"cannot resume: {reason}{hint}")


def check_same_run(
    checkpoint: Checkpoint, identity: dict, master: dict[str, mx.array], slots: dict[str, mx.array]
) -> list[str]:
    """Raises CheckpointError naming what differs if the checkpoint is of another run than `identity`, its trainable
    parameters `master` and its optimiser's state `slots`.

    Only the length of the run may change; that gives a warning, as the schedule spans it.
    """
    document = checkpoint.document
    differences = [
        f"{key}: {document[key]} -> {identity[key]}" for key in ("task", "metric") if document[key] != identity[key]
    ]
    differences += fingerprint_changes(document["fingerprint"], identity["fingerprint"])
    differences += changed(document["settings"], identity["settings"])
    if document["schedule"]["kind"] != identity["schedule"]["kind"]:
        differences.append(f"schedule: {document['schedule']['kind']} -> {identity['schedule']['kind']}")
    stored = {
        "trainable parameters": (master, checkpoint.parameters),
        "optimiser's state": (slots, checkpoint.optimizer),
    }
    for what, sides in stored.items():
        here, there = ({name: (array.shape, array.dtype) for name, array in side.items()} for side in sides)
        if names := sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)):
            differences.append(f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    if differences:
        raise CheckpointError(
            f"cannot resume {checkpoint.path}: it is of a run with another configuration ({'; '.join(differences)})"
        )
    before, now = document["schedule"]["total_steps"], identity["schedule"]["total_steps"]
    if before == now:
        return []
    return [f"the run has {now} steps now, {before} before: the learning rates still to come differ"]


def check_position(checkpoint: Checkpoint, settings: TrainSettings, task: Task) -> None:
    """Raises CheckpointError unless the items that are used up are those of the checkpoint's steps, and the terms since
    the last logged step are the task's."""
    state, n_items = checkpoint.state, task.n_items
    if unknown := sorted(state.window.get("targets", {}).keys() - task.weights.keys()):
        raise CheckpointError(f"checkpoint {checkpoint.path} is damaged: {task.name} has no loss term {unknown[0]}")
    epoch, groups = divmod(state.step, settings.steps_per_epoch(n_items))
    expected = (epoch, groups * settings.batch_size * settings.accumulate)
    if state.position != expected:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is damaged: its position is {state.position}, step {state.step} of "
            f"{n_items} items ends at {expected}"
        )


def check_unfinished(checkpoint: Checkpoint, run_dir: Path, stop: int, settings: TrainSettings) -> None:
    """Raises CheckpointError if there is nothing left: a resume that trains nothing must not end in "complete"."""
    step, stale = checkpoint.state.step, checkpoint.state.stale
    if step >= stop:
        raise CheckpointError(
            f"nothing left to train: {run_dir} is at step {step} of {stop}; give more steps, or use its best directory"
        )
    if settings.patience and stale >= settings.patience:
        raise CheckpointError(
            f"nothing left to train: {run_dir} was stopped early at step {step}, after {stale} evaluations without a "
            "better one; raise patience to go on, or use its best directory"
        )


def how_to_go_on(run_dir: Path, hint: bool) -> str:
    """What is left of a run that was ended from outside, and with `hint` the option that continues it."""
    checkpoints = list_checkpoints(run_dir)
    if not checkpoints:
        return "there is no checkpoint yet"
    return f"the last checkpoint is {checkpoints[-1][1]}" + (f"; continue with --resume {run_dir}" if hint else "")


def what_is_left(run_dir: Path) -> str:
    """What there is of a run that has come to nothing."""
    best = read_best(run_dir)
    kept = "" if best is None else f", and {run_dir / BEST} holds step {best['step']}"
    return how_to_go_on(run_dir, hint=False) + kept


_KINDS = (RankLostError, TranscriptError, DataError)  # what derives from them may be made of other things


def line_of(error: Exception) -> str | None:
    """The message of an error after which the steps before it can be saved; None for any other."""
    if isinstance(error, OSError):
        return describe_os_error(error)
    return str(error) if isinstance(error, DataError | CheckpointError | RankLostError) else None


def ended_by(error: Exception, line: str, words: str) -> Exception:
    """The error to raise instead.

    Args:
        line: its message.
        words: what is left of the run and how to go on; may be empty.
    """
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), StoppedError)
    return kind(f"{line}; {words}" if words else line)


SPENT_FILE = "spent.json"  # time and memory of earlier sittings of a run that is not finished
# What earlier stages and sittings of a run put into its directory before a training starts there.
INPUTS = frozenset({CONFIG_FILE, "data", "codes", "teacher", "prior", SPENT_FILE, BOARDS_FOLDER})


def refuse_used(run_dir: Path, inputs: frozenset[str] = INPUTS) -> None:
    """Raises CheckpointError if a new run would be written into something that is there already, `inputs` aside."""
    if run_dir.exists() and not run_dir.is_dir():
        raise CheckpointError(f"run directory {run_dir} is a file: choose another output")
    if run_dir.is_dir() and any(entry.name not in {*inputs, LOCK} for entry in run_dir.iterdir()):
        begun = (run_dir / CONFIG_FILE).is_file() or list_checkpoints(run_dir)
        ways = f"continue with --resume {run_dir}, or choose" if begun else "choose"
        raise CheckpointError(f"run directory {run_dir} is not empty: {ways} another output")
