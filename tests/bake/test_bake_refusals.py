"""Baking what cannot be baked: one line, exit code 2 (130 for Ctrl-C), nothing written, nothing lost."""

import errno
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.bake import bake as bake_module
from mlx_voxclone.bake.fold import Folding
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.torch_file import write_pt
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli.front.bake import main

pytest_plugins = ["baking"]


def copy_of(base, directory):
    shutil.copytree(base, directory)
    return directory


def cut(base, directory):
    path = copy_of(base, directory) / "consolidated.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def less(base, directory):
    arrays = Release(copy_of(base, directory)).tensors.arrays()
    del arrays["norm.weight"]
    save_tensors(directory / "consolidated.safetensors", arrays, overwrite=True)


def misshapen(base, directory):
    arrays = Release(copy_of(base, directory)).tensors.arrays()
    arrays["norm.weight"] = mx.zeros(3)
    save_tensors(directory / "consolidated.safetensors", arrays, overwrite=True)


def no_tekken(base, directory):
    (copy_of(base, directory) / "tekken.json").unlink()


def stray_voice(base, directory):
    (copy_of(base, directory) / "voice_embedding" / "anna.pt").write_text("x")


BAD_BASES = {
    cut: "truncated",
    less: "missing: norm.weight",
    misshapen: "norm.weight [3] instead of [64]",
    no_tekken: "tekken.json: not found",
    stray_voice: "not registered",
}


@pytest.mark.parametrize("damage", BAD_BASES, ids=lambda f: f.__name__)
def test_bad_base(base, recording, tmp_path, assert_refused, damage):
    damage(base, tmp_path / "bad")
    options = ["--voice", f"anna={base}/voice_embedding/casual_male.pt"]
    code = main(["--model", str(tmp_path / "bad"), "--output", str(tmp_path / "out"), *options])
    assert_refused(code, BAD_BASES[damage])
    assert not (tmp_path / "out").exists()


