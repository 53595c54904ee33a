"""TensorBoard, Weights & Biases, MLflow: each receives the run's numbers. Their packages are extras, loaded when named.

A board goes on where it was when the run is resumed. What a board raises ends that board, with a warning, never the
training.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.run_log import BOARDS_FOLDER, records_to
from mlx_voxclone.tracking.figures import figures, numbers

PROJECT = "mlx_voxclone"


class Board(Protocol):
    """One place where figures are shown."""

    def show(self, step: int, values: dict[str, float]) -> None:
        """Figures of one training at a step; names are `TRAINING/FIGURE`."""
        ...

    def close(self, finished: bool) -> None:
        """Nothing more comes. `finished`: the run came to its end."""
        ...


class TensorBoard:
    """Event files in `RUN/boards/tensorboard`: `tensorboard --logdir RUN/boards/tensorboard`."""

    def __init__(self, run_dir: Path, settings: dict[str, float]):
        from tensorboardX import SummaryWriter

        directory = run_dir / BOARDS_FOLDER / "tensorboard"
        sitting = len(list(directory.glob("*"))) if directory.is_dir() else 0  # a file for each, also in one second
        self._writer = SummaryWriter(str(directory), filename_suffix=f".{sitting}")
        self._writer.add_text("settings", "\n\n".join(f"`{key}`: {value:g}" for key, value in settings.items()))

    def show(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `mlx_voxclone`; the user's own environment (WANDB_...) says where, and as whom."""

    def __init__(self, run_dir: Path, settings: dict[str, float]):
        import wandb

        (run_dir / BOARDS_FOLDER).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=PROJECT,
            id=_remembered(run_dir / BOARDS_FOLDER / "wandb-id.txt", lambda: secrets.token_hex(4)),
            resume="allow",
            dir=str(run_dir / BOARDS_FOLDER),
            config=settings,
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                save_code=False,
                disable_code=True,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
        self._axes: set[str] = set()

    def show(self, step: int, values: dict[str, float]) -> None:
        # Trainings count their steps from 1 each, and wandb has one count for all: each gets an axis of its own.
        training = next(iter(values)).partition("/")[0]
        axis = f"{training}/step"
        if axis not in self._axes:
            self._axes.add(axis)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{training}/*", step_metric=axis)
        self._run.log({axis: step, **values})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of the experiment `mlx_voxclone` at `MLFLOW_TRACKING_URI`, the user's own."""

    def __init__(self, run_dir: Path, settings: dict[str, float]):
        import mlflow

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:
            raise ConfigError(
                "report_to: mlflow: set MLFLOW_TRACKING_URI to where it is, such as http://localhost:5000"
            )
        (run_dir / BOARDS_FOLDER).mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(place)
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        self._id = _remembered(
            run_dir / BOARDS_FOLDER / "mlflow-id.txt", lambda: self._client.create_run(experiment).info.run_id
        )
        self._client.update_run(self._id, status="RUNNING")
        for key, value in settings.items():
            self._client.log_param(self._id, key, f"{value:g}")

    def show(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


# Name in the configuration -> its class, and the extra that brings its package.
BOARDS: dict[str, Callable[[Path, dict[str, float]], Board]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


@contextmanager
def shown(
    names: Sequence[str], run_dir: Path, config: Mapping[str, Any], say: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """In this block all that goes into the run's logs is shown on these boards.

    Args:
        names: of `BOARDS`.
        run_dir: that the logs lie below.
        config: whose numbers are told as the run's settings.
        say: receives warnings.

    Raises:
        ConfigError: a board's package is not installed, or it cannot be opened.
    """
    if not names:
        yield
        return
    boards, finished = {}, False
    try:
        for name in names:
            boards[name] = _opened(name, run_dir, numbers(config))
        with records_to(lambda path, record: _show(boards, path, record, run_dir, say)):
            yield
        finished = True
    finally:
        for name, board in boards.items():
            try:
                board.close(finished)
            except Exception as e:  # other people's code: the run's end must not depend on it
                say(f"warning: report_to: {name} could not be closed ({_brief(e)})")


def _opened(name: str, run_dir: Path, settings: dict[str, float]) -> Board:
    try:
        return BOARDS[name](run_dir, settings)
    except ConfigError:
        raise
    except ImportError as e:
        raise ConfigError(
            f"report_to: {name} needs {e.name}; install it with: pip install 'mlx-voxclone[{name}]'"
        ) from None
    except Exception as e:  # a chain of other people's code: any failure ends here
        raise ConfigError(f"report_to: {name} cannot be opened ({_brief(e)}); take it out of report_to") from None


def _show(
    boards: dict[str, Board], path: Path, record: Mapping[str, Any], run_dir: Path, say: Callable[[str], None]
) -> None:
    with suppress(ValueError):
        path = path.relative_to(run_dir)
    training = path.parent.as_posix() if path.parent.name else str(record.get("task", "training"))
    told = figures(training, record)
    for name in list(boards) if told else ():
        try:
            boards[name].show(*told)
        except Exception as e:  # such as a server that is gone
            del boards[name]
            say(f"warning: report_to: {name} takes no more figures ({_brief(e)}); the training goes on without it")


def _remembered(path: Path, new: Callable[[], str]) -> str:
    """The id of a board's run, kept for the day the run is resumed."""
    if not path.is_file():
        write_text_atomic(path, new() + "\n")
    return path.read_text(encoding="utf-8").strip()


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
