"""How near a reconstruction is to its original: mel and STFT distance, PESQ, ESTOI, SI-SDR.

PESQ (ITU-T P.862.2, wide band) and ESTOI (Jensen and Taal 2016) are those of the packages pesq and pystoi, at 16 kHz.
SI-SDR: Le Roux et al. 2019, equation 1, without a mean.
"""

import math

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, resample
from mlx_voxclone.errors import DataError
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss

RATE = 16_000
SLACK = 0.2  # seconds by which lengths may differ: a codec pads to whole frames
SI_SDR_LIMIT = 100.0  # dB; of an identical signal it would be infinite
_SILENT = 1e-5  # RMS
_SHORTEST = 0.5  # seconds: PESQ and ESTOI need some


def fidelity(original: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """All five, of two signals at 24 kHz.

    Args:
        original, output: float32 `[samples]`; lengths may differ by 0.2 s, the longer one is cut at its end.

    Returns:
        `mel_distance`, `stft_distance`, `pesq`, `estoi`, `si_sdr` (dB). PESQ and ESTOI are NaN where one of the two
        is silent or shorter than half a second, for which they are not defined.

    Raises:
        DataError: lengths that differ by more, or nothing to compare.
    """
    difference = abs(len(original) - len(output)) / SAMPLE_RATE
    if difference > SLACK:
        raise DataError(
            f"original and output differ in length by {difference:.2f} s, so they cannot be compared sample by sample"
        )
    length = min(len(original), len(output))
    if not length:
        raise DataError("there are no samples to compare")
    original, output = original[:length].astype(np.float32), output[:length].astype(np.float32)
    pair = mx.array(output)[None], mx.array(original)[None]
    found = {
        "mel_distance": log_mel_loss(*pair, scales=[(1024, 80)]).item(),
        "stft_distance": multi_resolution_stft_loss(*pair, sizes=[2048, 1024, 512, 256]).item(),
        "si_sdr": si_sdr(original, output),
    }
    return found | _perceived(original, output)


def si_sdr(original: np.ndarray, output: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, at most 100 and at least -100."""
    original, output = original.astype(np.float64), output.astype(np.float64)
    energy = np.dot(original, original)
    if not energy or not np.dot(output, output):
        return -SI_SDR_LIMIT
    target = np.dot(output, original) / energy * original
    ratio = np.dot(target, target) / max(np.dot(output - target, output - target), 1e-300)
    return float(np.clip(10 * math.log10(max(ratio, 1e-300)), -SI_SDR_LIMIT, SI_SDR_LIMIT))


def _perceived(original: np.ndarray, output: np.ndarray) -> dict[str, float]:
    audible = min(np.sqrt(np.mean(np.square(x, dtype=np.float64))) for x in (original, output)) > _SILENT
    if not audible or len(original) < _SHORTEST * SAMPLE_RATE:
        return {"pesq": math.nan, "estoi": math.nan}
    try:
        import pesq
        import pystoi
    except ImportError as e:
        raise DataError(
            f"PESQ and ESTOI need {e.name}; install them with: pip install 'mlx-voxclone[evaluate]'"
        ) from None
    a, b = (resample(x, SAMPLE_RATE, RATE) for x in (original, output))
    try:
        quality = float(pesq.pesq(RATE, a, b, "wb"))
    except pesq.PesqError:  # no utterance found in one of them
        quality = math.nan
    return {"pesq": quality, "estoi": float(pystoi.stoi(a, b, RATE, extended=True))}
