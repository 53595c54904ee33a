"""The GE2E speaker encoder (Wan et al. 2018, arXiv 1710.10467): three LSTM layers over mel spectra, from one file.

The published weights are those of the package Resemblyzer (Apache-2.0, 17 MB); `scripts/convert_ge2e.py` writes them as
safetensors. Its cosines have a scale of their own (one speaker about 0.87, two about 0.55), and so its figure has a
name of its own.
"""

from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, resample
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.evaluate.embedding import RATE, enough, unit_vector

BANDS, WINDOW, HOP = 40, 400, 160  # mel bands; samples
PARTIAL, STEP = 160, 80  # frames that the network hears at once, and from one such part to the next
QUIETEST_DB = -30.0  # of full scale, RMS: softer recordings are made as loud
LAYERS, WIDTH = 3, 256


class Ge2eModel:
    """Embeddings of the GE2E encoder, computed by numpy.

    Args:
        path: safetensors with `lstm.{weight,bias}_{ih,hh}_l{0,1,2}`, `linear.weight` and `linear.bias`.

    Raises:
        DataError: not readable, or not such a file.
    """

    metric = "ge2e_similarity"

    def __init__(self, path: str | Path):
        self.name = f"GE2E ({Path(path).name})"
        try:
            file = TensorFile(path)
            self._weights = {name: _checked(file, name, shape) for name, shape in _shapes().items()}
        except CheckpointError as e:
            raise DataError(f"{e}; scripts/convert_ge2e.py writes such a file") from None

    def embed(self, samples: np.ndarray) -> np.ndarray:
        """float32 `[samples]` at 24 kHz -> unit vector `[256]`. Raises DataError for too little sound."""
        mel = mel_frames(resample(enough(samples), SAMPLE_RATE, RATE))  # [T, 40]
        starts = range(0, max(1, len(mel) - PARTIAL + 1), STEP)
        parts = self._parts(np.stack([mel[start : start + PARTIAL] for start in starts]))  # [parts, 256]
        return unit_vector(parts.mean(axis=0), self.name)

    def _parts(self, mel: np.ndarray) -> np.ndarray:
        """Mel spectra [parts, 160, 40] to unit vectors [parts, 256]."""
        x = mel
        for layer in range(LAYERS):
            x = self._lstm(x, layer)  # [parts, 160, 256]
        weights = self._weights
        last = np.maximum(x[:, -1] @ weights["linear.weight"].T + weights["linear.bias"], 0)
        return last / np.maximum(np.linalg.norm(last, axis=1, keepdims=True), 1e-12)

    def _lstm(self, x: np.ndarray, layer: int) -> np.ndarray:
        """One layer [parts, T, in] -> [parts, T, 256]; gates in the order input, forget, cell, output."""
        w_in, w_hidden, b_in, b_hidden = (
            self._weights[f"lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        given = x @ w_in.T + (b_in + b_hidden)  # [parts, T, 4 * 256]
        hidden = cell = np.zeros((len(x), WIDTH), np.float32)
        states = np.empty((*x.shape[:2], WIDTH), np.float32)
        for t in range(x.shape[1]):
            enter, keep, new, leave = np.split(given[:, t] + hidden @ w_hidden.T, 4, axis=1)
            cell = _sigmoid(keep) * cell + _sigmoid(enter) * np.tanh(new)
            hidden = _sigmoid(leave) * np.tanh(cell)
            states[:, t] = hidden
        return states


def mel_frames(wave: np.ndarray) -> np.ndarray:
    """Power mel spectra [T, 40], not logarithmic, of a 16 kHz wave; frames centred, at least `PARTIAL` of them."""
    from mlx_voxclone.audio.spectral.plain import mel_filterbank

    level = 20 * np.log10(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    loud = wave.astype(np.float64) * 10 ** (max(0.0, QUIETEST_DB - level) / 20)
    padded = np.pad(loud, (WINDOW // 2, WINDOW // 2 + max(0, PARTIAL * HOP - len(loud))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # [T, 400]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)  # periodic Hann
    power = np.square(np.abs(np.fft.rfft(frames * window)))  # [T, 201]
    return (power @ np.array(mel_filterbank(RATE, WINDOW, BANDS), np.float64).T).astype(np.float32)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (WIDTH, WIDTH), "linear.bias": (WIDTH,)}
    for layer in range(LAYERS):
        width = WIDTH if layer else BANDS
        shapes |= {f"lstm.weight_ih_l{layer}": (4 * WIDTH, width), f"lstm.weight_hh_l{layer}": (4 * WIDTH, WIDTH)}
        shapes |= {f"lstm.bias_{kind}_l{layer}": (4 * WIDTH,) for kind in ("ih", "hh")}
    return shapes


def _checked(file: TensorFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in file or tuple(file.info(name).shape) != shape:
        raise DataError(f"{file.path}: not a GE2E speaker encoder: it has no {name} of shape {list(shape)}")
    values = file.numpy(name).astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{file.path}: {name} is not finite; the file is damaged")
    return values


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
