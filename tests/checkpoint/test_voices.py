"""Voices: torch's zip of one tensor without torch, and what happens to anything that only looks like one."""

import os
import pickle
import pickletools
import zipfile

import mlx.core as mx
import numpy as np
import pytest
from places import FIXTURES

from mlx_voxclone.checkpoint import torch_file
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.torch_file import read_pt, write_pt
from mlx_voxclone.checkpoint.voices import read_voice, register_voice, write_voice
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError


def refused(path, match="x.pt"):
    """The file is refused with one line."""
    with pytest.raises(CheckpointError, match=match) as caught:
        read_pt(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def zip_of(path, program, data=b"\0" * 8, **more):
    members = {"data.pkl": program, "byteorder": b"little", "data/0": data, "version": b"3\n", **more}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"v/{name}", content)
    return path


# --- honest files ---------------------------------------------------------------------------------------------------


def test_a_file_made_by_torch():
    """`torch.save((torch.arange(56).reshape(7, 8) / 4 - 5).to(torch.bfloat16), path)`"""
    array = read_pt(FIXTURES / "torch_made_voice.pt")
    assert array.dtype == mx.bfloat16
    np.testing.assert_array_equal(np.array(array.astype(mx.float32)), np.arange(56).reshape(7, 8) / 4 - 5)


def test_a_view_made_by_torch():
    """`torch.save(torch.arange(60.0).reshape(6, 10)[1:5, 2:8].t(), path)`: an offset and strides into the storage."""
    array = read_pt(FIXTURES / "torch_made_view.pt")
    np.testing.assert_array_equal(np.array(array), np.arange(60, dtype=np.float32).reshape(6, 10)[1:5, 2:8].T)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("shape", [(5, 8), (3,), (2, 3, 4), (0, 8), ()])
def test_ours_come_back(tmp_path, dtype, shape):
    array = mx.random.normal(shape).astype(dtype)
    write_pt(tmp_path / "a.b c.pt", array)
    back = read_pt(tmp_path / "a.b c.pt")
    assert (back.dtype, back.shape) == (dtype, shape)
    assert mx.array_equal(back, array)


def test_same_input_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_pt(tmp_path / name / "voice.pt", mx.arange(12).reshape(3, 4).astype(mx.bfloat16))
    assert (tmp_path / "one" / "voice.pt").read_bytes() == (tmp_path / "two" / "voice.pt").read_bytes()


