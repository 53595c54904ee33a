"""The last steps of a clone: models that are read once serve for all of them, and the voice's rows go as arrays."""

from contextlib import suppress

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.adapters.lora import apply_adapters, remove_adapters
from mlx_voxclone.adapters.mix import AdapterSource, mix_adapters
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.train.clone.fold_check import fold_figures, hidden_states, voice_rows, widened

pytest_plugins = ["baking"]


def codes(frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 20, (37, frames)).astype(np.int32)


def parameters(model) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def test_a_widened_module_is_what_it_was_afterwards(base):
    model = load_model(Release(base), parts=["lm"], dtype=mx.bfloat16)
    before = parameters(model.layers[0])
    with suppress(KeyError), widened(model.layers[0]):
        assert {array.dtype for array in parameters(model.layers[0]).values()} == {mx.float32}
        raise KeyError
    after = parameters(model.layers[0])
    assert all(after[name] is array for name, array in before.items())


def test_rows_are_summed_in_float32_whatever_the_model_computes_in(base):
    expected = load_model(Release(base), parts=["lm"]).voice_embedding(codes(9))
    for dtype in (mx.float32, mx.bfloat16):
        rows = voice_rows(load_model(Release(base), parts=["lm"], dtype=dtype), codes(9))
        assert rows.dtype == mx.float32
        assert mx.array_equal(rows, expected)


def test_hidden_states_are_those_of_float32_and_of_the_adapters_that_are_on(base, adapters):
    release = Release(base)
    tokenizer, clip = SpeechTokenizer.of(release), ("papa mino", codes(5), codes(7, 1))
    wide, narrow = (load_model(release, dtype=dtype) for dtype in (mx.float32, mx.bfloat16))
    rows = wide.voice_embedding(clip[1])
    prompt = wide.embed_prompt(tokenizer.prompt(clip[0], rows.shape[0]), rows)
    inputs = mx.concatenate([prompt, wide.voice_embedding(clip[2])[None]], axis=1)
    plain = hidden_states(wide, tokenizer, *clip)
    np.testing.assert_allclose(plain, np.array(wide.hidden_states(inputs)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hidden_states(narrow, tokenizer, *clip), plain, rtol=0.1, atol=0.05)
    changes = mix_adapters([AdapterSource(adapters)], release.fingerprint(), base).changes
    apply_adapters(wide, changes)
    adapted = hidden_states(wide, tokenizer, *clip)
    figures = fold_figures(plain, adapted, plain)
    assert figures["fold_error"] == figures["adapter_effect"] > 0
    assert fold_figures(plain, adapted, adapted)["fold_error"] == 0


def test_a_model_without_its_adapters_is_the_released_one(base, adapters):
    release = Release(base)
    model, fresh = load_model(release), load_model(release)
    apply_adapters(model, mix_adapters([AdapterSource(adapters)], release.fingerprint(), base).changes)
    assert any("lora_a" in name for name in parameters(model))
    remove_adapters(model)
    there, expected = parameters(model), parameters(fresh)
    assert there.keys() == expected.keys()
    prompt = mx.random.normal((1, 9, 64), key=mx.random.key(0))
    assert mx.array_equal(model.hidden_states(prompt), fresh.hidden_states(prompt))


def test_rows_are_baked_as_a_file_of_them_is(base, tmp_path):
    rows = load_model(Release(base), parts=["lm"]).voice_embedding(codes(9))
    save_tensors(tmp_path / "rows.safetensors", {"embedding": rows})
    bake(base, tmp_path / "array", voices={"ann": rows})
    bake(base, tmp_path / "file", voices={"ann": tmp_path / "rows.safetensors"})
    for suffix in ("pt", "safetensors"):
        name = f"voice_embedding/ann.{suffix}"
        assert (tmp_path / "array" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    with pytest.raises(CheckpointError, match="voice: rows of 63, but the model is 64 wide"):
        bake(base, tmp_path / "narrow", voices={"ann": rows[:, :63]})
