"""Folding: what a change has become after rounding, several adapters added up, and what is measured of it."""

import json

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.adapters.lora import apply_adapters
from mlx_voxclone.adapters.mix import AdapterMix, AdapterSource, LowRank, mix_adapters
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.bake.fold import Folding
from mlx_voxclone.checkpoint.dtypes import decode, encode
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.writer import Entry, write_safetensors
from mlx_voxclone.cli.front.bake import main
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["baking"]
NAME = "layers.0.attention.wq.weight"


def weight_file(directory, outputs, inputs, dtype="BF16", seed=0):
    values = 0.02 * np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    path = directory / f"{dtype}-{outputs}-{inputs}.safetensors"
    if not path.exists():
        write_safetensors(path, [Entry(NAME, dtype, values.shape, lambda: encode(values, dtype))])
    return TensorFile(path)


def change_of(file, rank, relative, seed=1):
    """A random change of the file's weight, of a size relative to it."""
    rng, weight = np.random.default_rng(seed), file.numpy(NAME)
    a = rng.standard_normal((weight.shape[1], rank)).astype(np.float32)
    b = rng.standard_normal((rank, weight.shape[0])).astype(np.float32)
    size = np.linalg.norm(b.T @ a.T) / np.linalg.norm(weight)
    return LowRank(a, b * np.float32(relative / size))


def folding(file, change, rounding="compensated"):
    return Folding(AdapterMix({NAME.removesuffix(".weight"): change}, ()), file, rounding)


def fold(file, change, rounding="compensated", dtype=None):
    """(weight after, measurements)"""
    bits, measured = folding(file, change, rounding).fold(NAME, dtype)
    return decode(bits, measured.dtype), measured


