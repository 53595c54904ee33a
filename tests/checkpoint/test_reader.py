"""Reading safetensors files: equal to the format's own library, and every lie of a header found."""

import json
import struct

import mlx.core as mx
import numpy as np
import pytest
import safetensors.numpy

from mlx_voxclone.checkpoint.dtypes import bfloat16_to_float32, float32_to_bfloat16
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError


def file_of(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start, end, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def test_reads_what_the_reference_library_wrote(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "floats": rng.standard_normal((3, 5)).astype(np.float32),
        "halves": rng.standard_normal((2, 2, 2)).astype(np.float16),
        "codes": rng.integers(0, 99, (37, 4)).astype(np.int32),
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "flags": np.array([True, False, True]),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", {"made": "elsewhere"})
    file = TensorFile(tmp_path / "a.safetensors")
    assert set(file.names()) == set(tensors)
    assert file.metadata == {"made": "elsewhere"}
    for name, expected in tensors.items():
        np.testing.assert_array_equal(file.stored(name), expected)
        assert file.info(name).shape == expected.shape
        np.testing.assert_array_equal(np.array(file.array(name)), expected)
        np.testing.assert_array_equal(np.array(file.arrays([name])[name]), expected)


def test_bfloat16_needs_no_help(tmp_path):
    values = mx.random.normal((5, 7)).astype(mx.bfloat16)
    mx.save_safetensors(str(tmp_path / "b.safetensors"), {"x": values})
    (tmp_path / "b.safetensors").rename(tmp_path / "any.suffix")
    file = TensorFile(tmp_path / "any.suffix")
    assert file.array("x").dtype == mx.bfloat16
    assert mx.array_equal(file.array("x"), values)
    assert mx.array_equal(file.arrays()["x"], values)
    np.testing.assert_array_equal(file.numpy("x"), np.array(values.astype(mx.float32)))


def test_rounding_to_bfloat16_equals_mlx():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32)
    ties = (rng.integers(0, 2**15, 2000, dtype=np.uint64).astype(np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, ties, np.array([0, 1 << 31, 0x7F7FFFFF, 0x7F800000], np.uint32)]).view(np.float32)
    values = values[~np.isnan(values) & ((np.abs(values) > 1e-37) | (values == 0))]  # MLX may flush denormals
    np.testing.assert_array_equal(
        float32_to_bfloat16(values), np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16))
    )
    assert np.isnan(bfloat16_to_float32(float32_to_bfloat16(np.array([np.nan, -np.nan], np.float32)))).all()
    low = np.array([0x7F800001, 0xFF80FFFF], np.uint32).view(np.float32)  # told from infinity by what is cut off
    assert np.isnan(bfloat16_to_float32(float32_to_bfloat16(low))).all()


def test_bytes_come_without_a_copy(tmp_path):
    safetensors.numpy.save_file({"x": np.arange(4, dtype=np.float32)}, tmp_path / "a.safetensors")
    raw = TensorFile(tmp_path / "a.safetensors").raw("x")
    assert raw.readonly
    assert bytes(raw) == np.arange(4, dtype="<f4").tobytes()


HOSTILE = {
    "no JSON": (b"{nonsense", b"", None),
    "not UTF-8": (b'{"\xff\xfe": 1}', b"", None),
    "deeply nested": (b"[" * 200_000, b"", None),
    "a list": ([], b"", None),
    "header longer than the file": ({}, b"", 5000),
    "header of 200 MB": ({}, b"", 200_000_000),
    "header of 2^63 bytes": ({}, b"", 2**63),
    "offsets beyond the file": ({"a": entry(0, 400)}, b"\0" * 8, None),
    "negative offset": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, b"\0" * 8, None),
    "offsets backwards": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"\0" * 8, None),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12, None),
    "the same bytes twice": ({"a": entry(0, 8), "b": entry(0, 8)}, b"\0" * 8, None),
    "a hole": ({"a": entry(0, 8), "b": entry(12, 16)}, b"\0" * 16, None),
    "bytes after the end": ({"a": entry(0, 8)}, b"\0" * 12, None),
    "shape larger than its bytes": ({"a": entry(0, 8, shape=[3])}, b"\0" * 8, None),
    "shape that overflows": ({"a": entry(0, 8, shape=[2**40, 2**40, 2**47])}, b"\0" * 8, None),
    "negative shape": ({"a": entry(0, 8, shape=[-1, -2])}, b"\0" * 8, None),
    "boolean shape": ({"a": entry(0, 4, shape=[True])}, b"\0" * 4, None),
    "fractional shape": ({"a": entry(0, 8, shape=[2.0])}, b"\0" * 8, None),
    "unknown type": ({"a": entry(0, 8, dtype="F7")}, b"\0" * 8, None),
    "type that is a list": ({"a": entry(0, 8, dtype=["F32"])}, b"\0" * 8, None),
    "entry that is text": ({"a": "F32"}, b"", None),
    "entry without offsets": ({"a": {"dtype": "F32", "shape": [0]}}, b"", None),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, b"", None),
    "one name twice": (b'{"a": %(e)s, "a": %(e)s}' % {b"e": json.dumps(entry(0, 8)).encode()}, b"\0" * 8, None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lying_header_is_refused_in_one_line(tmp_path, case):
    header, data, length = HOSTILE[case]
    path = file_of(tmp_path / "x.safetensors", header, data, length)
    with pytest.raises(CheckpointError) as caught:
        TensorFile(path)
    line = str(caught.value)
    assert "x.safetensors" in line
    assert "\n" not in line
    assert len(line) < 400


def test_every_truncation_is_noticed(tmp_path):
    safetensors.numpy.save_file({"x": np.arange(6, dtype=np.float32), "y": np.ones(3)[:0]}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for n in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:n])
        with pytest.raises(CheckpointError):
            TensorFile(tmp_path / "cut")


def test_missing_file_and_missing_tensor(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        TensorFile(tmp_path / "none.safetensors")
    safetensors.numpy.save_file({"x": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no tensor called y"):
        TensorFile(tmp_path / "a.safetensors").array("y")


CODES = np.arange(6, dtype=np.int16).reshape(2, 3)
NO_CODES = {
    "a number": np.array(3, dtype=np.int32),
    "a row": np.arange(3),
    "a cube": np.zeros((2, 3, 1), dtype=np.int32),
    "nothing": np.zeros((2, 0), dtype=np.int32),
    "floats": CODES.astype(np.float32),
    "flags": CODES > 2,
    "below": CODES.astype(np.int64) - 1,
    "above": CODES + 1,
    "beyond 32 bits": CODES.astype(np.int64) + (1 << 40),
    "another count": np.zeros((3, 3), dtype=np.int32),
}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32])
def test_codes_of_any_integers(tmp_path, dtype):
    safetensors.numpy.save_file({"x": CODES.astype(dtype)}, tmp_path / "a.safetensors")
    found = TensorFile(tmp_path / "a.safetensors").codes("x", [3, 6])
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, CODES)


@pytest.mark.parametrize("kind", NO_CODES)
def test_what_is_no_codes_is_one_line(tmp_path, kind):
    safetensors.numpy.save_file({"x": NO_CODES[kind]}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a.safetensors: x") as error:
        TensorFile(tmp_path / "a.safetensors").codes("x", [3, 6])
    assert "\n" not in str(error.value)


def test_what_its_metadata_says(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"x": mx.zeros(2)}, {"codec": "1", "data": "2"})
    file = TensorFile(tmp_path / "a.safetensors")
    assert file.says({})
    assert file.says({"codec": "1"})
    assert not file.says({"codec": "1", "data": "3"})
    assert not file.says({"encoder": ""})
