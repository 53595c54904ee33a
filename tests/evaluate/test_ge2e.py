"""The GE2E speaker encoder against ONNX Runtime's LSTM, and its weights out of PyTorch's older files."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from places import ROOT
from speech_made import speech

from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.ge2e import BANDS, PARTIAL, STEP, WIDTH, mel_frames
from mlx_voxclone.evaluate.speakers import similarity, speaker_model

SCRIPT = ROOT / "scripts" / "convert_ge2e.py"


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"linear.weight": (WIDTH, WIDTH), "linear.bias": (WIDTH,)}
    for layer in range(3):
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * WIDTH, WIDTH if layer else BANDS)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * WIDTH, WIDTH)
        shapes[f"lstm.bias_ih_l{layer}"] = shapes[f"lstm.bias_hh_l{layer}"] = (4 * WIDTH,)
    return {name: rng.normal(0, 0.08, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return random_weights()


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("ge2e") / "ge2e.safetensors"
    save_tensors(path, weights)
    return path


def onnx_states(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The last state of three of ONNX's LSTM layers (gates in the order input, output, forget, cell): [parts, 256]."""
    for layer in range(3):

        def gates(kind, layer=layer):
            i, f, c, o = np.split(weights[f"lstm.{kind}_l{layer}"], 4)
            return np.concatenate([i, o, f, c])

        constants = {
            "W": gates("weight_ih")[None],
            "R": gates("weight_hh")[None],
            "B": np.concatenate([gates("bias_ih"), gates("bias_hh")])[None],
        }
        graph = helper.make_graph(
            [helper.make_node("LSTM", ["X", *constants], ["Y"], hidden_size=WIDTH)],
            "layer",
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "N", x.shape[-1]])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["T", 1, "N", WIDTH])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=9)
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        x = session.run(None, {"X": x.swapaxes(0, 1)})[0][:, 0].swapaxes(0, 1)
    return x[:, -1]


def test_embeddings_are_those_of_onnx_runtimes_lstm(weights, file):
    wave = np.concatenate([speech(), speech()[::-1]])
    model = speaker_model(str(file))
    mel = mel_frames(resampled(wave))
    starts = range(0, len(mel) - PARTIAL + 1, STEP)
    assert len(starts) > 1
    last = onnx_states(weights, np.stack([mel[s : s + PARTIAL] for s in starts]))
    rows = np.maximum(last @ weights["linear.weight"].T + weights["linear.bias"], 0)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(model.embed(wave), mean / np.linalg.norm(mean), atol=1e-5)
    assert model.metric == "ge2e_similarity"
    assert "ge2e.safetensors" in model.name


def resampled(wave: np.ndarray) -> np.ndarray:
    import soxr

    return soxr.resample(wave, 24_000, 16_000, quality="HQ")


def test_quiet_speech_is_made_louder_and_loud_speech_left(file):
    model, wave = speaker_model(str(file)), speech()
    quiet = wave * np.float32(10 ** (-50 / 20) / np.sqrt(np.mean(wave**2)))
    quieter = quiet * np.float32(0.1)
    assert similarity(model, quiet, quieter) == pytest.approx(1, abs=1e-5)
    assert similarity(model, quiet, wave * np.float32(0.9 / np.abs(wave).max())) < 1 - 1e-7


def test_silence_and_short_sounds_are_refused(file):
    model = speaker_model(str(file))
    for samples in (np.zeros(48_000, np.float32), speech()[:6000]):
        with pytest.raises(DataError, match=r"silent, or shorter than 0\.5 s"):
            model.embed(samples)
    assert np.linalg.norm(model.embed(speech()[:13_000])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("linear.bias"), r"not a GE2E speaker encoder: it has no linear\.bias of shape \[256\]"),
        (lambda w: w.update({"linear.bias": np.zeros(3, np.float32)}), r"no linear\.bias of shape \[256\]"),
        (lambda w: w["linear.bias"].__setitem__(0, np.nan), r"linear\.bias is not finite; the file is damaged"),
    ],
)
def test_other_files_are_refused(change, message, tmp_path):
    tensors = random_weights()
    change(tensors)
    path = tmp_path / "other.safetensors"
    save_tensors(path, tensors)
    with pytest.raises(DataError, match=message):
        speaker_model(str(path))
    with pytest.raises(DataError, match="convert_ge2e"):
        speaker_model(str(tmp_path / "missing.safetensors"))


# --- the script -------------------------------------------------------------------------------------------------------


class FloatStorage:
    """Its name is that of PyTorch's class, as the file has it."""


class Stored:
    """A tensor as PyTorch pickles it: a call of `_rebuild_tensor_v2`."""

    def __init__(self, key: str, array: np.ndarray, call):
        self.key, self.array, self.call = key, array, call

    def __reduce__(self):
        sizes = self.array.shape
        strides = tuple(int(np.prod(sizes[k + 1 :])) for k in range(len(sizes)))
        return self.call, (Key(self.key, self.array.size), 0, sizes, strides)


class Key:
    def __init__(self, key, count):
        self.key, self.count = key, count


class Writer(pickle._Pickler):  # the one in Python, whose classes' names can be those of a module that is not here
    def persistent_id(self, obj):
        return ("storage", FloatStorage, obj.key, "cpu", obj.count, None) if isinstance(obj, Key) else None

    def save_global(self, obj, name=None):
        named = {FloatStorage: b"ctorch\nFloatStorage\n", rebuild: b"ctorch._utils\n_rebuild_tensor_v2\n"}
        self.write(named[obj]) if obj in named else super().save_global(obj, name)

    dispatch = {**pickle._Pickler.dispatch, type(lambda: 0): save_global, type: save_global}  # noqa: RUF012


def rebuild(): ...


def torch_file(tensors: dict[str, np.ndarray], call=rebuild) -> bytes:
    out = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        out.write(pickle.dumps(value, 2))
    stored = {name: Stored(str(k), array, call) for k, (name, array) in enumerate(tensors.items())}
    Writer(out, 2).dump({"model_state": stored, "step": 3})
    out.write(pickle.dumps([str(k) for k in range(len(tensors))], 2))
    for array in tensors.values():
        out.write(struct.pack("<q", array.size) + array.astype("<f4").tobytes())
    return out.getvalue()


def convert(source, target) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_script_writes_the_packages_weights(weights, tmp_path):
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("resemblyzer/pretrained.pt", torch_file({**weights, "similarity_weight": np.ones(1)}))
    result = convert(wheel, tmp_path / "ge2e.safetensors")
    assert result.returncode == 0, result.stderr
    save_tensors(tmp_path / "direct.safetensors", weights)
    a, b = (speaker_model(str(tmp_path / f"{name}.safetensors")) for name in ("ge2e", "direct"))
    np.testing.assert_array_equal(a.embed(speech()), b.embed(speech()))


def test_the_script_runs_nothing_of_a_file(weights, tmp_path):
    source = tmp_path / "evil.pt"
    source.write_bytes(torch_file({"linear.bias": weights["linear.bias"]}, call=os.getpid))
    result = convert(source, tmp_path / "out.safetensors")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "getpid" in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:1000], lambda data: b"", lambda data: b"text" * 100])
def test_the_script_refuses_damaged_files(damage, weights, tmp_path):
    source = tmp_path / "broken.pt"
    source.write_bytes(damage(torch_file(weights)))
    result = convert(source, tmp_path / "out.safetensors")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
