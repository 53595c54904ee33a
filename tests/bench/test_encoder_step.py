"""The benchmark of one encoder step: its count of operations against the graph that MLX builds for the step."""

import json
import math
import threading
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks import encoder_step
from mlx_voxclone.audio.spectral import plain as spectral
from mlx_voxclone.bench import measure
from mlx_voxclone.bench.encoder_step import EncoderStep, Operations, build_codec, count_operations, loss, preset_config
from mlx_voxclone.model import codec as codec_module
from mlx_voxclone.model.blocks import attention, conv
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.train.encoder.task import freeze_all_but_encoder


def products(function, *inputs) -> int:
    """Operations of every matrix product in the graph of `function`, from the shapes alone; nothing is computed."""
    total = 0

    def look(entry):
        nonlocal total
        if entry["type"] == "primitive" and entry["name"] in ("Matmul", "AddMM", "GatherMM", "Convolution"):
            assert entry["name"] == "Matmul", "a product of a kind that is not counted here"
            left, right, out = entry["inputs"][0][1], entry["inputs"][1][1], entry["outputs"][0][1]
            assert left[-1] == right[-2]
            total += 2 * math.prod(out) * left[-1]

    with_deep_stack(lambda: mx.export_function(look, function, *inputs))
    return total


def with_deep_stack(work) -> None:
    """MLX walks a graph by recursion, thousands of nodes deep: more than a usual stack holds beside pytest's own."""
    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    before = threading.stack_size(1 << 28)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    if raised:
        raise raised[0]


def whole_step(codec):
    """Loss and gradients of the step, as outputs of one graph."""

    def function(waveform):
        value, gradients = nn.value_and_grad(codec, lambda w: loss(codec, w))(waveform)
        return [value, *(gradient for _, gradient in tree_flatten(gradients))]

    return function


@pytest.fixture
def plain(monkeypatch):
    """Spectra, products and activations without their hand-written gradients, which no graph can be exported with."""

    def framer(n_fft, hop):
        return lambda x: mx.as_strided(x, (1, 1 + (x.shape[1] - n_fft) // hop, n_fft), (x.shape[1], hop, 1))

    def magnitude(n_fft, hop):
        return lambda x, window: (mx.abs(mx.fft.rfft(framer(n_fft, hop)(x) * window)),)

    monkeypatch.setattr(spectral, "_magnitude", magnitude)
    monkeypatch.setenv("VOXCLONE_SPECTRAL", "mlx")
    for module in (attention, codec_module, conv):
        monkeypatch.setattr(module, "linear", lambda x, weight: x @ weight.T)
    monkeypatch.setattr(conv, "transposed", lambda x, *axes: x.transpose(*axes))
    monkeypatch.setattr(codec_module, "swiglu", lambda gate, up: gate * mx.sigmoid(gate) * up)


def lazy_codec(config) -> Codec:
    """Nothing evaluated: the release's sizes take no memory."""
    codec = Codec(config, encoder=True)
    freeze_all_but_encoder(codec)
    return codec


@pytest.mark.parametrize("samples", [*(pytest.param(n, marks=pytest.mark.slow) for n in (96000, 24001, 1920)), 700])
def test_the_count_is_that_of_the_graph(samples, plain):
    codec = lazy_codec(preset_config("tiny"))
    counted, waveform = count_operations(codec, samples), mx.zeros((1, samples))
    assert products(whole_step(codec), waveform) == counted.total
    forward = counted.encoder_forward + counted.quantiser + counted.decoder_forward + counted.mel_filters * 2 // 3
    assert products(lambda w: loss(codec, w), waveform) == forward
    assert products(codec.encode_latents, waveform) == counted.encoder_forward


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_lengths": (1, 3, 2, 1), "decoder_lengths": (3, 1, 1, 2)},
        {"encoder_kernels": (8, 2, 4, 5), "decoder_kernels": (1, 2, 6, 4)},
        {"window": 64, "hidden_dim": 96, "semantic_codebook_size": 40, "acoustic_dim": 7},
    ],
)
def test_the_count_follows_the_sizes(changes, plain):
    codec = lazy_codec(replace(preset_config("tiny"), **changes))
    counted = count_operations(codec, 30000)
    assert counted != count_operations(lazy_codec(preset_config("tiny")), 30000)
    assert products(whole_step(codec), mx.zeros((1, 30000))) == counted.total


def test_the_count_at_the_release_s_sizes(plain):
    codec = lazy_codec(preset_config("release"))
    assert sum(array.size for _, array in tree_flatten(codec.trainable_parameters())) == pytest.approx(
        149.5e6, rel=1e-3
    )
    counted = count_operations(codec, 96000)
    assert products(whole_step(codec), mx.zeros((1, 96000))) == counted.total
    assert counted.total == pytest.approx(274e9, rel=0.01)


def test_a_step_trains_the_encoder_and_nothing_else():
    codec, waveform = build_codec(preset_config("tiny")), 0.1 * mx.random.normal((1, 9600))
    before = {name: np.array(array) for name, array in tree_flatten(codec.parameters())}
    step = EncoderStep(codec, waveform, learning_rate=1e-3)
    losses = [step() for _ in range(4)]
    assert losses[-1] < losses[0]
    moved = {name for name, array in tree_flatten(codec.parameters()) if not np.array_equal(before[name], array)}
    assert moved == {name for name in before if name.startswith(("input_proj.", "encoder_blocks."))}


def test_the_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(measure.GEMM_SIZE, "cpu", 64)
    path = tmp_path / "step.json"
    options = ["--preset", "tiny", "--clip-seconds", "0.5", "--steps", "3", "--json", str(path)]
    assert encoder_step.main(options) == 0
    row, told = json.loads(path.read_text()), capsys.readouterr().out
    more, operations = row["more"], count_operations(lazy_codec(preset_config("tiny")), 12000)
    assert Operations(**{k: v for k, v in more["operations"].items() if k != "total"}) == operations
    assert len(more["seconds"]) == len(more["losses"]) - 1 == 3
    assert (row["seconds"], row["cpu_seconds"]) == (np.median(more["seconds"]), np.median(more["cpu_seconds"]))
    assert row["speed"] == pytest.approx(0.5 / row["seconds"])
    assert row["peers"] == []
    assert row["share"] == pytest.approx(operations.total / row["cpu_seconds"] / more["product_rate_by_cpu_time"])
    assert more["share_by_the_clock"] == pytest.approx(operations.total / row["seconds"] / more["product_rate"])
    weights = 4 * (more["encoder_parameters"] * 4 + more["frozen_parameters"])  # with gradient, two moments
    assert weights < row["peak"] < 100e6 < more["peak_resident"] < 6e9
    assert np.isfinite(more["losses"]).all()
    for line in ("encoder of 0.5 M parameters", "(median of 3", f"operations: {operations.total / 1e9:.1f} GFLOP"):
        assert line in told


@pytest.mark.parametrize("options", [["--clip-seconds", "0"], ["--clip-seconds", "nan"], ["--steps", "0"]])
def test_lengths_that_are_none(options, capsys):
    with pytest.raises(SystemExit):
        encoder_step.main(options)
    assert "--clip-seconds must be from 0.08 to 60 and --steps at least 1" in capsys.readouterr().err