def test_the_change_is_what_the_layer_adds():
    rng = np.random.default_rng(0)
    a, b, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (4, 5), (3, 6)))
    np.testing.assert_allclose(x @ LowRank(a, b).rows().T, (x @ a) @ b, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(LowRank(a, b).rows(slice(1, 3)), LowRank(a, b).rows()[1:3])
    assert LowRank(a, b).square == pytest.approx(np.square(a @ b).sum(), rel=1e-5)


@pytest.mark.parametrize(("relative", "nearest_keeps"), [(0.001, 0.6), (0.003, 0.95), (0.01, 1.01)])
def test_a_small_change_keeps_its_effect(tmp_path, relative, nearest_keeps):
    """For inputs that the change reads, its errors cancel; elsewhere they are little more than those of rounding."""
    file = weight_file(tmp_path, 200, 1024)
    change, before = change_of(file, 16, relative), file.numpy(NAME)
    basis, wanted = np.linalg.qr(change.a)[0], change.rows()
    errors = {}
    for rounding in ("nearest", "compensated"):
        after, measured = fold(file, change, rounding)
        errors[rounding] = np.linalg.norm((after - before - wanted) @ basis) / np.linalg.norm(wanted)
        assert measured.effect_lost == pytest.approx(errors[rounding], rel=0.01)
        if rounding == "nearest":
            nearest = measured
            assert measured.kept < nearest_keeps
    assert measured.kept == pytest.approx(1, abs=0.01)
    assert errors["compensated"] < min(0.03, errors["nearest"] / 5)
    assert measured.rounding_error < 1.6 * nearest.rounding_error
    assert measured.lost < nearest.lost + 0.01


@settings(max_examples=20, deadline=None)
@given(
    outputs=st.integers(1, 30),
    inputs=st.integers(1, 80),
    rank=st.integers(1, 20),
    relative=st.sampled_from([0.003, 0.03, 1.0]),
    seed=st.integers(0, 100),
    dtype=st.sampled_from(["BF16", "F16"]),
)
@example(outputs=1, inputs=1, rank=1, relative=1.0, seed=2, dtype="F16")  # the change takes all away, but for 2e-10
def test_any_shape_is_rounded_by_steps_of_its_type(tmp_path_factory, outputs, inputs, rank, relative, seed, dtype):
    """Wide or narrow, of a rank above its width too: no element strays, and what is told is what was done."""
    file = weight_file(tmp_path_factory.getbasetemp(), outputs, inputs, dtype)
    change, before = change_of(file, rank, relative, seed), file.numpy(NAME)
    after, measured = fold(file, change)
    wanted = before + change.rows()
    step, least = (2.0**-8, 2.0**-134) if dtype == "BF16" else (2.0**-11, 2.0**-25)  # half of a step, and of the least
    assert np.abs(after - wanted).max() <= 4 * max(step * np.abs(wanted).max(), least)
    got, delta = (after - before).astype(np.float64), change.rows().astype(np.float64)
    assert measured.kept == pytest.approx((got * delta).sum() / (delta**2).sum(), rel=1e-4)
    assert measured.rounding_error == pytest.approx(
        np.linalg.norm((after - wanted).astype(np.float64)) / np.linalg.norm(delta), rel=1e-3
    )
    assert measured.relative_change == pytest.approx(relative, rel=1e-3)
    cosine = (got * delta).sum() / (np.linalg.norm(got) * np.linalg.norm(delta) or np.inf)
    assert measured.lost == pytest.approx(1 - cosine, abs=1e-4)


def test_rows_without_a_change_stay_as_they_are(tmp_path):
    file = weight_file(tmp_path, 40, 64)
    change = change_of(file, 4, 0.01)
    change.b[:, ::2] = 0
    after, _ = fold(file, change)
    np.testing.assert_array_equal(after[::2], file.numpy(NAME)[::2])
    assert (after[1::2] != file.numpy(NAME)[1::2]).any(axis=1).all()
    for half in change:
        half[:] = 0
        after, measured = fold(file, change)
        np.testing.assert_array_equal(after, file.numpy(NAME))
        assert (measured.kept, measured.lost, measured.rounding_error, measured.relative_change) == (1, 0, 0, 0)
        assert measured.effect_lost == 0


def test_large_changes_take_the_nearest_numbers(tmp_path):
    """They lose nothing by it, and feedback would add to the rounding."""
    file = weight_file(tmp_path, 40, 256)
    after, measured = fold(file, change_of(file, 4, 0.03))
    np.testing.assert_array_equal(after, fold(file, change_of(file, 4, 0.03), "nearest")[0])
    assert measured.kept == pytest.approx(1, abs=0.003)


def test_float32_loses_nothing(tmp_path):
    file = weight_file(tmp_path, 40, 64)
    change = change_of(file, 4, 0.0003)
    after, measured = fold(file, change, dtype="F32")
    np.testing.assert_array_equal(after, file.numpy(NAME) + change.rows())
    assert measured.lost < 1e-6
    assert measured.rounding_error < 1e-3
    assert fold(file, change)[1].lost > 0.05


def test_an_unknown_rounding_is_refused(tmp_path):
    file = weight_file(tmp_path, 4, 4)
    with pytest.raises(CheckpointError, match="choose compensated or nearest"):
        folding(file, change_of(file, 1, 0.1), "up")


def test_a_folded_model_does_what_weak_adapters_do(base, tmp_path):
    """Of the adapters' effect on the hidden states, along itself, nearest rounding loses a part."""
    release = Release(base)
    weak = scaled(base, tmp_path / "weak", 0.01)
    prompt = mx.random.normal((8, 32, 64), key=mx.random.key(0))
    model = load_model(release)
    plain = np.array(model.hidden_states(prompt))
    apply_adapters(model, mix_adapters([weak], release.fingerprint(), base).changes)
    effect, kept = np.array(model.hidden_states(prompt)) - plain, {}
    for rounding in ("nearest", "compensated"):
        bake(base, tmp_path / rounding, adapters=weak, rounding=rounding)
        got = np.array(load_model(Release(tmp_path / rounding)).hidden_states(prompt)) - plain
        kept[rounding] = (got * effect).sum() / (effect**2).sum()
    assert kept["nearest"] < 0.9
    assert abs(kept["compensated"] - 1) < 0.1


# --- several adapters -------------------------------------------------------------------------------------------------


def scaled(base, directory, factor, seed=0, rank=4, leaves=("wq", "w2")):
    """Adapters of some linears."""
    release, rng, tensors = Release(base), np.random.default_rng(seed), {}
    for name in release.tensors.names():
        module = name.removesuffix(".weight")
        if name.startswith("layers.") and module.endswith(leaves):
            outputs, inputs = release.tensors.info(name).shape
            tensors[f"{module}.lora_a"] = rng.standard_normal((inputs, rank)).astype(np.float32) / inputs**0.5
            tensors[f"{module}.lora_b"] = rng.standard_normal((rank, outputs)).astype(np.float32) * 0.05 * factor
    save_adapters(directory, tensors, AdapterConfig(rank, 2.0 * rank, tuple(leaves), release.fingerprint()))
    return directory


def test_adapters_are_added_up(base, tmp_path):
    one = scaled(base, tmp_path / "one", 1.0)
    two = scaled(base, tmp_path / "two", 1.0, seed=1, rank=2, leaves=("w2", "wo"))
    key = Release(base).fingerprint()
    both = mix_adapters([AdapterSource(one, 0.5), AdapterSource(two, -2.0)], key, base).changes
    first, second = (mix_adapters([place], key, base).changes for place in (one, two))
    assert both.keys() == first.keys() | second.keys()
    for name, change in both.items():
        parts = [w * m[name].rows() for w, m in ((0.5, first), (-2.0, second)) if name in m]
        np.testing.assert_allclose(change.rows(), sum(parts), atol=1e-6)


def test_added_up_adapters_speak_apart_as_folded(base, tmp_path, capsys):
    places = [scaled(base, tmp_path / str(seed), 3.0, seed=seed) for seed in (0, 1)]
    given = [f"{places[0]}=0.5", str(places[1])]
    options = [part for text in given for part in ("--adapters", text)]
    assert main(["--model", str(base), "--output", str(tmp_path / "out"), *options]) == 0
    (record,) = json.loads((tmp_path / "out" / "voxclone.json").read_text())["bakes"]
    assert [(a["rank"], a["alpha"], a["weight"]) for a in record["adapters"]] == [(4, 8.0, 0.5), (4, 8.0, 1.0)]
    assert len(record["folded"]) == 4
    apart = Speaker.load(base, adapters=[AdapterSource.parse(text) for text in given])
    prompt = mx.random.normal((1, 12, 64), key=mx.random.key(0))
    wanted, got, plain = (
        np.array(model.hidden_states(prompt))
        for model in (apart.model, load_model(Release(tmp_path / "out")), load_model(Release(base)))
    )
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted - plain)


