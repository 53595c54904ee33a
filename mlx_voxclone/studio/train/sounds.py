"""Players of a run's sounds."""

from functools import lru_cache
from pathlib import Path

import soundfile

from mlx_voxclone.report.look import ENGLISH, peaks, player
from mlx_voxclone.studio.web.languages import Words


def drawn(path: Path, address: str, label: str, t: Words) -> str:
    """HTML of the player of a sound, with its waveform. A file that cannot be read has none.

    Args:
        path: its file. address: where the page finds it.
    """
    try:
        wave, seconds = _wave(path, path.stat().st_mtime_ns)
    except (OSError, RuntimeError):
        wave, seconds = (), 0.0
    return player(address, label, wave, seconds, words={key: t(f"player.{key}") for key in ENGLISH})


@lru_cache(maxsize=256)
def _wave(path: Path, changed: int) -> tuple[tuple[float, ...], float]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return tuple(peaks(samples.T)), len(samples) / rate
