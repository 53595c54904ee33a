"""Which width speaks in real time: the bytes are those that a frame reads, the verdict follows from the figures."""

import json
from dataclasses import asdict

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.cli.front import doctor as command
from mlx_voxclone.doctor import speaking as module
from mlx_voxclone.doctor.speaking import FrameBytes, Speaking, Width, frame_bytes, memory
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.config import CFG_ALPHA, VoxtralConfig
from mlx_voxclone.model.generation import read_prompt, spoken_frames
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.process.machine import Machine

MAC = Machine("M9", 8, 16_000_000_000, 11_000_000_000, "gpu", "0", "macOS")


def counted(model, frames: int, read: list[int]) -> int:
    """Bytes of the weights of all linears and norms that are called for a prompt and so many frames."""
    read.clear()
    cache = model.new_cache()
    hidden = read_prompt(model, mx.ones((1, 3, model.config.backbone.dim)), cache)
    assert len(list(spoken_frames(model, hidden, cache, frames, 0, None, CFG_ALPHA))) == frames
    return sum(read)


def watched(kind: type, size: int, read: list[int]) -> type:
    """A module's class that notes the size of its weights whenever it is called."""

    def called(self, x):
        read.append(size)
        return kind.__call__(self, x)

    return type("Watched", (kind,), {"__call__": called})


@pytest.mark.parametrize("quantisation", [None, Quantisation(8), Quantisation(6, 32), Quantisation(4)])
def test_a_frame_reads_what_is_said(miniature, quantisation):
    release = Release(miniature)
    model = load_model(release, quantisation=quantisation)
    read: list[int] = []
    for part in (*model.layers, model.norm, model.acoustic_transformer):
        for leaf in part.modules():
            if isinstance(leaf, nn.Linear | nn.QuantizedLinear | nn.RMSNorm):
                leaf.__class__ = watched(type(leaf), sum(v.nbytes for _, v in tree_flatten(leaf.parameters())), read)
    one_frame = counted(model, 3, read) - counted(model, 2, read)
    table = model.mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight
    one_frame += release.config.codec.n_codebooks * table.shape[1] * table.dtype.size
    found = frame_bytes(release.config, quantisation, size=4)
    assert found.all == one_frame
    assert found.least < found.all


@pytest.mark.parametrize("quantisation", [None, Quantisation(8), Quantisation(4, 32)])
def test_memory_is_what_the_weights_take(miniature, quantisation):
    release = Release(miniature)
    model = load_model(release, quantisation=quantisation)
    assert memory(release.config, quantisation, size=4) == sum(
        value.nbytes for _, value in tree_flatten(model.parameters())
    )


def test_the_release_in_round_figures():
    """By hand: 3.03 billion weights of the language model, 0.35 of the head's layers seven times."""
    config = VoxtralConfig.from_dict(params_json(PRESETS["full"], {}))
    full, eight = frame_bytes(config, None), frame_bytes(config, Quantisation(8))
    assert full.language_model == pytest.approx(2 * 3.027e9, rel=0.001)
    assert full.head == pytest.approx(7 * 2 * 0.349e9, rel=0.02)
    assert eight.all == pytest.approx(full.all * 8.5 / 16, rel=0.001)
    assert memory(config, Quantisation(8)) < 4.2e9
    assert memory(config, Quantisation(4)) < 2.5e9


def width(name: str, memory: float, speed: float) -> Width:
    return Width(name, memory, FrameBytes(6e9, 4e9, 9e9), (1e11, 9e10), speed)


@pytest.mark.parametrize(
    ("speeds", "memory_scale", "said"),
    [
        ((2.0, 3.0, 4.0, 5.0), 1, "verdict: bfloat16 in real time (say), if"),
        ((0.7, 1.3, 1.7, 2.5), 1, "verdict: 8 bits in real time (say --bits 8), if"),
        ((0.7, 1.1, 1.3, 1.9), 1, "verdict: 6 bits in real time (say --bits 6), if"),
        ((0.3, 0.5, 0.7, 1.1), 1, "verdict: 4 bits in real time, with little to spare (say --bits 4), if"),
        ((0.1, 0.2, 0.3, 0.4), 1, "verdict: none of them speaks in real time here"),
        ((2.0, 3.0, 4.0, 5.0), 1.5, "verdict: 8 bits in real time (say --bits 8), if"),
        ((2.0, 3.0, 4.0, 5.0), 9, "verdict: none of them fits into this machine"),
    ],
)
def test_the_verdict(speeds, memory_scale, said):
    names, sizes = ("bfloat16", "8 bits", "6 bits", "4 bits"), (8.6e9, 4.1e9, 3.2e9, 2.4e9)
    widths = tuple(width(name, size * memory_scale, speed) for name, size, speed in zip(names, sizes, speeds))
    text = command.speaking_table(Speaking(1e11, widths), MAC)
    assert said in text
    assert "(a copy in memory: 100 GB/s)" in text
    assert text.count("100 / 90 GB/s") == 4


def test_it_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(module, "_SHAPE", {"cpu": (64, 128)})
    found = module.speaking()
    assert [one.name for one in found.widths] == ["float32", "8 bits", "6 bits", "4 bits"]
    for one in found.widths:
        seconds = one.frame.language_model / one.rates[0] + one.frame.head / one.rates[1]
        assert one.times_real_time == pytest.approx(1 / seconds / 12.5)
        assert min(one.rates) > 0
    assert command.main(["--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["speaking"]["widths"]
    assert [one["frame"] for one in told] == [asdict(one.frame) for one in found.widths]
