"""One optimiser step: accumulation, clipping, precision, schedule, steps that are not finite."""

import json
import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from toy_task import ToyTask, settings

from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.train.loop.loader import Loader, to_device
from mlx_voxclone.train.loop.schedule import learning_rate
from mlx_voxclone.train.loop.trainer import Trainer


def train(task, run_dir, **changes):
    trainer = Trainer(task, settings(**changes), run_dir, quiet=True)
    return trainer, trainer.run()


def step_lines(run_dir):
    return [line for line in read_log(run_dir / "log.jsonl") if "event" not in line]


def weights(trainer):
    return {name: np.array(array) for name, array in trainer.masters.values.items()}


def assert_close(one, other, tolerance):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=tolerance, err_msg=name)


def test_micro_batches_equal_one_batch(tmp_path):
    """7 items of 1 to 8 targets: four micro-batches of one, two of two, one of four; the last group has 3 items."""
    runs = {}
    for batch_size, accumulate in ((1, 4), (2, 2), (4, 1)):
        run_dir = tmp_path / f"{batch_size}x{accumulate}"
        trainer, result = train(ToyTask(7), run_dir, batch_size=batch_size, accumulate=accumulate, steps=6)
        runs[batch_size] = weights(trainer), [line["loss"] for line in step_lines(run_dir)], result
    for batch_size in (1, 2):
        assert_close(runs[batch_size][0], runs[4][0], 1e-5)
        np.testing.assert_allclose(runs[batch_size][1], runs[4][1], atol=1e-5)
    start = ToyTask(7).model.out.weight
    assert np.abs(runs[4][0]["out.weight"] - np.array(start)).max() > 1e-2  # it did move


def test_equals_a_plain_loop_of_mlx_adamw(tmp_path):
    """The whole loop against ten lines that know only MLX: schedule, clipping, averages over targets, weight decay."""
    options = dict(steps=5, batch_size=7, accumulate=1, grad_clip=0.5, weight_decay=0.1)
    trainer, _ = train(ToyTask(7), tmp_path / "run", **options)

    task, chosen = ToyTask(7), settings(**options)
    optimizer = optim.AdamW(0.01, [0.9, 0.99], 1e-8, 0.1, bias_correction=True)

    def objective(batch, targets):
        sums = task.losses(batch)
        return sums["mse"] / targets["mse"] + 0.3 * sums["l1"] / targets["l1"]

    with Loader(task, batch_size=7, accumulate=1, seed=chosen.seed) as loader:
        for step in range(5):
            group = loader.next()
            gradient = nn.value_and_grad(task.model, objective)(to_device(group.batches[0].batch), group.targets)[1]
            gradient, _ = optim.clip_grad_norm(gradient, 0.5)
            optimizer.learning_rate = learning_rate(step, 5, peak=0.01, warmup=2, min_ratio=0.1)
            optimizer.update(task.model, gradient)
    expected = {name: np.array(array) for name, array in tree_flatten(task.model.trainable_parameters())}
    assert_close(weights(trainer), expected, 1e-5)


def test_gradients_are_averaged_before_clipping(tmp_path):
    """A bound between the norm of the average and that of the sum clips nothing; one below it is met exactly."""
    options = dict(steps=1, warmup_steps=0, batch_size=1, accumulate=4)
    free, _ = train(ToyTask(4), tmp_path / "free", grad_clip=0, **options)
    (line,) = step_lines(tmp_path / "free")
    norm = line["grad_norm"]

    def moment(trainer):  # after one step: (1 - beta1) * clipped gradient
        return {k[2:]: np.array(v) for k, v in trainer.optimizers.slots().items() if k.startswith("m/")}

    def size(moments):
        return math.sqrt(sum(float((m.astype(np.float64) ** 2).sum()) for m in moments.values()))

    assert size(moment(free)) == pytest.approx(0.1 * norm, rel=1e-5)
    loose, _ = train(ToyTask(4), tmp_path / "loose", grad_clip=2 * norm, **options)
    assert_close(moment(loose), moment(free), 0)
    tight, _ = train(ToyTask(4), tmp_path / "tight", grad_clip=norm / 3, **options)
    assert size(moment(tight)) == pytest.approx(0.1 * norm / 3, rel=1e-4)


