"""Training steps that are compiled: few shapes, the same numbers, new random ones every time, nothing frozen."""

import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from compiling import Compiler
from kept_made import kept, kept_item
from mlx.utils import tree_unflatten
from speaker_made import codes
from tasks_data import full_model
from toy_task import settings

from mlx_voxclone.adapters.lora import add_lora, lora_parameters
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.train.loop import trainer
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Group, Loader, MicroBatch, to_device
from mlx_voxclone.train.loop.task import Padded, fingerprint_of
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.rng import get_rng
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.buckets import FRAMES, POSITIONS, bucket
from mlx_voxclone.train.speaker.preservation import KeptPairs
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance

# --- the wrapper ------------------------------------------------------------------------------------------------------


class Tiny:
    """Fits `x * w` with dropout on rows of 1 to 8 numbers, padded to 4 or 8; the weight of its term changes."""

    name, metric, n_items = "tiny", "loss", 8

    def __init__(self):
        self.model, self.traces, self.dropout = nn.Module(), 0, nn.Dropout(0.5)
        self.model.w = mx.ones(1)
        self.model.dropout = self.dropout
        self.weights, self.fails = {"mse": 1.0}, False

    def weights_at(self, step):
        return {"mse": 1.0 + step}

    def item(self, epoch, index, step=0):
        return {"x": np.random.default_rng([epoch, index]).standard_normal(index % 8 + 1).astype(np.float32)}

    def collate(self, items):
        return {"x": items[0]["x"]}

    def padded(self, batch):
        return {"x": np.pad(batch["x"], (0, bucket(len(batch["x"]), 4) - len(batch["x"])))}

    def targets(self, batch):
        return {"mse": float(len(batch["x"]))}

    def losses(self, batch):
        self.traces += 1
        value = mx.sum(mx.square(self.dropout(batch["x"] * self.model.w)))
        if self.fails:
            raise ZeroDivisionError
        return {"mse": value}

    def heldout_batches(self):
        yield {"x": np.ones(4, np.float32)}

    def extra_metrics(self):
        return {}

    def export(self, directory, parameters):
        (directory / "w").write_text(str(parameters["w"].tolist()))

    def fingerprint(self):
        return fingerprint_of()


def plainly(function, inputs, outputs):
    return function


def steps(task, compiler, count=6):
    """Gradients and loss of so many groups, and the random state after each."""
    mx.random.seed(3)
    gradients, found = Gradients(task, Masters(task, "float32"), compiler=compiler), []
    with Loader(task, batch_size=1, accumulate=4, seed=0) as loader:
        for step in range(count):
            values, sums, _ = gradients(loader.next(), step)
            found.append((values["w"].item(), sums["mse"], get_rng()))
    return found


@pytest.mark.slow
def test_compiled_steps_are_the_same_steps(tmp_path, monkeypatch):
    """With the real thing, in the smallest task there is, as each shape goes through a C++ compiler here: the numbers
    drawn and the weight that changes with the step are not those of the first call."""
    task = Tiny()
    compiled = steps(task, mx.compile)
    assert task.traces == 2  # rows of eight lengths, padded to 4 or 8
    plain = steps(Tiny(), plainly)
    for a, b in zip(compiled, plain, strict=True):
        assert a[:2] == pytest.approx(b[:2], rel=1e-5)
        assert a[2] == b[2]
    # Stopped and resumed.
    monkeypatch.setattr(trainer, "Gradients", lambda *a: Gradients(*a, compiler=mx.compile))
    usual = settings(steps=4, batch_size=1, learning_rate=0.1)
    Trainer(Tiny(), usual, tmp_path / "whole", quiet=True).run()
    Trainer(
        Tiny(), settings(steps=4, batch_size=1, learning_rate=0.1, stop_after=2), tmp_path / "two", quiet=True
    ).run()
    Trainer(Tiny(), usual, resume=tmp_path / "two", quiet=True).run()
    states = [(tmp_path / run / "checkpoints/step-4/model.safetensors").read_bytes() for run in ("whole", "two")]
    assert states[0] == states[1]


def test_a_trace_that_fails_leaves_the_generator_as_it_was():
    task = Tiny()
    gradients = Gradients(task, Masters(task, "float32"), compiler=mx.compile)
    batch = task.collate([task.item(0, 0)])
    mx.random.seed(5)
    before = get_rng()
    task.fails = True
    with pytest.raises(ZeroDivisionError):
        gradients(Group(0, [MicroBatch(batch, ["x"])], {"mse": 1.0}, 1, (0, 1)), 0)
    assert get_rng() == before
    assert np.isfinite(mx.random.uniform().item())
    assert task.model.w.item() == 1  # and the model its parameters


@pytest.mark.parametrize("where", ["trace", "run"])
def test_what_cannot_be_compiled_runs_as_it_is(where):
    """One warning, and the same numbers as if nobody had tried."""

    def broken(function, inputs, outputs):
        def compiled(*arguments):
            if where == "run":
                function(*arguments)  # random numbers are drawn before it fails
            raise RuntimeError("[metal::Device] Unable to build metal library\nerror: no such type")

        return compiled

    expected = steps(Tiny(), None)
    with pytest.warns(RuntimeWarning, match=r"could not be compiled \(\[metal::Device\] Unable to build") as caught:
        assert steps(Tiny(), broken) == expected
    assert len(caught) == 1


