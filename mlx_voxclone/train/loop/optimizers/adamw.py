"""AdamW in few passes over memory: Adam with moments corrected for their start and decoupled weight decay.

Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2. The numbers are those of
`mlx.optimizers.AdamW` but for rounding. With clipping, MLX's own takes 15 operations for a parameter, each of which
reads and writes all of it. Here scalars are multiplied beforehand. That leaves 13 operations, and on a GPU they form
one compiled kernel.
"""

import math
import warnings
from collections.abc import Callable, Mapping

import mlx.core as mx


def update(
    gradient: mx.array,
    value: mx.array,
    m: mx.array,
    v: mx.array,
    m_decay: mx.array,
    m_gain: mx.array,
    v_decay: mx.array,
    v_gain_root: mx.array,
    value_decay: mx.array,
    rate: mx.array,
    eps: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """A parameter after one step, and its two moments.

    `gradient`, `value`, `m` and `v` have the parameter's shape, float32; all others are factors of `scalars`.
    """
    m = m_decay * m + m_gain * gradient
    root = v_gain_root * gradient
    v = v_decay * v + root * root
    return value_decay * value - (rate * m) / (mx.sqrt(v) + eps), m, v


def scalars(
    step: int, learning_rate: float, betas: tuple[float, float], eps: float, decay: float, scale: float
) -> list[mx.array]:
    """The factors of `update` in step `step` (from 1), of a gradient that `scale` clips.

    Both corrections divide by the same parameter's: `rate m / c1 / (sqrt(v / c2) + eps)` is
    `(rate sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2))`.
    """
    first, second = betas
    root = math.sqrt(1 - second**step)
    rate = learning_rate / (1 - first**step) * root
    factors = (
        *(first, (1 - first) * scale),
        *(second, math.sqrt(1 - second) * scale),
        *(1 - learning_rate * decay, rate, eps * root),
    )
    return [mx.array(factor, mx.float32) for factor in factors]


class AdamW:
    """One group of parameters and their moments.

    Args:
        values: parameters by name, float32.
        betas, eps, weight_decay: of the rule.
        compiler: used instead of `mx.compile`; None: `mx.compile` on a GPU, nothing on a CPU (it would need a C++
            compiler).

    Attributes:
        state: `step` and `learning_rate` (scalars), `parameters`: the moments `m` and `v` of each.
    """

    def __init__(
        self,
        values: Mapping[str, mx.array],
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        *,
        compiler: Callable[[Callable], Callable] | None = None,
    ):
        self._betas, self._eps, self._decay = betas, eps, weight_decay
        self.state = {
            "step": mx.array(0, mx.uint64),
            "learning_rate": mx.array(0.0, mx.float32),
            "parameters": {n: {"m": mx.zeros_like(a), "v": mx.zeros_like(a)} for n, a in values.items()},
        }
        if compiler is None and mx.default_device() == mx.gpu:
            compiler = mx.compile
        self._update = _tried(compiler) if compiler else update

    @property
    def compiled(self) -> bool:
        """Whether the rule is compiled."""
        return self._update is not update

    def updated(
        self, gradients: dict[str, mx.array], values: Mapping[str, mx.array], learning_rate: float, scale: float = 1.0
    ) -> dict[str, mx.array]:
        """New values of all parameters; on a GPU not yet evaluated.

        Args:
            gradients: of all parameters; emptied, so that each is freed when it is used up.
            scale: factor that clips them.
        """
        step = int(self.state["step"].item()) + 1
        self.state["step"] = mx.array(step, mx.uint64)
        self.state["learning_rate"] = mx.array(learning_rate, mx.float32)
        factors = scalars(step, learning_rate, self._betas, self._eps, self._decay, scale)
        result = {}
        for name in list(gradients):
            slot = self.state["parameters"][name]
            result[name], slot["m"], slot["v"] = self._update(
                gradients.pop(name), values[name], slot["m"], slot["v"], *factors
            )
            if mx.default_device() == mx.cpu:  # one after the other: memory is used again while it is warm
                mx.eval(result[name], slot)
        return result


def _tried(compiler: Callable[[Callable], Callable]) -> Callable:
    """The compiled rule, or the plain one with a warning where it cannot be compiled."""
    compiled, one = compiler(update), mx.ones((1,))
    try:
        mx.eval(compiled(one, one, one, one, *scalars(1, 0.0, (0.9, 0.9), 1.0, 0.0, 1.0)))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        text = f"AdamW could not be compiled ({reason}); it runs uncompiled, which is slower."
        warnings.warn(text, RuntimeWarning, stacklevel=4)
        return update
    return compiled
