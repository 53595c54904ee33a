"""How alike two voices are: the cosine of embeddings, by a speaker-verification model or, without one, of spectra.

The model is ECAPA-TDNN as WeSpeaker trained it on VoxCeleb2 (`Wespeaker/wespeaker-ecapa-tdnn512-LM`, 6.2 M parameters,
CC BY 4.0), run by ONNX Runtime on Kaldi filterbanks, as that project does: 80 bands of 25 ms every 10 ms with a Hamming
window, mean subtracted. Any ONNX model of that input and output serves, and its name is told with every figure.

The spectral fallback compares averages of mel spectra. It knows a deep voice from a high one and hears the room and the
microphone as much as the speaker, so its figures have a name of their own and are never mixed with a model's.
"""

from pathlib import Path
from typing import Protocol

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, resample
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.embedding import RATE, enough, unit_vector
from mlx_voxclone.evaluate.ge2e import Ge2eModel
from mlx_voxclone.files.hub import hub_errors
from mlx_voxclone.files.paths import expanded

MODEL = "Wespeaker/wespeaker-ecapa-tdnn512-LM"
_FILES = {MODEL: "voxceleb_ECAPA512_LM.onnx"}
SPECTRAL = "spectral"
_BANDS, _FULL_SCALE = 80, 32768.0
_LOUD_DB = 30.0  # below the loudest frame: not the voice


class SpeakerModel(Protocol):
    """Gives embeddings."""

    name: str
    """Of the model, told with the figures."""

    metric: str
    """Name of the figure."""

    def embed(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[samples]` at 24 kHz -> unit vector `[D]`. Raises DataError for too little sound."""
        ...


def speaker_model(name: str) -> SpeakerModel:
    """`spectral`, a `.safetensors` file of the GE2E encoder, an `.onnx` file, or a hub id with one.

    Raises:
        DataError: not installed, not there, or not such a model.
    """
    if name == SPECTRAL:
        return SpectralModel()
    return Ge2eModel(expanded(name)) if name.endswith(".safetensors") else OnnxModel(name)


def similarity(model: SpeakerModel, a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the embeddings, -1 to 1."""
    return float(np.clip(np.dot(model.embed(a), model.embed(b)), -1, 1))


class OnnxModel:
    """A speaker-verification model: filterbanks `[1, T, 80]` to an embedding.

    Args:
        name: an `.onnx` file, or a hub id of which the one such file is fetched.
    """

    metric = "similarity"

    def __init__(self, name: str):
        try:
            import kaldi_native_fbank
            import onnxruntime
        except ImportError as e:
            raise DataError(
                f"speaker similarity by {name} needs {e.name}; install it with: pip install 'mlx-voxclone[evaluate]',"
                f" or take --speaker-model {SPECTRAL}"
            ) from None
        self.name, self._fbank = name, kaldi_native_fbank
        path = _onnx_file(name)
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # sums in one order: the same figures every time
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # its errors are classes of a C++ library
            raise DataError(f"{path}: not an ONNX model that can be loaded ({str(e).splitlines()[0][:160]})") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 3 or inputs[0].shape[2] not in (_BANDS, None, "D"):
            raise DataError(
                f"{path}: takes {[i.shape for i in inputs]}; filterbanks [batch, frames, {_BANDS}] are given"
            )
        self._input = inputs[0].name

    def embed(self, samples: np.ndarray) -> np.ndarray:
        features = self.features(samples)
        return unit_vector(self._session.run(None, {self._input: features[None]})[0], self.name)

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Kaldi filterbanks with their mean subtracted: float32 `[T, 80]`."""
        heard = resample(enough(samples), SAMPLE_RATE, RATE)
        options = self._fbank.FbankOptions()
        options.frame_opts.samp_freq, options.frame_opts.dither = RATE, 0.0
        options.frame_opts.window_type = "hamming"
        options.mel_opts.num_bins, options.use_energy, options.energy_floor = _BANDS, False, 0.0
        bank = self._fbank.OnlineFbank(options)
        bank.accept_waveform(RATE, (heard * _FULL_SCALE).tolist())
        bank.input_finished()
        frames = np.stack([bank.get_frame(k) for k in range(bank.num_frames_ready)]).astype(np.float32)
        return frames - frames.mean(axis=0)


class SpectralModel:
    """Mean and deviation over the loud frames of log-mel spectra, whatever the level."""

    name, metric = "spectral fallback, no speaker-verification model", "spectral_similarity"

    def embed(self, samples: np.ndarray) -> np.ndarray:
        import mlx.core as mx

        from mlx_voxclone.audio.spectral.stft import log_mel

        samples = enough(samples)
        frames = np.array(log_mel(mx.array(samples)[None], n_fft=1024, n_mels=40))[0].astype(np.float64)
        energy = np.exp(2 * frames).sum(axis=1)
        frames = frames[energy > energy.max() * 10 ** (-_LOUD_DB / 10)]
        mean, deviation = frames.mean(axis=0), frames.std(axis=0)
        parts = (mean - mean.mean(), deviation - deviation.mean())
        vector = np.concatenate([part / (np.linalg.norm(part) or 1.0) for part in parts])
        return vector / (np.linalg.norm(vector) or 1.0)


def _onnx_file(name: str) -> Path:
    path = Path(expanded(name))
    if path.is_file():
        return path
    if path.suffix == ".onnx" or name.count("/") != 1:
        raise DataError(f"{name}: no such file; give an .onnx file, a GE2E .safetensors, a hub id, or {SPECTRAL}")
    from huggingface_hub import hf_hub_download, list_repo_files

    with hub_errors(f"{name}: not fetched from the hub", DataError, f"; --speaker-model {SPECTRAL} needs none"):
        file = _FILES.get(name)
        if file is None:
            found = [f for f in list_repo_files(name) if f.endswith(".onnx")]
            if len(found) != 1:
                raise DataError(f"{name}: holds {len(found)} ONNX files; download one and name it")
            file = found[0]
        return Path(hf_hub_download(name, file))
