"""The encoder's training steps where they are compiled: few functions, and the numbers of the plain ones."""

import mlx.core as mx
import numpy as np
import pytest
from compiling import Compiler
from encoder_made import ALL, JUDGES, TEACHER, make
from tasks_data import MemoryData, clip, scratch_codec

from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop import gradients as module
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Loader, to_device
from mlx_voxclone.train.loop.task import Padded
from mlx_voxclone.train.saved.rng import get_rng, set_rng

pytest_plugins = ["encoder_made"]

STEPS = 8
FIRST = "codec.input_proj.conv.parametrizations.weight.original1"


@pytest.fixture
def task(miniature, pairs, prior):
    """Everything that a step can hold: pairs, opponents, a teacher, quantisation noise."""
    options = {"losses": ALL, "discriminators": JUDGES}
    return make(miniature, pairs, TEACHER, prior, quantisation_noise=True, **options)


def run(task, compiler, steps=STEPS):
    """Loss sums and one gradient of each group."""
    gradients, found = Gradients(task, Masters(task, "float32"), compiler=compiler), []
    with Loader(task, batch_size=2, accumulate=1, seed=0, position=(0, 0), step=0) as loader:
        for step in range(steps):
            values, sums, _ = gradients(loader.next(), step)
            found.append(
                [*sums.values(), values["codec.input_proj.conv.parametrizations.weight.original1"].sum().item()]
            )
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("most", [64, 1])
def test_the_same_numbers_from_a_function_for_each_kind_of_batch(task, most, monkeypatch):
    """Also where there are more kinds than are compiled."""
    monkeypatch.setattr(module, "MAX_COMPILED", most)
    assert isinstance(task, Padded)
    compilers = []

    def compiler(*arguments, **state):
        compilers.append(Compiler())
        return compilers[-1](*arguments, **state)

    np.testing.assert_allclose(run(task, compiler), run(task, None), rtol=1e-4, atol=1e-5)  # another order of sums
    assert 1 <= len(compilers) <= most
    assert len(compilers) < STEPS
    assert [len(one.shapes) for one in compilers] == [1] * len(compilers)  # none is compiled a second time


def kinds_of(task, batch_size, steps):
    """What would be compiled in the steps of a training: a function for each, and each once."""
    kinds, passed = set(), 0
    with Loader(task, batch_size=batch_size, accumulate=1, seed=0, position=(0, 0), step=0) as loader:
        for _ in range(steps):
            for micro in loader.next().batches:
                batch = task.padded(micro.batch)
                fixed = {key: value for key, value in batch.items() if not isinstance(value, (np.ndarray, dict))}
                arrays = {key: value for key, value in batch.items() if isinstance(value, np.ndarray)}
                kinds.add(repr(sorted(fixed.items())) + str([(k, v.shape, v.dtype) for k, v in arrays.items()]))
                passed += 1
    assert passed >= steps
    return kinds


@pytest.fixture(scope="module")
def speech():
    """Clips of 1 to 10 s, as `prepare` makes them."""
    rng = np.random.default_rng(0)
    made = [clip(k, int(rng.uniform(1, 10) * 24000)) for k in range(30)]
    return MemoryData(made[:28], made[28:])


def test_realistic_recordings_make_few_kinds(miniature, speech):
    """Crops of 4 s, batches of 8, several epochs: all of them whole crops or not, and the last one of an epoch smaller
    or not."""
    task = EncoderTask(scratch_codec(miniature), speech, EncoderSection(crop_seconds=4.0), seed=1)
    assert len(kinds_of(task, 8, 40)) <= 4


def test_pairs_and_teachers_and_opponents_make_few_kinds(miniature, speech, pairs):
    """One for each number of pairs in a batch, before and after the opponents' warm-up."""
    section = EncoderSection(
        crop_seconds=4.0,
        quantisation_noise=True,
        losses=ALL,
        discriminators=JUDGES | {"warmup_steps": 20},
        pairs={"share": 0.5},
    )
    task = EncoderTask(scratch_codec(miniature), speech, section, seed=1, pairs=pairs, teacher=TEACHER)
    assert len(kinds_of(task, 8, 60)) <= 2 * 9 + 4


@pytest.mark.slow
def test_a_batch_of_few_kinds_has_the_same_losses(task):
    """Also where no item is a whole crop, and where the teacher understood nothing of some."""
    for epoch in range(3):
        batch = task.collate([task.item(epoch, k % 3, 0) for k in range(4)])
        plain, few = (task.losses(to_device(b)) for b in (batch, task.padded(batch)))
        assert few.keys() == plain.keys()
        for name, value in plain.items():
            assert few[name].item() == pytest.approx(value.item(), rel=2e-5), name


def test_the_order_of_items_makes_no_other_kind(task):
    items = [task.item(0, k, 0) for k in range(4)]
    batches = [task.padded(task.collate([items[k] for k in order])) for order in ((0, 1, 2, 3), (3, 1, 0, 2))]
    fixed = [{k: v for k, v in batch.items() if isinstance(v, (list, int))} for batch in batches]
    assert fixed[0] == fixed[1]
    assert "step" not in fixed[0]


def test_mlx_can_trace_it(task):
    """With the real `mx.compile`, up to what has to be computed: on a CPU that would take minutes of C++."""
    before = get_rng()
    gradients = Gradients(task, Masters(task, "float32"), compiler=mx.compile)
    try:
        with Loader(task, batch_size=3, accumulate=1, seed=0, position=(0, 0), step=0) as loader:
            for step in range(4):
                group = loader.next()
                function = gradients._function(group, step)
                (value, sums), found = function(gradients._masters.values, gradients._arrays(group.batches[0]))
                assert value.shape == ()
                assert sums.keys() == task.weights.keys()
                assert {name: v.shape for name, v in found.items()} == {
                    name: v.shape for name, v in gradients._masters.values.items()
                }
        assert 1 <= len(gradients._functions) <= 4
    finally:
        gradients._masters.restore()
        set_rng(before)
