"""The recovery benchmark's codec in pieces: losses, gates; and a training of a few steps."""

import json
import math
from dataclasses import asdict, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from recovery_corpus import TINY_CODEC, heard_states

from benchmarks.recovery import codec as codecs
from benchmarks.recovery import gates
from benchmarks.recovery.batches import Crops
from benchmarks.recovery.codec import CodecRun, CodecTraining, learning_rate, load_codec, save_codec, train_codec
from benchmarks.recovery.corpus import FRAME, UNITS
from benchmarks.recovery.student import (
    LossWeights,
    Stage,
    heard_loss,
    losses,
    phase_loss,
    spread_loss,
    unit_loss,
)
from benchmarks.recovery.vq import codebook_scale, scaled_semantics
from mlx_voxclone.checkpoint.dtypes import bfloat16_to_float32, float32_to_bfloat16
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.miniature.micro import make_micro

SMALL = CodecRun("tiny", 6, batch=4, frames=3, quantise_from=0.3, cycle_from=0.3, cycle_full=0.8)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    home = tmp_path_factory.mktemp("codecs")
    return home / "one", train_codec(corpus, home / "one", "quick", seed=5, run=SMALL, say=lambda _: None)


# ---- student and losses ----------------------------------------------------------------------------------------------


def test_heard_states_are_a_loss_of_the_frames_that_have_one():
    rng = np.random.default_rng(0)
    predicted, states = (rng.standard_normal((2, 3, 5)).astype(np.float32) for _ in range(2))
    states[0, 2] = states[1, :2] = 0
    cosines = [
        predicted[b, t] @ states[b, t] / np.linalg.norm(predicted[b, t]) / np.linalg.norm(states[b, t])
        for b, t in ((0, 0), (0, 1), (1, 2))
    ]
    assert float(heard_loss(mx.array(predicted), mx.array(states))) == pytest.approx(1 - np.mean(cosines), abs=1e-5)
    assert float(heard_loss(mx.array(predicted), mx.zeros((2, 3, 5)))) == 0


def test_a_training_lowers_the_distance_to_heard_states(corpus):
    run = replace(SMALL, steps=12, weights=LossWeights(heard=4.0))
    training = CodecTraining(corpus, run, TINY_CODEC, 0, heard=heard_states(corpus))
    before = np.array(training.student.heard.weight)
    values = [training.step(k, run.steps) for k in range(3)]
    assert all(0 < value["heard"] < 2 for value in values)
    assert (np.array(training.student.heard.weight) != before).any()


def only(**weights: float) -> LossWeights:
    """All weights 0 but these."""
    return LossWeights(**(dict.fromkeys(asdict(LossWeights()), 0.0) | weights))


def test_voices_that_keep_to_a_few_pitches_teach_pitch_and_phase(student, corpus):
    batch = Crops(corpus, TINY_CODEC, 2, 3, seed=0, grid=FRAME).batch(0)
    assert (batch["pitch"] == -1).all().item()  # these speakers have pitches of their own
    batch["pitch"] = mx.zeros_like(batch["pitch"])
    gradient = nn.value_and_grad(student, losses)
    for weights, name, reached in (
        (only(pitch=1.0), "pitch.weight", "codec.encoder_blocks.7.conv.parametrizations.weight.original1"),
        (only(phase=1.0), "codec.output_proj.conv.parametrizations.weight.original1", "codec.input_proj.conv"),
    ):
        (_, terms), gradients = gradient(student, batch, weights, Stage(cycle=0))
        assert set(terms) >= {"l1"} | ({"pitch"} if weights.pitch else {"phase"})
        assert not {"stft", "mel"} & set(terms)  # of no weight: not computed
        sizes = {key: float(mx.abs(g).max()) for key, g in tree_flatten(gradients)}
        assert sizes[name] > 0
        assert any(size > 0 for key, size in sizes.items() if key.startswith(reached))


