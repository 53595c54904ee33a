"""The order of an epoch over shards: every item once, each shard in one stretch, any part without what precedes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_voxclone.data.shards.order import ShardOrder

SIZES = [7, 0, 5, 11, 1, 6, 3, 9, 4]
ENDS = np.cumsum(SIZES)


def order(mix=3, seed=5, epoch=0, ends=ENDS):
    return ShardOrder(ends, mix, seed, epoch)


def shard_of(items):
    return np.searchsorted(ENDS, items, side="right")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_every_item_once_and_any_part_is_that_of_the_whole(sizes, mix, epoch, data):
    ends = np.cumsum(sizes)
    whole = order(mix, epoch=epoch, ends=ends)[:]
    assert sorted(whole) == list(range(sum(sizes)))
    first = data.draw(st.integers(0, len(whole)))
    last = data.draw(st.integers(0, len(whole) + 3))
    np.testing.assert_array_equal(order(mix, epoch=epoch, ends=ends)[first:last], whole[first:last])


@pytest.mark.parametrize("mix", [1, 3, 20])
def test_a_shard_is_needed_in_one_stretch_among_at_most_so_many(mix):
    made = order(mix)
    place = 0
    for group in made.groups:
        size = sum(SIZES[s] for s in group)
        assert set(shard_of(made[place : place + size])) == set(group)
        assert len(group) <= mix
        place += size
    assert place == len(made) == sum(SIZES)


def test_items_of_the_shards_of_a_group_are_mixed():
    ends = np.arange(1, 5) * 100
    first = np.searchsorted(ends, order(2, ends=ends)[:100], side="right")
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 2
    assert counts.min() > 30


def test_it_depends_on_seed_and_epoch_alone():
    np.testing.assert_array_equal(order()[:], order()[:])
    assert (order()[:] != order(epoch=1)[:]).any()
    assert (order()[:] != order(seed=6)[:]).any()
    assert [list(g) for g in order().groups] != [list(g) for g in order(epoch=1).groups]


def test_of_a_large_corpus_only_the_few_shards_in_use_are_laid_out():
    made = ShardOrder(np.arange(1, 100_001) * 100_000, 4, 0, 0)  # ten thousand million items
    part = made[7_654_321_000:7_654_321_016]
    assert len(set(part)) == 16
    assert made._made[1].nbytes <= 8 * 4 * 100_000


def test_the_shards_of_every_group_are_mixed_in_another_way():
    """Groups of one size: no two of them have the same order, in one epoch or in two."""
    ends = np.arange(1, 9) * 30
    orders = [ShardOrder(ends, 2, 5, epoch)[:].reshape(4, 60) for epoch in (0, 1)]
    ways = {tuple(part.argsort().argsort()) for made in orders for part in made}
    assert len(ways) == 8
