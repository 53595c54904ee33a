"""The rows of the codec, and that what they are compared with does the same work.

Other programs run where VOXCLONE_SERVING_PYTHON and VOXCLONE_MLX_AUDIO_PYTHON name interpreters that have them.
"""

import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from places import FIXTURES

from mlx_voxclone.audio.spectral.plain import mel_filterbank
from mlx_voxclone.bench import codec as bench
from mlx_voxclone.bench.codec import measure_decode, peer_processes, random_codes
from mlx_voxclone.bench.encoder_step import build_codec, loss, preset_config
from mlx_voxclone.bench.measure import MLX_AUDIO, SERVING, Peer, beside, interpreter, threads
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import VoxtralConfig


def test_the_release_s_sizes_are_the_release_s():
    path = FIXTURES / "golden" / "params.json"
    assert preset_config("release") == VoxtralConfig.from_file(path).codec


def test_runs_take_turns():
    turns = []

    class Stub:
        def __init__(self, name, seconds):
            self.name, self.left = name, list(seconds)

        def run(self):
            turns.append(self.name)
            return Peer(self.name, self.left[0], 10 * self.left[0], int(self.left.pop(0)), "resident")

    samples, peers = beside(lambda: turns.append("ours"), [Stub("a", [3, 1, 2]), Stub("b", [4, 6, 5])], 3)
    assert turns == ["ours"] + ["ours", "a", "b"] * 3
    assert len(samples) == 3
    assert peers == [Peer("a", 2, 20, 3, "resident"), Peer("b", 5, 50, 6, "resident")]


def test_threads(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "none")
    assert threads() >= 1


def test_the_row_of_decoding(monkeypatch):
    monkeypatch.setattr(bench, "interpreter", lambda *_: pytest.fail("no peer was asked for"))
    row = measure_decode("tiny", 1.0, 1, peers=False, lengths=(0.5, 1.5))
    assert row.speed == pytest.approx(13 / 12.5 / row.seconds)  # whole frames
    assert row.peers == []
    assert [entry["seconds"] for entry in row.more["memory"]] == [0.5, 1.5]
    assert all(0 < entry["peak"] < 100e6 and entry["process_grew"] >= 0 for entry in row.more["memory"])


@pytest.mark.parametrize(("seconds", "repeats"), [(0.0, 1), (1.0, 0)])
def test_nothing_to_measure(seconds, repeats):
    with pytest.raises(ValueError, match="needs a clip and at least one repeat"):
        measure_decode("tiny", seconds, repeats)


# ---- the peers -------------------------------------------------------------------------------------------------------


def weights_of(codec: Codec) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in tree_flatten(codec.parameters())}


def needs(variable: str, module: str) -> None:
    if interpreter(variable, module) is None:
        pytest.skip(f"{variable} names no interpreter that has {module}")


@pytest.mark.slow
def test_pytorch_takes_the_same_step():
    """From the same weights and clip: the loss before it."""
    needs(SERVING, "vllm_omni")
    codec = build_codec(preset_config("tiny"))
    waveform = 0.07 * np.random.default_rng(1).standard_normal(20000).astype(np.float32)
    given = {"waveform": waveform, "mel_filters": np.array(mel_filterbank(24000, 1024, 80))}
    with peer_processes("encoder-step", "tiny", given, weights=weights_of(codec)) as (peer,):
        assert peer.about["value"] == pytest.approx(loss(codec, mx.array(waveform)[None]).item(), rel=1e-4)
        assert peer.run().seconds > 0


@pytest.mark.slow
def test_the_others_decode_the_same_codes():
    """Their sound has the level of ours; mlx-audio's differs a little, as its attention does."""
    for variable, module in ((SERVING, "vllm_omni"), (MLX_AUDIO, "mlx_audio")):
        needs(variable, module)
    codec = build_codec(preset_config("tiny"))
    codes = random_codes(codec.config, 40)
    level = math.sqrt(np.square(codec.decode_audio(codes), dtype=np.float64).mean())
    with peer_processes("decode", "tiny", {"codes": codes}, weights=weights_of(codec)) as (pytorch, mlx_audio):
        assert pytorch.about["value"] == pytest.approx(level, rel=1e-4)
        assert mlx_audio.about["value"] == pytest.approx(level, rel=0.05)
        assert pytorch.run().seconds > 0
        assert mlx_audio.run().seconds > 0