def test_the_phase_loss_is_0_for_itself_and_1_for_silence():
    wave = mx.array(np.random.default_rng(0).standard_normal((1, 9600)).astype(np.float32))
    assert phase_loss(wave, wave).item() == pytest.approx(0, abs=1e-6)
    assert phase_loss(mx.zeros_like(wave), wave).item() == pytest.approx(1, abs=1e-3)
    assert phase_loss(-wave, wave).item() == pytest.approx(4, abs=1e-3)  # no magnitude tells the two apart


def test_gradients_reach_both_halves_and_the_classifier_and_never_the_codebook(student, corpus):
    batch = Crops(corpus, TINY_CODEC, 4, 3, seed=0).batch(0)
    only_cycle = only(cycle_semantic=1.0, cycle_acoustic=1.0)
    _, gradients = nn.value_and_grad(student, losses)(student, batch, only_cycle, Stage())
    sizes = {name: float(mx.abs(g).max()) for name, g in tree_flatten(gradients)}
    assert not any("quantizer" in name for name in sizes)
    assert sizes["codec.output_proj.conv.parametrizations.weight.original1"] > 0
    assert sizes["codec.encoder_blocks.7.conv.parametrizations.weight.original1"] > 0
    assert sizes["classifier.weight"] == 0
    _, gradients = nn.value_and_grad(student, losses)(student, batch, only(units=1.0), Stage(cycle=0))
    sizes = {name: float(mx.abs(g).max()) for name, g in tree_flatten(gradients)}
    assert sizes["classifier.weight"] > 0
    assert sizes["codec.encoder_blocks.7.conv.parametrizations.weight.original1"] > 0  # straight through the codebook
    assert sizes["codec.output_proj.conv.parametrizations.weight.original1"] == 0


def test_stages_switch_quantiser_and_cycle(student, corpus):
    batch = Crops(corpus, TINY_CODEC, 4, 3, seed=0).batch(1)
    total, terms = losses(student, batch, LossWeights(), Stage(quantise=False, cycle=0.0))
    assert float(terms["commitment"]) == 0
    assert {"stft", "mel"} <= set(terms)
    assert "cycle_semantic" not in terms
    half, whole = (losses(student, batch, LossWeights(), Stage(cycle=c)) for c in (0.5, 1.0))
    weights = LossWeights()
    cycle = sum(getattr(weights, name) * float(whole[1][name]) for name in ("cycle_semantic", "cycle_acoustic"))
    assert float(whole[0]) - float(half[0]) == pytest.approx(cycle / 2, rel=1e-3)
    assert float(terms["units"]) > 0
    assert math.isfinite(float(total))
    rows = student.codec.quantizer.semantic_codebook.decode(whole[1]["codes"])
    expected = unit_loss(student.classifier(rows), batch["units"])  # of codes, not of what they stand for
    assert float(whole[1]["units"]) == pytest.approx(float(expected), rel=1e-4)
    run = CodecRun("tiny", 10, quantise_from=0.1, cycle_from=0.2, cycle_full=0.4)
    assert run.stage(0.05, 2.0) == Stage(False, 0.0, 2.0)
    assert run.stage(0.3, 1.0).cycle == pytest.approx(0.5)
    assert run.stage(0.9, 1.0) == Stage(True, 1.0, 1.0)
    assert replace(run, told_until=0.5).stage(0.4, 1.0).told
    assert not replace(run, told_until=0.5).stage(0.5, 1.0).told


def test_spread_is_nothing_at_its_deviation_and_much_for_constants_and_extremes():
    even = mx.arctanh(mx.linspace(-math.sqrt(3) / 2, math.sqrt(3) / 2, 1000).reshape(2, 500, 1))
    assert float(spread_loss(even)) < 1e-5
    assert float(spread_loss(mx.zeros((2, 500, 1)))) == pytest.approx(0.25, abs=1e-2)
    assert float(spread_loss(mx.full((2, 500, 1), 9.0))) == pytest.approx(1.25, abs=1e-2)
    assert float(spread_loss(mx.where(mx.arange(1000) % 2 == 0, 9.0, -9.0).reshape(2, 500, 1))) > 0.2