def test_members_are_aligned_as_torch_does(tmp_path):
    write_pt(tmp_path / "voice.pt", mx.zeros((3, 4), dtype=mx.bfloat16))
    content = (tmp_path / "voice.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "voice.pt") as archive:
        for info in archive.infolist():
            at = info.header_offset
            start = at + 30 + int.from_bytes(content[at + 26 : at + 28], "little")
            start += int.from_bytes(content[at + 28 : at + 30], "little")
            assert start % 64 == 0


@pytest.mark.torch
@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_ours(tmp_path, mapped):
    torch = pytest.importorskip("torch")
    for dtype in (mx.bfloat16, mx.float16, mx.float32):
        array = mx.random.normal((5, 8)).astype(dtype)
        write_pt(tmp_path / "voice.pt", array, overwrite=True)
        loaded = torch.load(tmp_path / "voice.pt", map_location="cpu", weights_only=True, mmap=mapped)
        assert str(loaded.dtype).endswith(str(dtype).rpartition(".")[2])
        assert loaded.is_contiguous()
        np.testing.assert_array_equal(loaded.float().numpy(), np.array(array.astype(mx.float32)))


# --- hostile files --------------------------------------------------------------------------------------------------


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _marker(tmp_path):
    return tmp_path / "it-ran"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("nested", [False, True])
def test_code_is_never_run(tmp_path, protocol, nested):
    marker = _marker(tmp_path)
    for call in (
        Runs(os.system, f"touch {marker}"),
        Runs(eval, f"open({str(marker)!r}, 'w')"),
        Runs(open, str(marker), "w"),
    ):
        program = pickle.dumps({"weights": [call]} if nested else call, protocol=protocol)
        refused(zip_of(tmp_path / "x.pt", program), "no code in it was run")
        refused(zip_of(tmp_path / "x.pt", b"\x80\x02" + program), "no code in it was run")
    assert not marker.exists()


def test_the_line_says_what_was_named(tmp_path):
    refused(zip_of(tmp_path / "x.pt", pickle.dumps(Runs(os.system, "true"), protocol=2)), "it names 'posix system'")


GOOD = torch_file._program("BF16", (2, 2))
REBUILD = torch_file._global("torch._utils _rebuild_tensor_v2")
HOSTILE = {
    "global of another module": GOOD.replace(b"collections\nOrderedDict", b"builtins\ndict"),
    "function of torch": GOOD.replace(b"_rebuild_tensor_v2", b"_rebuild_parameter"),
    "another storage": GOOD.replace(b"BFloat16Storage", b"QInt8Storage"),
    "a global split otherwise": GOOD.replace(b"torch\nBFloat16Storage", b"torch.BFloat16Storage\n"),
    "rebuild without arguments": b"\x80\x02" + REBUILD + b")R.",
    "call of a number": b"\x80\x02K\x01)R.",
    "call of a storage type": b"\x80\x02" + torch_file._global("torch BFloat16Storage") + b")R.",
    "hooks with arguments": GOOD.replace(b")R", b"K\x01\x85R"),
    "hooks that are a tuple": GOOD.replace(torch_file._global("collections OrderedDict") + b")R", b")"),
    "persistent id of another kind": GOOD.replace(b"storage", b"garbage"),
    "persistent id that is a number": b"\x80\x02K\x01Q.",
    "persistent id of three parts": GOOD.replace(torch_file._text("cpu"), b""),
    "text persistent id": b"\x80\x02Pstorage\n.",
    "path as storage key": GOOD.replace(torch_file._text("0"), torch_file._text("../../etc/passwd")),
    "negative offset": GOOD.replace(b"tQJ\0\0\0\0", b"tQJ\xff\xff\xff\xff"),
    "offset beyond the storage": GOOD.replace(b"tQJ\0\0\0\0", b"tQJ\1\0\0\0"),
    "shape beyond the storage": GOOD.replace(b"(J\2\0\0\0J\2\0\0\0t", b"(J\2\0\0\0J\3\0\0\0t"),
    "stride beyond the storage": GOOD.replace(b"(J\2\0\0\0J\1\0\0\0t", b"(J\3\0\0\0J\1\0\0\0t"),
    "negative stride": GOOD.replace(b"(J\2\0\0\0J\1\0\0\0t", b"(J\xfe\xff\xff\xffJ\1\0\0\0t"),
    "shape and strides of other lengths": GOOD.replace(b"(J\2\0\0\0J\1\0\0\0t", b"(J\2\0\0\0t"),
    "shape of a terabyte by stride 0": GOOD.replace(b"(J\2\0\0\0J\2\0\0\0t", b"(J\0\0\0\x40J\0\0\0\x40t").replace(
        b"(J\2\0\0\0J\1\0\0\0t", b"(J\0\0\0\0J\0\0\0\0t"
    ),
    "boolean shape": GOOD.replace(b"(J\2\0\0\0J\2\0\0\0t", b"(\x88\x88t"),
    "huge integer as shape": GOOD.replace(b"(J\2\0\0\0J\2\0\0\0t", b"(\x8a\x14" + b"\x7f" * 20 + b"J\2\0\0\0t"),
    "more elements than bytes": GOOD.replace(b"J\4\0\0\0t", b"J\5\0\0\0t"),
    "nothing on the stack": b"\x80\x02.",
    "underflow": b"\x80\x02\x87.",
    "tuple without mark": b"\x80\x02t.",
    "memo that was never set": b"\x80\x02h\x05.",
    "no end": GOOD[:-1],
    "empty": b"",
    "a list": pickle.dumps([1, 2], protocol=2),
    "exponential tuples": b"\x80\x02)" + b"q\x00h\x00\x86" * 5000 + b".",
    "too long": b"\x80\x02" + b"N" * torch_file.MAX_PROGRAM + b".",
    "state set on a name": b"\x80\x02" + REBUILD + b")b.",
    "new object": b"\x80\x02" + torch_file._global("collections OrderedDict") + b")\x81.",
}


def test_the_hostile_cases_start_from_an_honest_one(tmp_path):
    assert read_pt(zip_of(tmp_path / "x.pt", GOOD)).shape == (2, 2)
    assert all(program != GOOD for program in HOSTILE.values())


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused(tmp_path, case):
    refused(zip_of(tmp_path / "x.pt", HOSTILE[case]))


def test_every_truncated_pickle_is_refused(tmp_path):
    for n in range(len(GOOD)):
        refused(zip_of(tmp_path / "x.pt", GOOD[:n]))


def test_every_truncated_file_is_refused(tmp_path):
    whole = (FIXTURES / "torch_made_voice.pt").read_bytes()
    for n in range(0, len(whole), 13):
        (tmp_path / "x.pt").write_bytes(whole[:n])
        refused(tmp_path / "x.pt")


def test_damage_anywhere_is_noticed_or_harmless(tmp_path):
    """One flipped bit: the very same tensor or one line, no other exception and no other numbers."""
    whole = (FIXTURES / "torch_made_voice.pt").read_bytes()
    expected = read_pt(FIXTURES / "torch_made_voice.pt")
    rng = np.random.default_rng(0)
    noticed = 0
    for place in rng.permutation(len(whole))[:400]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "x.pt").write_bytes(damaged)
        try:
            assert mx.array_equal(read_pt(tmp_path / "x.pt"), expected)
        except CheckpointError:
            noticed += 1
    assert noticed > 50


