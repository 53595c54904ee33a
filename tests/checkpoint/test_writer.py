"""Writing: what ends a write early leaves the target as it was, and nothing else behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy
from waiting import wait_for

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import Entry, save_tensors, write_safetensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory, free_space_check, write_text_atomic

INTERRUPTIONS = [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), RuntimeError("a defect")]


def raising(error):
    def produce():
        raise error

    return produce


def test_the_reference_library_reads_what_we_write(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "codes": rng.integers(0, 9, (37, 3)).astype(np.int32),
        "bytes": np.arange(5, dtype=np.uint8),
        "floats": rng.standard_normal((2, 3)).astype(np.float32),
        "transposed": rng.standard_normal((4, 3)).astype(np.float32).T,
    }
    save_tensors(tmp_path / "sub" / "a.safetensors", tensors, {"who": "us"})
    with safetensors.safe_open(tmp_path / "sub" / "a.safetensors", framework="numpy") as file:
        assert file.metadata() == {"who": "us"}
        assert set(file.keys()) == set(tensors)
        for name, expected in tensors.items():
            np.testing.assert_array_equal(file.get_tensor(name), expected)


def test_tensors_lie_aligned_the_larger_types_first(tmp_path):
    """As the format recommends: the header ends at a multiple of 8, and every tensor begins at one of its type."""
    for k in range(1, 9):
        tensors = {
            "a" * k: np.arange(3, dtype=np.uint8),
            "b": np.arange(3, dtype=np.int16),
            "c": np.arange(5, dtype=np.float32),
            "d": np.arange(2, dtype=np.int64),
            "e": np.arange(1, dtype=np.float32),
        }
        path = tmp_path / f"{k}.safetensors"
        save_tensors(path, tensors, {"k": "x" * k})
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert length % 8 == 0
        header = json.loads(content[8 : 8 + length])
        places = {name: header[name]["data_offsets"][0] for name in tensors}
        assert sorted(places, key=places.get) == ["d", "c", "e", "b", "a" * k]
        assert all(place % tensors[name].itemsize == 0 for name, place in places.items())
        assert len(content) == 8 + length + sum(array.nbytes for array in tensors.values())


def test_small_tensors_are_written_in_the_order_of_their_names(tmp_path):
    """Whatever the order in which they were given: the same tensors, the same bytes."""
    tensors = {name: np.full(2, k, np.float32) for k, name in enumerate("cab")}
    save_tensors(tmp_path / "one", tensors)
    save_tensors(tmp_path / "two", dict(sorted(tensors.items(), reverse=True)))
    assert TensorFile(tmp_path / "one").names() == ["a", "b", "c"]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_mlx_arrays_of_every_kind_come_back(tmp_path):
    tensors = {str(t): mx.arange(6).reshape(2, 3).astype(t) for t in (mx.bfloat16, mx.float16, mx.float32, mx.int32)}
    tensors["view"] = mx.arange(12).reshape(3, 4).T[1:3]
    save_tensors(tmp_path / "a.tensors", tensors)  # a suffix of its own is left alone
    file = TensorFile(tmp_path / "a.tensors")
    for name, expected in tensors.items():
        assert file.array(name).dtype == expected.dtype
        assert mx.array_equal(file.array(name), expected)


def test_digests_are_those_of_the_bytes(tmp_path):
    import hashlib

    data = os.urandom(400)
    digests = write_safetensors(tmp_path / "a.safetensors", [("x", "F32", (100,), lambda: data)])
    assert digests == {"x": hashlib.sha256(data).hexdigest()}
    assert bytes(TensorFile(tmp_path / "a.safetensors").raw("x")) == data


def test_two_tensors_in_memory_at_a_time(tmp_path):
    """One is made while the one before it is written."""
    alive = []

    def produce():
        wait_for(lambda: not any(r() is not None for r in alive[:-1]))  # earlier tensors are not in memory any more
        array = np.ones(1000, np.float32)
        alive.append(weakref.ref(array))
        return array

    write_safetensors(tmp_path / "a.safetensors", [Entry(f"t{i}", "F32", (1000,), produce) for i in range(4)])
    assert len(alive) == 4


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=lambda e: type(e).__name__)
def test_an_early_end_leaves_nothing(tmp_path, error):
    entries = [("a", "F32", (50_000,), lambda: np.ones(50_000, np.float32)), ("b", "F32", (1,), raising(error))]
    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_safetensors(tmp_path / "x.safetensors", entries)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=lambda e: type(e).__name__)
def test_an_early_end_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"old": np.arange(3, dtype=np.float32)})
    before = path.read_bytes()
    with pytest.raises((CheckpointError, KeyboardInterrupt, RuntimeError)):
        write_safetensors(path, [("b", "F32", (1,), raising(error))], overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_existing_files_are_refused_before_any_work(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("the user's")
    with pytest.raises(CheckpointError, match="exists already"):
        write_safetensors(path, [("b", "F32", (1,), raising(AssertionError("called")))])
    assert path.read_text() == "the user's"


def test_full_disk_is_noticed_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(CheckpointError, match=r"no space left: 0\.\d\d GB needed, 0\.00 GB free"):
        write_safetensors(tmp_path / "x", [("b", "F32", (1,), raising(AssertionError("called")))])
    with pytest.raises(CheckpointError, match="no space left"):
        free_space_check(tmp_path / "not" / "there" / "yet", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_lies_is_noticed(tmp_path):
    def damage(_):
        (partial,) = tmp_path.iterdir()
        with open(partial, "r+b") as file:
            file.seek(-8, os.SEEK_END)
            file.write(b"garbage!")

    data = np.ones(1_000_000, np.float32)
    with pytest.raises(CheckpointError, match="a does not read back as written"):
        write_safetensors(tmp_path / "x", [("a", "F32", data.shape, lambda: data)], progress=damage)
    assert list(tmp_path.iterdir()) == []


def test_entries_that_contradict_themselves(tmp_path):
    with pytest.raises(ValueError, match="a: 4 bytes for F32"):
        write_safetensors(tmp_path / "x", [("a", "F32", (2,), lambda: b"1234")])
    with pytest.raises(ValueError, match="unique"):
        write_safetensors(tmp_path / "x", [("a", "F32", (0,), lambda: b"")] * 2)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
import numpy as np
from mlx_voxclone.checkpoint.writer import write_safetensors
def slow():
    print("half way", flush=True)
    time.sleep(60)
ones = np.ones(100_000, np.float32)
write_safetensors(sys.argv[1], [("a", "F32", ones.shape, lambda: ones), ("b", "F32", (1,), slow)], overwrite=True)
"""