def test_gradients_of_micro_batches_are_not_all_alive_together(tmp_path):
    hidden = 512
    peaks = {}
    for accumulate in (2, 8):
        task = ToyTask(8, hidden=hidden)
        mx.clear_cache()
        train(task, tmp_path / str(accumulate), steps=2, warmup_steps=0, batch_size=1, accumulate=accumulate)
        peaks[accumulate] = max(line["peak_memory_gb"] for line in step_lines(tmp_path / str(accumulate))) * 1e9
        del task
    one_gradient = 4 * hidden * hidden
    # All together would be six more. On a busy machine MLX's worker lags behind, and what is done with is freed late.
    assert peaks[8] - peaks[2] < 4 * one_gradient


def test_bf16_computes_in_bf16_on_float32_masters(tmp_path):
    task = ToyTask(7)
    seen = {}
    losses = task.losses

    def spy(batch):
        seen["trainable"] = task.model.out.weight.dtype
        seen["frozen"] = task.model.frozen.weight.dtype
        return losses(batch)

    task.losses = spy
    trainer, result = train(task, tmp_path / "run", precision="bf16", steps=40)
    assert seen == {"trainable": mx.bfloat16, "frozen": mx.float32}
    assert all(array.dtype == mx.float32 for array in trainer.masters.values.values())
    held = dict(tree_flatten(task.model.trainable_parameters()))
    for name, array in trainer.masters.values.items():
        assert held[name].dtype == mx.float32
        assert mx.array_equal(held[name], array)
    rounded = [array.astype(mx.bfloat16).astype(mx.float32) for array in trainer.masters.values.values()]
    assert not all(mx.array_equal(a, b) for a, b in zip(trainer.masters.values.values(), rounded, strict=True))
    assert result.smoothed_loss < result.first_loss / 2
    for slot in trainer.optimizers.state[0]["parameters"].values():
        assert {array.dtype for array in slot.values()} == {mx.float32}


def test_small_steps_are_not_lost_in_bf16(tmp_path):
    """A rate far below BF16's resolution of the weights still moves the masters, as it does in float32."""
    moved = {}
    for precision in ("float32", "bf16"):
        task = ToyTask(7)
        before = np.array(task.model.hidden[1].weight)
        options = dict(precision=precision, learning_rate=1e-6, steps=5, warmup_steps=0, weight_decay=0.0)
        trainer, _ = train(task, tmp_path / precision, **options)
        moved[precision] = np.abs(np.array(trainer.masters.values["hidden.1.weight"]) - before).mean()
    assert moved["bf16"] == pytest.approx(moved["float32"], rel=0.2)


def test_masters_are_float32_even_of_a_bf16_model(tmp_path):
    task = ToyTask(7)
    task.model.set_dtype(mx.bfloat16)
    trainer, _ = train(task, tmp_path / "run")
    assert {array.dtype for array in trainer.masters.values.values()} == {mx.float32}
    assert task.model.frozen.weight.dtype == mx.bfloat16


def test_evaluation_is_without_dropout_and_training_with_it(tmp_path):
    modes = []
    task = ToyTask(7, dropout=0.5)
    losses = task.losses
    task.losses = lambda batch: modes.append(task.model.dropout.training) or losses(batch)
    train(task, tmp_path / "run", steps=1, warmup_steps=0)
    assert modes == [False, False, True, True, False, False]  # two held-out batches, two micro-batches, two again


def test_frozen_parameters_stay(tmp_path):
    task = ToyTask(7)
    before = np.array(task.model.frozen.weight), np.array(task.model.frozen.bias)
    trainer, _ = train(task, tmp_path / "run")
    np.testing.assert_array_equal(before[0], np.array(task.model.frozen.weight))
    np.testing.assert_array_equal(before[1], np.array(task.model.frozen.bias))
    assert not any(name.startswith("frozen") for name in trainer.optimizers.state[0]["parameters"])
    assert set(trainer.optimizers.state[0]["parameters"]) == set(trainer.masters.values)