def test_other_zip_tricks(tmp_path):
    refused(zip_of(tmp_path / "x.pt", GOOD, byteorder=b"big"), "little-endian")
    refused(zip_of(tmp_path / "x.pt", GOOD, **{f"data/{i}": b"" for i in range(1, 100)}), "too many")
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        archive.writestr("a/data.pkl", GOOD)
        archive.writestr("b/data/0", b"\0" * 8)
    refused(tmp_path / "y.pt", "not one folder")
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("a/data.pkl", GOOD)
    refused(tmp_path / "z.pt", "no data/0")
    (tmp_path / "t.pt").write_bytes(pickle.dumps({"old torch": 1}))
    refused(tmp_path / "t.pt", "not a torch zip")
    refused(tmp_path / "none.pt", "no such file")
    refused(tmp_path, "cannot be read")


def rewritten(path, change=lambda info: None, names=lambda name: name, **extra):
    """A voice that is honest but for what `change` does to the entries, `names` to their names; `extra` members."""
    write_pt(path.with_name("honest.pt"), mx.ones((3, 8)), overwrite=True)
    with zipfile.ZipFile(path.with_name("honest.pt")) as honest:
        members = {info.filename: honest.read(info) for info in honest.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **{f"honest/{key}": value for key, value in extra.items()}}.items():
            info = zipfile.ZipInfo(names(name))
            change(info)
            archive.writestr(info, content)
    return path


OUTSIDE = [
    "../x",
    "/x",
    "honest/../../x",
    "honest/./x",
    "honest//x",
    "honest/..\\x",
    "honest/C:/x",
    "honest/a\nb",
    "honest/",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_that_lead_out_of_their_folder(tmp_path, name):
    path = rewritten(tmp_path / "x.pt")
    assert read_pt(path).shape == (3, 8)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"")
    refused(path, "leads out of its folder")


@pytest.mark.parametrize("folder", ["..", ".", "", "a\\b", "C:"])
def test_a_folder_that_is_none(tmp_path, folder):
    refused(
        rewritten(tmp_path / "x.pt", names=lambda name: name.replace("honest", folder, 1)), "leads out of its folder"
    )


@pytest.mark.parametrize("member", ["data.pkl", "byteorder", "data/0", "version"])
@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2041])
def test_encrypted_members_are_refused_whether_read_or_not(tmp_path, member, flag):
    path = rewritten(tmp_path / "x.pt")
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    while content[entry + 46 : entry + 46 + len(f"honest/{member}")] != f"honest/{member}".encode():
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + 8 : entry + 10] = flag.to_bytes(2, "little")
    path.write_bytes(content)
    refused(path, "encrypted")


def test_links_and_rare_packings_are_refused(tmp_path):
    def link(info):
        info.external_attr = 0o120777 << 16

    def packed(info):
        info.compress_type = zipfile.ZIP_LZMA

    refused(rewritten(tmp_path / "x.pt", link), "no plain file")
    refused(rewritten(tmp_path / "y.pt", packed), "does not use")


@pytest.mark.parametrize("name", ["version", ".format_version", ".storage_alignment"])
@pytest.mark.parametrize("text", [b"-3", b"3.5", b"", b"nan", b"9" * 30, b"99999999", b"0", b"3" * 100])
def test_numbers_that_torch_cannot_mean(tmp_path, name, text):
    refused(rewritten(tmp_path / "x.pt", **{name: text}), name)


def test_members_that_torch_writes_and_nothing_reads(tmp_path):
    beside = {
        ".format_version": b"1",
        ".storage_alignment": b"64",
        ".data/serialization_id": b"0" * 40,
        "version": b"3\n",
    }
    assert read_pt(rewritten(tmp_path / "x.pt", **beside)).shape == (3, 8)
    refused(rewritten(tmp_path / "y.pt", **{"data/1": b"\0" * 8}), "data/1 belongs to no tensor")


@pytest.mark.parametrize("largest", [3e38, -3e38, 2e4])
def test_a_voice_of_absurd_numbers(tmp_path, largest):
    for dtype in (mx.bfloat16, mx.float32):
        write_pt(tmp_path / "x.pt", mx.array([[1.0, 2.0], [largest, 1.0]]).astype(dtype), overwrite=True)
        with pytest.raises(CheckpointError, match="holds values up to"):
            read_voice(tmp_path / "x.pt")
    save_tensors(tmp_path / "x.safetensors", {"embedding": mx.array([[1.0, 2.0], [largest, 1.0]])})
    with pytest.raises(CheckpointError, match="holds values up to"):
        read_voice(tmp_path / "x.safetensors")


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_STORAGE", 1 << 20)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v/data.pkl", torch_file._program("BF16", (1 << 20, 1)))
        archive.writestr("v/data/0", b"\0" * (2 << 20))
    refused(path, "data/0 of 2097152 bytes")
    content = path.read_bytes()  # the directory now claims a small size for the same stream
    small = content.replace((2 << 20).to_bytes(4, "little"), (64).to_bytes(4, "little"))
    assert small != content
    path.write_bytes(small)
    refused(path, "bomb.pt")