def test_killed_half_way_the_target_is_whole(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"old": np.arange(3, dtype=np.float32)})
    before = path.read_bytes()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half way\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert path.read_bytes() == before
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith(".x.safetensors.")
    assert left.suffix == ".partial"  # found by no *.safetensors
    save_tensors(path, {"new": np.ones(2, np.float32)}, overwrite=True)
    assert TensorFile(path).names() == ["new"]


def test_a_directory_appears_whole(tmp_path):
    with atomic_directory(tmp_path / "deep" / "out") as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "file").write_text("content")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "sub" / "file").read_text() == "content"
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "out"]


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=lambda e: type(e).__name__)
def test_a_directory_that_fails_never_appears(tmp_path, error):
    def fill():
        with atomic_directory(tmp_path / "out") as directory:
            (directory / "file").write_text("half")
            raise error

    with pytest.raises((CheckpointError, KeyboardInterrupt, RuntimeError)):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_existing_directories(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_directory(tmp_path / "empty") as directory:
        (directory / "file").write_text("x")
    assert (tmp_path / "empty" / "file").exists()
    with pytest.raises(CheckpointError, match="not empty"), atomic_directory(tmp_path / "empty"):
        pytest.fail("entered")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not a directory"), atomic_directory(tmp_path / "file"):
        pytest.fail("entered")


def test_a_directory_that_came_meanwhile_is_not_replaced(tmp_path):
    def fill():
        with atomic_directory(tmp_path / "out") as directory:
            (directory / "file").write_text("ours")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "file").write_text("theirs")

    with pytest.raises(CheckpointError, match="not empty"):
        fill()
    assert (tmp_path / "out" / "file").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_text(tmp_path):
    write_text_atomic(tmp_path / "a.json", "eins")
    write_text_atomic(tmp_path / "a.json", "zwei ü")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "zwei ü"
    with pytest.raises(CheckpointError, match="exists"):
        write_text_atomic(tmp_path / "a.json", "drei", overwrite=False)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not written"):
        save_tensors(tmp_path / "file" / "x.safetensors", {"a": np.zeros(1, np.float32)})