@pytest.mark.parametrize(
    ("text", "directory", "weight"),
    [("a", "a", 1), ("a=0.5", "a", 0.5), ("a=-1", "a", -1), ("x=y/a", "x=y/a", 1), ("a=b=2", "a=b", 2)],
)
def test_a_source_is_a_directory_and_a_weight(text, directory, weight):
    source = AdapterSource.parse(text)
    assert (str(source.directory), source.weight) == (directory, weight)
    assert str(source) == text


def test_a_directory_that_looks_like_a_weight_is_a_directory(tmp_path):
    (tmp_path / "lr=1e-4").mkdir()
    assert AdapterSource.parse(f"{tmp_path}/lr=1e-4") == AdapterSource(tmp_path / "lr=1e-4", 1.0)


@pytest.mark.parametrize("weight", ["0", "nan", "inf"])
def test_a_weight_that_means_nothing_is_refused(base, tmp_path, assert_refused, weight):
    code = main(["--model", str(base), "--output", str(tmp_path / "out"), "--adapters", f"a={weight}"])
    assert_refused(code, "finite number other than 0")


def test_a_mix_that_does_not_fit_is_refused(base, tmp_path, assert_refused):
    one = scaled(base, tmp_path / "one", 1.0)
    other = tmp_path / "other"
    tensors = {f"layers.0.attention.wq.lora_{h}": np.ones(s, np.float32) for h, s in (("a", (32, 4)), ("b", (4, 64)))}
    save_adapters(other, tensors, AdapterConfig(4, 8.0, ("wq",), Release(base).fingerprint()))
    for sources, match in (((one, one), "given twice"), ((one, other), "another shape")):
        options = [part for source in sources for part in ("--adapters", str(source))]
        assert_refused(main(["--model", str(base), "--output", str(tmp_path / "out"), *options]), match)
        assert not (tmp_path / "out").exists()


