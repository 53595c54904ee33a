"""The loader: every item once per epoch, the rest not dropped, reproducible from a position, errors not swallowed."""

import itertools
import threading
import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from toy_task import ToyTask

from mlx_voxclone.errors import DataError
from mlx_voxclone.train.loop.loader import Loader, epoch_order, to_device


def groups(task, count, **options):
    usual = dict(batch_size=2, accumulate=2, seed=5)
    with Loader(task, **(usual | options)) as loader:
        return [loader.next() for _ in range(count)]


def names(group):
    return [name for batch in group.batches for name in batch.items]


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name == "data"]


def test_every_item_once_per_epoch_with_the_last_partial_batch_and_group():
    made = groups(ToyTask(7), 4)
    assert [group.epoch for group in made] == [0, 0, 1, 1]
    assert [[len(batch.items) for batch in group.batches] for group in made] == [[2, 2], [2, 1]] * 2
    assert [group.n_items for group in made] == [4, 3, 4, 3]
    for epoch in (0, 1):
        seen = [name for group in made if group.epoch == epoch for name in names(group)]
        assert sorted(seen) == [f"clip{i}" for i in range(7)]
    assert [group.next_position for group in made] == [(0, 4), (1, 0), (1, 4), (2, 0)]


def test_order_is_a_permutation_of_seed_and_epoch_alone():
    first = epoch_order(50, 5, 0)
    assert sorted(first) == list(range(50))
    np.testing.assert_array_equal(first, epoch_order(50, 5, 0))
    assert not np.array_equal(first, epoch_order(50, 5, 1))
    assert not np.array_equal(first, epoch_order(50, 6, 0))
    assert not np.array_equal(first, np.arange(50))


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_from_a_position_the_same_groups_follow(skip):
    whole = groups(ToyTask(7), 5)
    rest = groups(ToyTask(7), 5 - skip, position=whole[skip - 1].next_position)
    for one, other in zip(whole[skip:], rest, strict=True):
        assert names(one) == names(other)
        assert one.targets == other.targets
        for left, right in zip(one.batches, other.batches, strict=True):
            np.testing.assert_array_equal(left.batch["x"], right.batch["x"])


def test_targets_are_those_of_the_whole_group():
    task = ToyTask(4)
    (group,) = groups(task, 1)
    lengths = [length for batch in group.batches for length in batch.batch["lengths"]]
    assert group.targets == {"mse": sum(lengths), "l1": sum((n + 1) // 2 for n in lengths)}
    assert len(set(lengths)) > 1  # else the test says little


def test_the_queue_is_bounded():
    task = ToyTask(1000)
    with Loader(task, batch_size=2, accumulate=2, seed=5, depth=2) as loader:
        loader.next()
        time.sleep(0.3)
        assert len(task.items_made) <= 4 * (1 + 2 + 1)  # taken, queued, in the producer's hand


def test_an_exception_is_raised_on_the_main_thread_and_names_the_item():
    task = ToyTask(7)
    broken = int(epoch_order(7, 5, 0)[5])
    make = task.item

    def item(epoch, index, step):
        if index == broken:
            raise DataError("clip5.wav: no such file")
        return make(epoch, index)

    task.item = item
    with Loader(task, batch_size=2, accumulate=2, seed=5) as loader:
        loader.next()
        with pytest.raises(DataError, match="clip5.wav") as caught:
            loader.next()
    assert f"item {broken} of epoch 0" in caught.value.__notes__[0]
    assert not data_threads()


def test_the_thread_ends_when_the_block_does_even_in_the_middle_of_an_endless_epoch():
    task = ToyTask(10**6)
    make = task.item
    task.item = lambda epoch, index, step: time.sleep(0.01) or make(epoch, index)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Loader(task, batch_size=10**5, accumulate=1, seed=0):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60
    assert not data_threads()


def test_a_group_without_targets_is_refused():
    task = ToyTask(4)
    task.targets = lambda batch: {"mse": 0.0, "l1": 0.0}
    with pytest.raises(DataError, match="no loss term has a target in them"):
        groups(task, 1)


@dataclass(frozen=True)
class Batch:
    """As a task may collate one."""

    x: Any
    more: Any = None


def test_batches_with_mlx_arrays_are_refused():
    task = ToyTask(4)
    collate = task.collate
    task.collate = lambda items: collate(items) | {"y": mx.zeros(3)}
    with pytest.raises(TypeError, match="'y'"):
        groups(task, 1)
    task.collate = lambda items: Batch(collate(items)["x"], {"deep": [mx.zeros(3)]})
    task.targets = lambda batch: {"mse": 1.0, "l1": 1.0}
    with pytest.raises(TypeError, match="'more'"):
        groups(task, 1)


def test_to_device_takes_arrays_at_any_depth_and_leaves_the_rest():
    moved = to_device({"a": np.ones(2, np.float32), "b": [np.arange(3), "text"], "c": {"d": (np.zeros(1), 5)}})
    leaves = [moved["a"], moved["b"][0], moved["c"]["d"][0]]
    assert all(isinstance(leaf, mx.array) for leaf in leaves)
    assert (moved["b"][1], moved["c"]["d"][1]) == ("text", 5)
    batch = to_device(Batch(np.ones(2, np.float32), Batch(np.arange(3), "text")))
    assert all(isinstance(leaf, mx.array) for leaf in (batch.x, batch.more.x))
    assert batch.more.more == "text"


def test_items_are_drawn_alike_whatever_the_batching():
    one = list(itertools.chain(*(names(group) for group in groups(ToyTask(7), 7, batch_size=1, accumulate=1))))
    other = list(itertools.chain(*(names(group) for group in groups(ToyTask(7), 2))))
    assert one == other


class ByLength(ToyTask):
    """Items that tell how long they are: 5, 1, 4, 2, 3, ..."""

    LENGTHS = (5, 1, 4, 2, 3, 6, 7, 2)

    def item(self, epoch, index, step=0):
        return {**super().item(epoch, index, step), "length": self.LENGTHS[index]}


def test_items_of_a_step_share_a_micro_batch_by_length():
    plain, sorted_ = groups(ToyTask(8), 2), groups(ByLength(8), 2)
    for one, other in zip(plain, sorted_):
        assert sorted(names(one)) == sorted(names(other))  # the step is the same
        assert one.targets == other.targets
        assert one.next_position == other.next_position
        lengths = [ByLength.LENGTHS[int(name.removeprefix("clip"))] for name in names(other)]
        assert lengths == sorted(lengths)
