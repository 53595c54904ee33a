"""Adapters on disk: what is stored is what was trained, nothing is guessed."""

import json

import mlx.core as mx
import pytest

from mlx_voxclone.adapters.files import AdapterConfig, load_adapters, save_adapters
from mlx_voxclone.errors import CheckpointError

CONFIG = AdapterConfig(rank=4, alpha=8.0, targets=("wq", "w2"), base_fingerprint="f00d")


def tensors(rank=4):
    shapes = {"layers.0.attention.wq": (64, 96), "layers.1.feed_forward.w2": (128, 64)}
    made = {}
    for module, (inputs, outputs) in shapes.items():
        made[f"{module}.lora_a"] = mx.random.normal((inputs, rank))
        made[f"{module}.lora_b"] = mx.random.normal((rank, outputs))
    return made


def test_round_trip(tmp_path):
    saved = tensors()
    save_adapters(tmp_path / "a", saved, CONFIG)
    loaded, config = load_adapters(tmp_path / "a")
    assert config == CONFIG
    assert config.scale == 2.0
    assert loaded.keys() == saved.keys()
    assert all(mx.array_equal(loaded[k], saved[k]) for k in saved)
    stored = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert stored == {"rank": 4, "alpha": 8.0, "targets": ["wq", "w2"], "base_fingerprint": "f00d"}
    with pytest.raises(CheckpointError, match="exists"):
        save_adapters(tmp_path / "a", saved, CONFIG)
    save_adapters(tmp_path / "a", saved, CONFIG, overwrite=True)


@pytest.mark.parametrize("key", ["rank", "alpha", "targets", "base_fingerprint"])
def test_nothing_is_inferred(tmp_path, key):
    save_adapters(tmp_path, tensors(), CONFIG)
    path = tmp_path / "adapter_config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in stored.items() if k != key}))
    with pytest.raises(CheckpointError, match=f"'{key}' is missing"):
        load_adapters(tmp_path)
    path.write_text(json.dumps(stored | {key: None}))
    with pytest.raises(CheckpointError, match="wrong type"):
        load_adapters(tmp_path)


@pytest.mark.parametrize("alpha", ["1" + "0" * 400, "1e308", "-1e7", "1e400", "NaN", "Infinity", "true", '"8"', "[8]"])
def test_an_alpha_that_float32_cannot_follow(tmp_path, alpha):
    save_adapters(tmp_path, tensors(), CONFIG)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace("8.0", alpha))
    with pytest.raises(CheckpointError, match="wrong type or size") as error:
        load_adapters(tmp_path)
    assert "\n" not in str(error.value)


def without(made, name):
    return {k: v for k, v in made.items() if k != name}


BAD = {
    "none": ({}, "no adapters"),
    "half a pair": (without(tensors(), "layers.0.attention.wq.lora_b"), "layers.0.attention.wq lacks its lora_b"),
    "another rank": (tensors(rank=5), "not rank 4"),
    "a vector": (tensors() | {"layers.0.attention.wq.lora_a": mx.zeros((4,))}, "not rank 4"),
    "another tensor": (tensors() | {"layers.0.attention.wq.weight": mx.zeros((4,))}, "no LoRA tensor"),
    "no target": (
        {f"layers.0.attention.wo.lora_{s}": mx.zeros(n) for s, n in (("a", (8, 4)), ("b", (4, 8)))},
        "not among the targets",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_that_do_not_fit(tmp_path, case):
    bad, match = BAD[case]
    with pytest.raises(CheckpointError, match=match):
        save_adapters(tmp_path / "a", bad, CONFIG)
    assert not (tmp_path / "a").exists()


def test_bad_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: not found"):
        load_adapters(tmp_path)
    save_adapters(tmp_path / "a", tensors() | {"layers.0.attention.wq.lora_b": mx.full((4, 96), mx.nan)}, CONFIG)
    with pytest.raises(CheckpointError, match="lora_b holds numbers that are not finite"):
        load_adapters(tmp_path / "a")
    (tmp_path / "a" / "adapters.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_adapters(tmp_path / "a")
    (tmp_path / "a" / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError):
        load_adapters(tmp_path / "a")
