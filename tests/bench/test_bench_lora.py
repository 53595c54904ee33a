"""The benchmark of one LoRA step: its count of operations against the graph, and that both sides do the same work."""

import json
import math
from dataclasses import asdict

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.bench import lora as bench
from mlx_voxclone.bench.lora import LENGTHS, count_operations, measure_lora_step
from mlx_voxclone.bench.measure import peer_module
from mlx_voxclone.doctor.rehearsal import Length, speaker_task
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Group, MicroBatch, to_device

TINY = params_json(PRESETS["tiny"], {})
RATE = 12.5  # frames a second
SHORT = [Length(text=7, voice=9, frames=5), Length(text=3, voice=6, frames=8)]


def products(function, *inputs) -> int:
    """Operations of every matrix product in the graph of `function`, from the shapes alone; nothing is computed."""
    total = 0

    def look(entry):
        nonlocal total
        if entry["type"] == "primitive" and entry["name"] in ("Matmul", "AddMM", "GatherMM"):
            assert entry["name"] == "Matmul", "a product of a kind that is not counted here"
            left, out = entry["inputs"][0][1], entry["outputs"][0][1]
            total += 2 * math.prod(out) * left[-1]

    mx.export_function(look, function, *inputs)
    return total


@pytest.mark.parametrize(
    ("layers", "targets"), [(None, None), (1, None), (1, ["wv", "w2"]), (2, ["wk", "w3"]), (1, ["w2"])]
)
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_count_is_that_of_the_graph(layers, targets, batch_size):
    lora = {"rank": 3, "layers": layers} | ({"targets": targets} if targets else {})
    section = bench._allowing(SpeakerSection(quantise={"bits": 0}, lora=lora), SHORT, RATE)
    task = speaker_task(TINY, section, mx.float32, SHORT, drawn=True)
    batch = task.collate([task.item(0, k) for k in range(batch_size)])
    group = Group(0, [MicroBatch(batch, ["x"])], task.targets(batch), batch_size, (0, 1))
    masters = Masters(task, "float32")
    gradients = Gradients(task, masters)
    task.model.train()

    def step(*arrays):
        values = dict(zip(masters.values, arrays, strict=True))
        (_, sums), found = gradients._function(group, 0)(values, to_device(batch))
        return [*sums.values(), *found.values()]

    counted = products(step, *masters.values.values())
    masters.restore()
    assert count_operations(task.model, section, group).total == counted > 0


def test_the_figures(monkeypatch):
    monkeypatch.setattr(bench, "product_rate", lambda dtype: (2e9, 1e9))
    row = measure_lora_step(TINY, lengths=SHORT, repeats=1)
    tokens = sum(1 + n.text + n.voice + n.frames for n in SHORT)
    assert row.more["tokens"] == tokens == row.more["positions"]  # one at a time: nothing is padded
    assert row.speed == pytest.approx(tokens / row.cpu_seconds)
    assert row.share == pytest.approx(row.more["operations"]["total"] / 1e9 / row.cpu_seconds)
    assert len(row.peers) == 2
    assert row.peers[0].name.endswith(f"{row.more['logits']} rows of vocabulary")
    assert row.peers[1].name.endswith("dequantising as ours")
    for peer in row.peers:
        assert row.more["times_the_memory"][peer.name] == pytest.approx(row.peak / peer.peak)
        assert row.more["times_as_fast"][peer.name] == pytest.approx(peer.cpu_seconds / row.cpu_seconds)
    json.dumps(asdict(row))


@pytest.mark.parametrize("recompute", [False, True])
def test_the_peer_trains_what_we_train(recompute):
    """As many adapters of the same shapes, the same quantised bytes, sequences of the same lengths; and it learns."""
    section = bench._allowing(SpeakerSection(lora={"rank": 3, "layers": 1}, recompute=recompute), SHORT, RATE)
    task = speaker_task(TINY, section, mx.float32, SHORT)
    peers = peer_module("mlx_lm_lora")
    seen, peer_step = {}, peers.trainer_step

    def look(model, lengths, batch_size, vocabulary, recompute):
        step = peer_step(model, lengths, batch_size, vocabulary, recompute)
        seen.update(model=model, step=step)
        return step

    def sizes(parameters):
        return sorted(array.shape for _, array in tree_flatten(parameters))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "trainer_step", look)
        peers.lora_step(task.model.config, section, mx.float32, SHORT, 1, 50, direct=False)
    model = seen["model"]
    assert sizes(model.trainable_parameters()) == sizes(task.model.trainable_parameters())
    linears = [m for m in model.modules() if "scales" in m]
    assert sizes([m.weight for m in linears]) == sizes([m.weight for m in task.model.modules() if "scales" in m])
    before = {name: np.array(value) for name, value in tree_flatten(model.trainable_parameters())}
    plain = type(model.layers[0]).__call__
    mx.disable_compile()
    try:
        seen["step"]()
    finally:
        mx.enable_compile()
    assert type(model.layers[0]).__call__ is plain
    after = dict(tree_flatten(model.trainable_parameters()))
    assert all((np.array(after[n]) != before[n]).any() for n in before if n.endswith("lora_b"))


def test_what_mlx_lm_would_leave_out_is_refused():
    with pytest.raises(ConfigError, match="whole micro-batches of 4"):
        measure_lora_step(TINY, lengths=LENGTHS, batch_size=4)