@pytest.mark.parametrize(
    "line",
    [
        "[metal::malloc] Unable to allocate 17179869184 bytes.",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008)",
        "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002)",
        "cudaMallocAsync(&data, size, stream) failed: out of memory",
    ],
)
def test_what_the_device_refuses_is_not_taken_for_what_cannot_be_compiled(line, recwarn):
    """It is told as it is, at once; the next step is compiled again."""
    refusing, calls = [True], []

    def device(function, inputs, outputs):
        def compiled(*arguments):
            calls.append(None)
            if refusing:
                raise RuntimeError(line)
            return function(*arguments)

        return compiled

    task = Tiny()
    mx.random.seed(3)
    gradients = Gradients(task, Masters(task, "float32"), compiler=device)
    with Loader(task, batch_size=1, accumulate=1, seed=0) as loader:
        group, before = loader.next(), get_rng()
        with pytest.raises(RuntimeError, match=re.escape(line)):
            gradients(group, 0)
        assert (len(calls), get_rng(), gradients.compiled) == (1, before, True)
        refusing.clear()
        gradients(group, 0)
    assert len(calls) == 2
    assert [str(one.message) for one in recwarn] == []


def test_nothing_is_compiled_on_a_cpu(monkeypatch):
    task = Tiny()
    masters = Masters(task, "float32")
    assert isinstance(task, Padded)
    monkeypatch.setattr(mx, "default_device", lambda: mx.cpu)
    assert not Gradients(task, masters).compiled
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert Gradients(task, masters).compiled
    assert not Gradients(Unpadded(), masters).compiled


class Unpadded(Tiny):
    padded = None


# --- task `speaker` ---------------------------------------------------------------------------------------------------


@pytest.fixture
def speaker(miniature):
    """Clips of 2 to 80 frames behind voices of 4 to 13 rows, with pairs to keep."""
    model = full_model(miniature)
    add_lora(model, rank=4, alpha=8.0)
    for k, (name, value) in enumerate(lora_parameters(model).items()):
        if name.endswith("lora_b"):
            model.update(tree_unflatten([(name, 0.05 * mx.random.normal(value.shape, key=mx.random.key(k)))]))
    section = SpeakerSection(reference_seconds=[0.3, 1.0], max_seconds=8.0, preserve={"share": 0.25})
    frames = [2, 5, 9, 14, 20, 27, 33, 41, 50, 63, 80, 31]
    clips = [
        Utterance(str(k), "some words " * (1 + k % 3), codes(n, k), (codes(20, 99),)) for k, n in enumerate(frames)
    ]
    rows = [kept(n) for n in range(1, 4)]

    def prompt(text, count):
        return [1, *[model.config.audio_token_id] * count, *[2] * len(text)]

    pairs = KeptPairs(rows[:2], rows[2:], "")
    return SpeakerTask(AdaptedModel(model, prompt), SpeakerData(clips, clips[:1], pairs), section)


def gradients_of(task, items, compiler):
    batch = task.collate(items)
    group = Group(0, [MicroBatch(batch, ["x"])], task.targets(batch), len(items), (0, len(items)))
    found, sums, _ = Gradients(task, Masters(task, "float32"), compiler=compiler)(group, 0)
    return {name: np.array(value) for name, value in found.items()}, sums


@pytest.mark.parametrize("with_kept", [False, True])
def test_padding_changes_no_loss_and_no_gradient(speaker, with_kept):
    items = [speaker.item(0, 0), speaker.item(0, 4)]
    if with_kept:
        items.insert(1, kept_item(speaker, 1))
        items.append(kept_item(speaker, 2))
    batch = speaker.collate(items)
    padded = speaker.padded(batch)
    assert padded.ids.shape[1] % POSITIONS == 0 != batch.ids.shape[1] % POSITIONS
    assert len(padded.flow_positions) % FRAMES == 0
    plain, sums = gradients_of(speaker, items, None)
    found, wide_sums = gradients_of(speaker, items, plainly)
    assert wide_sums == pytest.approx(sums, rel=1e-5, abs=1e-7)
    assert any(np.abs(value).max() > 1e-3 for value in plain.values())
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-6, err_msg=name)


def test_lengths_share_shapes(speaker):
    """What would be compiled: as many as there are pairs of (positions, frames), and not of lengths."""
    compiler = Compiler()
    gradients = Gradients(speaker, Masters(speaker, "float32"), compiler=compiler)
    lengths, buckets = set(), set()
    speaker._kept = None
    for epoch in range(2):
        for index in range(len(speaker._train)):
            batch = speaker.collate([speaker.item(epoch, index)])
            group = Group(0, [MicroBatch(batch, ["x"])], speaker.targets(batch), 1, (0, 1))
            gradients._function(group, 0)(
                gradients._masters.values, gradients._arrays(group.batches[0])
            )  # traced, and not computed
            padded = to_device(speaker.padded(batch))
            lengths.add((batch.ids.shape, len(batch.flow_positions)))
            buckets.add((padded.ids.shape, padded.start, padded.flow_positions.shape))
    gradients._masters.restore()
    assert len(compiler.shapes) == len(buckets) < len(lengths) / 2