def test_units_count_where_they_are_known():
    logits = mx.array([[[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]]])
    known = float(unit_loss(logits[:, :2], mx.array([[0, 0]])))
    assert float(unit_loss(logits, mx.array([[0, 0, -1]]))) == pytest.approx(known)
    assert known == pytest.approx((math.log1p(math.exp(-5)) + math.log1p(math.exp(5))) / 2, rel=1e-5)
    assert float(unit_loss(logits, mx.array([[-1, -1, -1]]))) == 0


def test_rate_rises_and_falls():
    rates = [learning_rate(p) for p in np.linspace(0, 1, 201)]
    assert max(rates) == pytest.approx(1, abs=1e-2)
    assert rates[-1] == pytest.approx(codecs.LAST_RATE)
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


# ---- gates -----------------------------------------------------------------------------------------------------------


def rounds_of(corpus, error: int = 0) -> list[gates.Round]:
    rng = np.random.default_rng(0)
    found = []
    for clip in corpus.clips:
        codes = rng.integers(0, 21, (37, len(clip.units)))
        codes[0] = clip.units
        again = codes.copy()
        again[1:, ::2] = np.abs(again[1:, ::2] - error)
        again[0, ::2] += bool(error)
        found.append(gates.Round(clip, codes, again, 0.5, 0.01))
    return found


def test_perfect_codes_pass_every_gate(corpus):
    identity = np.arange(128)
    figures = gates._figures(rounds_of(corpus), 128, identity, identity)
    assert figures["semantic_agreement"] == figures["unit_agreement"] == figures["level_exact"] == 1
    assert figures["level_error"] == figures["unit_error"] == figures["unit_error_again"] == 0
    units = np.concatenate([clip.units for clip in corpus.clips])
    share = np.bincount(units) / len(units)
    assert figures["unit_error_chance"] == pytest.approx(1 - share.max())
    assert figures["semantic_agreement_chance"] == pytest.approx(np.square(share).sum())
    assert figures["level_error_chance"] == pytest.approx(20 * 22 / 63, abs=0.3)  # of two even draws of 21 levels
    assert figures["level_exact_chance"] == pytest.approx(1 / 21, abs=0.02)
    assert figures["codes_used"] == len(np.unique(units)) / 128
    passing = replace(gates.THRESHOLDS["full"], codes_used=0.05)
    assert gates.judge({"synthetic": figures, "all": figures}, passing) == []


def test_each_gate_catches_its_fault(corpus):
    identity = np.arange(128)
    good = gates._figures(rounds_of(corpus), 128, identity, identity) | {"codes_used": 1.0}
    wrong = gates._figures(rounds_of(corpus, error=2), 128, identity, identity)
    assert wrong["semantic_agreement"] == pytest.approx(0.5, abs=0.1)
    assert 0.5 < wrong["level_error"] < 1.1
    faults = {
        "codebook": {"codes_used": 0.1},
        "unit error": {"unit_error": 0.6},
        "semantic agreement": {"semantic_agreement": 0.05},
        "acoustic error": {"level_error": good["level_error_chance"]},
        "mel distance": {"mel": 3.0},
    }
    for word, change in faults.items():
        bad = good | change
        found = gates.judge({"synthetic": bad, "all": bad}, gates.THRESHOLDS["full"])
        assert len(found) == 1
        assert word in found[0]


