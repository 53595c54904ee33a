"""Which states of a run are saved: sound ones only. A ruined state never replaces or prunes a good checkpoint."""

from pathlib import Path

from mlx_voxclone.files.run_log import JsonLog
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop import heldout
from mlx_voxclone.train.loop.gradients import Masters
from mlx_voxclone.train.loop.optimizers.groups import Optimizers
from mlx_voxclone.train.loop.task import Task
from mlx_voxclone.train.saved import state as states
from mlx_voxclone.train.saved.state import RunState


class Keeper:
    """Writes the checkpoints of a run directory.

    Args:
        task, settings, masters, optimizers: of the run.
        identity: goes into every checkpoint, see `states.save_checkpoint`.
        run_dir: of the run.

    Attributes:
        saved: the step whose state is saved as it is now; -1: none.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        masters: Masters,
        optimizers: Optimizers,
        identity: dict,
        run_dir: Path,
    ):
        self._task, self._settings, self._identity, self._run_dir = task, settings, identity, run_dir
        self._masters, self._optimizers = masters, optimizers
        self.saved, self._owed = -1, False

    def wants(self, state: RunState, due: bool) -> bool:
        """Whether a checkpoint is due, now or since a step that could not be kept."""
        self._owed = self._owed or (due and self.saved != state.step)
        return self._owed

    def sound(self, state: RunState) -> bool:
        """See `heldout.is_sound`."""
        tensors = {**self._masters.values, **self._optimizers.slots()}
        with self._masters.inference(self._settings.seed):
            return heldout.is_sound(self._task, state, tensors)

    def save(self, state: RunState, log: JsonLog, prune: bool = True) -> None:
        """Write the checkpoint of a sound state, and remove those that are too old by the settings."""
        path = states.save_checkpoint(
            self._run_dir, state, self._masters.values, self._optimizers.slots(), self._identity
        )
        self.done(state)
        log.write({"event": "checkpoint", "step": state.step, "path": f"{states.CHECKPOINTS}/{path.name}"})
        if prune:
            states.prune(self._run_dir, self._settings.keep, state.step)

    def done(self, state: RunState) -> None:
        """Note that the state is saved, by whichever rank."""
        self.saved, self._owed = state.step, False
