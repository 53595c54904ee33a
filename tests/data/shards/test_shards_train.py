"""Training from shards: the same as it was if it is interrupted, and nothing is lost when a shard is."""

import numpy as np
import pytest
from shards_made import make_shards
from tasks_data import scratch_codec

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train import run as run_module
from mlx_voxclone.train.encoder.items import Crops
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop.loader import Loader
from mlx_voxclone.train.saved.state import list_checkpoints

pytest_plugins = ["commands", "shards_fixtures"]
SECTION = EncoderSection(crop_seconds=0.16, stft_sizes=[128])


def task(miniature, data):
    return EncoderTask(scratch_codec(miniature), data, SECTION, seed=1)


def weights(run) -> dict[str, bytes]:
    file = TensorFile(list_checkpoints(run)[-1][1] / "model.safetensors")
    return {name: bytes(file.raw(name)) for name in file.names()}


@pytest.fixture
def remote(shards, server, tmp_path):
    """`remote()`: the data by its address, in a cache of a few shards; and the server."""
    one = server(shards)
    return lambda: (ShardData(one.address, cache=tmp_path / "cache", cache_gb=150_000e-9, mix=2), one)


def test_crops_are_those_of_a_list(shards):
    data = ShardData(shards)
    crops = Crops(data.train, 1000)
    listed = [(clip.id, k) for clip in data.train for k in range(-(-clip.samples // 1000))]
    assert [(clip.id, k) for clip, k in crops] == listed
    assert len(crops) == len(listed)
    assert len(Crops([], 1000)) == 0
    with pytest.raises(IndexError):
        crops[len(crops)]


def test_an_epoch_takes_every_item_once_shard_by_shard(miniature, remote):
    data, _ = remote()
    made = task(miniature, data)
    with Loader(made, batch_size=2, accumulate=1, seed=3) as loader:
        groups = [loader.next() for _ in range(24)]
    assert [group.epoch for group in groups] == [0] * 12 + [1] * 12
    crops = made.items._crops
    expected = sorted(clip.id for clip, _ in crops)
    for epoch in (0, 1):
        names = [name for group in groups if group.epoch == epoch for name in group.items()]
        assert sorted(names) == expected
    order = made.order(3, 0)
    assert [name for group in groups[:12] for name in group.items()] == [crops[int(k)][0].id for k in order[:]]
    shards_in_order = [int(data.index.shard[crops[int(k)][0].row]) for k in order[:]]
    first = {s: shards_in_order.index(s) for s in set(shards_in_order)}
    last = {s: len(order) - shards_in_order[::-1].index(s) for s in first}
    assert all(last[s] - first[s] <= 2 * 6 for s in first)  # two shards of at most six clips
    order.close()


@pytest.mark.parametrize("stop", [5, 14])
def test_from_any_step_the_same_groups_follow(miniature, remote, stop):
    made = task(miniature, remote()[0])
    options = dict(batch_size=2, accumulate=1, seed=3)
    with Loader(made, **options) as loader:
        groups = [loader.next() for _ in range(17)]
    other = task(miniature, remote()[0])
    with Loader(other, **options, position=groups[stop - 1].next_position, step=stop) as loader:
        rest = [loader.next() for _ in range(17 - stop)]
    for one, two in zip(groups[stop:], rest, strict=True):
        assert one.items() == two.items()
        for left, right in zip(one.batches, two.batches, strict=True):
            np.testing.assert_array_equal(left.batch["waveform"], right.batch["waveform"])


@pytest.mark.slow
def test_the_command_from_an_address(config_file, server, shards, tmp_path, monkeypatch, capsys):
    """Interrupted by a server that loses a shard, continued, compared with training from the folder."""
    monkeypatch.setattr(run_module, "write_report", lambda run_dir: "no report")
    monkeypatch.setattr("mlx_voxclone.train.open_data.MIX", 2)
    one = server(shards)
    data = {"cache": str(tmp_path / "cache"), "cache_gb": 0.001}
    train = {"steps": 13, "batch_size": 2, "warmup_steps": 0, "eval_every": 4, "save_every": 0, "sample_every": 8}
    section = {"crop_seconds": 0.16, "stft_sizes": [128], "train": train}
    config = config_file("encoder", data=data, encoder=section)

    def run(place, *arguments):
        argv = ["train", "--config", config, "--set", f"data.path={place}", "--quiet", *arguments]
        return voxclone([str(a) for a in argv])

    assert run(shards, "--set", f"output={tmp_path / 'whole'}") == 0
    capsys.readouterr()
    groups = ShardData(shards, mix=2).train.order(np.arange(1, 25), 0, 0).groups[1:]
    lost = f"shard-{max(int(k) for group in groups for k in group):05d}.tar"  # not one that the start is calibrated on
    (shards / lost).rename(shards / "kept")
    part = tmp_path / "part"
    code = run(one.address, "--set", f"output={part}")
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    assert f"error: {one.address}/{lost}: missing on the server (404)" in err
    assert err.endswith(f"fix this, then continue with --resume {part}\n")
    (shards / "kept").rename(shards / lost)
    assert voxclone(["train", "--resume", str(part), "--quiet"]) == 0
    assert weights(part) == weights(tmp_path / "whole")
    assert (part / "best" / "encoder.safetensors").is_file()


def test_bad_places_are_one_line(config_file, refused, shards, tmp_path):
    config = config_file("encoder")
    out = ["--set", f"output={tmp_path / 'run'}", "--set", f"data.cache={tmp_path / 'cache'}"]
    train = ["train", "--config", config, *out, "--set"]
    refused([*train, "data.path=ftp://x.org/a"], "ftp://x.org/a: unknown kind of address")
    refused([*train, "data.path=hf://models/a/b"], "expected hf://datasets/OWNER/NAME")
    (shards / "shard-00003.tar").unlink()
    refused([*train, f"data.path={shards}"], f"{shards}/shard-00003.tar: the shard is missing")


def test_shards_without_an_index_are_indexed_by_the_run(config_file, shards, tmp_path, monkeypatch, capsys):
    """Data made for the run, as of any other source; here it fails after that, for want of a clip long enough."""
    for name in ("index.jsonl", "heldout-00000.tar"):
        (shards / name).unlink()
    config = config_file("encoder", data={"path": str(shards), "min_seconds": 0.5})
    assert voxclone(["train", "--config", str(config), "--set", f"output={tmp_path / 'run'}"]) == 2
    assert "the shards hold no usable recording (24 " in capsys.readouterr().err


def test_shards_are_made_again_the_same(tmp_path, shards):
    again = make_shards(tmp_path / "again")
    assert ShardData(again).fingerprint() == ShardData(shards).fingerprint()