# --- the command ------------------------------------------------------------------------------------------------------


def baked_types(directory, names):
    return {Release(directory).tensors.info(name).dtype for name in names}


def test_weak_adapters_are_warned_of_and_can_be_kept_in_float32(base, tmp_path, capsys):
    weak, strong = scaled(base, tmp_path / "weak", 0.02), scaled(base, tmp_path / "strong", 5.0, leaves=("wo",))
    options = ["--model", str(base), "--adapters", str(weak), "--adapters", str(strong)]
    assert main([*options, "--output", str(tmp_path / "plain")]) == 0
    assert capsys.readouterr().err == ""  # compensated: the change's effect is there
    assert main([*options, "--output", str(tmp_path / "nearest"), "--rounding", "nearest"]) == 0
    said = capsys.readouterr()
    assert "4 of 6 folded weights lose over 5% of their change's effect to nearest rounding" in said.err
    assert "--folded-as auto" in said.err
    assert main([*options, "--output", str(tmp_path / "auto"), "--folded-as", "auto", "--verbose"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "4 of them kept in float32" in said.out
    assert sum(line.startswith("layers.") for line in said.out.splitlines()) == 6
    names = [f"layers.{i}.{leaf}.weight" for i in (0, 1) for leaf in ("attention.wq", "feed_forward.w2")]
    assert baked_types(tmp_path / "plain", names) == {"BF16"}
    assert baked_types(tmp_path / "auto", names) == {"F32"}
    assert baked_types(tmp_path / "auto", ["layers.0.attention.wo.weight"]) == {"BF16"}
    assert main([*options, "--output", str(tmp_path / "wide"), "--folded-as", "float32"]) == 0
    assert baked_types(tmp_path / "wide", ["layers.0.attention.wo.weight", *names]) == {"F32"}
    Release(tmp_path / "auto").check()
    how = [_how(tmp_path / name) for name in ("plain", "nearest", "auto", "wide")]
    assert how == [("compensated", "base"), ("nearest", "base"), ("compensated", "auto"), ("compensated", "float32")]


def _how(directory):
    """What the record of a bake says of its folding."""
    (record,) = json.loads((directory / "voxclone.json").read_text())["bakes"]
    return record["rounding"], record["folded_as"]


def test_a_bake_is_repeated_from_its_record(base, tmp_path):
    weak = scaled(base, tmp_path / "weak", 0.02)
    bake(base, tmp_path / "a", adapters=weak, rounding="nearest", folded_as="auto")
    rounding, folded_as = _how(tmp_path / "a")
    bake(base, tmp_path / "b", adapters=weak, rounding=rounding, folded_as=folded_as)
    first, again = ((tmp_path / name / "consolidated.safetensors").read_bytes() for name in "ab")
    assert first == again


def test_a_dry_run_measures_the_folding(base, adapters, tmp_path, capsys):
    options = ["--model", str(base), "--adapters", str(adapters)]
    outputs = []
    for more in (["--output", str(tmp_path / "dry"), "--dry-run"], ["--output", str(tmp_path / "wet")]):
        assert main([*options, *more]) == 0
        outputs.append(next(x for x in capsys.readouterr().out.splitlines() if x.startswith("adapters")))
    assert outputs[0] == outputs[1]
    assert not (tmp_path / "dry").exists()
