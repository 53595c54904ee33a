"""Where shards may lie: folders, servers and the hub; and addresses that lead nowhere."""

import os

import pytest
from shards_made import check_all, edited, line_of

from mlx_voxclone.data.shards import fetch
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.data.shards.fetch import expanded, is_remote, joined
from mlx_voxclone.errors import DataError

pytest_plugins = ["shards_fixtures"]


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_an_index_of_another_server_leads_nowhere_else(shards, server, tmp_path):
    one = server(shards)
    for place in ("../secret.tar", "/etc/passwd", "a/../../b.tar", "a\\b.tar"):
        edited(shards, lambda lines, place=place: lines[0].update(shard=place))
        assert "does not lie below it" in line_of(lambda: ShardData(one.address, cache=tmp_path / "cache"))
    edited(shards, lambda lines: lines[0].update(shard="file:///etc/passwd"))
    assert "unknown kind of address" in line_of(lambda: ShardData(one.address, cache=tmp_path / "cache"))


def test_an_address_without_an_index(shards, server, tmp_path):
    one = server(shards)
    line = line_of(lambda: ShardData(f"{one.address}/nothing", cache=tmp_path / "cache"))
    assert line.startswith(f"{one.address}/nothing/index.jsonl: missing on the server (404)")
    assert "voxclone prepare" in line


def test_kinds_of_addresses():
    assert is_remote("https://x.org/a")
    assert is_remote("hf://datasets/ann/speech/part")
    assert not is_remote("recordings/a")
    for wrong in ("ftp://x.org/a", "hf://datasets/a/b/../../c", "hf://models/a/b", "hf://datasets/ann"):
        with pytest.raises(DataError):
            is_remote(wrong)
    assert joined("http://x.org/a/", "b c.tar") == "http://x.org/a/b%20c.tar"


def test_ranges_of_names():
    assert expanded("x-{08..10}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar"]
    assert expanded("{0..1}/{2..3}.tar") == ["0/2.tar", "0/3.tar", "1/2.tar", "1/3.tar"]
    assert expanded("x.tar") == ["x.tar"]
    assert expanded("x{1..1}{1..2}y{3..3}.tar") == ["x11y3.tar", "x12y3.tar"]
    assert len(expanded("{0..99}{00..99}/{0..9}.tar")) == 100_000
    wrong = ["{3..1}.tar", "{0..99999999}.tar", "{0..9999999999}.tar", "{0..99}" * 9, "{0..999999999999999999}" * 50]
    for pattern in (*wrong, "{3..1}{0..9999999999}.tar", "{0..1}" * 2000):
        with pytest.raises(DataError, match="names no files, or too many") as caught:
            expanded(pattern)
        assert len(str(caught.value)) < 500
    assert len(expanded("{0..0}" * 2000)) == 1
    long = "{0.." + "9" * 5000 + "}.tar"  # no number at all: a name like any other
    assert expanded(long) == [long]


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(shards, monkeypatch):
    """The hub's library, with a folder of this disk in the place of the hub."""
    import huggingface_hub

    asked = []

    def download(repository, name, *, repo_type, revision, local_dir):
        assert (repository, repo_type, revision) == ("ann/speech", "dataset", None)
        asked.append(name)
        target = os.path.join(local_dir, "file")
        with open(target, "wb") as file:
            file.write((shards / name.removeprefix("part/")).read_bytes())
        return target

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_dataset_of_the_hub(hub, tmp_path):
    check_all(ShardData("hf://datasets/ann/speech/part", cache=tmp_path / "cache"))
    assert sorted(hub) == ["part/heldout-00000.tar", "part/index.jsonl", *(f"part/shard-{k:05d}.tar" for k in range(6))]
    assert not list((tmp_path / "cache").glob(".hub-*"))


def test_failures_of_the_hub(hub, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    calls = []

    def failing(error):
        def download(*_, **__):
            calls.append(error)
            raise error

        return download

    monkeypatch.setattr(fetch, "WAITS", (0.01,))
    for error, text, count in (
        (LocalEntryNotFoundError("no network"), "cannot be fetched (no network; tried 2 times)", 2),
        (RuntimeError("broken pipe"), "cannot be fetched (broken pipe; tried 2 times)", 2),
        (EntryNotFoundError.__new__(EntryNotFoundError), "missing on the server (404)", 1),
        (ValueError("bad id"), "not fetched from the hub (bad id)", 1),
    ):
        calls.clear()
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error))
        assert text in line_of(lambda: ShardData("hf://datasets/ann/speech", cache=tmp_path / "cache"))
        assert len(calls) == count
