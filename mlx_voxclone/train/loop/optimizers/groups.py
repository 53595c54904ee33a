"""The optimisers of a run: one AdamW for the task's parameters, and one for each group that has its own.

All follow the run's schedule, each from its own peak. Each clips its gradient by the norm of its own parameters: the
gradient of a discriminator must not decide how far the model it judges may move.
"""

import math
from collections.abc import Mapping, Sequence

import mlx.core as mx

from mlx_voxclone.errors import DataError
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.optimizers.adamw import AdamW
from mlx_voxclone.train.loop.schedule import learning_rate
from mlx_voxclone.train.loop.task import ParameterGroup

# Those of codec and speech training (HiFi-GAN, DAC: 0.99 and below for the second): a memory of 100 steps follows a
# loss that changes with the codes; 1e-8 is Adam's own and of no weight beside gradients of losses of about 1.
BETAS, EPS = (0.9, 0.99), 1e-8
_SCALARS = ("step", "learning_rate")  # of an AdamW, beside the two moments of each parameter


class Optimizers:
    """AdamW over named parameters, in groups.

    Args:
        values: all trained parameters by flattened name, float32.
        settings: of the run; what the main group is moved with.
        groups: those with an optimiser of their own; every other parameter is the main group's.

    Raises:
        DataError: a group without parameters, or none left for the main one.
    """

    def __init__(self, values: Mapping[str, mx.array], settings: TrainSettings, groups: Sequence[ParameterGroup] = ()):
        self._settings = settings
        own = ParameterGroup("", settings.learning_rate, BETAS, settings.weight_decay)
        self._groups = {group.prefix: group for group in (own, *groups)}
        self._names: dict[str, list[str]] = {prefix: [] for prefix in self._groups}
        for name in values:
            self._names[self._group_of(name)].append(name)
        if empty := [prefix for prefix, names in self._names.items() if not names]:
            raise DataError(f"no trainable parameter {f'begins with {empty[0]}' if empty[0] else 'is left to train'}")
        self._adamw = {prefix: self._new(group, values) for prefix, group in self._groups.items()}

    def _new(self, group: ParameterGroup, values: Mapping[str, mx.array]) -> AdamW:
        own = {name: values[name] for name in self._names[group.prefix]}
        return AdamW(own, group.betas, EPS, group.weight_decay)

    def _group_of(self, name: str) -> str:
        return max((prefix for prefix in self._groups if name.startswith(prefix)), key=len)

    def late(self) -> set[str]:
        """Parameters that may be without gradient in the run's first steps: those of the other groups.

        The bias of a discriminator's logits has none as long as the hinge loss is in its linear range, where real and
        decoded sound pull alike.
        """
        return {n for prefix, names in self._names.items() if prefix for n in names}

    def rate(self, step: int, total: int, prefix: str = "") -> float:
        """Learning rate of a group in the step after `step` complete ones."""
        group, settings = self._groups[prefix], self._settings
        return learning_rate(
            step,
            total,
            peak=group.learning_rate,
            warmup=settings.warmup_steps,
            min_ratio=settings.min_lr_ratio,
        )

    def norm(self, norms: Mapping[str, float], prefix: str = "") -> float:
        """Norm of a group's gradient from those of its parameters."""
        return math.sqrt(sum(norms[name] ** 2 for name in self._names[prefix]))

    def updated(
        self,
        gradients: dict[str, mx.array],
        values: Mapping[str, mx.array],
        norms: Mapping[str, float],
        step: int,
        total: int,
    ) -> dict[str, mx.array]:
        """New values of all parameters, on a GPU not yet evaluated.

        `gradients` is emptied, so that each is freed when it is used up.
        """
        result = {}
        for prefix, optimizer in self._adamw.items():
            own = {name: gradients.pop(name) for name in self._names[prefix]}
            clip, norm = self._settings.grad_clip, self.norm(norms, prefix)
            scale = clip / (norm + 1e-6) if clip and norm > clip else 1.0
            result |= optimizer.updated(own, values, self.rate(step, total, prefix), scale)
        return result

    @property
    def state(self) -> list[dict]:
        """All that must be evaluated after an update."""
        return [optimizer.state for optimizer in self._adamw.values()]

    def slots(self) -> dict[str, mx.array]:
        """The whole state by name: `m/NAME`, `v/NAME`, and `step` and `learning_rate` of each optimiser."""
        slots = {}
        for prefix, optimizer in self._adamw.items():
            for name, entry in optimizer.state["parameters"].items():
                slots |= {f"{slot}/{name}": array for slot, array in entry.items()}
            slots |= {_scalar(key, prefix): optimizer.state[key] for key in _SCALARS}
        return slots

    def restore(self, slots: Mapping[str, mx.array]) -> None:
        """Takes over what `slots` gave. Raises KeyError for one that is missing."""
        for prefix, optimizer in self._adamw.items():
            for name, entry in optimizer.state["parameters"].items():
                entry.update({slot: slots[f"{slot}/{name}"] for slot in entry})
            for key in _SCALARS:
                optimizer.state[key] = slots[_scalar(key, prefix)]
        mx.eval(self.state)


def _scalar(key: str, prefix: str) -> str:
    return f"{key}@{prefix}" if prefix else key
