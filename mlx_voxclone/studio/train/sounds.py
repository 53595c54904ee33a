"""Players of a run's sounds."""

from functools import lru_cache
from pathlib import Path

import soundfile
from markupsafe import Markup

from mlx_voxclone.report.look import peaks
from mlx_voxclone.studio.web.languages import Words
from mlx_voxclone.studio.web.pages import player_in


def drawn(path: Path, address: str, label: str, t: Words) -> Markup:
    """The player of a sound, with its waveform. A file that cannot be read has none.

    Args:
        path: its file. address: where the page finds it.
    """
    try:
        wave, seconds = _wave(path, path.stat().st_mtime_ns)
    except (OSError, RuntimeError):
        wave, seconds = (), 0.0
    return player_in(t)(address, label, wave, seconds)


@lru_cache(maxsize=256)
def _wave(path: Path, changed: int) -> tuple[tuple[float, ...], float]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return tuple(peaks(samples.T)), len(samples) / rate