def test_quantised_base_with_lora_trains_lora_only(tmp_path):
    """A quantised linear under LoRA: its integers are frozen, and a slip that unfreezes them is named."""

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.QuantizedLinear.from_linear(nn.Linear(64, 8), group_size=64)
            self.lora_a, self.lora_b = mx.random.normal((64, 2)), mx.zeros((2, 8))

        def __call__(self, x):
            return (self.base(x) + x @ self.lora_a @ self.lora_b)[..., 0]

    def adapted():
        task = ToyTask(4)
        task.model = Adapted()
        collate = task.collate
        task.collate = lambda items: (b := collate(items)) | {"x": np.pad(b["x"], ((0, 0), (0, 0), (0, 58)))}
        heldout = list(task.heldout_batches())
        task.heldout_batches = lambda: [b | {"x": np.pad(b["x"], ((0, 0), (0, 0), (0, 58)))} for b in heldout]
        return task

    task = adapted()
    task.model.freeze()
    task.model.unfreeze(keys=["lora_a", "lora_b"], strict=False)
    trainer, result = train(task, tmp_path / "lora", steps=20)
    assert set(trainer.masters.values) == {"lora_a", "lora_b"}
    assert result.smoothed_loss < result.first_loss

    task = adapted()
    task.model.unfreeze()
    with pytest.raises(VoxcloneError, match=r"base\.weight is .*uint32.*freeze it"):
        Trainer(task, settings(), tmp_path / "slip")


def test_schedule_warms_up_and_ends_at_the_floor():
    rates = [learning_rate(step, 20, peak=1.0, warmup=4, min_ratio=0.1) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    middle = (4 + 19) / 2
    assert rates[int(middle)] + rates[int(middle) + 1] == pytest.approx(1.1)  # half a cosine is symmetric
    assert learning_rate(0, 1, peak=1.0, warmup=0, min_ratio=0.1) == 1.0


def test_a_step_that_is_not_finite_is_skipped_counted_and_named(tmp_path, capsys):
    clean = ToyTask(8)
    train(clean, tmp_path / "clean", steps=2, warmup_steps=0, batch_size=1, accumulate=1)
    task = ToyTask(8)
    first = clean.items_made[0][1]
    task.poisoned = {first}
    trainer, result = train(task, tmp_path / "run", steps=8, batch_size=1, accumulate=1)
    (skip,) = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line.get("event") == "skip"]
    assert (skip["step"], skip["items"], skip["sums"]["mse"]) == (1, [f"clip{first}"], "nan")
    assert f"warning: toy: step 1 skipped, loss or gradient not finite: clip{first}" in capsys.readouterr().err
    assert (result.steps, result.skipped) == (8, 1)
    lines = step_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(2, 9))
    assert {line["skipped"] for line in lines} == {1}
    assert all(mx.all(mx.isfinite(array)).item() for array in trainer.masters.values.values())
    assert trainer.optimizers.slots()["step"].item() == 7


def test_a_skipped_step_leaves_parameters_and_optimiser_untouched(tmp_path):
    task = ToyTask(8)
    task.poisoned = set(range(8))
    before = {name: np.array(array) for name, array in tree_flatten(task.model.trainable_parameters())}
    trainer = Trainer(task, settings(), tmp_path / "run", quiet=True)
    with pytest.raises(VoxcloneError):
        trainer.run()
    assert_close(weights(trainer), before, 0)
    assert all(not mx.any(slot["m"]).item() for slot in trainer.optimizers.state[0]["parameters"].values())


def test_too_many_in_a_row_stop_the_run_with_step_and_items(tmp_path):
    task = ToyTask(8)
    task.poisoned = set(range(8))
    trainer = Trainer(task, settings(batch_size=1, accumulate=1), tmp_path / "run", quiet=True)
    with pytest.raises(
        VoxcloneError, match=r"not finite in 5 consecutive steps, the last at step 5 with clip\d: check"
    ):
        trainer.run()
    assert len(task.items_made) >= 5


def test_skips_apart_from_each_other_do_not_stop_the_run(tmp_path):
    task = ToyTask(8)
    task.poisoned = {0, 1, 2}
    _, result = train(task, tmp_path / "run", steps=40, batch_size=1, accumulate=1)
    assert result.skipped == 15  # in all far more than MAX_SKIPPED