# ---- a whole training, of six steps ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_leaves_what_the_benchmark_needs(trained, corpus):
    home, result = trained
    assert json.loads((home / "gates.json").read_text())["figures"] == result["figures"]
    assert set(result["figures"]) == {"synthetic", "all"}
    assert sorted(path.name for path in home.parent.iterdir()) == ["one"]
    release = Release(home / "stock")
    release.check()
    assert not release.has_encoder
    codec, weight, bias = load_codec(home)
    assert weight.shape == (len(UNITS), TINY_CODEC.semantic_dim)
    assert bias.shape == (len(UNITS),)
    assert codec.has_encoder
    encoder = TensorFile(home / "encoder.safetensors")
    assert {encoder.info(name).dtype for name in encoder.names()} == {"BF16"}
    figures = gates.measure(codec, weight, bias, corpus)
    assert figures == result["figures"]


@pytest.mark.slow
def test_training_depends_on_the_seed_alone(trained, corpus):
    home, result = trained
    again = train_codec(corpus, home.parent / "two", "quick", seed=5, run=SMALL, say=lambda _: None)
    assert again["figures"] == result["figures"]
    for name in ("stock/consolidated.safetensors", "encoder.safetensors", "units.safetensors"):
        assert (home / name).read_bytes() == (home.parent / "two" / name).read_bytes()


@pytest.mark.slow
def test_saved_codec_is_the_trained_one_in_bf16(corpus, tmp_path):
    make_micro(tmp_path / "untrained", "tiny", 0)
    training = CodecTraining(corpus, SMALL, TINY_CODEC, seed=2)
    before = {name: np.array(value) for name, value in tree_flatten(training.student.parameters())}
    for k in range(4):
        values = training.step(k, 4)
    assert {"l1", "stft", "mel", "commitment", "units", "spread", "cycle_semantic", "cycle_acoustic", "norm"} == set(
        values
    )
    save_codec(training.student, tmp_path / "untrained", tmp_path / "codec")
    read = dict(tree_flatten(load_codec(tmp_path / "codec")[0].parameters()))
    trained = dict(tree_flatten(training.student.codec.parameters()))
    saved = scaled_semantics(training.student.codec, codebook_scale(training.student.codec))
    assert read.keys() == trained.keys()
    for name, value in trained.items():
        value, written = np.array(value), np.array(saved[name])
        np.testing.assert_array_equal(np.array(read[name]), bfloat16_to_float32(float32_to_bfloat16(written)))
        assert not np.array_equal(value, before["codec." + name]), name  # everything trains, the codebook too
    save_codec(training.student, tmp_path / "untrained", tmp_path / "codec")  # in place of the first


@pytest.mark.slow
def test_a_training_goes_on_with_what_another_left(trained, corpus, tmp_path):
    """It starts with the other's weights, and with its codebook, which k-means would replace."""
    training = CodecTraining(corpus, SMALL, TINY_CODEC, seed=2, start=trained[0])
    old, new = load_codec(trained[0])[0].quantizer.semantic_codebook, training.student.codec.quantizer.semantic_codebook
    assert {value.dtype for _, value in tree_flatten(training.student.parameters())} == {mx.float32}
    assert mx.abs(new.embedding - old.embedding).max().item() < 1e-6
    assert "cycle_semantic" in training.step(5, 6)
    stayed = mx.abs(new.embedding - old.embedding).max(axis=1) < 1e-3  # all but those that were hit
    assert stayed.mean().item() > 0.5
    result = train_codec(corpus, tmp_path / "two", "quick", run=SMALL, start=trained[0], first=4, say=lambda _: None)
    assert (result["first"], result["steps"]) == (4, 6)


@pytest.mark.slow
def test_command_reports_and_refuses_in_one_line(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(codecs.RUNS, "quick", SMALL)
    arguments = ["--output", str(tmp_path / "codec"), "--size", "quick"]
    assert codecs.main([*arguments, "--corpus", str(corpus.directory)]) == 1  # six steps pass no gate
    assert "falls short" in capsys.readouterr().out
    assert codecs.main([*arguments, "--corpus", str(corpus.directory / "audio")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
