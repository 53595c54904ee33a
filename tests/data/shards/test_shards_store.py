"""Bytes of shards: on this disk, from a server, in a cache that is bounded, verified and fetched into ahead."""

import contextlib
import hashlib
import os
import threading
import time

import numpy as np
import pytest
from shards_made import check_all, line_of
from toy_task import ToyTask
from waiting import wait_for

from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.fetch import Abandoned
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.train.loop.loader import Loader

pytest_plugins = ["shards_fixtures"]
GB = 1e-9


# ---- on this disk ----------------------------------------------------------------------------------------------------


def test_local_shards_are_read_where_they_lie(shards, tmp_path):
    check_all(ShardData(shards, cache=tmp_path / "cache"))
    check_all(ShardData(shards / "index.jsonl", cache=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_a_missing_shard_is_named(shards):
    (shards / "shard-00002.tar").unlink()
    line = line_of(lambda: ShardData(shards))
    assert line.startswith(f"{shards}/shard-00002.tar: the shard is missing")
    assert "put it back" in line


def test_a_shard_that_is_cut_off_is_named(shards):
    os.truncate(shards / "shard-00002.tar", 20_000)
    assert line_of(lambda: ShardData(shards)).startswith(f"{shards}/shard-00002.tar: the shard is cut off: 20000 bytes")


@pytest.mark.parametrize("what", ["gone", "cut"])
def test_a_shard_that_is_lost_later_is_named(shards, what):
    data, path = ShardData(shards), shards / "shard-00000.tar"
    path.unlink() if what == "gone" else os.truncate(path, 600)
    words = {"gone": "the shard is missing", "cut": "the shard is cut off"}
    assert f"{path}: {words[what]}" in line_of(data.train[0].read)


def tamper(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_changed_shard_is_named(shards):
    data = ShardData(shards)
    tamper(shards / "shard-00000.tar", data.train[0].line.offset + 4000)
    line = line_of(data.train[0].read)
    assert line.startswith(f"{shards}/shard-00000.tar: the shard is not what the index was made from")
    data.train[1].read()


def test_many_shards_are_read_with_few_open_files(shards, monkeypatch):
    monkeypatch.setattr("mlx_voxclone.data.shards.store._OPEN_FILES", 2)
    data = ShardData(shards)
    check_all(data)
    assert len(data.store._files) == 2


def test_digests_are_those_of_the_files(shards):
    for shard in ShardData(shards).index.shards:
        assert hashlib.sha256((shards / shard.place).read_bytes()).hexdigest() == shard.sha256


# ---- from a server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(shards, server, tmp_path):
    """`remote(**options)`: the data by its address, and the server."""
    one = server(shards)

    def load(**options):
        options = {"cache_gb": 1.0, "mix": 2} | options
        return ShardData(one.address, cache=tmp_path / "cache", **options), one

    return load


def tars(place):
    """Sizes of the shards that are there, some of which another thread may be dropping."""
    sizes = []
    for path in place.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sorted(sizes)


def test_shards_are_fetched_once(remote, tmp_path):
    data, server = remote()
    check_all(data)
    check_all(remote()[0])
    assert {n for name, n in server.asked.items() if name.endswith(".tar")} == {1}
    assert len(tars(tmp_path / "cache")) == 7
    assert not [path for path in (tmp_path / "cache").rglob("*.partial") if path.stat().st_size]


def test_the_cache_stays_within_its_size_and_drops_what_was_not_used_for_longest(remote, tmp_path):
    data, server = remote(cache_gb=130_000 * GB)
    largest = 0
    for clip in data.train:
        clip.read()
        largest = max(largest, sum(tars(tmp_path / "cache")))
    assert 80_000 < largest <= 130_000
    names = {data.store._cached(k).name for k in range(6)}
    here = {path.name for path in (tmp_path / "cache").glob("*.tar")} & names
    assert data.store._cached(5).name in here
    assert data.store._cached(0).name not in here
    data.train[0].read()
    assert server.asked["shard-00000.tar"] == 2


def test_a_cache_too_small_for_the_shards_that_are_mixed_is_refused(remote):
    with pytest.raises(ConfigError, match="data.cache_gb: 7e-05 holds less than the 2 shards that are mixed at a time"):
        remote(cache_gb=70_000 * GB)
    said = []
    remote(cache_gb=110_000 * GB, say=said.append)
    assert said[1].startswith("warning: data.cache_gb: 0.00011 leaves no room to fetch ahead")
    remote(cache_gb=200_000 * GB, say=said.append)
    assert [line.split()[1] for line in said] == ["fetching", "data.cache_gb:", "fetching"]


def test_shards_to_come_are_fetched_ahead(remote):
    data, server = remote()
    ends = np.arange(1, 25)
    order = data.train.order(ends, 0, 0)
    first = [f"shard-{k:05d}.tar" for group in order.groups[:2] for k in group]
    assert not server.asked.total() - server.asked["index.jsonl"]  # nothing before it is needed
    data.train[int(order[0:1][0])].read()
    wait_for(lambda: all(server.asked[name] for name in first))
    time.sleep(0.05)
    assert {name for name in server.asked if name.endswith(".tar")} == set(first)
    later = len(order) - 1
    data.train[int(order[later : later + 1][0])].read()  # from here on, the first of the next epoch too
    following = data.train.order(ends, 0, 1).groups[0]
    wait_for(lambda: all(server.asked[f"shard-{k:05d}.tar"] for k in following))


def test_the_whole_epoch_is_read_in_a_cache_of_three_shards(remote, tmp_path):
    data, server = remote(cache_gb=140_000 * GB)
    order = data.train.order(np.arange(1, 25), 0, 3)
    for k in order[:]:
        data.train[int(k)].read()
        assert sum(tars(tmp_path / "cache")) <= 140_000
    assert all(server.asked[f"shard-{k:05d}.tar"] == 1 for k in range(6))
    assert not server.asked["heldout-00000.tar"]


def test_what_is_needed_stays_however_old_it_is(remote):
    data, _ = remote(cache_gb=160_000 * GB)  # three shards
    clips = [next(clip for clip in data.train if data.index.shard[clip.row] == k) for k in range(6)]
    clips[5].read()
    later = time.time() + 1000
    os.utime(data.store._cached(5), (later, later))
    data.store.follow([[0, 1], [2]])
    clips[0].read()
    wait_for(lambda: data.store._cached(2).exists())
    assert [data.store._cached(k).exists() for k in (0, 1, 5)] == [True, True, False]


def test_of_what_nobody_needs_the_longest_unused_goes_first(remote):
    data, _ = remote()
    data.store.budget = 3 * max(shard.size for shard in data.store.shards)
    clips = [next(clip for clip in data.train if data.index.shard[clip.row] == k) for k in range(4)]
    data.store.abandon()  # nothing is fetched ahead
    for k, age in enumerate((10, 30, 20)):
        clips[k].read()
        used = time.time() - age
        os.utime(data.store._cached(k), (used, used))
    clips[3].read()
    assert [data.store._cached(k).exists() for k in range(4)] == [True, False, True, True]


def test_what_is_held_out_is_kept_by_copy(remote, tmp_path):
    data, server = remote()
    waves = [clip.read() for clip in data.heldout]
    for path in (tmp_path / "cache").glob("*.tar"):
        path.unlink()
    again = remote()[0]
    assert all((a.read() == b).all() for a, b in zip(again.heldout, waves, strict=True))
    assert server.asked["heldout-00000.tar"] == 1
    kept = list((tmp_path / "cache" / "kept").iterdir())
    assert len(kept) == 3
    kept[0].write_bytes(b"damaged")
    assert all((a.read() == b).all() for a, b in zip(remote()[0].heldout, waves, strict=True))


def test_what_passes_is_tried_again(remote):
    data, server = remote()
    server.failures = {"shard-00000.tar": [503, "cut"], "shard-00001.tar": [429]}
    check_all(data)
    assert server.asked["shard-00000.tar"] == 3


def test_a_server_that_stays_down_ends_in_one_line_and_may_come_back(remote):
    data, server = remote()
    server.failures = {"shard-00000.tar": [500] * 3}
    line = line_of(data.train[0].read)
    assert line == (
        f"{server.address}/shard-00000.tar: cannot be fetched (the server says 500 Internal Server Error; tried 3 "
        "times); check network and server, then run again"
    )
    data.train[0].read()


def test_no_server_at_all(remote, shards):
    data, server = remote()
    server.close()
    assert "cannot be fetched (" in line_of(data.train[0].read)
    assert "Connection refused" in line_of(data.train[1].read)


def test_a_shard_that_is_missing_on_the_server_is_asked_for_once(remote, shards):
    data, server = remote()
    (shards / "shard-00000.tar").unlink()
    assert line_of(data.train[0].read).startswith(f"{server.address}/shard-00000.tar: missing on the server (404)")
    assert server.asked["shard-00000.tar"] == 1
    server.failures = {"shard-00001.tar": [403]}
    clip = next(clip for clip in data.train if data.index.shard[clip.row] == 1)
    assert "gives no access (403)" in line_of(clip.read)


@pytest.mark.parametrize("change", ["one bit", "shorter", "longer"])
def test_a_shard_that_was_changed_on_the_server_is_never_used(remote, shards, tmp_path, change):
    data, server = remote()
    path = shards / "shard-00000.tar"
    content = path.read_bytes()
    if change == "one bit":
        tamper(path, 5000)
    else:
        path.write_bytes(content[:-512] if change == "shorter" else content + bytes(512))
    line = line_of(data.train[0].read)
    assert line.startswith(f"{server.address}/shard-00000.tar: cannot be fetched (")
    assert ("SHA-256" if change == "one bit" else "bytes where the index states") in line
    assert "put back the one that the index was made with" in line
    assert not tars(tmp_path / "cache")


def test_a_cached_shard_that_the_disk_has_damaged_is_fetched_again(remote, tmp_path):
    data, server = remote()
    wave, path = data.train[0].read(), data.store._cached(0)
    tamper(path, data.train[0].line.offset + 4000)
    fresh = remote()[0]
    np.testing.assert_array_equal(fresh.train[0].read(), wave)
    assert server.asked["shard-00000.tar"] == 2
    os.truncate(path, 500)
    remote()[0].train[0].read()
    assert server.asked["shard-00000.tar"] == 3


def test_two_processes_that_share_a_cache_fetch_a_shard_once(remote):
    one, server = remote()
    other, _ = remote()
    server.gate.clear()
    found = []
    threads = [threading.Thread(target=lambda d=d: found.append(d.train[0].read())) for d in (one, other)]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.asked["shard-00000.tar"])
    time.sleep(0.1)
    server.gate.set()
    for thread in threads:
        thread.join(10)
    assert (found[0] == found[1]).all()
    assert server.asked["shard-00000.tar"] == 1


def test_whoever_waits_is_woken_when_nobody_reads_on(remote):
    data, server = remote()
    server.gate.clear()
    order, raised = data.train.order(np.arange(1, 25), 0, 0), []

    def read():
        try:
            data.train[0].read()
        except Abandoned as e:
            raised.append(e)

    thread = threading.Thread(target=read)
    thread.start()
    wait_for(lambda: server.asked["shard-00000.tar"])
    order.close()
    thread.join(5)
    assert raised
    server.gate.set()
    data.train[0].read()


def test_a_loader_ends_while_a_server_hangs(remote):
    data, server = remote()

    class Task(ToyTask):
        def order(self, seed, epoch):
            return data.train.order(np.arange(1, 25), seed, epoch)

        def item(self, epoch, index, step=0):
            return super().item(epoch, index, step) | {"read": data.train[index].read().sum()}

    server.gate.clear()
    began = time.monotonic()
    with Loader(Task(24), batch_size=2, accumulate=1, seed=0):
        wait_for(lambda: len(server.asked) > 1)
    assert time.monotonic() - began < 60
    server.gate.set()
    with Loader(Task(24), batch_size=2, accumulate=1, seed=0) as loader:
        assert loader.next().n_items == 2


def test_a_full_disk_is_one_line(remote, monkeypatch, tmp_path):
    data, _ = remote()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_voxclone.data.shards.store.fetch", full)
    assert line_of(data.train[0].read).startswith(f"{tmp_path / 'cache'}: no space left for")


def test_the_disk_decides_if_it_is_smaller(remote, monkeypatch):
    said = []
    monkeypatch.setattr("mlx_voxclone.data.shards.store.free_bytes", lambda place: (1 << 28) + 120_000)
    assert remote(say=said.append)[0].store.budget == 120_000
    assert "has room for 0.00012 GB of shards, and not for more" in said[1]
    monkeypatch.setattr("mlx_voxclone.data.shards.store.free_bytes", lambda place: 0)
    with pytest.raises(ConfigError, match="data.cache_gb: 0 holds less"):
        remote()


def test_what_a_killed_process_has_left_takes_no_room(remote, tmp_path):
    data, _ = remote()
    (tmp_path / "cache" / "left.partial").write_bytes(b"x" * 1000)
    data.train[0].read()
    assert not (tmp_path / "cache" / "left.partial").exists()


@pytest.mark.parametrize("target", ["file", "none"])
@pytest.mark.parametrize("who", ["own", "another's"])
def test_nothing_is_fetched_through_a_link(remote, tmp_path, target, who):
    data, _ = remote()
    data.store._cache.mkdir(parents=True, exist_ok=True)
    own = data.store._cached(int(data.index.shard[0])).with_suffix(".partial")
    link = own if who == "own" else own.with_name("other.partial")
    (tmp_path / "file").write_text("kept")
    link.symlink_to(tmp_path / target)
    if who == "own":
        with pytest.raises(OSError, match="a link, and nothing is written through it"):
            data.clips[0].read()
    else:
        check_all(data)
    assert link.is_symlink()
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "none").exists()


def test_waiting_is_said(remote, monkeypatch):
    monkeypatch.setattr("mlx_voxclone.data.shards.store._TOLD_AFTER", 0.0)
    said = []
    data, server = remote(say=said.append)
    said.clear()
    server.gate.clear()
    threading.Timer(0.5, server.gate.set).start()
    data.train[0].read()
    assert said == [f"data: waiting for {server.address}/shard-00000.tar (5.1e-05 GB)"]