def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path):
    """The loss is finite, its gradient is not: sqrt at 0. `clip_grad_norm` would have made every weight NaN."""
    task = ToyTask(4)
    losses = task.losses

    def with_infinite_slope(batch):
        sums = losses(batch)
        zero = mx.sum(task.model.out.bias - mx.stop_gradient(task.model.out.bias))
        return sums | {"mse": sums["mse"] + (mx.sqrt(zero) if task.model.training else 0)}

    task.losses = with_infinite_slope
    with pytest.raises(VoxcloneError, match="consecutive"):
        Trainer(task, settings(), tmp_path / "run", quiet=True).run()
    skips = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line.get("event") == "skip"]
    assert len(skips) == 5
    assert len(skips[0]["items"]) == 4  # which of them it was cannot be told
    assert all(math.isfinite(value) for value in skips[0]["sums"].values())


def test_a_run_of_nothing_but_skips_does_not_end_well(tmp_path):
    task = ToyTask(4)
    task.poisoned = set(range(4))
    with pytest.raises(VoxcloneError, match="no loss or gradient of its 3 steps was finite"):
        Trainer(task, settings(steps=3), tmp_path / "run", quiet=True).run()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_parameter_without_gradient_is_named_once(tmp_path, capsys):
    task = ToyTask(7)
    task.model.idle = nn.Linear(3, 3)
    train(task, tmp_path / "run")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "zero gradient" in line]
    assert len(warnings) == 1
    assert "2 of 8 trainable parameters" in warnings[0]
    assert "idle.bias, idle.weight" in warnings[0]
    train(ToyTask(7), tmp_path / "sound")
    assert "no gradient" not in capsys.readouterr().err


def test_a_parameter_whose_first_gradient_is_zero_is_not_blamed(tmp_path, capsys):
    """LoRA: B is zero, so A has no gradient in the first step."""
    task = ToyTask(7)
    task.model.out.weight = mx.zeros_like(task.model.out.weight)
    train(task, tmp_path / "run")
    assert "no gradient" not in capsys.readouterr().err


def test_log_lines_hold_every_figure(tmp_path):
    train(ToyTask(7), tmp_path / "run", steps=9, log_every=4)
    lines = step_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == [4, 8, 9]
    wanted = {"step", "epoch", "lr", "loss", "mse", "l1", "grad_norm", "items_per_s", "targets_per_s", "seconds"}
    assert set(lines[0]) == wanted | {"peak_memory_gb", "skipped"}
    for line in lines:
        assert line["loss"] == pytest.approx(line["mse"] + 0.3 * line["l1"])
    assert [line["epoch"] for line in lines] == [1, 3, 4]


def test_a_logged_line_is_the_mean_over_targets_of_its_window(tmp_path):
    train(ToyTask(7), tmp_path / "each", steps=8)
    train(ToyTask(7), tmp_path / "fourth", steps=8, log_every=4)
    with Loader(ToyTask(7), batch_size=2, accumulate=2, seed=5) as loader:
        counts = [loader.next().targets["mse"] for _ in range(8)]
    each = [line["mse"] for line in step_lines(tmp_path / "each")]
    for k, line in enumerate(step_lines(tmp_path / "fourth")):
        window = slice(4 * k, 4 * k + 4)
        assert line["mse"] == pytest.approx(np.average(each[window], weights=counts[window]))


def test_training_ignores_evaluation_and_samples(tmp_path):
    """They use random numbers, and dropout does too: the losses must not depend on how often one evaluates."""
    seldom, _ = train(ToyTask(7, dropout=0.3), tmp_path / "seldom")
    often, _ = train(ToyTask(7, dropout=0.3), tmp_path / "often", eval_every=1, sample_every=1, save_every=1)
    assert_close(weights(seldom), weights(often), 0)


def test_loss_terms_must_be_those_of_the_weights(tmp_path):
    task = ToyTask(4)
    task.losses = lambda batch: {"mse": mx.sum(task.model(batch["x"]))}
    with pytest.raises((ValueError, KeyError), match="l1"):
        Trainer(task, settings(), tmp_path / "run", quiet=True).run()
    task.weights = {"seconds": 1.0}
    with pytest.raises(ValueError, match="seconds"):
        Trainer(task, settings(), tmp_path / "other", quiet=True)


def test_log_is_strict_json(tmp_path):
    task = ToyTask(8)
    task.poisoned = {0, 1}
    train(task, tmp_path / "run", batch_size=1, accumulate=1)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