# --- voices of a checkpoint -----------------------------------------------------------------------------------------


def test_a_voice_is_written_twice(tmp_path):
    rows = mx.random.normal((4, 8))
    write_voice(tmp_path, "anna-2", rows)
    expected = rows.astype(mx.bfloat16)
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / "voice_embedding" / f"anna-2{suffix}"
        assert mx.array_equal(read_voice(path), expected)
        assert read_voice(path).dtype == mx.bfloat16
    assert TensorFile(path).names() == ["embedding"]
    with pytest.raises(CheckpointError, match="exists"):
        write_voice(tmp_path, "anna-2", rows)


def test_members_are_those_of_torch_in_its_order(tmp_path):
    """And the pickle states as many elements as there are: what torch checks before anything else."""

    def names(path):
        with zipfile.ZipFile(path) as archive:
            return [name.partition("/")[2] for name in archive.namelist()]

    write_pt(tmp_path / "voice.pt", mx.zeros((3, 4), dtype=mx.bfloat16))
    ours, theirs = names(tmp_path / "voice.pt"), names(FIXTURES / "torch_made_voice.pt")
    assert [name for name in theirs if name in ours] == ours
    with zipfile.ZipFile(tmp_path / "voice.pt") as archive:
        stated = [value for _, value, _ in pickletools.genops(archive.read("voice/data.pkl")) if type(value) is int]
    assert stated == [2, 12, 0, 3, 4, 4, 1]  # protocol; elements; offset; shape; strides


@pytest.mark.parametrize("kind", ["transposed", "every second", "mlx transposed", "mlx every second"])
def test_a_voice_that_does_not_lie_in_one_piece_is_written_as_it_reads(tmp_path, kind):
    rows = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    array = {
        "transposed": np.asfortranarray(rows),
        "every second": np.repeat(rows, 2, axis=0)[::2],
        "mlx transposed": mx.array(np.ascontiguousarray(rows.T)).T,
        "mlx every second": mx.repeat(mx.array(rows), 2, axis=1)[:, ::2],
    }[kind]
    write_voice(tmp_path, "anna", array)
    wanted = mx.array(rows).astype(mx.bfloat16)
    for suffix in (".pt", ".safetensors"):
        assert mx.array_equal(read_voice(tmp_path / "voice_embedding" / f"anna{suffix}"), wanted)
    write_pt(tmp_path / "own.pt", array)
    assert mx.array_equal(read_pt(tmp_path / "own.pt"), mx.array(rows))


@pytest.mark.parametrize("name", ["", "Anna", "a b", "a/b", "..", "a.b", "../x", "ä", "a\n", "x" * 65, "a\0"])
def test_names_that_no_voice_may_have(tmp_path, name):
    with pytest.raises(CheckpointError, match="voice name"):
        write_voice(tmp_path, name, mx.zeros((2, 8)))
    with pytest.raises(CheckpointError, match="voice name"):
        register_voice({}, {}, name, 3)
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_capitals_gets_a_hint():
    with pytest.raises(CheckpointError, match="anna would do"):
        register_voice({}, {}, "Anna", 3)


def test_a_voice_is_registered_in_both_files():
    params = {"multimodal": {"audio_tokenizer_args": {"voice": {"a": 0, "c": 7}}}}
    tekken = {"audio": {"voice_num_audio_tokens": {"a": 10, "c": 11}}}
    register_voice(params, tekken, "b", 12)
    assert params["multimodal"]["audio_tokenizer_args"]["voice"] == {"a": 0, "c": 7, "b": 8}
    assert tekken["audio"]["voice_num_audio_tokens"] == {"a": 10, "c": 11, "b": 12}
    for taken in ("a", "b"):
        with pytest.raises(CheckpointError, match="choose another"):
            register_voice(params, tekken, taken, 12)
    with pytest.raises(CheckpointError, match="no audio settings"):
        register_voice(params, {}, "d", 12)


@pytest.mark.parametrize(
    ("rows", "match"),
    [(mx.zeros((8,)), "shape"), (mx.zeros((1, 8)), "shape"), (mx.array([[1.0, mx.nan], [1, 1]]), "infinite")],
)
def test_embeddings_that_are_no_voice(tmp_path, rows, match):
    write_pt(tmp_path / "x.pt", rows)
    with pytest.raises(CheckpointError, match=match):
        read_voice(tmp_path / "x.pt")
