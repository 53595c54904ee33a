"""What a run came to: returned by `Trainer.run` and kept as `result.json` in the run directory."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json, reason_of
from mlx_voxclone.train.saved.state import RunState

RESULT_NAME = "result.json"


@dataclass(frozen=True)
class TrainResult:
    """Figures of a run over all its sittings. A loss is the weighted sum of its terms, each a mean over its targets."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    steps: int  # complete, out of `total_steps`
    total_steps: int
    first_loss: float  # training loss of the first step, as it was
    last_loss: float  # of the last step
    smoothed_loss: float  # mean of the last few steps: the one to compare with `first_loss` on a noisy task
    first_terms: dict[str, float]
    last_terms: dict[str, float]
    evaluations: list[dict]  # {"step", "metrics"}; the first is of step 0, before any training
    metric: str  # name of the held-out metric that chose the best
    best_step: int
    best_metric: float
    seconds: float
    peak_memory_gb: float
    skipped: int  # steps left out because they were not finite
    stopped_early: bool

    @property
    def complete(self) -> bool:
        """Whether the run has ended: all its steps are done, or early stopping ended it."""
        return self.stopped_early or self.steps >= self.total_steps

    @classmethod
    def of(cls, state: RunState, best: dict, metric: str, **rest) -> "TrainResult":
        """The figures of a state with at least one good step; `rest`: the fields that a state does not hold."""
        return cls(
            steps=state.step,
            first_loss=state.first["loss"],
            last_loss=state.last["loss"],
            smoothed_loss=sum(state.recent) / len(state.recent),
            first_terms=state.first["terms"],
            last_terms=state.last["terms"],
            evaluations=state.evaluations,
            metric=metric,
            best_step=best["step"],
            best_metric=best["value"],
            skipped=state.skipped,
            **rest,
        )

    def save(self, run_dir: Path) -> None:
        write_text_atomic(Path(run_dir) / RESULT_NAME, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, run_dir: Path) -> "TrainResult | None":
        """The result of a run that has stopped by itself, or None if there is none yet. Raises CheckpointError."""
        path = Path(run_dir) / RESULT_NAME
        if not path.is_file():
            return None
        try:
            return _SCHEMA.validate_json(json.dumps(read_json(path)), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
            raise CheckpointError(f"{path} cannot be read ({reason}): delete it and resume the run") from None
        except (OSError, ValueError) as error:
            reason = reason_of(error)
            raise CheckpointError(f"{path} cannot be read ({reason}): delete it and resume the run") from error


_SCHEMA = TypeAdapter(TrainResult)