BAD_OPTIONS = {
    "nothing": ([], "nothing to bake"),
    "a missing encoder": (["--encoder", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
    "missing adapters": (["--adapters", "nowhere"], "not found"),
    "a missing recording": (["--voice", "anna=nowhere.wav"], "nowhere.wav: no such file"),
    "a voice without file": (["--voice", "anna"], "NAME=SOURCE"),
    "a recording twice": (["--voice", "anna=a.wav", "--voice", "anna=a.wav"], "given twice"),
    "a bad name": (["--voice", "An.na=a.wav"], "voice name"),
    "a name that is taken": (["--voice", "casual_male=a.wav"], "casual_male: this checkpoint has one"),
    "an unknown target": (["--for", "torch"], "invalid choice"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(base, tmp_path, assert_refused, case):
    options, match = BAD_OPTIONS[case]
    assert_refused(main(["--model", str(base), "--output", str(tmp_path / "out"), *options]), match)
    assert list(tmp_path.iterdir()) == []


def test_bad_voices(base, recording, encoder, tmp_path, assert_refused):
    def refused(source, match, *options):
        code = main(["--model", str(base), "--output", str(tmp_path / "out"), "--voice", f"a={source}", *options])
        assert_refused(code, match)
        assert not (tmp_path / "out").exists()

    refused(recording, "needs a codec encoder")
    (tmp_path / "text.wav").write_text("not audio")
    refused(tmp_path / "text.wav", "text.wav", "--encoder", str(encoder))
    write_pt(tmp_path / "narrow.pt", mx.zeros((4, 8)))
    refused(tmp_path / "narrow.pt", "rows of 8, but the model is 64 wide")
    files = {
        "high": ({"codes": np.full((37, 3), 500, np.int32)}, "high.safetensors"),
        "negative": ({"codes": np.full((37, 3), -1, np.int32)}, "negative.safetensors"),
        "short": ({"codes": np.zeros((36, 3), np.int32)}, "short.safetensors"),
        "none": ({"codes": np.zeros((37, 0), np.int32)}, "no frames"),
        "floats": ({"codes": np.zeros((37, 3), np.float32)}, "floats.safetensors"),
        "other": ({"latents": np.zeros((3, 3), np.float32)}, "neither 'embedding' nor 'codes'"),
    }
    for name, (tensors, match) in files.items():
        save_tensors(tmp_path / f"{name}.safetensors", tensors)
        refused(tmp_path / f"{name}.safetensors", match)


def changed_adapters(adapters, directory, change):
    shutil.copytree(adapters, directory)
    tensors = mx.load(str(adapters / "adapters.safetensors"))
    save_tensors(directory / "adapters.safetensors", change(tensors), overwrite=True)
    return directory


BAD_ADAPTERS = {
    "no name matches": (lambda t: {f"model.{k}": v for k, v in t.items()}, "0 of 14 adapted modules"),
    "one does not match": (
        lambda t: {k.replace("layers.1.attention.wq", "layers.9.attention.wq"): v for k, v in t.items()},
        "13 of 14",
    ),
    "a wrong shape": (
        lambda t: {k: v[:, :10] if k.endswith("0.attention.wq.lora_b") else v for k, v in t.items()},
        "has the shape [10, 64]",
    ),
    "on the codec": (
        lambda t: {
            k.replace("layers.0.attention.wq", "audio_tokenizer.decoder_blocks.1.layers.0.attention.wq"): v
            for k, v in t.items()
        },
        "13 of 14",
    ),
    "too large": (
        lambda t: {k: v * 1e25 if k.startswith("layers.0.attention.wq") else v for k, v in t.items()},
        "exceeds the range of BF16",
    ),
}


@pytest.mark.parametrize("case", BAD_ADAPTERS)
def test_bad_adapters(base, adapters, tmp_path, assert_refused, case):
    change, match = BAD_ADAPTERS[case]
    bad = changed_adapters(adapters, tmp_path / "bad", change)
    code = main(["--model", str(base), "--adapters", str(bad), "--output", str(tmp_path / "out")])
    assert_refused(code, match)
    assert {p.name for p in tmp_path.iterdir()} == {"bad"}


def test_encoder_with_undefined_numbers(base, encoder, tmp_path, assert_refused):
    tensors = {n: TensorFile(encoder).numpy(n).copy() for n in TensorFile(encoder).names()}
    next(iter(tensors.values())).reshape(-1)[0] = np.nan
    save_tensors(tmp_path / "e.safetensors", tensors)
    code = main(["--model", str(base), "--encoder", str(tmp_path / "e.safetensors"), "--output", str(tmp_path / "out")])
    assert_refused(code, "not finite")


def test_output_that_exists(base, encoder, tmp_path, assert_refused):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert_refused(
        main(["--model", str(base), "--encoder", str(encoder), "--output", str(tmp_path / "out")]), "not empty"
    )
    assert (tmp_path / "out" / "mine").read_text() == "x"
    inside = ["--output", str(base / "out")]
    assert_refused(main(["--model", str(base), "--encoder", str(encoder), *inside]), "inside the model directory")
    assert not (base / "out").exists()


def test_no_space_before(base, encoder, tmp_path, assert_refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    code = main(["--model", str(base), "--encoder", str(encoder), "--output", str(tmp_path / "out")])
    assert_refused(code, "no space left")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "match"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError(errno.ENOSPC, "No space left on device"), 2, "no space left")],
)
@pytest.mark.parametrize("where", ["weights", "files", "verification"])
def test_ended_early(base, adapters, tmp_path, assert_refused, monkeypatch, error, code, match, where):
    calls = []

    def fail(*_, **__):
        calls.append(1)
        if where == "weights" and len(calls) < 9:
            return original(*_, **__)
        raise error

    owner, name = {
        "weights": (Folding, "fold"),
        "files": (shutil, "copyfile"),
        "verification": (bake_module, "_verify"),
    }[where]
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, fail)
    result = main(["--model", str(base), "--adapters", str(adapters), "--output", str(tmp_path / "out")])
    assert_refused(result, match, expected=code)
    assert calls
    assert list(tmp_path.iterdir()) == []
