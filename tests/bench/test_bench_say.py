"""What `bench` measures of speech: the phases add up, the model does not end, mlx-audio does the same work."""

import pytest

from mlx_voxclone.bench.measure import MLX_AUDIO, interpreter
from mlx_voxclone.bench.speech import Speech, endless_miniature, measure_say
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]


def test_without_another_program(monkeypatch):
    monkeypatch.delenv(MLX_AUDIO, raising=False)
    row = measure_say("tiny", frames=4, repeats=1)
    assert row.speed == pytest.approx(4 / row.seconds)
    assert row.peers == []
    seconds = row.seconds + row.more["prefill"]["seconds"] + row.more["audio"]["seconds"]
    assert row.more["times_real_time"] == pytest.approx(4 / 12.5 / seconds)
    assert row.peak > 0
    assert row.more["least_bytes_per_frame"] < row.more["bytes_per_frame"]
    assert row.more["bytes_per_second"] == pytest.approx(row.more["bytes_per_frame"] * row.speed)


def test_in_fewer_bits(monkeypatch):
    monkeypatch.delenv(MLX_AUDIO, raising=False)
    row = measure_say("tiny", frames=2, repeats=1, quantisation=Quantisation(4, 32))
    assert row.name == "say, 4 bits"
    assert "4 bits in groups of 32" in row.what
    ratio = row.more["bytes_per_frame"] / row.more["least_bytes_per_frame"]
    assert f"{ratio:.3g} times the least" in row.what
    assert 1 < ratio < 1.25  # scales, biases and padding


@pytest.mark.slow
def test_the_miniature_never_ends(tmp_path):
    speaker = Speaker.load(endless_miniature(tmp_path, "speaking"))
    run = Speech(speaker, "papa.", speaker.voices[0], 80).run()  # raises where it ends
    assert min(sample.seconds for sample in run.values()) > 0


@pytest.mark.slow
@pytest.mark.skipif(interpreter(MLX_AUDIO, "mlx_audio") is None, reason=f"needs {MLX_AUDIO}")
@pytest.mark.parametrize("quantisation", [None, Quantisation(8)])
def test_beside_mlx_audio(quantisation):
    row = measure_say("tiny", frames=4, repeats=1, quantisation=quantisation)
    (peer,) = row.peers
    assert peer.name.startswith("mlx-audio ")
    assert peer.seconds > 0
    assert row.more["times_the_peer"] == pytest.approx(peer.seconds / row.seconds)
