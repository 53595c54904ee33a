"""AdamW against the published algorithm in float64, and what is compiled of it."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.train.loop.optimizers import adamw
from mlx_voxclone.train.loop.optimizers.adamw import AdamW

BETAS, EPS, DECAY = (0.8, 0.95), 1e-3, 0.3


def gradients_of(values, step):
    return {name: mx.sin(5 * array + step) * 10.0 ** (step - 2) for name, array in values.items()}


def start():
    return {"a": mx.random.normal((6, 5), key=mx.random.key(1)), "step": mx.array([0.0, 1e-6, -3.0])}


def run(optimizer, steps=5):
    values = start()
    for step in range(steps):
        values = optimizer.updated(gradients_of(values, step), values, 0.1 / (step + 1), scale=1.0 - 0.1 * step)
    return values


def published(steps=5):
    """Algorithm 2 of the paper, as it stands there, on clipped gradients."""
    values = {name: np.array(array, np.float64) for name, array in start().items()}
    m, v = ({name: np.zeros_like(array) for name, array in values.items()} for _ in range(2))
    for t in range(1, steps + 1):
        rate, clip = 0.1 / t, 1.0 - 0.1 * (t - 1)
        for name, array in values.items():
            gradient = clip * np.sin(5 * array + t - 1) * 10.0 ** (t - 3)
            m[name] = BETAS[0] * m[name] + (1 - BETAS[0]) * gradient
            v[name] = BETAS[1] * v[name] + (1 - BETAS[1]) * gradient**2
            corrected = m[name] / (1 - BETAS[0] ** t) / (np.sqrt(v[name] / (1 - BETAS[1] ** t)) + EPS)
            values[name] = array - rate * corrected - rate * DECAY * array
    return values


def test_five_steps_are_those_of_the_published_algorithm():
    values, expected = run(AdamW(start(), BETAS, EPS, DECAY)), published()
    for name, array in expected.items():
        assert np.abs(np.array(values[name]) - array).max() < 2e-6


def test_on_a_gpu_one_compiled_function_moves_every_parameter():
    """Its arguments are arrays alone: a rate that changes must not make another one."""
    calls = []

    def compiler(function):
        def compiled(*arguments):
            assert all(isinstance(argument, mx.array) for argument in arguments)
            calls.append(function)
            return function(*arguments)

        return compiled

    optimizer = AdamW(start(), BETAS, EPS, DECAY, compiler=compiler)
    values = run(optimizer)
    assert optimizer.compiled
    assert calls == [adamw.update] * (1 + 5 * 2)  # tried once, then five steps of two parameters
    plain = run(AdamW(start(), BETAS, EPS, DECAY))
    assert all(mx.array_equal(values[name], plain[name]) for name in plain)


def test_what_cannot_be_compiled_runs_uncompiled_with_a_warning():
    def compiler(function):
        def compiled(*arguments):
            raise RuntimeError("no compiler here\nmore of it")

        return compiled

    with pytest.warns(RuntimeWarning, match=r"could not be compiled \(no compiler here\); it runs uncompiled"):
        optimizer = AdamW(start(), BETAS, EPS, DECAY, compiler=compiler)
    assert not optimizer.compiled
    plain = run(AdamW(start(), BETAS, EPS, DECAY))
    assert all(mx.array_equal(array, plain[name]) for name, array in run(optimizer).items())


def test_gradients_are_used_up():
    values = start()
    gradients = gradients_of(values, 0)
    AdamW(values, BETAS, EPS, DECAY).updated(gradients, values, 0.1)
    assert gradients == {}
